//! One store directory, two brokers: Apache RocketMQ's own (from Maven Central) and ours, one after the other.

use std::future::ready;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mq_client::{Action, Client, ClientOptions, ConsumeFrom, Filter, Message, Producer, PushConsumer, TopicSettings};
use mq_namesrv::{NameServer, NamesrvConfig};
use mq_testkit::apache::{ApacheBroker, ApacheOptions};
use mq_testkit::cluster::{Cluster, ClusterOptions};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const WAIT: Duration = Duration::from_secs(180);
/// The same for both brokers: a store's files have the length that its configuration says.
const FILES: &str = "\
mappedFileSizeCommitLog=16777216
mappedFileSizeConsumeQueue=60000
mappedFileSizeTimerLog=1048576
flushDiskType=SYNC_FLUSH
messageDelayLevel=1s 2s 3s 4s 5s 6s 7s 8s 9s 10s 20s 30s 1m 2m 3m 4m 5m 6m
transactionTimeOut=1000
transactionCheckInterval=1000
";

/// A directory that one broker at a time runs on.
struct Shared {
    directory: TempDir,
}

impl Shared {
    fn new() -> Self {
        Self { directory: TempDir::new().unwrap() }
    }

    fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    async fn apache(&self) -> Apache {
        Apache::start(self.directory.path()).await
    }

    async fn ours(&self) -> Cluster {
        let configuration = FILES.to_owned();
        let options = ClusterOptions { configuration, store: Some(self.store()), ..ClusterOptions::default() };
        Cluster::start(options).await.unwrap()
    }
}

/// Apache's broker behind a name server of ours.
struct Apache {
    broker: ApacheBroker,
    names: String,
    _names: tokio_util::sync::DropGuard,
}

impl Apache {
    async fn start(directory: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = NameServer::new(NamesrvConfig::default()).unwrap();
        let until = shutdown.clone();
        tokio::spawn(async move { server.run(listener, until).await });
        let mut options = ApacheOptions::new(directory);
        options.name_server = Some(address);
        options.configuration = FILES.to_owned();
        let broker = tokio::task::spawn_blocking(|| ApacheBroker::start(options)).await.unwrap().unwrap();
        let apache = Self { broker, names: address.to_string(), _names: shutdown.drop_guard() };
        apache.registered().await;
        apache
    }

    async fn registered(&self) {
        let client = Client::new(ClientOptions::new(&self.names)).unwrap();
        let deadline = Instant::now() + WAIT;
        while let Err(error) = client.create_topic("REGISTERED", TopicSettings::with_queues(1)).await {
            assert!(Instant::now() < deadline, "{error}\n{}", self.broker.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Everything that a new group reads of a topic, once it is `count` messages.
async fn read_all(names: &str, group: &str, topic: &str, count: usize) -> Vec<String> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noting = seen.clone();
    let handler = move |batch: Vec<mq_client::ReceivedMessage>| {
        noting.lock().extend(batch.iter().map(|message| String::from_utf8_lossy(&message.body).into_owned()));
        ready(Action::Ack)
    };
    let builder = PushConsumer::builder(names).group(group.to_owned()).consume_from(ConsumeFrom::First);
    let _consumer = builder.subscribe(topic, Filter::all()).concurrent(handler).start().await.unwrap();
    let deadline = Instant::now() + WAIT;
    while seen.lock().len() < count {
        assert!(Instant::now() < deadline, "{} of {count} messages of {topic}", seen.lock().len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut all = seen.lock().clone();
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_apache_stored_is_read_by_ours_after_a_clean_stop() {
    let shared = Shared::new();
    let mut apache = shared.apache().await;
    let producer = Producer::builder(&apache.names).group("writers").build().await.unwrap();
    for number in 0..100 {
        producer.send(Message::new("orders", format!("{number:03}")).key(format!("k{number}"))).await.unwrap();
    }
    drop(producer);
    apache.broker.stop().unwrap();
    let ours = shared.ours().await;
    let bodies = read_all(&ours.name_servers(), "readers", "orders", 100).await;
    assert_eq!(bodies, (0..100).map(|number| format!("{number:03}")).collect::<Vec<_>>());
}
