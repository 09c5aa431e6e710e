//! A name server and a broker in this process, on free ports of loopback: what another crate's test talks to.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use mq_broker::{Broker, BrokerConfig};
use mq_namesrv::{NameServer, NamesrvConfig};
use mq_store::{Backend, Clock, SystemClock};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const REGISTER_WITHIN: Duration = Duration::from_secs(60);
/// Small files: a test's broker should cost milliseconds and megabytes.
const SMALL: &str = "\
brokerName=broker-a
mappedFileSizeCommitLog=16777216
";
/// Timings for tests that wait for checkbacks, retries and delayed messages: a second and less instead of minutes.
pub const FAST: &str = "\
messageDelayLevel=1s 1s 1s 1s 1s 1s 2s 2s 2s 3s 3s 4s 4s 5s 5s 6s 6s 7s
transactionTimeOut=200
transactionCheckInterval=200
";

pub struct ClusterOptions {
    /// Lines of a broker.conf, over those of small files.
    pub configuration: String,
    /// Where the store lies; a directory of the cluster's own when there is none.
    pub store: Option<PathBuf>,
    /// Where the store's files are, if not on disk.
    pub backend: Option<Arc<dyn Backend>>,
    pub clock: Arc<dyn Clock>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self { configuration: String::new(), store: None, backend: None, clock: Arc::new(SystemClock) }
    }
}

impl ClusterOptions {
    /// With the short timings of [`FAST`].
    #[must_use]
    pub fn fast() -> Self {
        Self { configuration: FAST.into(), ..Self::default() }
    }
}

/// A name server in this process, on a free port; it ends when it is dropped.
pub struct Names {
    pub address: SocketAddr,
    part: Part,
}

impl Names {
    pub async fn start() -> Result<Self> {
        let listener = listen(0).await?;
        let address = listener.local_addr()?;
        let server = NameServer::new(NamesrvConfig::default())?;
        let part = Part::new(|shutdown| tokio::spawn(async { Ok(server.run(listener, shutdown).await?) }));
        Ok(Self { address, part })
    }
}

thread_local! {
    /// The threads of a broker that is dropped save their tables while the test's runtime ends: its directory stays until
    /// then.
    static DIRECTORIES: RefCell<Vec<Arc<TempDir>>> = const { RefCell::new(Vec::new()) };
}

/// Its parts end when it is dropped; [`Cluster::stop`] ends them gracefully.
pub struct Cluster {
    pub name_server: SocketAddr,
    pub broker: SocketAddr,
    options: ClusterOptions,
    directory: Arc<TempDir>,
    names: Names,
    serving: Option<Part>,
}

struct Part {
    shutdown: CancellationToken,
    ended: JoinHandle<Result<()>>,
}

impl Part {
    fn new(run: impl FnOnce(CancellationToken) -> JoinHandle<Result<()>>) -> Self {
        let shutdown = CancellationToken::new();
        Self { ended: run(shutdown.clone()), shutdown }
    }

    async fn stop(mut self) -> Result<()> {
        self.shutdown.cancel();
        (&mut self.ended).await.context("it panicked")?
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Cluster {
    /// Returns when the name server knows the broker.
    pub async fn start(options: ClusterOptions) -> Result<Self> {
        let names = Names::start().await?;
        let name_server = names.address;
        let listener = listen(0).await?;
        let broker = listener.local_addr()?;
        let directory = Arc::new(TempDir::new()?);
        DIRECTORIES.with_borrow_mut(|directories| directories.push(directory.clone()));
        let mut cluster = Self { name_server, broker, options, directory, names, serving: None };
        cluster.serve(listener).await?;
        Ok(cluster)
    }

    #[must_use]
    pub fn store(&self) -> &Path {
        self.options.store.as_deref().unwrap_or(self.directory.path())
    }

    /// What clients are configured with.
    #[must_use]
    pub fn name_servers(&self) -> String {
        self.name_server.to_string()
    }

    async fn serve(&mut self, listener: TcpListener) -> Result<()> {
        let mut config = BrokerConfig::default();
        config.apply(&format!("{SMALL}{}", self.options.configuration))?;
        config.listen_port = self.broker.port();
        config.name_servers = vec![self.name_servers()];
        config.store_root = self.store().into();
        let clock = self.options.clock.clone();
        let backend = self.options.backend.clone();
        let open = move || match backend {
            Some(backend) => Broker::open_on(backend, config, clock),
            None => Broker::open(config, clock),
        };
        let broker = tokio::task::spawn_blocking(open).await.context("opening the broker panicked")??;
        let running = broker.clone();
        self.serving =
            Some(Part::new(|shutdown| tokio::spawn(async move { Ok(running.run(vec![listener], shutdown).await?) })));
        tokio::time::timeout(REGISTER_WITHIN, broker.registered()).await.context("the name server does not know it")
    }

    /// Ends the broker gracefully; the name server goes on. [`Cluster::restart`] starts it again.
    pub async fn stop_broker(&mut self) -> Result<()> {
        match self.serving.take() {
            Some(serving) => serving.stop().await,
            None => Ok(()),
        }
    }

    /// The same store on the same port.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop_broker().await?;
        let listener = listen(self.broker.port()).await?;
        self.serve(listener).await
    }

    pub async fn stop(mut self) -> Result<()> {
        self.stop_broker().await?;
        self.names.part.stop().await
    }
}

async fn listen(port: u16) -> Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.with_context(|| format!("cannot listen on port {port}"))
}
