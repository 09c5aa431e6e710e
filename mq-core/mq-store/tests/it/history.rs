//! What a store was told and what it promised, and the check of a recovered store against that.

use std::collections::BTreeMap;
use std::sync::Arc;

use mq_protocol::ids::{LogOffset, QueueId, QueueOffset};
use mq_protocol::record::{Message, StoredMessage};
use mq_store::{Backend, ManualClock, PullLimits, PullStatus, Store};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::{ALL, NOW, manual, message};

/// One call into the store.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Append(Vec<Vec<Message>>),
    Flush,
    Settle,
}

/// A seeded sequence of calls. `name` makes its messages unlike those of other traces.
pub(crate) fn trace(name: &str, seed: u64, calls: usize) -> Vec<Call> {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut count = 0;
    let mut record = |dice: &mut StdRng| {
        count += 1;
        let body = format!("{name}-{seed}-{count}:{}", "x".repeat(dice.random_range(0..700)));
        message(["T", "U", "%RETRY%g"][dice.random_range(0..3)], dice.random_range(0..2), body)
    };
    let mut group = |dice: &mut StdRng| -> Vec<Message> {
        let records = dice.random_range(1..=3);
        (0..records).map(|_| record(dice)).collect()
    };
    let mut call = || match dice.random_range(0..10) {
        0..=5 => {
            let groups = dice.random_range(1..=3);
            Call::Append((0..groups).map(|_| group(&mut dice)).collect())
        }
        6..=8 => Call::Flush,
        _ => Call::Settle,
    };
    (0..calls).map(|_| call()).collect()
}

#[derive(Clone, Default)]
pub(crate) struct History {
    /// Everything that was appended with success, in order.
    written: Vec<(Message, LogOffset, QueueOffset)>,
    /// The first failed append behind it: any of its records may be found.
    in_flight: Vec<Message>,
    /// Everything below was acknowledged.
    acknowledged: LogOffset,
}

impl History {
    /// Makes the calls, whatever their outcome, and notes what the store promised.
    pub(crate) fn run(&mut self, store: &Store, calls: &[Call]) {
        for call in calls {
            let was_fenced = store.poisoned().is_some();
            let before = store.durable();
            match call {
                Call::Append(groups) => self.append(store, groups),
                Call::Flush => drop(store.flush()),
                Call::Settle => drop(store.settle()),
            }
            assert!(!was_fenced || store.durable() == before, "nothing is acknowledged after a failed sync");
            self.acknowledged = store.durable();
        }
    }

    fn append(&mut self, store: &Store, groups: &[Vec<Message>]) {
        match store.append(groups) {
            Err(_) if self.in_flight.is_empty() => self.in_flight = groups.concat(),
            Err(_) => {}
            Ok(appended) => {
                self.in_flight.clear();
                let places = appended.iter().flat_map(|group| group.records.iter());
                for (message, (log, queue)) in groups.iter().flatten().zip(places) {
                    self.written.push((message.clone(), *log, *queue));
                }
            }
        }
    }

    /// Opens what was found after a crash and compares: all that was acknowledged is there with its bytes and offsets,
    /// nothing else than what was sent, in order, queues are dense, and a second crash changes nothing. The recovered
    /// store's records are the history from then on.
    pub(crate) fn check(&mut self, backend: Arc<dyn Backend>) -> Result<Store, String> {
        let (store, report) = reopen(&backend)?;
        let found = records(&store)?;
        self.compare(&found)?;
        check_queues(&store, &found)?;
        drop(store);
        let (store, again) = reopen(&backend)?;
        if again.end != report.end || records(&store)? != found {
            return Err(format!("the second recovery ended at {}, the first at {}", again.end, report.end));
        }
        check_queues(&store, &found)?;
        let placed = |record: StoredMessage| (record.message, record.log_offset, record.queue_offset);
        self.written = found.into_iter().map(placed).collect();
        self.in_flight.clear();
        self.acknowledged = store.durable();
        Ok(store)
    }

    fn compare(&self, found: &[StoredMessage]) -> Result<(), String> {
        let acknowledged = self.written.iter().filter(|(_, at, _)| *at < self.acknowledged).count();
        if found.len() < acknowledged {
            return Err(format!("{acknowledged} records were acknowledged, {} are left", found.len()));
        }
        let sent = self.written.iter().map(|(message, ..)| message).chain(&self.in_flight);
        if found.len() > self.written.len() + self.in_flight.len() {
            return Err("records were found that nobody sent".into());
        }
        for (index, (found, sent)) in found.iter().zip(sent).enumerate() {
            if found.message != *sent {
                return Err(format!("record {index} at {} is not what was sent", found.log_offset));
            }
            let place = self.written.get(index).map(|(_, log, queue)| (*log, *queue));
            if place.is_some_and(|place| place != (found.log_offset, found.queue_offset)) {
                return Err(format!("record {index} moved from {place:?} to {}", found.log_offset));
            }
        }
        Ok(())
    }
}

fn reopen(backend: &Arc<dyn Backend>) -> Result<(Store, mq_store::RecoveryReport), String> {
    let clock = Arc::new(ManualClock::at(NOW));
    Store::open(backend.clone(), manual(), clock).map_err(|error| format!("does not open: {error}"))
}

pub(crate) fn records(store: &Store) -> Result<Vec<StoredMessage>, String> {
    store.scan(LogOffset(0)).collect::<Result<_, _>>().map_err(|error| error.to_string())
}

/// Each queue holds the log's records of that queue, all of them, at offsets 0, 1, 2 …
fn check_queues(store: &Store, found: &[StoredMessage]) -> Result<(), String> {
    let mut queues: BTreeMap<_, Vec<&StoredMessage>> = BTreeMap::new();
    for record in found {
        queues.entry((record.message.topic.clone(), record.message.queue_id)).or_default().push(record);
    }
    for topic in ["T", "U", "%RETRY%g"] {
        for queue in [QueueId(0), QueueId(1)] {
            let expected = queues.remove(&(topic.into(), queue)).unwrap_or_default();
            check_queue(store, topic, queue, &expected).map_err(|error| format!("queue {topic}-{queue}: {error}"))?;
        }
    }
    if queues.is_empty() { Ok(()) } else { Err("records of unknown queues".into()) }
}

fn check_queue(store: &Store, topic: &str, queue: QueueId, expected: &[&StoredMessage]) -> Result<(), String> {
    let bounds = store.queue_bounds(topic, queue);
    if (bounds.min.0, bounds.max.0) != (0, expected.len() as u64) {
        return Err(format!("{bounds:?}, but the log has {} messages", expected.len()));
    }
    let mut next = QueueOffset(0);
    for (index, record) in expected.iter().enumerate() {
        let offset = QueueOffset(index as u64);
        let entry = store.entry(topic, queue, offset).map_err(|error| error.to_string())?;
        if record.queue_offset != offset || entry.is_none_or(|entry| entry.log_offset != record.log_offset) {
            return Err(format!("offset {index} is {entry:?}, the record says {}", record.queue_offset));
        }
    }
    while next < bounds.max {
        let limits = PullLimits { messages: 5, ..ALL };
        let pulled = store.pull(topic, queue, next, limits, &|_| true).map_err(|error| error.to_string())?;
        if pulled.status != PullStatus::Found {
            return Err(format!("a pull at {next} answers {:?}", pulled.status));
        }
        next = pulled.next;
    }
    Ok(())
}
