//! Kill -9 of the real broker process under load, again and again, and nothing that it promised is broken.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use mq_client::{Message, Producer, PullConsumer, QueueOffset};
use mq_testkit::crash::log_scan::LogFacts;
use mq_testkit::crash::{CrashTest, Promise, Target};
use mq_testkit::process::MqProcess;
use tempfile::TempDir;

/// Small segments, so that the log rolls under load; transactions are settled in seconds.
const CONFIGURATION: &str = "\
mappedFileSizeCommitLog=16777216
maxMessageSize=65536
transactionTimeOut=300
transactionCheckInterval=300
transactionCheckMax=3
";

struct Killed {
    process: MqProcess,
}

impl Target for Killed {
    fn start(&mut self) -> Result<SocketAddr> {
        self.process.start()?;
        Ok(self.process.broker)
    }
    fn crash(&mut self) -> Result<()> {
        self.process.kill()
    }
    fn log(&mut self) -> Result<LogFacts> {
        Ok(LogFacts::of_directory(&self.process.store())?)
    }
}

#[test]
fn no_promise_is_broken_by_twenty_kills_under_load() {
    kill_under_load("no_promise_is_broken_by_twenty_kills_under_load", 20, 500, CONFIGURATION);
}

/// What was acknowledged is in the page cache, and that outlives the process.
#[test]
fn a_kill_takes_nothing_either_where_nothing_waits_for_the_disk() {
    let configuration = format!("{CONFIGURATION}flushDiskType=ASYNC_FLUSH\nflushIntervalCommitLog=3600000\n");
    kill_under_load("a_kill_takes_nothing_either_where_nothing_waits_for_the_disk", 8, 200, &configuration);
}

fn kill_under_load(test: &str, kills: u32, at_least: usize, configuration: &str) {
    let seed = super::seed();
    let directory = TempDir::new().unwrap();
    let mut target = Killed { process: MqProcess::new(directory.path(), configuration).unwrap() };
    let replay = super::replay(test, seed);
    let test = CrashTest {
        seed,
        promise: Promise::Everything,
        crashes: super::times(kills),
        producers: 4,
        load: (Duration::from_millis(300), Duration::from_millis(2200)),
        settle_within: Duration::from_secs(180),
    };
    let report = test.run(&mut target).unwrap_or_else(|error| panic!("{error:#}\n{}\n{replay}", target.process.log()));
    println!("{report}");
    if let Err(broken) = report.verify(at_least) {
        panic!("{broken}\n{replay}\nthe broker said:\n{}", target.process.log());
    }
    assert!(target.process.stop().unwrap().success(), "a graceful end:\n{}", target.process.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_takes_back_no_offset_that_its_journal_has() {
    let directory = TempDir::new().unwrap();
    // The table is saved at each start, and then not for an hour.
    let mut mq = MqProcess::new(directory.path(), "flushConsumerOffsetInterval=3600000\n").unwrap();
    mq.start().unwrap();
    let names = mq.name_server.to_string();
    let producer = Producer::builder(&names).group("writers").build().await.unwrap();
    let first = producer.send(Message::new("orders", "0")).await.unwrap();
    for number in 1..100 {
        producer.send(Message::new("orders", number.to_string())).await.unwrap();
    }
    let journal = mq.store().join("checkback/offset-journal");
    let has = |offset: QueueOffset| {
        let record =
            [&offset.0.to_be_bytes()[..], &first.queue.queue_id.to_be_bytes(), b"\0\x07\0\x06readersorders"].concat();
        std::fs::read(&journal).unwrap_or_default().windows(record.len()).any(|bytes| bytes == record)
    };
    for offset in (1..6).map(QueueOffset) {
        let reader = PullConsumer::builder(&names).group("readers").build().await.unwrap();
        if offset > QueueOffset(1) {
            let before = reader.committed(&first.queue).await.unwrap();
            assert_eq!(before, Some(QueueOffset(offset.0 - 1)), "after a kill\n{}", mq.log());
        }
        reader.commit_at(&first.queue, offset).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(120);
        while !has(offset) {
            assert!(Instant::now() < deadline, "the journal does not have {offset:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        mq.kill().unwrap();
        mq.start().unwrap();
    }
    assert!(mq.stop().unwrap().success(), "{}", mq.log());
}
