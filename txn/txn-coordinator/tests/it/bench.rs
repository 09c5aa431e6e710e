//! A store, a coordinator on it and a clock, with the few moves of a broker. Everything happens when it is called.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use mq_protocol::ids::{LogOffset, QueueId, QueueOffset, UnixMillis};
use mq_protocol::properties::Properties;
use mq_protocol::record::{Message, StoredMessage};
use mq_protocol::topic;
use mq_store::{Backend, Clock, FlushMode, ManualClock, Options, RecordRules, RecoveryReport, Store};
use txn_coordinator::{
    Coordinator, EndError, EndRequest, Ended, HalfOffset, Outcome, Progress, Rules as TransactionRules, StoredHalf,
    TransactionOptions, Verdict, followers, half_of,
};

pub(crate) const GROUP: &str = "producers";
pub(crate) const TOPIC: &str = "ORDER_PAID";
const QUEUE: QueueId = QueueId(0);

pub(crate) fn rules() -> TransactionRules {
    TransactionRules {
        check_max: 3,
        reserved: Duration::from_secs(120),
        settled_max: 50,
        due_batch: 16,
        ..TransactionRules::default()
    }
}

pub(crate) struct Bench<B> {
    pub(crate) backend: B,
    pub(crate) clock: Arc<ManualClock>,
    running: Option<Running>,
    options: TransactionOptions,
}

pub(crate) struct Running {
    pub(crate) recovered: RecoveryReport,
    pub(crate) store: Store,
    pub(crate) coordinator: Coordinator,
}

impl<B> Deref for Bench<B> {
    type Target = Running;

    fn deref(&self) -> &Running {
        self.running.as_ref().expect("it runs, but for the moment of a restart")
    }
}

/// Where a half went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) half: HalfOffset,
    pub(crate) log: LogOffset,
}

/// What lies in the log, as a consumer, an operator and an Apache broker would find it.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Real messages by transaction.
    pub(crate) real: BTreeMap<String, Vec<StoredMessage>>,
    pub(crate) parked: BTreeMap<String, Vec<StoredMessage>>,
    /// Halves by offset, with their transaction.
    pub(crate) halves: BTreeMap<u64, String>,
    /// OP records, and the halves that each ends.
    pub(crate) ops: BTreeMap<u64, Vec<u64>>,
}

impl Found {
    pub(crate) fn ended(&self) -> impl Iterator<Item = u64> {
        self.ops.values().flatten().copied()
    }
}

impl<B: Backend + Clone + 'static> Bench<B> {
    pub(crate) fn new(backend: B, options: TransactionOptions) -> Self {
        let clock = Arc::new(ManualClock::at(UnixMillis(1_700_000_000_000)));
        let running = Some(open(&backend, &options, &clock));
        Self { backend, clock, running, options }
    }

    pub(crate) fn options() -> TransactionOptions {
        let options = TransactionOptions::new("broker-a", "127.0.0.1:10911".parse().unwrap());
        TransactionOptions { rules: rules(), checkpoint_patience: Duration::ZERO, ..options }
    }

    /// The process ends without a word and comes back to what `found` is on disk.
    pub(crate) fn restart_on(&mut self, found: B) {
        self.running = None;
        self.backend = found;
        self.running = Some(open(&self.backend, &self.options, &self.clock));
    }

    pub(crate) fn message(&self, id: &str, extra: &[(&str, &str)]) -> Message {
        let own = [("PGROUP", GROUP), ("UNIQ_KEY", id), ("TRAN_MSG", "true")];
        Message {
            topic: TOPIC.into(),
            queue_id: QueueId(id.len() as u32 % 3),
            flag: 5,
            sys_flag: 4,
            born_timestamp: self.clock.now(),
            born_host: "10.1.1.1:1234".parse().unwrap(),
            store_host: "127.0.0.1:10911".parse().unwrap(),
            reconsume_times: 0,
            prepared_transaction_offset: LogOffset::ZERO,
            properties: own.iter().chain(extra).copied().collect::<Properties>().encode(),
            body: format!("body of {id}").into_bytes().into(),
        }
    }

    /// Appends a half. It is neither durable nor told.
    pub(crate) fn append_half(&self, id: &str) -> (Place, StoredHalf) {
        self.try_append_half(id).unwrap()
    }

    pub(crate) fn try_append_half(&self, id: &str) -> Result<(Place, StoredHalf), Box<dyn std::error::Error>> {
        self.try_append(self.message(id, &[]))
    }

    pub(crate) fn try_append(&self, message: Message) -> Result<(Place, StoredHalf), Box<dyn std::error::Error>> {
        let (half, new) = half_of(message)?;
        self.coordinator.admit([&new]).remove(0)?;
        let appended = self.store.append(&[[half]])?.remove(0);
        let (log, offset) = appended.records[0];
        let stored = StoredHalf::new(new, offset, appended.store_timestamp, Some("client-1".into()));
        Ok((Place { half: offset.into(), log }, stored))
    }

    /// A half as a producer gets it acknowledged: durable and told.
    pub(crate) fn half(&self, id: &str) -> Place {
        self.half_with(id, &[])
    }

    pub(crate) fn half_with(&self, id: &str, extra: &[(&str, &str)]) -> Place {
        let (place, stored) = self.try_append(self.message(id, extra)).unwrap();
        self.store.flush().unwrap();
        self.coordinator.stored([stored]);
        place
    }

    pub(crate) fn end(&self, place: Place, id: &str, verdict: Verdict) -> Result<Ended, EndError> {
        self.coordinator.end(&[end_request(place, id, verdict)]).remove(0)
    }

    pub(crate) fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    pub(crate) fn tick(&self) -> Vec<txn_coordinator::Check> {
        self.coordinator.tick(self.clock.now())
    }

    /// Makes everything durable and reads all of it.
    pub(crate) fn found(&self) -> Found {
        self.store.flush().unwrap();
        let mut found = Found::default();
        for record in self.store.scan(LogOffset::ZERO) {
            let record = record.unwrap();
            let id = record.message.property("UNIQ_KEY").unwrap_or_default().to_owned();
            match &*record.message.topic {
                topic::HALF => drop(found.halves.insert(record.queue_offset.0, id)),
                topic::OP_HALF => {
                    let body = std::str::from_utf8(&record.message.body).unwrap();
                    let ends = body.split_terminator(',').map(|half| half.parse().unwrap()).collect();
                    found.ops.insert(record.queue_offset.0, ends);
                }
                topic::CHECK_MAX_TIME => found.parked.entry(id).or_default().push(record),
                _ => found.real.entry(id).or_default().push(record),
            }
        }
        found
    }

    pub(crate) fn outcomes(&self) -> Vec<Option<Outcome>> {
        let halves = self.store.queue_bounds(topic::HALF, QUEUE);
        (halves.min.0..halves.max.0).map(|half| self.coordinator.outcome(HalfOffset(half))).collect()
    }

    /// What an Apache broker would check when it opened this directory with these consumer offsets.
    pub(crate) fn apache_would_check(&self, progress: Progress) -> Vec<u64> {
        let found = self.found();
        let ended: Vec<u64> = found.ops.range(progress.op.0..).flat_map(|(_, ends)| ends.clone()).collect();
        found.halves.keys().copied().filter(|half| *half >= progress.half.0 && !ended.contains(half)).collect()
    }

    /// Appends as another broker would, behind the coordinator's back. Returns where the record went.
    pub(crate) fn append_raw(&self, message: Message) -> (LogOffset, QueueOffset) {
        let appended = self.store.append(&[[message]]).unwrap();
        self.store.flush().unwrap();
        appended[0].records[0]
    }
}

pub(crate) fn end_request(place: Place, id: &str, verdict: Verdict) -> EndRequest {
    EndRequest {
        half: place.half,
        log_offset: place.log,
        producer_group: GROUP.into(),
        transaction_id: Some(id.into()),
        verdict,
    }
}

/// What the broker's rules say of records.
struct Rules;

impl RecordRules for Rules {
    fn followers(&self, record: &StoredMessage) -> usize {
        followers(record)
    }
}

fn store_options() -> Options {
    let rules = Arc::new(Rules);
    Options { segment_bytes: 64 << 10, queue_file_entries: 100, flush: FlushMode::Manual, rules, ..Options::default() }
}

fn open<B: Backend + Clone + 'static>(backend: &B, options: &TransactionOptions, clock: &Arc<ManualClock>) -> Running {
    let (store, recovered) = Store::open(Arc::new(backend.clone()), store_options(), clock.clone()).unwrap();
    let coordinator =
        Coordinator::open(store.clone(), Arc::new(backend.clone()), options.clone(), clock.clone()).unwrap();
    Running { recovered, store, coordinator }
}
