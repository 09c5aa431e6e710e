//! Kill -9 of the real broker process under load, again and again, and nothing that it promised is broken.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use mq_testkit::crash::log_scan::LogFacts;
use mq_testkit::crash::{CrashTest, Target};
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
    let seed = super::seed();
    let directory = TempDir::new().unwrap();
    let mut target = Killed { process: MqProcess::new(directory.path(), CONFIGURATION).unwrap() };
    let test = CrashTest {
        seed,
        crashes: super::times(20),
        producers: 4,
        load: (Duration::from_millis(300), Duration::from_millis(2200)),
        settle_within: Duration::from_secs(180),
    };
    let replay = super::replay("kill", seed);
    let report = test.run(&mut target).unwrap_or_else(|error| panic!("{error:#}\n{}\n{replay}", target.process.log()));
    println!("{report}");
    if let Err(broken) = report.verify(500) {
        panic!("{broken}\n{replay}\nthe broker said:\n{}", target.process.log());
    }
    assert!(target.process.stop().unwrap().success(), "a graceful end:\n{}", target.process.log());
}
