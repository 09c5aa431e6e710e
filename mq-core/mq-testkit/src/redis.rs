//! A real redis-server for one test: private port, private directory, gone when dropped.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::process::free_ports;

const START_TIMEOUT: Duration = Duration::from_secs(60);

pub struct RedisServer {
    address: SocketAddr,
    directory: TempDir,
    child: Child,
}

impl RedisServer {
    pub fn start() -> Result<Self> {
        let directory = TempDir::new()?;
        let [port] = free_ports()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let child = spawn(&directory, port)?;
        let mut server = Self { address, directory, child };
        server.wait_until_it_answers()?;
        Ok(server)
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}/", self.address)
    }

    /// SIGKILL and a new, empty server on the same port: what a lost Redis looks like.
    pub fn lose(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.child = spawn(&self.directory, self.address.port())?;
        self.wait_until_it_answers()
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(self.address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("redis-server ended with {status} at its start");
            }
            if Instant::now() > deadline {
                bail!("redis-server does not listen after {START_TIMEOUT:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

fn spawn(directory: &TempDir, port: u16) -> Result<Child> {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .args(["--maxmemory-policy", "noeviction"])
        .arg("--dir")
        .arg(directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("redis-server does not start; `make redis` installs it")
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
