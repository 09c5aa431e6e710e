//! The brokers that are measured: each on files of its own, started and stopped as its user would.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use mq_testkit::apache::{ApacheBroker, ApacheOptions};
use mq_testkit::process::MqProcess;

use crate::{Options, directory};

/// A broker that can be measured.
pub(crate) trait Subject {
    fn start(&mut self) -> Result<()>;
    fn stop(&mut self) -> Result<()>;
    fn address(&self) -> SocketAddr;
    fn process_id(&self) -> Result<u32>;
}

pub(crate) struct Apache {
    directory: tempfile::TempDir,
    flush: &'static str,
    running: Option<ApacheBroker>,
}

impl Apache {
    pub(crate) fn new(options: &Options, flush: &'static str) -> Result<Self> {
        Ok(Self { directory: directory(options)?, flush, running: None })
    }
}

impl Subject for Apache {
    fn start(&mut self) -> Result<()> {
        let more = ApacheOptions::new(self.directory.path());
        let configuration = format!("flushDiskType={}\nautoCreateTopicEnable=true\n", self.flush);
        self.running = Some(ApacheBroker::start(ApacheOptions { heap: "4g", configuration, ..more })?);
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        self.running.take().context("not started")?.stop().map(drop)
    }

    fn address(&self) -> SocketAddr {
        self.running.as_ref().expect("started").broker
    }

    fn process_id(&self) -> Result<u32> {
        self.running.as_ref().and_then(ApacheBroker::process_id).context("Apache's broker does not run")
    }
}

pub(crate) struct Ours {
    pub(crate) process: MqProcess,
    _directory: tempfile::TempDir,
}

impl Ours {
    pub(crate) fn new(options: &Options, flush: &str) -> Result<Self> {
        let directory = directory(options)?;
        let process = MqProcess::new(directory.path(), &format!("flushDiskType={flush}\n"))?;
        Ok(Self { process, _directory: directory })
    }
}

impl Subject for Ours {
    fn start(&mut self) -> Result<()> {
        self.process.start()
    }

    fn stop(&mut self) -> Result<()> {
        let status = self.process.stop()?;
        ensure!(status.success(), "mq ended with {status}");
        Ok(())
    }

    fn address(&self) -> SocketAddr {
        self.process.broker
    }

    fn process_id(&self) -> Result<u32> {
        self.process.process_id().context("mq does not run")
    }
}
