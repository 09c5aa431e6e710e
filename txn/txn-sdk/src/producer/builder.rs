//! Putting a transactional producer together.

use std::{future::Future, sync::Arc, time::Duration};

use mq_client::{CheckedHalf, ClientError, OpenTransactions, Producer, Verdict};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use super::{
    TxnProducer, Verdicts,
    half::{Link, TraceHook},
    own::{Asked, Own},
    wire::wire,
};
use crate::{
    counters::Counters,
    database::{Database, DatabaseError, Side},
    failpoints::{reach, soon},
    id::{DatabaseId, TRANSACTION_ID_PROPERTY},
    marker::{MarkerOptions, Markers},
    outbox::{Outbox, OutboxOptions, Relay},
    trace::{TraceContext, span},
};

/// After so many unanswered checks a broker parks the half message (`transactionCheckMax`).
const CHECKS: u32 = 15;
/// How long the relay waits for a lock.
const RELAY_LOCK_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Client(#[from] Box<ClientError>),
    #[error("name a group, and the topics that are sent to: without them no broker can ask how a transaction ended")]
    Nameless,
    #[error(
        "a deadline of {deadline:?} outlasts the broker's {CHECKS} checks (one every {every:?}): crashed transactions \
         would be parked undecided. Shorten the deadline, or say with checks_every what the broker is set to"
    )]
    DeadlineOutlastsChecks { deadline: Duration, every: Duration },
}

/// Before it is said where the truth about a transaction is.
#[derive(Debug)]
pub struct Unsourced;

#[must_use]
pub struct TxnProducerBuilder<S> {
    name_servers: String,
    group: String,
    topics: Vec<String>,
    options: MarkerOptions,
    checks_every: Duration,
    send_timeout: Duration,
    outbox: Option<OutboxOptions>,
    trace_from: Option<TraceHook>,
    source: S,
}

impl TxnProducerBuilder<Unsourced> {
    pub(super) fn new(name_servers: String) -> Self {
        Self {
            name_servers,
            group: String::new(),
            topics: Vec::new(),
            options: MarkerOptions::default(),
            checks_every: Duration::from_secs(30),
            send_timeout: Duration::from_secs(3),
            outbox: None,
            trace_from: None,
            source: Unsourced,
        }
    }

    /// Ties messages to transactions of this database, and answers checkbacks from it.
    pub fn database<D: Database>(self, database: D) -> TxnProducerBuilder<D> {
        self.with(database)
    }

    /// Checkbacks are answered by the service itself: [`Own`] says by which rules.
    pub fn verdicts<C, A>(self, check: C) -> TxnProducerBuilder<Own>
    where
        C: Fn(Asked) -> A + Send + Sync + 'static,
        A: Future<Output = Verdict> + Send + 'static,
    {
        self.with(Own::new(check))
    }

    fn with<S>(self, source: S) -> TxnProducerBuilder<S> {
        let Self { name_servers, group, topics, options, checks_every, send_timeout, outbox, trace_from, .. } = self;
        TxnProducerBuilder {
            name_servers,
            group,
            topics,
            options,
            checks_every,
            send_timeout,
            outbox,
            trace_from,
            source,
        }
    }
}

impl<S> TxnProducerBuilder<S> {
    /// The producer group. Instances of one service on one database share it: any of them can answer for the others. A service
    /// on another database (a test system at the same broker, say) needs a group of its own; by the name of the database
    /// that travels with the half messages, checkbacks that come to the wrong one are answered "unknown".
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = group.into();
        self
    }

    /// All topics that will be sent to. Registered for checkback at the start and on every reconnect.
    pub fn topics<T: Into<String>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        self.topics.extend(topics.into_iter().map(Into::into));
        self
    }

    /// For each of the half message and its end.
    pub fn send_timeout(mut self, send_timeout: Duration) -> Self {
        self.send_timeout = send_timeout;
        self
    }

    /// The broker's `transactionCheckInterval`, 30 s unless it was changed.
    pub fn checks_every(mut self, every: Duration) -> Self {
        self.checks_every = every;
        self
    }

    /// Asked at each transaction's begin, in the task that begins it: the context of the service's own span. Messages that
    /// say it themselves ([`TraceContext::attach`]) are not asked for; without a hook a handler's transactions continue
    /// the trace of the message that it handles.
    pub fn trace_from(mut self, context: impl Fn() -> Option<TraceContext> + Send + Sync + 'static) -> Self {
        self.trace_from = Some(Arc::new(context));
        self
    }

    async fn link<V: Verdicts>(self, verdicts: &V, database_id: Option<DatabaseId>) -> Result<Arc<Link>, BuildError> {
        let counters = Arc::new(Counters::default());
        let (checking, asked) = (verdicts.clone(), counters.clone());
        let running = TaskTracker::new();
        let open = running.clone();
        let producer = Producer::builder(self.name_servers)
            .group(self.group)
            .topics(self.topics.clone())
            .send_timeout(self.send_timeout)
            .options(|options| options.open_transactions = Some(OpenTransactions::counted_by(move || open.len())))
            .checker(move |half| answer(checking.clone(), asked.clone(), half))
            .build()
            .await
            .map_err(Box::new)?;
        Ok(Arc::new(Link {
            producer: wire(producer),
            topics: self.topics.into_iter().collect(),
            counters,
            database_id,
            outbox: self.outbox.map(|options| Arc::new(Outbox::new(options, self.send_timeout))),
            trace_from: self.trace_from,
            running,
            stopped: CancellationToken::new(),
        }))
    }

    fn check(&self) -> Result<(), BuildError> {
        if self.group.is_empty() || self.topics.is_empty() { Err(BuildError::Nameless) } else { Ok(()) }
    }
}

impl<D: Database> TxnProducerBuilder<D> {
    /// How long a transaction may take before a checkback gives it up. A slower one fails with
    /// [`TxnError::Fenced`](crate::TxnError::Fenced) when it is only begun then, and is waited for when it is running.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.options.deadline = deadline;
        self
    }

    /// How long a checkback waits for a database lock before it answers "ask again later".
    pub fn lock_timeout(mut self, lock_timeout: Duration) -> Self {
        self.options.lock_timeout = lock_timeout;
        self
    }

    /// How long settled rows are kept: more than twice the broker's `fileReservedTime`.
    pub fn keep(mut self, keep: Duration) -> Self {
        self.options.keep = keep;
        self
    }

    /// While no broker takes half messages, transactions go on: the message lies in the database beside the marker and is
    /// relayed once a broker is back, in the order of the transactions' begins for each topic. Messages that went
    /// directly in between may overtake it. Keep a topic named until the outbox is empty.
    pub fn outbox(mut self, options: OutboxOptions) -> Self {
        self.outbox = Some(options);
        self
    }

    /// Creates or migrates the tables, connects, and registers the group and its topics for checkback: from now on this
    /// instance also answers for the ones before it.
    pub async fn build(self) -> Result<TxnProducer<D>, BuildError> {
        self.check()?;
        let (deadline, every) = (self.options.deadline, self.checks_every);
        if deadline >= every * (CHECKS - 1) {
            return Err(BuildError::DeadlineOutlastsChecks { deadline, every });
        }
        let verdicts = Markers::open(self.source.clone(), &self.group, self.options).await?;
        let link = self.link(&verdicts, Some(verdicts.database_id())).await?;
        tokio::spawn(verdicts.housekeeper().run_until(link.stopped.clone()));
        if link.outbox.is_some() {
            let side = Side::of(verdicts.database(), 1, RELAY_LOCK_TIMEOUT)?;
            tokio::spawn(Relay::new(side, &link).run_until(link.stopped.clone()));
        }
        Ok(TxnProducer { link, verdicts })
    }
}

impl TxnProducerBuilder<Own> {
    /// Connects, and registers the group and its topics for checkback.
    pub async fn build(self) -> Result<TxnProducer<Own>, BuildError> {
        self.check()?;
        let verdicts = self.source.clone();
        let link = self.link(&verdicts, None).await?;
        Ok(TxnProducer { link, verdicts })
    }
}

#[cfg(feature = "simulation")]
impl<D: Database> TxnProducer<D> {
    /// Without a network and without anything that runs beside.
    pub(crate) async fn on_wire(
        producer: super::wire::Producer,
        topics: impl Iterator<Item = String>,
        database: D,
        options: MarkerOptions,
        outbox: Option<OutboxOptions>,
    ) -> Result<Self, DatabaseError> {
        let verdicts = Markers::open(database, producer.group(), options).await?;
        let (counters, running, stopped) = (Arc::default(), TaskTracker::new(), CancellationToken::new());
        let outbox = outbox.map(|options| Arc::new(Outbox::new(options, Duration::from_secs(3))));
        let database_id = Some(verdicts.database_id());
        let topics = topics.collect();
        let link = Link { producer, topics, counters, database_id, outbox, trace_from: None, running, stopped };
        Ok(Self { link: Arc::new(link), verdicts })
    }

    pub(crate) fn housekeeper(&self) -> crate::housekeeping::Housekeeper<D> {
        self.verdicts.housekeeper()
    }

    pub(crate) fn new_relay(&self) -> Result<Relay<D>, DatabaseError> {
        Ok(Relay::new(Side::of(self.verdicts.database(), 1, RELAY_LOCK_TIMEOUT)?, &self.link))
    }

    /// As the housekeeper does.
    pub(crate) async fn clean(&self, now: mq_protocol::ids::UnixMillis) -> Result<u64, DatabaseError> {
        self.verdicts.clean(now).await
    }

    /// As a client's checker does.
    pub(crate) async fn answer(&self, half: CheckedHalf) -> Verdict {
        answer(self.verdicts.clone(), self.link.counters.clone(), half).await
    }
}

async fn answer<V: Verdicts>(verdicts: V, counters: Arc<Counters>, half: CheckedHalf) -> Verdict {
    reach("check-received");
    let id = half.message.property(TRANSACTION_ID_PROPERTY).unwrap_or_default();
    let Ok(transaction_id) = id.parse() else {
        tracing::warn!(id, message_id = %half.half.message_id, "asked about a message that no transaction of ours sent");
        counters.checked(Verdict::Unknown);
        return Verdict::Unknown;
    };
    let asked_in = TraceContext::of(&half.message);
    let (span, _) = span!("txn.check", asked_in.as_ref(), id = %transaction_id, times = half.checked_times);
    let group = half.half.group.clone();
    let asked = Asked { transaction_id, message: half.message, checked_times: half.checked_times };
    let verdict = verdicts.verdict(&group, asked).instrument(span).await;
    counters.checked(verdict);
    if verdict != Verdict::Unknown {
        counters.settled(transaction_id);
    }
    reach("check-decided");
    soon("check-answered");
    verdict
}
