//! What the broker sees of transactions. How they are driven is `driver`'s; how they are decided, the engine's.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mq_protocol::command::Command;
use mq_protocol::ids::{QueueOffset, UnixMillis};
use mq_protocol::record::Message;
use mq_protocol::{ByteString, topic};
use mq_store::{Backend, Clock, ReadError, Store};
use parking_lot::Mutex;

use crate::check_journal::{Anchor, CheckJournal};
use crate::driver::{Inner, State};
use crate::end::{EndError, EndRequest, Ended};
use crate::engine::{Counters, Half, Input, Rules, Schedule};
use crate::half::{HalfError, NewHalf, QUEUE};
use crate::history::Who;
use crate::outcomes::TopicOutcomes;
use crate::progress::Progress;
use crate::steady_time::SteadyTime;
use crate::types::{CheckResult, ClientId, HalfOffset, Outcome};
use crate::verdict_file::VerdictFile;
use crate::{recovery, verdict_file};

#[derive(Clone, Debug)]
pub struct TransactionOptions {
    pub rules: Rules,
    /// Named in checks, as clients address their answers by it.
    pub broker_name: ByteString,
    /// The origin of OP records.
    pub store_host: SocketAddr,
    /// Halves without a verdict; more are refused. `docs/PERFORMANCE.md` says what a million of them take.
    pub max_pending: usize,
    /// Halves of one transaction: a client sends its half again a few times, not more. Bounds the OP record too.
    pub max_siblings: usize,
    /// Bytes of all messages of one transaction: they are appended at once, while every other verdict waits.
    pub max_set_bytes: usize,
    /// How long a checkpoint waits for the log below it to be durable.
    pub checkpoint_patience: Duration,
    pub placing: Arc<dyn Placing>,
}

/// Knows how a committed message waits whose half asked for a delay. Must not fail: what cannot be done is refused when
/// the half is sent.
pub trait Placing: fmt::Debug + Send + Sync {
    /// The record that becomes `message` when it is due. It keeps the transaction's bits and the half's offset.
    fn delayed(&self, message: Message, due: UnixMillis) -> Message;
}

/// Where nothing can wait, every message goes to its topic at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct AtOnce;

impl Placing for AtOnce {
    fn delayed(&self, message: Message, _: UnixMillis) -> Message {
        message
    }
}

impl TransactionOptions {
    #[must_use]
    pub fn new(broker_name: impl Into<ByteString>, store_host: SocketAddr) -> Self {
        Self {
            rules: Rules::default(),
            broker_name: broker_name.into(),
            store_host,
            max_pending: 1_000_000,
            max_siblings: 64,
            max_set_bytes: 32 << 20,
            checkpoint_patience: Duration::from_secs(10),
            placing: Arc::new(AtOnce),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the log cannot be read: {0}")]
    Read(#[from] ReadError),
    #[error("{path}: {error}", path = crate::verdict_file::PATH)]
    VerdictFile { error: std::io::Error },
    #[error("{path}: {error}", path = crate::check_journal::PATH)]
    CheckJournal { error: std::io::Error },
}

#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error(transparent)]
    Wait(#[from] mq_store::WaitError),
    #[error("{path}: {0}", path = crate::verdict_file::PATH)]
    Write(#[from] std::io::Error),
    #[error("{path}: {0}", path = crate::check_journal::PATH)]
    Journal(std::io::Error),
}

/// A half that the broker has appended, to be told once it is durable.
#[derive(Clone, Debug)]
pub struct StoredHalf(Half);

impl StoredHalf {
    /// `new` came from [`half_of`](crate::half_of) beside the message; the rest is what the log assigned. `client` will be
    /// the first to be asked.
    #[must_use]
    pub fn new(new: NewHalf, at: QueueOffset, stored_at: UnixMillis, client: Option<ClientId>) -> Self {
        let NewHalf { transaction, part, immunity, check_max, resumes } = new;
        Self(Half { offset: at.into(), transaction, part, stored_at, immunity, check_max, checks: 0, resumes, client })
    }

    #[must_use]
    pub fn offset(&self) -> HalfOffset {
        self.0.offset
    }
}

/// A question to a producer, ready to be sent. Tell [`Coordinator::check_result`] what became of it.
#[derive(Clone, Debug)]
pub struct Check {
    pub half: HalfOffset,
    pub producer_group: ByteString,
    /// The topic that the message would be published in.
    pub topic: ByteString,
    /// Who sent the half; any other client of the group may answer as well.
    pub prefer_client: Option<ClientId>,
    pub attempt: u32,
    pub request: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    pub pending_halves: usize,
    /// Of these, the ones that a start has yet to read.
    pub unread: usize,
    /// Copies of given-up halves that wait for an operator.
    pub waiting_copies: usize,
    /// Records of the half topic that can never be ended.
    pub quarantined: u64,
    pub counters: Counters,
}

/// Cheap to clone; every clone is the same coordinator.
#[derive(Clone)]
pub struct Coordinator(pub(crate) Arc<Inner>);

impl Coordinator {
    /// Rebuilds what is pending from the log. The first [`Coordinator::tick`] appends OP records that a crash tore off.
    /// `backend` is the store's: the verdict file and the journal of checks lie beside the log.
    pub fn open(
        store: Store,
        backend: Arc<dyn Backend>,
        options: TransactionOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        let coordinator = Self::open_at_once(store, backend, options, clock)?;
        while coordinator.load_some()? {}
        Ok(coordinator)
    }

    /// The same, but halves that an earlier run has left pending are read by [`Coordinator::load_some`]: until then they
    /// are not checked. Everything else works at once.
    pub fn open_at_once(
        store: Store,
        backend: Arc<dyn Backend>,
        options: TransactionOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        let on_file = |error| OpenError::VerdictFile { error };
        let mut halves = VerdictFile::open(&*backend, verdict_file::PATH).map_err(on_file)?;
        let mut copies = VerdictFile::open(&*backend, verdict_file::COPIES_PATH).map_err(on_file)?;
        let saved = recovery::load(&store, &mut halves, &mut copies).map_err(on_file)?;
        let first = HalfOffset::from(store.queue_bounds(topic::HALF, QUEUE).min);
        let known = |anchor: Anchor| {
            anchor.half < first || recovery::place_of(&store, anchor.half).is_ok_and(|at| at == Some(anchor.at))
        };
        let (journal, counts) =
            CheckJournal::open(backend, known).map_err(|error| OpenError::CheckJournal { error })?;
        let time = SteadyTime::new(clock.clone());
        let rebuilt = recovery::rebuild(&store, saved, counts, options.rules.clone(), clock.now())?;
        let state = Mutex::new(State::new(rebuilt, &store, time, clock.now()));
        let (verdict_files, journal) = (Mutex::new([halves, copies]), Mutex::new(journal));
        Ok(Self(Arc::new(Inner { store, clock, options, verdict_files, journal, state })))
    }

    /// Reads some of the halves that an earlier run has left pending. False: all are read.
    pub fn load_some(&self) -> Result<bool, ReadError> {
        self.0.load_some()
    }

    /// Whether a half of so many bytes can ever be published: each message of a set may take its share.
    pub fn fits(&self, half: &NewHalf, bytes: usize) -> Result<(), HalfError> {
        let of = half.part.of;
        let limit = self.0.options.max_set_bytes / usize::from(of);
        if of > 1 && bytes > limit { Err(HalfError::LargeInSet { bytes, of, limit }) } else { Ok(()) }
    }

    /// Whether there is room for these halves, one answer each. To be asked before they are appended, for as many as are
    /// there: it takes the lock once.
    pub fn admit<'h>(&self, halves: impl IntoIterator<Item = &'h NewHalf>) -> Vec<Result<(), HalfError>> {
        let (mut state, options) = (self.0.state.lock(), &self.0.options);
        let mut pending = state.pending();
        let admit = |half: &NewHalf| {
            if pending >= options.max_pending {
                return Err(HalfError::TooManyPending(options.max_pending));
            }
            if state.engine.count_of(&half.transaction) >= options.max_siblings {
                return Err(HalfError::TooManySiblings(options.max_siblings));
            }
            if half.part.of > 1 {
                self.0.begin_log(&mut state).map_err(|error| HalfError::NothingBefore(error.to_string()))?;
            }
            pending += 1;
            Ok(())
        };
        halves.into_iter().map(admit).collect()
    }

    /// These halves are durable: their time runs, and they can be ended. To be told before their senders are answered.
    pub fn stored(&self, halves: impl IntoIterator<Item = StoredHalf>) {
        let (now, mut state) = (self.0.clock.now(), self.0.state.lock());
        for StoredHalf(half) in halves {
            state.tell(now, Input::Stored(half));
        }
    }

    /// Decides these verdicts in their order and appends what they lead to at once; one answer each. An OP record ends
    /// the halves of many.
    pub fn end(&self, requests: &[EndRequest]) -> Vec<Result<Ended, EndError>> {
        self.0.end(requests, &Who::Broker)
    }

    /// The same for a client with this address.
    pub fn end_by(&self, peer: SocketAddr, requests: &[EndRequest]) -> Vec<Result<Ended, EndError>> {
        self.0.end(requests, &Who::Peer(peer))
    }

    /// Does what is due at `now`: appends what is to be parked or closed, and returns the checks to send.
    #[must_use]
    pub fn tick(&self, now: UnixMillis) -> Vec<Check> {
        self.0.tick(now)
    }

    /// What became of a check that [`Coordinator::tick`] returned.
    pub fn check_result(&self, half: HalfOffset, result: CheckResult) {
        self.0.checked([(half, result, Who::Broker)]);
    }

    /// The same of many, with the clients that were asked.
    pub fn check_results(&self, results: impl IntoIterator<Item = (HalfOffset, CheckResult, Option<ClientId>)>) {
        let who = |client: Option<ClientId>| client.map_or(Who::Broker, Who::Client);
        self.0.checked(results.into_iter().map(|(half, result, client)| (half, result, who(client))));
    }

    /// Goes by another schedule from now on. What is due keeps its time; the check after it follows the new one.
    pub fn set_schedule(&self, schedule: Schedule) {
        self.0.state.lock().engine.set_schedule(schedule);
    }

    /// When the next [`Coordinator::tick`] has something to do. Look again every few seconds: halves come, and clocks
    /// are set.
    #[must_use]
    pub fn next_due(&self) -> Option<UnixMillis> {
        let (now, mut state) = (self.0.clock.now(), self.0.state.lock());
        state.time.at(now);
        state.engine.next_due().map(|due| state.time.wall(due))
    }

    /// The oldest half without an outcome: the log has to keep it.
    #[must_use]
    pub fn first_pending(&self) -> Option<QueueOffset> {
        self.0.state.lock().first_pending().map(QueueOffset::from)
    }

    #[must_use]
    pub fn stats(&self) -> Stats {
        let copies = self.0.store.queue_bounds(topic::CHECK_MAX_TIME, QUEUE);
        let state = self.0.state.lock();
        Stats {
            pending_halves: state.pending(),
            unread: state.unread(),
            quarantined: state.quarantine.count(),
            waiting_copies: state.engine.copies().count_without(copies.min, copies.max),
            counters: state.engine.counters(),
        }
    }

    /// How the transactions of each topic ended, since the start.
    #[must_use]
    pub fn outcomes_by_topic(&self) -> Vec<(ByteString, TopicOutcomes)> {
        // A page at a time: verdicts go on in between.
        const PAGE: usize = 256;
        let mut all = Vec::new();
        loop {
            let before = all.len();
            all.extend_from_slice(self.0.state.lock().outcomes.page(before, PAGE));
            if all.len() < before + PAGE {
                return all;
            }
        }
    }

    #[must_use]
    pub fn outcome(&self, half: HalfOffset) -> Option<Outcome> {
        self.0.state.lock().engine.outcome(half)
    }

    /// The consumer offsets of `CID_RMQ_SYS_TRANS` to persist, for an Apache broker that opens this directory next.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let (now, mut state) = (self.0.clock.now(), self.0.state.lock());
        let current = state.progress(&self.0.store, now);
        state.published.next(current, self.0.store.end(), self.0.store.durable())
    }

    /// Saves the verdicts, so that the next start reads only the log behind this point. Waits for the disk: call it
    /// every few seconds off the hot path, and before closing the store.
    pub fn checkpoint(&self) -> Result<(), CheckpointError> {
        self.0.checkpoint()
    }
}
