//! Servers of this program as child processes: started for a scenario, looked at from outside, and ended.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::usage::{anonymous_mib, cpu};

const START_PATIENCE: Duration = Duration::from_secs(10);
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// /proc counts in hundredths.
const SHORTEST_REST_SECONDS: f64 = 0.1;

/// For a server's files; it goes when it is dropped.
pub(super) fn scratch(prefix: &str, within: &Path) -> Result<TempDir> {
    let directory = tempfile::Builder::new().prefix(prefix).tempdir_in(within);
    directory.with_context(|| format!("cannot write in {}", within.display()))
}

/// A child process, killed when dropped.
pub(super) struct Server {
    child: Child,
    address: String,
    _store: Option<TempDir>,
}

impl Server {
    pub(super) async fn floor() -> Result<Self> {
        let (child, mut lines) = start(&["bench", "floor", "--port", "0"])?;
        let line = next(&mut lines).await?;
        let address = line.split(" on ").nth(1).and_then(|rest| rest.split(',').next());
        let address = address.with_context(|| format!("the floor said {line:?}"))?.to_owned();
        Ok(Self { child, address, _store: None })
    }

    pub(super) async fn broker(flush: &str, dir: &Path) -> Result<Self> {
        let store = scratch("mq-bench-", dir)?;
        let server = Self::broker_in(flush, store.path()).await?;
        Ok(Self { _store: Some(store), ..server })
    }

    /// Its files stay where they are.
    pub(super) async fn broker_in(flush: &str, directory: &Path) -> Result<Self> {
        let config = directory.join("broker.conf");
        std::fs::write(&config, format!("flushDiskType={flush}\n"))?;
        let (files, config) = (directory.join("store"), config.display().to_string());
        let files = files.display().to_string();
        let arguments = ["up", "-c", &config, "--store", &files, "--port", "0", "--namesrv-port", "0"];
        let (child, mut lines) = start(&arguments)?;
        let mut address = None;
        loop {
            let line = next(&mut lines).await?;
            if let Some(rest) = line.strip_prefix("broker ") {
                address = rest.split_whitespace().next().map(str::to_owned);
            }
            if line == "ready" {
                break;
            }
        }
        Ok(Self { child, address: address.context("the broker said no address")?, _store: None })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn id(&self) -> Vec<u32> {
        self.child.id().into_iter().collect()
    }

    pub(super) fn anonymous_mib(&self) -> Result<f64> {
        anonymous_mib(&self.id())
    }

    /// Of one core, on an average of so many seconds.
    pub(super) async fn cpu_percent(&self, seconds: f64) -> Result<f64> {
        let (before, began) = (cpu(&self.id())?, Instant::now());
        tokio::time::sleep(Duration::from_secs_f64(seconds.max(SHORTEST_REST_SECONDS))).await;
        let used = cpu(&self.id())?.saturating_sub(before);
        Ok(used.as_secs_f64() / began.elapsed().as_secs_f64() * 100.0)
    }

    /// As a crash ends it: nothing is saved.
    pub(super) async fn kill(mut self) -> Result<()> {
        self.child.kill().await.context("the server cannot be killed")
    }

    /// Its files go with it, unless somebody else keeps them.
    pub(super) async fn stop(mut self) -> Result<()> {
        let id = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        kill_process(id.context("the server ended by itself")?, Signal::TERM)?;
        let status = timeout(STOP_PATIENCE, self.child.wait()).await.context("the server does not stop")??;
        ensure!(status.success(), "the server ended with {status}");
        Ok(())
    }
}

fn start(arguments: &[&str]) -> Result<(Child, Lines<BufReader<ChildStdout>>)> {
    let program = std::env::current_exe().context("this program is not to be found")?;
    let mut command = Command::new(program);
    command.args(arguments).env_remove("NAMESRV_ADDR").env("RUST_LOG", "warn");
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn();
    let mut child = child.with_context(|| format!("cannot start mq {}", arguments.join(" ")))?;
    let out = child.stdout.take().expect("piped");
    Ok((child, BufReader::new(out).lines()))
}

async fn next(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<String> {
    let line = timeout(START_PATIENCE, lines.next_line()).await.context("the server is not ready in time")??;
    line.context("the server ended before it was ready")
}
