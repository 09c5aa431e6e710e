//! Apache RocketMQ's own broker, from the jars that `make apache` fetched: on free ports of loopback, on a store
//! directory of the test's choice. Killed with SIGKILL when dropped.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::child::LoggedChild;
use crate::process::workspace;

/// A JVM on a busy machine of two cores takes its time.
const START_TIMEOUT: Duration = Duration::from_secs(180);
const START_ATTEMPTS: u32 = 3;
/// What Java says of it.
const PORT_TAKEN: &str = "Address already in use";
/// What the broker reaches into; the same as its own start script.
const OPENED: [&str; 4] = [
    "--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-opens=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
];

/// Where and how to run it.
pub struct ApacheOptions {
    /// Its configuration, logs and home; the store lies in `store` below it.
    pub directory: PathBuf,
    pub name_server: Option<SocketAddr>,
    /// More lines of its broker.conf.
    pub configuration: String,
    pub heap: &'static str,
}

impl ApacheOptions {
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.into(), name_server: None, configuration: String::new(), heap: "512m" }
    }
}

pub struct ApacheBroker {
    pub broker: SocketAddr,
    options: ApacheOptions,
    child: LoggedChild,
}

impl ApacheBroker {
    /// Returns when its port answers. A JVM binds seconds after its ports were found free: when somebody was faster, it
    /// is started on others.
    pub fn start(options: ApacheOptions) -> Result<Self> {
        let child = LoggedChild::new("Apache's broker", options.directory.join("apache.log"));
        let mut running = Self { broker: free_address_with_vip()?, options, child };
        for _ in 1..START_ATTEMPTS {
            match running.restart() {
                Err(_) if running.log().contains(PORT_TAKEN) => {
                    running.child.reap();
                    running.broker = free_address_with_vip()?;
                }
                started => return started.map(|()| running),
            }
        }
        running.restart()?;
        Ok(running)
    }

    /// Starts it again on the same port and store.
    pub fn restart(&mut self) -> Result<()> {
        let jars = workspace().join("target/apache/lib");
        if !jars.is_dir() {
            bail!("Apache's broker is not there ({}): `make apache` fetches it", jars.display());
        }
        let directory = &self.options.directory;
        std::fs::create_dir_all(directory.join("conf"))?;
        let configuration = directory.join("broker.conf");
        std::fs::write(&configuration, self.configuration())?;
        let mut command = Command::new("java");
        command
            .arg(format!("-Xms{}", self.options.heap))
            .arg(format!("-Xmx{}", self.options.heap))
            .arg("-XX:MaxDirectMemorySize=1g")
            .args(OPENED)
            // It writes its logs under the home directory.
            .arg(format!("-Duser.home={}", directory.display()))
            .arg(format!("-Drocketmq.home.dir={}", directory.display()))
            .arg("-cp")
            .arg(format!("{}/*", jars.display()))
            .arg("org.apache.rocketmq.broker.BrokerStartup")
            .arg("-c")
            .arg(&configuration);
        let port = self.broker;
        self.child.start(&mut command, START_TIMEOUT, |_| Ok(TcpStream::connect(port).is_ok()))
    }

    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.options.directory.join("store")
    }

    /// Of the JVM, for who measures it.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.child.id()
    }

    /// SIGKILL, and the process is gone when this returns.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()
    }

    /// SIGTERM, and what it ended with (a JVM says 143).
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.child.stop()
    }

    fn configuration(&self) -> String {
        let (port, store) = (self.broker.port(), self.store());
        let name_server = self.options.name_server.map(|address| format!("namesrvAddr={address}\n"));
        format!(
            "brokerClusterName=DefaultCluster\nbrokerName=broker-a\nbrokerId=0\nbrokerIP1=127.0.0.1\n\
             listenPort={port}\nhaListenPort={ha}\nstorePathRootDir={root}\nstorePathCommitLog={root}/commitlog\n\
             {name_server}{more}\n",
            ha = port - 1,
            root = store.display(),
            name_server = name_server.unwrap_or_default(),
            more = self.options.configuration,
        )
    }

    /// The end of what it printed.
    #[must_use]
    pub fn log(&self) -> String {
        self.child.log()
    }
}

/// A port whose two neighbours below are free as well: the broker listens for slaves on one and on its VIP port, two
/// below.
fn free_address_with_vip() -> Result<SocketAddr> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    for _ in 0..100 {
        let top = bind(0)?;
        let port = top.local_addr()?.port();
        if port > 3 && bind(port - 1).is_ok() && bind(port - 2).is_ok() {
            return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        }
    }
    bail!("no three free ports in a row")
}
