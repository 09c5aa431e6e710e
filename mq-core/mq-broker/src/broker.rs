//! The broker: its tables, its store, and the way it starts and stops.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use mq_protocol::ByteString;
use mq_protocol::body::DataVersion;
use mq_protocol::command::Command;
use mq_protocol::ids::{LogOffset, QueueId, QueueOffset, UnixMillis};
use mq_protocol::topic;
use mq_store::timer::TimerError;
use mq_store::{Backend, Clock, DiskError, FileBackend, OpenError, Poisoned, ReadError, Store};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};
use txn_coordinator::{Coordinator, StoredHalf};

use crate::announcing::{self, Announcements};
use crate::assignment::RequestModes;
use crate::audit::Audit;
use crate::bell::Bell;
use crate::checkback;
use crate::clients::Clients;
use crate::config::{BrokerConfig, ConfigError, FlushDiskType};
use crate::config_file::SaveError;
use crate::config_update::{self, ChangedSettings, UpdateError};
use crate::connection::Connection;
use crate::delay_levels::{DelayLevels, DelayLevelsError};
use crate::failure::Failure;
use crate::groups::GroupTable;
use crate::held::HeldPulls;
use crate::housekeeping;
use crate::incoming::Stamp;
use crate::limits::ROUTED_WITHIN;
use crate::locks::QueueLocks;
use crate::metrics::{self, Instruments};
use crate::offsets::OffsetTable;
use crate::pop::{self, Place, Pops};
use crate::registration::{self, Registrant, Registrations};
use crate::retention;
use crate::routes::Routes;
use crate::schedule::Schedule;
use crate::schedule_progress::{Delivered, ProgressFile};
use crate::selection::Filters;
use crate::serve;
use crate::settings::{
    advertised_ip, hot_bytes, store_options, timer_options, timer_settings, transaction_options, transaction_schedule,
};
use crate::stats::Stats;
use crate::store_link::Link;
use crate::timers::{self, TimerRefusal, TimerRules, TimerWish, Timers};
use crate::topics::{TopicTable, next_version};
use crate::unique_key::UniqueKeys;

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
    /// `None`: switched off.
    timers: Option<Arc<Timers>>,
    /// Where the first message lies that waits until timers are switched on again.
    pub(crate) first_resting_timer: Option<LogOffset>,
    /// Taken by `run`.
    timer_driver: Mutex<Option<timers::Driver>>,
    timer_bell: Arc<Bell>,
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

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("the listener failed: {0}")]
    Listener(#[from] io::Error),
    #[error("{0}; restart to recover what is on disk")]
    Store(Poisoned),
    #[error("the store could not be closed cleanly: {0}")]
    Close(#[from] mq_store::CloseError),
    #[error("the consumer offsets are not saved: {0}")]
    Offsets(#[from] SaveError),
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
            warn!(queues = taken_back, "consumer offsets stood behind the end of their queues");
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
        let timer_bell = Arc::new(Bell::default());
        let open_timers = || {
            let (options, settings) = (timer_options(&config), timer_settings(&config));
            Timers::open(backend, options, &config.config_directory(), settings, stats.clone(), now)
        };
        let anything_timed = store.queue_bounds(topic::TIMER, timers::QUEUE).max > QueueOffset::ZERO;
        let (timers, timer_driver, first_resting_timer) = if config.timer_wheel {
            let (timers, progress, start) = open_timers()?;
            let (found, bell) = ((progress, start), timer_bell.clone());
            let driver = timers::Driver::new(store.clone(), clock.clone(), timers.clone(), bell, found);
            (Some(timers), Some(driver), None)
        } else if anything_timed {
            (None, None, open_timers()?.0.needed_from(&store)?)
        } else {
            (None, None, None)
        };
        let broker = Arc::new(Self {
            timers,
            timer_driver: Mutex::new(timer_driver),
            first_resting_timer,
            timer_bell,
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

    /// Serves the listeners (the main port and, when there is one, the VIP port) until `shutdown`, then stops in order:
    /// no new connections, no new requests, answers out, tables saved, store closed. An error means that the process
    /// should end with a status that says so.
    pub async fn run(
        self: &Arc<Self>,
        listeners: Vec<TcpListener>,
        shutdown: CancellationToken,
    ) -> Result<(), RunError> {
        let (stop, leaving) = (CancellationToken::new(), shutdown.child_token());
        // A caller that drops this future stops the background work too.
        let _stop = (stop.clone().drop_guard(), leaving.clone().drop_guard());
        let _ring = [&*self.schedule_bell, &*self.timer_bell, &self.flush_bell, &*self.pops.bell].map(RingOnDrop);
        let schedule = self.schedule.lock().take().expect("a broker runs once");
        let delivering = tokio::task::spawn_blocking(move || schedule.run());
        let driver = self.timer_driver.lock().take();
        let timing = tokio::task::spawn_blocking(move || driver.into_iter().for_each(timers::Driver::run));
        let broker = self.clone();
        let flushing = tokio::task::spawn_blocking(move || broker.flush_on_demand());
        let checking = tokio::spawn(checkback::run(self.clone(), stop.clone()));
        let broker = self.clone();
        let reviving = tokio::task::spawn_blocking(move || pop::revive::run(&broker));
        let polls = self.pops.polls.clone();
        let polling = AbortOnDropHandle::new(tokio::spawn(async move { polls.expire().await }));
        let expiring = AbortOnDropHandle::new(tokio::spawn(self.held.clone().expire()));
        let keeping = tokio::spawn(housekeeping::run(self.clone(), stop.clone()));
        let cleaning = tokio::spawn(retention::run(self.clone(), stop.clone()));
        let announcing = tokio::spawn(announcing::run(self.clone(), self.registrations.changes(), stop.clone()));
        let registering = tokio::spawn(registration::run(
            Registrant::new(&self.config, self.store_host),
            self.topics.clone(),
            self.registrations.clone(),
            leaving.clone(),
        ));
        let served = serve::serve(self, listeners, &shutdown).await;
        stop.cancel();
        leaving.cancel();
        drop((expiring, polling));
        self.schedule_bell.stop();
        self.timer_bell.stop();
        self.pops.bell.stop();
        self.flush_bell.stop();
        for (what, task) in [
            ("delivery of delayed messages", delivering),
            ("delivery by time", timing),
            ("revival of popped messages", reviving),
            ("flushing", flushing),
            ("checkback", checking),
            ("housekeeping", keeping),
            ("removal of old files", cleaning),
            ("registration", registering),
            ("announcement of topics", announcing),
        ] {
            if let Err(error) = task.await {
                error!(%error, "the {what} ended early");
            }
        }
        served?;
        let broker = self.clone();
        let closed = tokio::task::spawn_blocking(move || broker.close()).await;
        closed.expect("closing does not panic")
    }

    /// One sync for all halves and verdicts that came meanwhile.
    fn flush_on_demand(&self) {
        while self.flush_bell.wait(None) {
            if self.store.flush().is_err() {
                // The store's listeners are told, and end the broker.
                return;
            }
        }
    }

    /// Something waits for the disk that does not wait for the next asynchronous flush.
    pub(crate) fn hurry(&self) {
        if !self.answers_wait {
            self.flush_bell.ring();
        }
    }

    /// Everything that is in memory goes to disk.
    fn close(&self) -> Result<(), RunError> {
        checkback::save(self);
        let saved = self.save_offsets();
        self.store.close()?;
        Ok(saved?)
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

    /// The settings with every change. Only those that change live may be read here; the others are as in `config` until
    /// the next start.
    pub(crate) fn live(&self) -> Guard<Arc<BrokerConfig>> {
        self.live.load()
    }

    /// Changes settings as a tool asks for it: saved first, then in effect. Says what the tool's user should know.
    pub(crate) fn change_settings(&self, text: &str) -> Result<Option<String>, UpdateError> {
        let changed = self.changed_settings.lock();
        let planned = config_update::plan(&self.live(), text)?;
        changed.add(&planned.pairs)?;
        info!(settings = ?planned.pairs, "settings changed");
        self.topics.adopt(&planned.config, self.clock.now())?;
        self.groups.adopt(&planned.config);
        self.transactions.set_schedule(transaction_schedule(&planned.config));
        if let Some(timers) = &self.timers {
            timers.adopt(timer_settings(&planned.config));
            self.timer_bell.ring();
        }
        self.live.store(Arc::new(planned.config));
        let mut version = self.settings_version.lock();
        *version = next_version(*version, self.clock.now());
        Ok(planned.remark)
    }

    /// What Prometheus scrapes, in OpenMetrics text. Reads the log: not for a thread that serves connections.
    #[must_use]
    pub fn metrics(&self) -> String {
        metrics::scrape(self)
    }

    /// What it was started with: the caller's settings, and over them those that tools changed.
    #[must_use]
    pub fn config(&self) -> &BrokerConfig {
        &self.config
    }

    pub(crate) fn settings_version(&self) -> DataVersion {
        *self.settings_version.lock()
    }

    /// The waiting messages; an error when they are switched off.
    pub(crate) fn timers(&self) -> Result<&Arc<Timers>, TimerRefusal> {
        self.timers.as_ref().ok_or(TimerRefusal::Off)
    }

    pub(crate) fn timer_rules(&self) -> TimerRules {
        TimerRules {
            enabled: self.timers.is_some(),
            precision_ms: self.config.timer_precision.as_millis() as i64,
            max_delay: self.live().timer_max_delay,
        }
    }

    /// The slot that a message waits in, if it takes it; `None`: the time is over, deliver now.
    pub(crate) fn timer_slot(&self, wish: TimerWish<'_>, takes_back: bool) -> Result<Option<UnixMillis>, TimerRefusal> {
        let slot = self.timer_rules().slot(wish, takes_back, self.clock.now())?;
        if let (Some(slot), Some(timers), false) = (slot, &self.timers, takes_back) {
            timers.congestion.admit(slot)?;
        }
        Ok(slot)
    }

    /// How many messages wait to be due within each of Apache's times (5 s to 24 h) and not within a shorter one; the
    /// later ones stand at [`Duration::MAX`]. For metrics: reads the wheel's file where it is not empty.
    pub fn pending_timers(&self) -> Result<BTreeMap<Duration, u64>, DiskError> {
        self.timers.as_ref().map_or_else(|| Ok(BTreeMap::new()), |timers| timers.pending(self.clock.now()))
    }

    pub(crate) fn timer_bell(&self) -> &Arc<Bell> {
        &self.timer_bell
    }

    pub(crate) fn schedule_bell(&self) -> &Arc<Bell> {
        &self.schedule_bell
    }
}

/// The settings of `broker.conf` and the command line, with what tools have changed since.
fn with_changes(mut config: BrokerConfig, changed: &ChangedSettings) -> Result<BrokerConfig, StartError> {
    let directory = config.store_root.clone();
    let pairs = changed.load().map_err(|error| StartError::Config { directory: directory.clone(), error })?;
    for (key, value) in &pairs {
        info!(key, value, "changed by a tool, stands over broker.conf (config/broker.properties)");
    }
    config.apply_pairs(pairs).map_err(|error| StartError::ChangedSettings { directory, error })?;
    Ok(config)
}

struct RingOnDrop<'b>(&'b Bell);

impl Drop for RingOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}
