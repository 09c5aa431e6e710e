//! Real processes: the `mq` binary on free ports with a store of its own, killed with SIGKILL when dropped.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

const START_TIMEOUT: Duration = Duration::from_secs(120);
const STOP_TIMEOUT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(10);

/// Some free ports of loopback. They are free when this returns; another process may still take one.
pub fn free_ports<const N: usize>() -> Result<[u16; N]> {
    // Held until all are found, so that they differ.
    let listeners: Vec<_> = (0..N)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<_, _>>()
        .context("no free port")?;
    let ports: Vec<u16> = listeners
        .iter()
        .map(|listener| listener.local_addr().map(|address| address.port()))
        .collect::<Result<_, _>>()?;
    Ok(ports.try_into().expect("N ports were collected"))
}

/// The root of the workspace.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The `mq` binary: `$MQ_BIN`, or built once by this process's cargo in the profile of the tests.
pub fn mq_binary() -> Result<&'static Path> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let binary = BINARY.get_or_init(|| build_mq().map_err(|error| format!("{error:#}")));
    binary.as_deref().map_err(|error| anyhow::anyhow!("{error}"))
}

fn build_mq() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("MQ_BIN") {
        return Ok(path.into());
    }
    // The whole workspace's features, so that no dependency is built twice.
    let output = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--workspace", "--bin", "mq", "--message-format", "json"])
        .args((!cfg!(debug_assertions)).then_some("--release"))
        .current_dir(workspace())
        .stderr(Stdio::inherit())
        .output()
        .context("cargo does not start")?;
    if !output.status.success() {
        bail!("the mq binary does not build");
    }
    cargo_metadata::Message::parse_stream(&output.stdout[..])
        .filter_map(Result::ok)
        .find_map(|message| match message {
            cargo_metadata::Message::CompilerArtifact(artifact) if artifact.target.name == "mq" => artifact.executable,
            _ => None,
        })
        .map(Into::into)
        .context("cargo names no mq binary")
}

/// `mq up` on a store directory, restartable on the same ports.
pub struct MqProcess {
    directory: PathBuf,
    configuration: PathBuf,
    pub broker: SocketAddr,
    pub name_server: SocketAddr,
    child: Option<Child>,
}

impl MqProcess {
    /// Prepares a broker in `directory` with the lines of a broker.conf; [`MqProcess::start`] runs it.
    pub fn new(directory: &Path, configuration: &str) -> Result<Self> {
        let [broker, name_server] = free_ports()?.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let path = directory.join("broker.conf");
        std::fs::write(&path, configuration).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { directory: directory.into(), configuration: path, broker, name_server, child: None })
    }

    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.directory.join("store")
    }

    /// Returns when it is ready: its ports answer, and its name server knows it.
    pub fn start(&mut self) -> Result<()> {
        assert!(self.child.is_none(), "it runs already");
        let log = File::options().append(true).create(true).open(self.log_path())?;
        let said_before = log.metadata()?.len();
        let child = Command::new(mq_binary()?)
            .arg("up")
            .arg("-c")
            .arg(&self.configuration)
            .arg("--store")
            .arg(self.store())
            .args(["--port", &self.broker.port().to_string()])
            .args(["--namesrv-port", &self.name_server.port().to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("mq does not start")?;
        self.child = Some(child);
        let deadline = Instant::now() + START_TIMEOUT;
        while !self.is_ready(said_before)? {
            if let Some(status) = self.child.as_mut().expect("just started").try_wait()? {
                bail!("mq ended with {status} at its start:\n{}", self.log());
            }
            if Instant::now() > deadline {
                bail!("mq is not ready after {START_TIMEOUT:?}:\n{}", self.log());
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn is_ready(&self, said_before: u64) -> Result<bool> {
        let mut log = File::open(self.log_path())?;
        log.seek(SeekFrom::Start(said_before))?;
        let mut said = Vec::new();
        log.read_to_end(&mut said)?;
        Ok(said.split(|byte| *byte == b'\n').any(|line| line == b"ready"))
    }

    /// SIGKILL, and the process is gone when this returns.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("it does not run")?;
        if let Some(status) = child.try_wait()? {
            bail!("mq had ended by itself with {status}:\n{}", self.log());
        }
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGTERM, and what it ended with.
    pub fn stop(&mut self) -> Result<ExitStatus> {
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
                bail!("mq ignores SIGTERM:\n{}", self.log());
            }
            std::thread::sleep(POLL);
        }
    }

    /// For who measures it.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("mq.log")
    }

    /// What it printed so far; of a long text the end.
    #[must_use]
    pub fn log(&self) -> String {
        const KEEP: usize = 20_000;
        let text = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let from = (text.len().saturating_sub(KEEP)..text.len()).find(|at| text.is_char_boundary(*at));
        text[from.unwrap_or(0)..].to_owned()
    }
}

impl Drop for MqProcess {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
