//! The name server as a component: its options, its tables, its accept loop and its clock hand.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mq_protocol::ids::UnixMillis;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection;
use crate::kv::KvTable;
use crate::routes::{ConnectionId, Routes};
use crate::settings::Settings;

/// Where the name server reads the time.
pub type SharedClock = Arc<dyn Fn() -> UnixMillis + Send + Sync>;

/// How long to rest when the process is out of descriptors, instead of spinning on `accept`.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

#[derive(Clone)]
pub struct NamesrvConfig {
    /// A broker that stays silent for longer is taken out of the routes, unless it asked for another time.
    pub broker_expiry: Duration,
    pub scan_interval: Duration,
    /// A connection without a byte in either direction for this long is closed.
    pub idle_timeout: Duration,
    /// Each connection can hold one frame; more than this many are refused.
    pub max_connections: usize,
    /// Brokers that are registered; more are refused.
    pub max_brokers: usize,
    /// Topics, counted once for each broker that serves them; a registration that would bring more is refused.
    pub max_topics: usize,
    /// Key-value configuration is kept here; `None`: in memory only.
    pub kv_config_path: Option<PathBuf>,
    pub clock: SharedClock,
}

impl Default for NamesrvConfig {
    fn default() -> Self {
        Self {
            broker_expiry: Duration::from_secs(120),
            scan_interval: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(120),
            max_connections: 10_000,
            max_brokers: 1_000,
            max_topics: 1_000_000,
            kv_config_path: None,
            clock: Arc::new(system_time),
        }
    }
}

fn system_time() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

pub struct NameServer {
    state: Arc<State>,
}

/// What every connection shares.
pub(crate) struct State {
    pub(crate) routes: Mutex<Routes>,
    pub(crate) kv: KvTable,
    pub(crate) settings: Settings,
    pub(crate) clock: SharedClock,
    pub(crate) idle_timeout: Duration,
    scan_interval: Duration,
    connections: Arc<Semaphore>,
    next_connection: AtomicU64,
}

impl NameServer {
    pub fn new(config: NamesrvConfig) -> io::Result<Self> {
        let millis = |time: Duration| time.as_millis().to_string();
        let mut fixed = BTreeMap::from([
            ("serverChannelMaxIdleTimeSeconds", config.idle_timeout.as_secs().to_string()),
            ("scanNotActiveBrokerInterval", millis(config.scan_interval)),
            ("brokerNotActiveTimeoutMillis", millis(config.broker_expiry)),
        ]);
        if let Some(path) = &config.kv_config_path {
            fixed.insert("kvConfigPath", path.display().to_string());
        }
        let settings = Settings::open(config.kv_config_path.as_deref(), fixed)?;
        Ok(Self {
            state: Arc::new(State {
                settings,
                routes: Mutex::new(Routes::new(config.broker_expiry, config.max_brokers, config.max_topics)),
                kv: KvTable::open(config.kv_config_path)?,
                clock: config.clock,
                idle_timeout: config.idle_timeout,
                scan_interval: config.scan_interval,
                connections: Arc::new(Semaphore::new(config.max_connections)),
                next_connection: AtomicU64::new(0),
            }),
        })
    }

    /// Serves until `shutdown`, then closes every connection.
    pub async fn run(self, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
        let tasks = TaskTracker::new();
        tasks.spawn(expire_brokers(Arc::clone(&self.state), shutdown.clone()));
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => self.admit(stream, &tasks, &shutdown),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
        tasks.close();
        tasks.wait().await;
        Ok(())
    }

    fn admit(&self, stream: TcpStream, tasks: &TaskTracker, shutdown: &CancellationToken) {
        let Ok(permit) = Arc::clone(&self.state.connections).try_acquire_owned() else {
            tracing::warn!("connection refused: the limit is reached");
            return;
        };
        let (state, shutdown) = (Arc::clone(&self.state), shutdown.clone());
        let id = ConnectionId(state.next_connection.fetch_add(1, Ordering::Relaxed));
        tasks.spawn(async move {
            let end = connection::serve(stream, id, &state, &shutdown).await;
            let gone = state.routes.lock().connection_closed(id);
            if let Err(error) = end {
                tracing::warn!(connection = id.0, %error, "connection closed");
            }
            for broker in gone {
                tracing::warn!(broker = broker.name, addr = broker.addr, "broker is gone: its connection closed");
            }
            drop(permit);
        });
    }
}

async fn expire_brokers(state: Arc<State>, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(state.scan_interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let now = (state.clock)();
        for broker in state.routes.lock().expire(now) {
            tracing::warn!(broker = broker.name, addr = broker.addr, "broker is gone: nothing heard of it in time");
        }
    }
}
