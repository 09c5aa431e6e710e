//! The broker: its tables and its store, and how they are opened.

mod live;
mod running;
mod timed;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use mq_protocol::ByteString;
use mq_protocol::body::DataVersion;
use mq_protocol::command::Command;
use mq_protocol::ids::{LogOffset, QueueId, QueueOffset, UnixMillis};
use mq_protocol::topic;
use mq_store::timer::TimerError;
use mq_store::{Backend, Clock, FileBackend, OpenError, ReadError, Store};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tracing::{info, warn};
use txn_coordinator::{Coordinator, StoredHalf};

use crate::announcing::Announcements;
use crate::assignment::RequestModes;
use crate::audit::Audit;
use crate::bell::Bell;
use crate::clients::Clients;
use crate::config::{BrokerConfig, ConfigError, FlushDiskType};
use crate::config_file::SaveError;
use crate::config_update::ChangedSettings;
use crate::connection::Connection;
use crate::delay_levels::{DelayLevels, DelayLevelsError};
use crate::failure::Failure;
use crate::groups::GroupTable;
use crate::held::HeldPulls;
use crate::incoming::Stamp;
use crate::limits::ROUTED_WITHIN;
use crate::locks::QueueLocks;
use crate::metrics::{self, Instruments};
use crate::offsets::OffsetTable;
use crate::pop::{self, Place, Pops};
use crate::registration::Registrations;
use crate::routes::Routes;
use crate::schedule::Schedule;
use crate::schedule_progress::{Delivered, ProgressFile};
use crate::selection::Filters;
use crate::settings::{advertised_ip, hot_bytes, store_options, transaction_options};
use crate::stats::Stats;
use crate::store_link::Link;
use crate::topics::TopicTable;
use crate::unique_key::UniqueKeys;
use live::with_changes;
pub use running::RunError;
use timed::Timed;

/// Stored with every message and sent with every answer to a send; clients carry it into traces.
pub(crate) const REGION: &str = "DefaultRegion";
pub(crate) const TRACE_ON: bool = true;

/// One per process and store directory.
pub struct Broker {
    /// As it was started. What a tool may change meanwhile is read from [`Broker::live`].
    pub(crate) config: BrokerConfig,
    live: ArcSwap<BrokerConfig>,
    /// Held through a change of settings.
    changed_settings: Mutex<ChangedSettings>,
    settings_version: Mutex<DataVersion>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store: Store,
    pub(crate) topics: Arc<TopicTable>,
    pub(crate) groups: GroupTable,
    pub(crate) offsets: OffsetTable,
    pub(crate) clients: Clients,
    pub(crate) announcements: Announcements,
    pub(crate) filters: Filters,
    pub(crate) locks: QueueLocks,
    pub(crate) stats: Arc<Stats>,
    pub(crate) instruments: Arc<Instruments>,
    pub(crate) started_at: UnixMillis,
    pub(crate) transactions: Coordinator,
    pub(crate) audit: Audit,
    /// Rung when the coordinator learned a half: the next check may be earlier now.
    pub(crate) half_learned: Notify,
    pub(crate) held: Arc<HeldPulls>,
    pub(crate) pops: Pops,
    pub(crate) request_modes: RequestModes,
    pub(crate) routes: Routes,
    pub(crate) delay_levels: DelayLevels,
    /// Taken by `run`.
    schedule: Mutex<Option<Schedule>>,
    schedule_bell: Arc<Bell>,
    timed: Timed,
    pub(crate) unique_keys: UniqueKeys,
    pub(crate) stamp: Stamp,
    /// The advertised address; message ids carry it.
    pub(crate) store_host: SocketAddr,
    /// Whether ordinary answers wait for the disk.
    pub(crate) answers_wait: bool,
    /// Set once by the store's first failed sync: from then on nothing is acknowledged.
    pub(crate) failed: Arc<Failure>,
    /// Bytes behind the end of the log that are surely still in memory.
    pub(crate) hot_bytes: u64,
    /// How far delayed messages are delivered.
    pub(crate) delivered: Arc<Delivered>,
    /// One removal of old files at a time; the file that was last said to be needed.
    pub(crate) cleaning: Mutex<Option<LogOffset>>,
    /// Rung when a half or a verdict waits for the disk although flushing is asynchronous.
    flush_bell: Bell,
    /// How far the log is on disk. The store moves it; sessions with waiting replies wake on it.
    pub(crate) durable: watch::Sender<LogOffset>,
    registrations: Registrations,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the store cannot be opened: {0}")]
    Store(#[from] OpenError),
    #[error("a message of the store cannot be read: {0}")]
    Read(#[from] ReadError),
    #[error("the timers cannot be read: {0}")]
    Timers(#[from] TimerError),
    #[error("the transactions cannot be read: {0}")]
    Transactions(#[from] txn_coordinator::OpenError),
    #[error("a file of {} cannot be used: {error}", directory.display())]
    Config { directory: std::path::PathBuf, error: io::Error },
    #[error(transparent)]
    DelayLevels(#[from] DelayLevelsError),
    #[error("{}/config/broker.properties: {error}; correct the line or remove it", directory.display())]
    ChangedSettings { directory: std::path::PathBuf, error: ConfigError },
}

impl Broker {
    /// Opens the store directory that `config` names. `config.listen_port` must be the port of the listener that `run`
    /// gets: message ids carry it.
    pub fn open(config: BrokerConfig, clock: Arc<dyn Clock>) -> Result<Arc<Self>, StartError> {
        let backend = Arc::new(
            FileBackend::new(&config.store_root)
                .map_err(|error| StartError::Config { directory: config.store_root.clone(), error })?,
        );
        Self::open_on(backend, config, clock)
    }

    /// The same on any backend. Configuration files stay in the store directory.
    pub fn open_on(
        backend: Arc<dyn Backend>,
        config: BrokerConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, StartError> {
        let changed_settings = ChangedSettings::in_directory(&config.config_directory());
        let config = with_changes(config, &changed_settings)?;
        let delay_levels: DelayLevels = config.delay_levels.parse()?;
        let (store, report) = Store::open(backend.clone(), store_options(&config, &delay_levels), clock.clone())?;
        info!(?report, "store opened");
        let now = clock.now();
        let on_config = |error| StartError::Config { directory: config.config_directory(), error };
        let topics = TopicTable::open(&config, now).map_err(on_config)?;
        let groups = GroupTable::open(&config, now).map_err(on_config)?;
        let offsets = OffsetTable::open(&config, backend.clone(), now).map_err(on_config)?;
        let taken_back = offsets.take_back(|topic, queue| store.queue_bounds(topic, queue).max);
        if taken_back > 0 {
            warn!(queues = taken_back, "consumer offsets stood past the end of their queues");
        }
        let store_host = SocketAddr::new(advertised_ip(&config), config.listen_port);
        let transactions = Coordinator::open_at_once(
            store.clone(),
            backend.clone(),
            transaction_options(&config, store_host),
            clock.clone(),
        )?;
        let revive_queues =
            topics.get(&topic::revive_topic(&config.cluster_name)).map_or(1, |topic| topic.read_queue_nums);
        let pops =
            Pops::open(&config, store.clone(), store_host, revive_queues.max(1), &offsets, now).map_err(|error| {
                match error {
                    pop::OpenError::Io(error) => on_config(error),
                    pop::OpenError::Read(error) => error.into(),
                }
            })?;
        let request_modes = RequestModes::open(&config).map_err(on_config)?;
        let bell = Arc::new(Bell::default());
        let progress = ProgressFile::in_directory(&config.config_directory());
        let schedule = Schedule::new(store.clone(), clock.clone(), delay_levels.clone(), progress, bell.clone())?;
        let delivered = schedule.delivered();
        let stats = Arc::new(Stats::new(&config.cluster_name, now));
        let timed = Timed::open(&config, &store, backend, clock.clone(), stats.clone())?;
        let broker = Arc::new(Self {
            timed,
            store_host,
            delivered,
            cleaning: Mutex::default(),
            answers_wait: config.flush_disk_type == FlushDiskType::Sync,
            unique_keys: UniqueKeys::new(advertised_ip(&config)),
            stamp: Stamp::new(REGION, TRACE_ON, &config.cluster_name),
            durable: watch::Sender::new(store.durable()),
            failed: Arc::default(),
            hot_bytes: hot_bytes(&config),
            flush_bell: Bell::default(),
            registrations: Registrations::with(&config.name_servers),
            schedule: Mutex::new(Some(schedule)),
            schedule_bell: bell,
            held: Arc::default(),
            pops,
            request_modes,
            routes: Routes::new(&config.name_servers),
            half_learned: Notify::new(),
            audit: Audit::new(&config.store_root),
            clients: Clients::default(),
            announcements: Announcements::default(),
            filters: Filters::default(),
            locks: QueueLocks::default(),
            stats,
            instruments: Arc::new(Instruments::new()),
            started_at: now,
            live: ArcSwap::from_pointee(config.clone()),
            changed_settings: Mutex::new(changed_settings),
            settings_version: Mutex::new(DataVersion { timestamp: now.0, ..DataVersion::default() }),
            config,
            clock,
            store,
            topics: Arc::new(topics),
            groups,
            offsets,
            transactions,
            delay_levels,
        });
        broker.store.subscribe(Arc::new(Link::new(&broker)));
        Ok(broker)
    }

    /// Sends a group elsewhere in a queue, wherever an operator wants it.
    pub(crate) fn reset_offset(&self, group: &str, topic: &str, queue_id: QueueId, to: QueueOffset) {
        self.pops.reset(&Place { topic: topic.into(), group: group.into(), queue_id }, to, &self.offsets);
    }

    /// What consumers have come to, with what pops wait for.
    pub(crate) fn save_offsets(&self) -> Result<(), SaveError> {
        let now = self.clock.now();
        self.pops.note_progress(&self.offsets);
        let orders = self.pops.save_orders(now, |place| {
            self.topics.get(&place.topic).is_some() && self.groups.get(&place.group).is_some()
        });
        self.offsets.save(now).and(orders)
    }

    /// Messages of a queue that a group was given by pops and has not acknowledged. Its offset is ahead of them.
    #[must_use]
    pub fn pop_in_flight(&self, topic: &str, group: &str, queue: QueueId) -> usize {
        self.pops.in_flight(&Place { topic: topic.into(), group: group.into(), queue_id: queue })
    }

    /// Completes once a name server knows this broker; at once if none is configured.
    pub async fn registered(&self) {
        if !self.config.name_servers.is_empty() {
            self.registrations.any().await;
        }
    }

    /// Completes once the name servers that know this broker know its topics as they are now, or have had their time:
    /// who hears that a topic is there may ask for its route at once.
    pub(crate) async fn routed(&self) {
        let version = *self.topics.changes().borrow();
        if timeout(ROUTED_WITHIN, self.registrations.all_know(version)).await.is_err() {
            warn!("a name server has yet to answer a change of topics; whoever made it waits no longer");
        }
    }

    /// Half messages that are durable now.
    pub(crate) fn learn(&self, halves: Vec<StoredHalf>) {
        if !halves.is_empty() {
            self.transactions.stored(halves);
            self.half_learned.notify_one();
        }
    }

    /// A connection is gone, and with it whoever spoke through it.
    pub(crate) fn disconnected(&self, connection: &Connection) {
        self.held.forget(connection.id());
        self.pops.polls.forget(connection.id());
        self.tell(&self.clients.connection_closed(connection.id()));
    }

    /// Tells the members of these groups that they changed, unless a group's settings say not to.
    pub(crate) fn tell(&self, groups: &[String]) {
        let wanted =
            |group: &&String| self.groups.get(group).is_none_or(|settings| settings.notify_consumer_ids_changed_enable);
        groups.iter().filter(wanted).for_each(|group| self.clients.notify(group));
    }

    /// What every answer to a send carries.
    pub(crate) fn mark_send_answer(&self, answer: &mut Command) {
        answer.ext.push(ByteString::from_static("MSG_REGION"), ByteString::from_static(REGION));
        answer.ext.push(ByteString::from_static("TRACE_ON"), ByteString::from_static("true"));
    }

    /// What Prometheus scrapes, in OpenMetrics text. Reads the log: not for a thread that serves connections.
    #[must_use]
    pub fn metrics(&self) -> String {
        metrics::scrape(self)
    }

    pub(crate) fn schedule_bell(&self) -> &Arc<Bell> {
        &self.schedule_bell
    }
}
