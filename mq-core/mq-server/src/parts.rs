//! Starting and stopping the parts: ports first, then the store, then the way in; and out again in the other order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use mq_broker::{Broker, BrokerConfig};
use mq_namesrv::{NameServer, NamesrvConfig};
use mq_store::SystemClock;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::arguments::{BrokerOptions, Exposure, NamesrvOptions, StoreOptions, UpOptions};
use crate::listen::{Reserved, reserve};
use crate::{banner, metrics, settings, signals};

/// How long `ready` waits for name servers elsewhere. A broker without one still serves those who know its address.
const REGISTRATION_PATIENCE: Duration = Duration::from_secs(3);
/// The same for the name server of this process: it answers, if late on a busy machine.
const OWN_REGISTRATION_PATIENCE: Duration = Duration::from_secs(60);
/// How far below the broker's port clients look for its VIP port.
const VIP_DISTANCE: u16 = 2;

pub(crate) async fn name_server(options: &NamesrvOptions) -> Result<()> {
    let shutdown = signals::shutdown()?;
    let port = reserve("name server", options.bind, options.port, options.exposure)?;
    banner::name_server(port.address);
    let config = NamesrvConfig { kv_config_path: options.kv_config.clone(), ..NamesrvConfig::default() };
    let server = NameServer::new(config).context("the name server cannot start")?;
    let listener = port.listen()?;
    banner::say("ready");
    server.run(listener, shutdown).await.context("the name server failed")
}

pub(crate) async fn broker(options: &BrokerOptions) -> Result<()> {
    let shutdown = signals::shutdown()?;
    let mut config = settings::load(&options.store)?;
    if let Some(addresses) = &options.namesrv {
        config.name_servers =
            addresses.split(';').map(str::trim).filter(|one| !one.is_empty()).map(Into::into).collect();
    }
    let ports = Ports::reserve(&mut config, &options.store, options.exposure)?;
    serve(config, ports, REGISTRATION_PATIENCE, shutdown).await
}

pub(crate) async fn up(options: &UpOptions) -> Result<()> {
    let shutdown = signals::shutdown()?;
    let mut config = settings::load(&options.store)?;
    let name_server = reserve("name server", config.bind_address, options.namesrv_port, options.exposure)?;
    let ports = Ports::reserve(&mut config, &options.store, options.exposure)?;
    let address = dialable(&config, name_server.address);
    config.name_servers = vec![address.to_string()];
    banner::name_server(address);
    let server = NameServer::new(NamesrvConfig {
        kv_config_path: Some(config.config_directory().join("kvConfig.json")),
        ..NamesrvConfig::default()
    });
    let server = server.context("the name server cannot start")?;
    // It outlives the broker, which says goodbye to it.
    let stop = CancellationToken::new();
    let running = tokio::spawn(server.run(name_server.listen()?, stop.clone()));
    let served = serve(config, ports, OWN_REGISTRATION_PATIENCE, shutdown).await;
    stop.cancel();
    let ended = running.await.context("the name server failed")?;
    served.and(ended.context("the name server failed"))
}

/// An address that this machine's processes can connect to.
fn dialable(config: &BrokerConfig, address: SocketAddr) -> SocketAddr {
    match config.broker_ip {
        Some(ip) if address.ip().is_unspecified() => SocketAddr::new(ip, address.port()),
        _ => address,
    }
}

/// The broker's port and, when asked for, its VIP port and the port of its metrics.
struct Ports {
    main: Reserved,
    vip: Option<Reserved>,
    metrics: Option<Reserved>,
}

impl Ports {
    /// Writes the port that it got into the settings: message ids and registrations carry it.
    fn reserve(config: &mut BrokerConfig, options: &StoreOptions, exposure: Exposure) -> Result<Self> {
        let main = reserve("broker", config.bind_address, config.listen_port, exposure)?;
        config.listen_port = main.address.port();
        let vip_port = config.listen_port.checked_sub(VIP_DISTANCE).filter(|_| options.vip);
        let vip = vip_port.map(|port| reserve("VIP port", config.bind_address, port, exposure)).transpose()?;
        let scraped = config.metrics_enabled.then(|| config.metrics_host.unwrap_or(config.bind_address));
        let metrics = scraped.map(|ip| reserve("metrics port", ip, config.metrics_port, exposure)).transpose()?;
        Ok(Self { main, vip, metrics })
    }

    fn listen(self) -> Result<(Vec<TcpListener>, Option<TcpListener>)> {
        let listeners: Result<_> = [Some(self.main), self.vip].into_iter().flatten().map(Reserved::listen).collect();
        Ok((listeners?, self.metrics.map(Reserved::listen).transpose()?))
    }
}

/// Runs a broker until `shutdown`, or until it fails.
async fn serve(config: BrokerConfig, ports: Ports, registration: Duration, shutdown: CancellationToken) -> Result<()> {
    let store = config.store_root.display().to_string();
    let opened = tokio::task::spawn_blocking(move || Broker::open(config, Arc::new(SystemClock))).await;
    let broker = opened.context("opening the store panicked")?.with_context(|| format!("cannot start on {store}"))?;
    let config = broker.config();
    banner::broker(config, dialable(config, ports.main.address));
    if let Some(metrics) = &ports.metrics {
        banner::metrics(metrics.address);
    }
    let (listeners, metrics_listener) = ports.listen()?;
    let announcing = tokio::spawn(announce(Arc::clone(&broker), registration));
    let stop_metrics = CancellationToken::new();
    let scraped = metrics_listener
        .map(|listener| tokio::spawn(metrics::serve(Arc::clone(&broker), listener, stop_metrics.clone())));
    let served = broker.run(listeners, shutdown).await;
    announcing.abort();
    stop_metrics.cancel();
    if let Some(scraped) = scraped
        && let Err(error) = scraped.await
    {
        tracing::error!(%error, "the broker ran on without its metrics");
    }
    served.with_context(|| format!("the broker on {store} ended"))
}

async fn announce(broker: Arc<Broker>, patience: Duration) {
    if tokio::time::timeout(patience, broker.registered()).await.is_err() {
        tracing::warn!("no name server answers yet; clients cannot find this broker until one does");
    }
    banner::say("ready");
}
