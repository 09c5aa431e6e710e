//! Real processes: the `mq` binary on free ports with a store of its own, killed with SIGKILL when dropped.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::child::LoggedChild;

const START_TIMEOUT: Duration = Duration::from_secs(120);

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
    let given = || std::env::var_os("MQ_BIN").map(|path| Ok(path.into()));
    let binary =
        BINARY.get_or_init(|| given().unwrap_or_else(|| build("--bin", "mq")).map_err(|error| format!("{error:#}")));
    binary.as_deref().map_err(|error| anyhow::anyhow!("{error}"))
}

/// A binary of some other crate of the workspace, built the same way.
pub fn workspace_binary(name: &str) -> Result<PathBuf> {
    build("--bin", name)
}

/// An example of some crate of the workspace, built by this process's cargo in the profile of the tests.
pub fn example_binary(name: &str) -> Result<PathBuf> {
    build("--example", name)
}

fn build(kind: &str, name: &str) -> Result<PathBuf> {
    // The whole workspace's features, so that no dependency is built twice.
    let output = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--workspace", kind, name, "--message-format", "json"])
        .args((!cfg!(debug_assertions)).then_some("--release"))
        .current_dir(workspace())
        .stderr(Stdio::inherit())
        .output()
        .context("cargo does not start")?;
    if !output.status.success() {
        bail!("{name} does not build");
    }
    cargo_metadata::Message::parse_stream(&output.stdout[..])
        .filter_map(Result::ok)
        .find_map(|message| match message {
            cargo_metadata::Message::CompilerArtifact(artifact) if artifact.target.name == name => artifact.executable,
            _ => None,
        })
        .map(Into::into)
        .with_context(|| format!("cargo names no binary of {name}"))
}

/// `mq up` on a store directory, restartable on the same ports.
pub struct MqProcess {
    directory: PathBuf,
    configuration: PathBuf,
    pub broker: SocketAddr,
    pub name_server: SocketAddr,
    child: LoggedChild,
    program: Option<PathBuf>,
    environment: Vec<(String, String)>,
}

impl MqProcess {
    /// Prepares a broker in `directory` with the lines of a broker.conf; [`MqProcess::start`] runs it.
    pub fn new(directory: &Path, configuration: &str) -> Result<Self> {
        let [broker, name_server] = free_ports()?.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let path = directory.join("broker.conf");
        std::fs::write(&path, configuration).with_context(|| format!("cannot write {}", path.display()))?;
        let child = LoggedChild::new("mq", log_path(directory));
        let (program, environment) = (None, Vec::new());
        Ok(Self { directory: directory.into(), configuration: path, broker, name_server, child, program, environment })
    }

    /// Another build of it.
    #[must_use]
    pub fn built_as(mut self, program: &Path) -> Self {
        self.program = Some(program.into());
        self
    }

    /// What its next starts find in their environment, and nothing that was said here before.
    pub fn with_environment(&mut self, variables: &[(&str, &str)]) {
        self.environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    }

    /// Whether it has ended by itself; it can be started again then.
    pub fn has_ended(&mut self) -> Result<bool> {
        self.child.has_ended()
    }

    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.directory.join("store")
    }

    /// Returns when it is ready: its ports answer, and its name server knows it.
    pub fn start(&mut self) -> Result<()> {
        let program = match &self.program {
            Some(program) => program,
            None => mq_binary()?,
        };
        let mut command = Command::new(program);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
            .arg("up")
            .arg("-c")
            .arg(&self.configuration)
            .arg("--store")
            .arg(self.store())
            .args(["--port", &self.broker.port().to_string()])
            .args(["--namesrv-port", &self.name_server.port().to_string()]);
        let log = log_path(&self.directory);
        self.child.start(&mut command, START_TIMEOUT, |said_before| says_ready(&log, said_before))
    }

    /// SIGKILL, and the process is gone when this returns.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()
    }

    /// SIGTERM, and what it ended with.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.child.stop()
    }

    /// For who measures it.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.child.id()
    }

    /// What it printed so far; of a long text the end.
    #[must_use]
    pub fn log(&self) -> String {
        self.child.log()
    }
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("mq.log")
}

fn says_ready(log: &Path, said_before: u64) -> Result<bool> {
    let mut log = File::open(log)?;
    log.seek(SeekFrom::Start(said_before))?;
    let mut said = Vec::new();
    log.read_to_end(&mut said)?;
    Ok(said.split(|byte| *byte == b'\n').any(|line| line == b"ready"))
}
