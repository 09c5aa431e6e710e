//! What a store was told and what it promised, and the check of a recovered store against that.

use std::collections::BTreeMap;
use std::sync::Arc;

use mq_protocol::ids::{LogOffset, QueueId, QueueOffset};
use mq_protocol::record::{Message, StoredMessage};
use mq_store::{Backend, ManualClock, PullLimits, PullStatus, Store, verify};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::{ALL, NOW, manual, message};

/// One call into the store.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Append(Vec<Vec<Message>>),
    Flush,
    Settle,
    DeleteTopic(&'static str),
    /// What was appended up to here may be seen; later groups may be taken back.
    Commit,
    CommitAll,
    /// Takes back what is not visible, a part of it or all.
    Truncate(u64),
}

const TOPICS: [&str; 3] = ["T", "U", "%RETRY%g"];

/// A seeded sequence of calls. `name` makes its messages unlike those of other traces.
pub(crate) fn trace(name: &str, seed: u64, calls: usize) -> Vec<Call> {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut count = 0;
    let mut record = |dice: &mut StdRng| {
        count += 1;
        let body = format!("{name}-{seed}-{count}:{}", "x".repeat(dice.random_range(0..700)));
        message(TOPICS[dice.random_range(0..3)], dice.random_range(0..2), body)
    };
    let mut group = |dice: &mut StdRng| -> Vec<Message> {
        let records = dice.random_range(1..=3);
        (0..records).map(|_| record(dice)).collect()
    };
    let mut call = || match dice.random_range(0..100) {
        0..55 => {
            let groups = dice.random_range(1..=3);
            Call::Append((0..groups).map(|_| group(&mut dice)).collect())
        }
        55..80 => Call::Flush,
        80..88 => Call::Settle,
        88..91 => Call::DeleteTopic(TOPICS[dice.random_range(0..3)]),
        91..95 => Call::Commit,
        95..97 => Call::CommitAll,
        _ => Call::Truncate(dice.random_range(0..4)),
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
    /// Starts of the groups in `written`.
    groups: Vec<LogOffset>,
    /// Where queues begin since their topic was deleted.
    deleted: BTreeMap<(String, u32), u64>,
    /// Where they may begin, because a deletion failed.
    half_deleted: BTreeMap<(String, u32), u64>,
    /// A truncation failed: what the store does next is not followed.
    lost_track: bool,
}

impl History {
    /// Makes the calls, whatever their outcome, and notes what the store promised.
    pub(crate) fn run(&mut self, store: &Store, calls: &[Call]) {
        for call in calls {
            let was_fenced = store.poisoned().is_some();
            let before = store.durable();
            if self.lost_track {
                return;
            }
            match call {
                Call::Append(groups) => self.append(store, groups),
                Call::Flush => drop(store.flush()),
                Call::Settle => drop(store.settle()),
                Call::DeleteTopic(topic) => self.delete(store, topic),
                Call::Commit => store.set_committed(store.end()),
                Call::CommitAll => store.set_committed(LogOffset(u64::MAX)),
                Call::Truncate(skipped) => {
                    self.truncate(store, *skipped as usize);
                    continue;
                }
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
                self.groups.extend(appended.iter().map(|group| group.start));
                for (message, (log, queue)) in groups.iter().flatten().zip(places) {
                    self.written.push((message.clone(), *log, *queue));
                }
            }
        }
    }

    /// The number of the queue's next message.
    fn next(&self, topic: &str, queue: u32) -> u64 {
        let of_queue = |message: &Message| message.topic == topic && message.queue_id.0 == queue;
        let last = self.written.iter().rev().find(|(message, ..)| of_queue(message));
        let deleted = self.deleted.get(&(topic.to_owned(), queue)).copied().unwrap_or(0);
        last.map_or(0, |(.., offset)| offset.0 + 1).max(deleted)
    }

    fn delete(&mut self, store: &Store, topic: &str) {
        let done = store.delete_topic(topic).is_ok();
        for queue in 0..2 {
            let (place, next) = ((topic.to_owned(), queue), self.next(topic, queue));
            if done {
                self.deleted.insert(place, next)
            } else {
                self.half_deleted.insert(place, next)
            };
        }
    }

    /// From the time of the call on, what it takes back may be found or not.
    fn truncate(&mut self, store: &Store, skipped: usize) {
        let visible = store.visible();
        let Some(at) = self.groups.iter().copied().filter(|start| *start >= visible).nth(skipped) else { return };
        self.acknowledged = self.acknowledged.min(at);
        match store.truncate_to(at) {
            Ok(()) => {
                self.written.retain(|(_, log, _)| *log < at);
                self.groups.retain(|start| *start < at);
                // What was not written before it cannot be found behind it.
                self.in_flight.clear();
            }
            Err(_) => self.lost_track = true,
        }
    }

    /// Opens what was found after a crash and compares: all that was acknowledged is there with its bytes and offsets,
    /// nothing else than what was sent, in order, queues are dense, and a second crash changes nothing. The recovered
    /// store's records are the history from then on.
    pub(crate) fn check(&mut self, backend: Arc<dyn Backend>) -> Result<Store, String> {
        let (store, report) = reopen(&backend)?;
        let found = records(&store)?;
        self.compare(&found)?;
        self.check_queues(&store, &found)?;
        drop(store);
        let scrubbed = verify(backend.clone(), &manual()).map_err(|error| error.to_string())?;
        if scrubbed.has_damage() {
            return Err(format!("the scrub finds {:?}", scrubbed.findings));
        }
        let (store, again) = reopen(&backend)?;
        if again.end != report.end || records(&store)? != found {
            return Err(format!("the second recovery ended at {}, the first at {}", again.end, report.end));
        }
        self.check_queues(&store, &found)?;
        let placed = |record: StoredMessage| (record.message, record.log_offset, record.queue_offset);
        self.written = found.into_iter().map(placed).collect();
        self.in_flight.clear();
        self.groups.clear();
        self.acknowledged = store.durable();
        self.lost_track = false;
        for ((topic, queue), _) in std::mem::take(&mut self.half_deleted) {
            let min = store.queue_bounds(&topic, QueueId(queue)).min.0;
            self.deleted.insert((topic, queue), min);
        }
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

    /// Each queue holds the log's records of that queue, all of them since its topic was deleted, without a gap.
    fn check_queues(&self, store: &Store, found: &[StoredMessage]) -> Result<(), String> {
        let mut queues: BTreeMap<_, Vec<&StoredMessage>> = BTreeMap::new();
        for record in found {
            queues.entry((record.message.topic.to_string(), record.message.queue_id.0)).or_default().push(record);
        }
        for topic in TOPICS {
            for queue in 0..2 {
                let place = (topic.to_owned(), queue);
                let mut min = self.deleted.get(&place).copied().unwrap_or(0);
                if let Some(next) = self.half_deleted.get(&place) {
                    min = store.queue_bounds(topic, QueueId(queue)).min.0.clamp(min, *next);
                }
                let mut expected = queues.remove(&place).unwrap_or_default();
                expected.retain(|record| record.queue_offset.0 >= min);
                check_queue(store, topic, QueueId(queue), min, &expected)
                    .map_err(|error| format!("queue {topic}-{queue}: {error}"))?;
            }
        }
        if queues.is_empty() { Ok(()) } else { Err("records of unknown queues".into()) }
    }
}

fn reopen(backend: &Arc<dyn Backend>) -> Result<(Store, mq_store::RecoveryReport), String> {
    let clock = Arc::new(ManualClock::at(NOW));
    Store::open(backend.clone(), manual(), clock).map_err(|error| format!("does not open: {error}"))
}

pub(crate) fn records(store: &Store) -> Result<Vec<StoredMessage>, String> {
    store.scan(LogOffset(0)).collect::<Result<_, _>>().map_err(|error| error.to_string())
}

fn check_queue(
    store: &Store,
    topic: &str,
    queue: QueueId,
    min: u64,
    expected: &[&StoredMessage],
) -> Result<(), String> {
    let bounds = store.queue_bounds(topic, queue);
    if (bounds.min.0, bounds.max.0) != (min, min + expected.len() as u64) {
        return Err(format!("{bounds:?}, but the log has {} messages from {min} on", expected.len()));
    }
    let mut next = QueueOffset(min);
    for (index, record) in expected.iter().enumerate() {
        let offset = QueueOffset(min + index as u64);
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
