//! "The order is paid, but there is no red packet": the processes of the shop, and what `mq explain --key ORDER` answers
//! whoever is asked about it. Each time the step that is missing is named.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mq_testkit::process::{MqProcess, free_ports, mq_binary, workspace_binary};
use order_service::database::sqlite_url;
use order_service::events::ORDER_PAID;
use reqwest::Client;
use seckill_demo::stack::process::{Log, Process, Program};
use seckill_demo::stack::ready::Probe;
use seckill_demo::stack::topics;
use serde_json::{Value, json};

/// Only a bug waits for it.
const PATIENCE: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(50);
const SETTINGS: &str = "transactionTimeOut=500\ntransactionCheckInterval=500\nmappedFileSizeCommitLog=16777216\n";

struct Shop {
    directory: tempfile::TempDir,
    mq: MqProcess,
    program: PathBuf,
    http: Client,
    gateway: SocketAddr,
    orders: SocketAddr,
    red_packets: SocketAddr,
}

impl Shop {
    /// Broker, name server and gateway; the services are started by the story.
    async fn open() -> (Self, Process) {
        let directory = tempfile::tempdir().unwrap();
        let mut mq = MqProcess::new(directory.path(), SETTINGS).unwrap();
        let (mq, program) = tokio::task::spawn_blocking(move || {
            mq.start().unwrap();
            (mq, workspace_binary("order-service").unwrap())
        })
        .await
        .unwrap();
        topics::create(mq.name_server, &[ORDER_PAID]).await.unwrap();
        let [gateway, orders, red_packets] =
            free_ports().unwrap().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let shop = Self { directory, mq, program, http: Client::new(), gateway, orders, red_packets };
        let gateway = shop.start("gateway", "gateway", shop.gateway).await;
        (shop, gateway)
    }

    fn database(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.db"))
    }

    async fn start(&self, name: &'static str, command: &str, listen: SocketAddr) -> Process {
        let program = Program::new(name, &self.program)
            .args([command])
            .env("LISTEN", listen.to_string())
            .env("DATABASE_URL", sqlite_url(&self.database(name)))
            .env("NAMESRV_ADDR", self.mq.name_server.to_string())
            .env("GATEWAY_URL", format!("http://{}", self.gateway))
            .env("GATEWAY_SECRET", "between the two")
            .env("CHECK_INTERVAL_MS", "500")
            .env("TRANSACTION_DEADLINE_MS", "2000")
            .env("RUST_LOG", "warn");
        let process = program.start(Log::file(&self.directory.path().join("log"))).unwrap();
        Probe::http(listen).wait().await.unwrap();
        process
    }

    async fn start_orders(&self) -> Process {
        self.start("orders", "serve", self.orders).await
    }

    async fn start_red_packets(&self) -> Process {
        self.start("red-packets", "red-packets", self.red_packets).await
    }

    /// Has the gateway charge a new order; what is to be looked up is its number.
    async fn pay(&self, name: &str) -> String {
        let url = format!("http://{}/orders", self.orders);
        let place = self.http.post(&url).header("x-user", "ada").header("idempotency-key", name);
        let new = json!({"item": "tea", "unit_price_minor": 8_800, "currency": "CNY"});
        let placed: Value = place.json(&new).send().await.unwrap().json().await.unwrap();
        let order = placed["id"].as_str().unwrap_or_else(|| panic!("{placed}")).to_owned();
        let pay = self.http.post(format!("{url}/{order}/pay")).header("x-user", "ada");
        pay.send().await.unwrap().error_for_status().unwrap();
        order
    }

    async fn until_paid(&self, order: &str) {
        let url = format!("http://{}/orders/{order}", self.orders);
        self.until(&format!("{order} is paid"), async || {
            let order: Value = self.http.get(&url).header("x-user", "ada").send().await.ok()?.json().await.ok()?;
            (order["state"] == "paid").then_some(())
        })
        .await;
    }

    async fn has_packet(&self, order: &str) -> bool {
        let url = format!("http://{}/packets/{order}", self.red_packets);
        self.http.get(url).send().await.is_ok_and(|answer| answer.status().is_success())
    }

    /// What `mq explain` prints, once this stands in it.
    async fn explained(&self, order: &str, wanted: &str) -> String {
        let mut said = String::new();
        let started = Instant::now();
        while !said.contains(wanted) {
            assert!(started.elapsed() < PATIENCE, "{wanted:?} of {order}: {said}\n{}", log(self.directory.path()));
            let mut mq = tokio::process::Command::new(mq_binary().unwrap());
            mq.args(["explain", "--key", order, "--namesrv", &self.mq.name_server.to_string()]);
            let output = mq.output().await.unwrap();
            said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        }
        said
    }

    async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(found) = look().await {
                return found;
            }
            assert!(started.elapsed() < PATIENCE, "{what}: not in {PATIENCE:?}\n{}", log(self.directory.path()));
            tokio::time::sleep(POLL).await;
        }
    }
}

fn log(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("log")).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paid_order_without_a_red_packet_is_explained_with_the_step_that_is_missing() {
    let (mut shop, gateway) = Shop::open().await;
    let orders = shop.start_orders().await;

    let order = shop.pay("first").await;
    shop.until_paid(&order).await;
    let said = shop.explained(&order, "missing: delivery: no group reads ORDER_PAID").await;
    assert!(
        said.contains("half message") && said.contains("committed") && said.contains("visible at offset"),
        "{said}"
    );

    let red_packets = shop.start_red_packets().await;
    let said = shop.explained(&order, "nothing is missing").await;
    assert!(said.contains("the effect is committed") && shop.has_packet(&order).await, "{said}");

    // A group that is killed before it has told its first position is not known any more.
    shop.explained(&order, "acknowledged by").await;
    drop(red_packets); // kill -9
    let order = shop.pay("second").await;
    shop.until_paid(&order).await;
    let said = shop.explained(&order, "has no consumer online").await;
    assert!(said.contains("missing: delivery") && !shop.has_packet(&order).await, "{said}");
    let red_packets = shop.start_red_packets().await;
    shop.explained(&order, "nothing is missing").await;
    assert!(shop.has_packet(&order).await);

    for process in [red_packets, orders, gateway] {
        process.stop().await.unwrap();
    }
    shop.mq.stop().unwrap();
}
