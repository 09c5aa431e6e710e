//! Waiting until a part of the stack answers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::net::TcpStream;

const LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// How to see that a part is ready.
#[derive(Clone, Debug)]
pub enum Probe {
    /// It accepts connections.
    Tcp(SocketAddr),
    /// `GET` of this address answers with success.
    Http(String),
}

impl Probe {
    #[must_use]
    pub fn http(at: SocketAddr) -> Self {
        Self::Http(format!("http://{at}/readyz"))
    }

    pub async fn wait(&self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while !self.answers().await {
            if Instant::now() > deadline {
                bail!("{self:?} did not become ready within {LIMIT:?}");
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    async fn answers(&self) -> bool {
        match self {
            Self::Tcp(at) => TcpStream::connect(at).await.is_ok(),
            Self::Http(url) => reqwest::get(url).await.is_ok_and(|reply| reply.status().is_success()),
        }
    }
}
