//! A program beside the test that prints into a file: waited for until it is ready, ended on request, killed with SIGKILL
//! when dropped. Knows nothing of what it does.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

const STOP_TIMEOUT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(10);

pub(crate) struct LoggedChild {
    /// As failures call it.
    name: &'static str,
    log: PathBuf,
    child: Option<Child>,
}

impl LoggedChild {
    pub(crate) fn new(name: &'static str, log: PathBuf) -> Self {
        Self { name, log, child: None }
    }

    /// Returns when it is ready, as `is_ready` finds out; that is given the bytes that the log had before this start.
    pub(crate) fn start(
        &mut self,
        command: &mut Command,
        within: Duration,
        is_ready: impl Fn(u64) -> Result<bool>,
    ) -> Result<()> {
        let Self { name, .. } = *self;
        assert!(self.child.is_none(), "it runs already");
        let log = File::options().append(true).create(true).open(&self.log)?;
        let said_before = log.metadata()?.len();
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        self.child = Some(child.with_context(|| format!("{name} does not start"))?);
        let deadline = Instant::now() + within;
        while !is_ready(said_before)? {
            if let Some(status) = self.child.as_mut().expect("just started").try_wait()? {
                bail!("{name} ended with {status} at its start:\n{}", self.log());
            }
            if Instant::now() > deadline {
                bail!("{name} is not ready after {within:?}:\n{}", self.log());
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// SIGKILL, and the process is gone when this returns.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("it does not run")?;
        if let Some(status) = child.try_wait()? {
            bail!("{} had ended by itself with {status}:\n{}", self.name, self.log());
        }
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Whether it has ended by itself; then it is gone.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        let ended = self.child.as_mut().context("it does not run")?.try_wait()?.is_some();
        if ended {
            self.child = None;
        }
        Ok(ended)
    }

    /// SIGTERM, and what it ended with.
    pub(crate) fn stop(&mut self) -> Result<ExitStatus> {
        let mut child = self.child.take().context("it does not run")?;
        kill_process(Pid::from_child(&child), Signal::TERM)?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                bail!("{} ignores SIGTERM:\n{}", self.name, self.log());
            }
            std::thread::sleep(POLL);
        }
    }

    pub(crate) fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// What it printed so far, over all its starts; of a long text the end.
    pub(crate) fn log(&self) -> String {
        const KEEP: usize = 20_000;
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let from = (text.len().saturating_sub(KEEP)..text.len()).find(|at| text.is_char_boundary(*at));
        text[from.unwrap_or(0)..].to_owned()
    }

    /// Ends it if it runs, however it is.
    pub(crate) fn reap(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for LoggedChild {
    fn drop(&mut self) {
        self.reap();
    }
}
