//! One child process of the stack: started with its log streamed under its name, stopped gently, never left behind.
//! Knows no service and no address.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

/// How long a child may take to stop by itself before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// A log line longer than this is shown in pieces: a child must not make its parent grow.
const LINE_LIMIT_BYTES: u64 = 4_096;

/// What to start.
#[derive(Clone, Debug)]
pub struct Program {
    pub name: &'static str,
    pub path: PathBuf,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
}

impl Program {
    #[must_use]
    pub fn new(name: &'static str, path: impl Into<PathBuf>) -> Self {
        Self { name, path: path.into(), args: Vec::new(), env: Vec::new() }
    }

    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Starts the program in a process group of its own (Ctrl-C reaches the parent only, which stops children in order),
    /// bound to the parent's life: the kernel ends it when the parent dies, even by kill -9.
    pub fn start(&self, log: Log) -> Result<Process> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(&self.path).args(&self.args);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        let mut child =
            command.spawn().with_context(|| format!("cannot start {}: {}", self.name, self.path.display()))?;
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).context("the child has no process id")?;
        let logs = vec![
            stream(self.name, log.clone(), child.stdout.take().context("stdout is piped")?),
            stream(self.name, log, child.stderr.take().context("stderr is piped")?),
        ];
        Ok(Process { name: self.name, pid, child, logs })
    }
}

/// Where the lines of all children go.
#[derive(Clone, Debug)]
pub enum Log {
    /// `name | line` on the parent's standard error.
    Terminal,
    /// Appended to a file, for runs whose output is a table.
    File(PathBuf),
}

impl Log {
    #[must_use]
    pub fn file(path: &Path) -> Self {
        Self::File(path.into())
    }

    fn line(&self, name: &str, line: &str) {
        use std::io::Write;
        // A log line that cannot be written is no reason to stop a stack.
        let _ = match self {
            Self::Terminal => writeln!(std::io::stderr(), "{name:>12} | {line}"),
            Self::File(path) => std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .and_then(|mut file| writeln!(file, "{name:>12} | {line}")),
        };
    }
}

fn stream(name: &'static str, log: Log, pipe: impl AsyncRead + Unpin + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut pipe = BufReader::with_capacity(LINE_LIMIT_BYTES as usize, pipe);
        let mut line = Vec::new();
        while matches!((&mut pipe).take(LINE_LIMIT_BYTES).read_until(b'\n', &mut line).await, Ok(1..)) {
            log.line(name, String::from_utf8_lossy(&line).trim_end());
            line.clear();
        }
    })
}

/// A running child.
#[derive(Debug)]
pub struct Process {
    pub name: &'static str,
    pid: Pid,
    child: Child,
    logs: Vec<JoinHandle<()>>,
}

impl Process {
    /// Waits until the child ends by itself.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait().await?)
    }

    /// The status of a child that has already ended.
    pub fn try_ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Asks the child to stop, and kills it if it does not within [`STOP_LIMIT`]. The log is complete afterwards.
    pub async fn stop(mut self) -> Result<ExitStatus> {
        if self.child.try_wait()?.is_none() {
            // An error means that it ended in between, which is what we want.
            let _ = kill_process(self.pid, Signal::TERM);
        }
        let status = match tokio::time::timeout(STOP_LIMIT, self.child.wait()).await {
            Ok(status) => status?,
            Err(_) => {
                tracing::warn!(name = self.name, "did not stop within {STOP_LIMIT:?}: killed");
                self.child.kill().await?;
                self.child.wait().await?
            }
        };
        for log in self.logs {
            let _ = log.await;
        }
        Ok(status)
    }
}
