//! The cluster in this process: it is there when `start` returns, and a graceful restart keeps every promise too.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mq_broker::limits::ROUTED_WITHIN;
use mq_client::{Admin, ClientOptions, Message, Producer, TopicSettings};
use mq_testkit::cluster::{Cluster, ClusterOptions};
use mq_testkit::crash::log_scan::LogFacts;
use mq_testkit::crash::{CrashTest, Promise, Target};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const CONFIGURATION: &str = "\
mappedFileSizeCommitLog=4194304
maxMessageSize=65536
transactionTimeOut=300
transactionCheckInterval=300
transactionCheckMax=3
";

struct Restarted {
    cluster: Option<Cluster>,
    runtime: Runtime,
    directory: TempDir,
}

impl Target for Restarted {
    fn start(&mut self) -> Result<SocketAddr> {
        let options = ClusterOptions {
            configuration: CONFIGURATION.into(),
            store: Some(self.directory.path().into()),
            ..ClusterOptions::default()
        };
        let cluster = self.cluster.insert(self.runtime.block_on(Cluster::start(options))?);
        Ok(cluster.broker)
    }
    fn crash(&mut self) -> Result<()> {
        let cluster = self.cluster.take().context("it does not run")?;
        self.runtime.block_on(cluster.stop())
    }
    fn log(&mut self) -> Result<LogFacts> {
        Ok(LogFacts::of_directory(self.directory.path())?)
    }
}

#[test]
fn no_promise_is_broken_by_graceful_restarts_under_load() {
    let seed = super::seed();
    let mut target = Restarted { runtime: Runtime::new().unwrap(), directory: TempDir::new().unwrap(), cluster: None };
    let test = CrashTest {
        seed,
        promise: Promise::Everything,
        crashes: 3,
        producers: 3,
        load: (Duration::from_millis(300), Duration::from_millis(600)),
        settle_within: Duration::from_secs(180),
    };
    let replay = super::replay("graceful", seed);
    let report = test.run(&mut target).unwrap_or_else(|error| panic!("{error:#}\n{replay}"));
    println!("{report}");
    report.verify(50).unwrap_or_else(|broken| panic!("{broken}\n{replay}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hears_that_a_topic_is_there_finds_its_route_at_once() {
    let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
    let admin = Admin::new(ClientOptions::new(cluster.name_servers())).unwrap();
    let producer = Producer::builder(cluster.name_servers()).build().await.unwrap();
    let mut found = 0;
    for round in 0..50 {
        let (created, sent) = (format!("created-{round}"), format!("sent-{round}"));
        let asked = Instant::now();
        admin.create_topic(&created, TopicSettings::with_queues(4)).await.unwrap();
        producer.send(Message::new(sent.as_str(), "hello")).await.unwrap();
        // On a machine that stands still for so long the broker no longer waits for the name server.
        if asked.elapsed() < ROUTED_WITHIN {
            admin.route(&created).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
            admin.route(&sent).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
            found += 1;
        }
    }
    assert!(found > 25, "only {found} of 50 rounds were quick enough to show it");
    cluster.stop().await.unwrap();
}
