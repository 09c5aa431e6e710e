//! The examples as programs of their own on a broker in this process, and README's section, which is one of them.

use std::{fs::File, net::SocketAddr, process::Stdio, sync::Arc, time::Duration};

use mq_client::{Action, ConsumeFrom, Filter, Message, Producer, PushConsumer, ReceivedMessage};
use mq_testkit::{
    cluster::{Cluster, ClusterOptions},
    process::{example_binary, free_ports, workspace},
};
use parking_lot::Mutex;
use sqlx::SqlitePool;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
};

/// Only a bug waits for it.
const PATIENCE: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(50);

/// A running example, killed when dropped.
struct Example {
    child: Child,
    http: SocketAddr,
    directory: TempDir,
}

impl Example {
    async fn start(name: &'static str, cluster: &Cluster) -> Self {
        let program = tokio::task::spawn_blocking(|| example_binary(name)).await.unwrap().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let [port] = free_ports().unwrap();
        let http = SocketAddr::from(([127, 0, 0, 1], port));
        let log = File::create(directory.path().join("log")).unwrap();
        let child = Command::new(program)
            .env("NAMESRV_ADDR", cluster.name_servers())
            .env("DATABASE_URL", url(&directory))
            .env("LISTEN", http.to_string())
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { child, http, directory }
    }

    /// The status of an answer; 0 while there is none.
    async fn ask(&self, method: &str, path: &str) -> u16 {
        let asking = async {
            let mut stream = TcpStream::connect(self.http).await?;
            let request =
                format!("{method} {path} HTTP/1.1\r\nHost: it\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0))
        };
        asking.await.unwrap_or(0)
    }

    async fn until(&mut self, what: &str, mut holds: impl AsyncFnMut(&Self) -> bool) {
        let give_up = tokio::time::Instant::now() + PATIENCE;
        while !holds(self).await {
            let log = || std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            assert!(tokio::time::Instant::now() < give_up, "{what}: not in {PATIENCE:?}\n{}", log());
            assert_eq!(self.child.try_wait().unwrap(), None, "{what}: the example has ended\n{}", log());
            tokio::time::sleep(POLL).await;
        }
    }

    async fn count(&self, sql: &'static str) -> i64 {
        let pool = SqlitePool::connect(&url(&self.directory)).await.unwrap();
        let count = sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap();
        pool.close().await;
        count
    }

    /// Ctrl-C, and it has to end well.
    async fn interrupt(&mut self) {
        let id = self.child.id().expect("it runs").to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().await.unwrap().success());
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("an end").unwrap();
        assert!(ended.success(), "{ended}");
    }
}

fn url(directory: &TempDir) -> String {
    format!("sqlite://{}?mode=rwc", directory.path().join("shop.db").display())
}

/// Pays an order twice: once it is taken, once refused, and there is one red packet.
async fn pays_once_and_issues_one_packet(name: &'static str) {
    let cluster = Cluster::start(ClusterOptions::fast()).await.unwrap();
    let mut shop = Example::start(name, &cluster).await;
    shop.until("ready", async |shop| shop.ask("GET", "/readyz").await == 200).await;
    assert_eq!(shop.ask("POST", "/orders/7/pay").await, 200);
    assert_eq!(shop.ask("POST", "/orders/7/pay").await, 409);
    shop.until("a packet", async |shop| shop.count("SELECT count(*) FROM packets").await == 1).await;
    assert_eq!(shop.count("SELECT count(*) FROM payments").await, 1);
    shop.interrupt().await;
    cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn axum_sqlx_pays_once_and_issues_one_packet() {
    pays_once_and_issues_one_packet("axum_sqlx").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn axum_sea_orm_pays_once_and_issues_one_packet() {
    pays_once_and_issues_one_packet("axum_sea_orm").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inbox_issues_one_packet_and_emits_once_for_a_message_that_came_three_times() {
    let cluster = Cluster::start(ClusterOptions::fast()).await.unwrap();
    let producer = Producer::builder(cluster.name_servers()).build().await.unwrap();
    for _ in 0..3 {
        producer.send(Message::new("ORDER_PAID", r#"{"order":7}"#).key("order-7")).await.unwrap();
    }
    let mut packets = Example::start("inbox", &cluster).await;
    let issued = published(&cluster, "PACKET_ISSUED").await;
    packets.until("PACKET_ISSUED", async |_| *issued.keys.lock() == ["packet-7"]).await;
    // Behind all three, so that they have been handled.
    producer.send(Message::new("ORDER_PAID", r#"{"order":8}"#).key("order-8")).await.unwrap();
    packets.until("the last one", async |_| issued.keys.lock().len() > 1).await;
    assert_eq!(packets.count("SELECT count(*) FROM packets").await, 2);
    assert_eq!(*issued.keys.lock(), ["packet-7", "packet-8"]);
    packets.interrupt().await;
    cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outbox_takes_payments_while_the_broker_is_away() {
    let mut cluster = Cluster::start(ClusterOptions::fast()).await.unwrap();
    Producer::builder(cluster.name_servers())
        .build()
        .await
        .unwrap()
        .send(Message::new("ORDER_PAID", r#"{"order":0}"#).key("order-0")) // the topic is there
        .await
        .unwrap();
    cluster.stop_broker().await.unwrap();
    let mut shop = Example::start("outbox", &cluster).await;
    shop.until("ready", async |shop| shop.ask("GET", "/readyz").await == 200).await;
    for (order, status) in [("/orders/1/pay", 200), ("/orders/2/pay", 200), ("/orders/1/pay", 409)] {
        assert_eq!(shop.ask("POST", order).await, status, "{order}");
    }
    assert_eq!(shop.count("SELECT count(*) FROM checkback_outbox").await, 2);
    cluster.restart().await.unwrap();
    let paid = published(&cluster, "ORDER_PAID").await;
    shop.until("relayed", async |_| paid.keys.lock().len() == 3).await;
    let mut keys = paid.keys.lock().clone();
    keys.sort();
    assert_eq!(keys, ["order-0", "order-1", "order-2"]);
    assert_eq!((shop.ask("GET", "/metrics").await, shop.count("SELECT count(*) FROM payments").await), (200, 2));
    shop.interrupt().await;
    cluster.stop().await.unwrap();
}

/// What a topic shows.
struct Published {
    keys: Arc<Mutex<Vec<String>>>,
    _reader: PushConsumer,
}

async fn published(cluster: &Cluster, topic: &str) -> Published {
    let keys: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = keys.clone();
    let reader = PushConsumer::builder(cluster.name_servers())
        .group("reader")
        .consume_from(ConsumeFrom::First)
        .subscribe(topic, Filter::all())
        .concurrent(move |batch: Vec<ReceivedMessage>| {
            seen.lock().extend(batch.iter().flat_map(|message| message.keys().map(str::to_owned).collect::<Vec<_>>()));
            std::future::ready(Action::Ack)
        })
        .start()
        .await
        .unwrap();
    Published { keys, _reader: reader }
}

#[test]
fn readme_shows_a_whole_service_that_is_compiled_here() {
    let read = |path| std::fs::read_to_string(workspace().join(path)).unwrap();
    let (readme, example) = (read("README.md"), read("txn/txn-sdk/examples/axum_sqlx.rs"));
    let section = readme.split("\n## ").find(|section| section.starts_with("From your service")).unwrap();
    let shown = section.split("```rust\n").nth(1).and_then(|text| text.split("```").next()).unwrap();
    assert_eq!(shown, example, "README's main.rs is txn/txn-sdk/examples/axum_sqlx.rs: copy it");
    assert!(example.lines().count() < 60, "under 60 lines");
    let manifest = section.split("```toml\n").nth(1).and_then(|text| text.split("```").next()).unwrap();
    for used in ["anyhow", "axum", "serde", "sqlx", "tokio", "tracing-subscriber", "txn-sdk"] {
        assert!(manifest.contains(&format!("\n{used} = ")), "{used} is in the manifest");
    }
}

#[test]
fn the_guide_shows_pieces_of_an_example_that_runs_here() {
    let read = |path| std::fs::read_to_string(workspace().join(path)).unwrap();
    let (guide, example) = (read("docs/SDK.md"), read("txn/txn-sdk/examples/inbox.rs"));
    let lines = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join("\n");
    let shown: Vec<&str> = guide.split("```rust\n").skip(1).filter_map(|text| text.split("```").next()).collect();
    assert_eq!(shown.len(), 2);
    for piece in shown {
        assert!(lines(&example).contains(&lines(piece)), "not in examples/inbox.rs:\n{piece}");
    }
}
