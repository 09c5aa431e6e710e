//! Messages that nobody acknowledged in time come again through the group's retry topic, or end as dead letters.
//!
//! Runs on a thread of its own: what is due may be long out of memory. What becomes of a message is decided by `fate`; the
//! new copy and the record that closes the old one are appended as one group, so that a crash leaves both or neither, or
//! at worst the message twice.

use std::sync::Arc;
use std::time::Duration;

use mq_protocol::body::{AckRecord, RetryPolicy, SubscriptionGroup};
use mq_protocol::ids::{LogOffset, QueueId, QueueOffset, UnixMillis};
use mq_protocol::message_id::offset_id;
use mq_protocol::pop::{Mark, normal_topic};
use mq_protocol::properties::name;
use mq_protocol::record::{Message, StoredMessage};
use mq_store::{AppendError, ReadError};
use tracing::{debug, error, warn};

use super::engine::{CheckpointId, Lapsed};
use crate::broker::Broker;
use crate::topics::TopicError;

/// How often the clock is looked at while something is in flight: a bound for how late a message is when it jumps.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Between two looks at a log whose end is about to become visible.
const SOON: Duration = Duration::from_millis(1);
/// Rest after a failure (a full disk, say).
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Messages of one round, and bytes of one append; one message may be more.
const ROUND: usize = 128;
const APPEND_BYTES: usize = 4 << 20;

#[derive(Debug, thiserror::Error)]
enum ReviveError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Topic(#[from] TopicError),
}

/// Revives until the bell says stop.
pub(crate) fn run(broker: &Arc<Broker>) {
    loop {
        let pause = match round(broker) {
            Ok(pause) => pause,
            Err(error) => {
                warn!(%error, "popped messages wait for their revival: {error}");
                Some(RETRY_AFTER)
            }
        };
        if !broker.pops.bell.wait(pause) {
            return;
        }
    }
}

/// Does what is due; gives how long nothing will be.
fn round(broker: &Broker) -> Result<Option<Duration>, ReviveError> {
    let pops = &broker.pops;
    let now = broker.clock.now();
    let opened = pops.orders().expired(now);
    for place in opened {
        pops.polls.wake(&place.topic, &place.group, Some(place.queue_id));
    }
    pops.catch_up(&broker.offsets)?;
    let next = pops.journal.lock().engine.next_due();
    if next.is_some_and(|due| due <= now) {
        let Some(lapsed) = pops.lapsed(now, ROUND, &broker.offsets)? else { return Ok(Some(SOON)) };
        revive_all(broker, &lapsed, now);
        return Ok(Some(Duration::ZERO));
    }
    let next = next.into_iter().chain(pops.orders().next_expiry()).min();
    Ok(next.map(|due| due.since(now).clamp(SOON, LOOK_EVERY)))
}

/// What fails is due again a little later, and holds up nothing else.
fn revive_all(broker: &Broker, lapsed: &[Lapsed], now: UnixMillis) {
    let mut batch = Batch { broker, now, groups: Vec::new(), bytes: 0, of: Vec::new() };
    for checkpoint in lapsed {
        match batch.add(checkpoint) {
            Ok(None) => {}
            Ok(Some(later)) => broker.pops.postpone(&checkpoint.id, later),
            Err(error) => {
                warn!(%error, topic = %checkpoint.id.place.topic, group = %checkpoint.id.place.group, "not revived yet");
                broker.pops.postpone(&checkpoint.id, now.plus(RETRY_AFTER));
            }
        }
        if batch.bytes >= APPEND_BYTES {
            batch.append();
        }
    }
    batch.append();
}

/// Copies with their closing records, to be appended together.
struct Batch<'b> {
    broker: &'b Broker,
    now: UnixMillis,
    groups: Vec<Vec<Message>>,
    bytes: usize,
    of: Vec<CheckpointId>,
}

impl Batch<'_> {
    /// Gives when the earliest of those is due that have to rest.
    fn add(&mut self, lapsed: &Lapsed) -> Result<Option<UnixMillis>, ReviveError> {
        let place = &lapsed.id.place;
        let topic = normal_topic(&place.topic, &place.group);
        let group = self.broker.groups.get(&place.group).filter(|_| self.broker.topics.get(topic).is_some());
        let mut later = None;
        for offset in &lapsed.open {
            let message = match &group {
                Some(_) => message_at(self.broker, lapsed, *offset)?,
                None => None,
            };
            let fate = match (&group, &message) {
                (Some(group), Some(stored)) => fate(group, stored, lapsed, self.now),
                _ => Fate::Gone,
            };
            if let Fate::Later(until) = fate {
                later = Some(later.map_or(until, |earlier: UnixMillis| earlier.min(until)));
                continue;
            }
            let copy = message.map(|stored| self.copy(stored, fate, lapsed)).transpose()?.flatten();
            let mut records: Vec<Message> = copy.into_iter().collect();
            records.push(self.closing_record(lapsed, *offset));
            self.bytes += records.iter().map(Message::record_bytes).sum::<usize>();
            self.groups.push(records);
            self.of.push(lapsed.id.clone());
        }
        Ok(later)
    }

    fn copy(&self, stored: StoredMessage, fate: Fate, lapsed: &Lapsed) -> Result<Option<Message>, ReviveError> {
        let Self { broker, now, .. } = *self;
        let place = &lapsed.id.place;
        let topic = match fate {
            Fate::Again if Mark::of(&place.topic) != Mark::Normal => place.topic.to_string(),
            Fate::Again => {
                let mark = if broker.pops.config.retry_topic_v2 { Mark::RetryV2 } else { Mark::RetryV1 };
                broker.topics.pop_retry(mark.topic(&place.topic, &place.group), now)?.topic_name.clone()
            }
            Fate::DeadLetter => broker.topics.dead_letter(&place.group, now)?.topic_name.clone(),
            Fate::Gone | Fate::Later(_) => return Ok(None),
        };
        Ok(Some(again(broker, stored, topic, lapsed, fate == Fate::DeadLetter)))
    }

    /// The message is settled for the checkpoint that it came from.
    fn closing_record(&self, lapsed: &Lapsed, offset: QueueOffset) -> Message {
        let CheckpointId { place, start, pop_time } = &lapsed.id;
        let record = AckRecord {
            ack_offset: i64::try_from(offset.0).unwrap_or(i64::MAX),
            start_offset: *start,
            consumer_group: place.group.to_string(),
            topic: place.topic.to_string(),
            queue_id: place.queue_id,
            pop_time: *pop_time,
            broker_name: Some(self.broker.config.broker_name.clone()),
            ack_offsets: Vec::new(),
        };
        self.broker.pops.writer.ack(&record, lapsed.revive_queue, self.now)
    }

    fn append(&mut self) {
        let (groups, of) = (std::mem::take(&mut self.groups), std::mem::take(&mut self.of));
        self.bytes = 0;
        if groups.is_empty() {
            return;
        }
        // A copy and its closing record; the closing record alone where nothing came again.
        let copies: Vec<usize> = groups.iter().map(|records| records.len() - 1).collect();
        if let Err(error) = self.broker.store.append(&groups) {
            warn!(%error, messages = groups.len(), "not revived yet");
            of.iter().for_each(|id| self.broker.pops.postpone(id, self.now.plus(RETRY_AFTER)));
            return;
        }
        for (id, _) in of.iter().zip(copies).filter(|(_, copies)| *copies > 0) {
            self.broker.pops.flows.revived(&id.place.topic, &id.place.group);
        }
    }
}

/// `None`, and said so, when it is gone for good: it must not hold up others.
fn message_at(broker: &Broker, lapsed: &Lapsed, offset: QueueOffset) -> Result<Option<StoredMessage>, ReadError> {
    let place = &lapsed.id.place;
    let entry = broker.store.entry(&place.topic, place.queue_id, offset)?;
    match entry.map(|entry| broker.store.read(entry.log_offset)).transpose() {
        Ok(found) => {
            let found = found.flatten();
            if found.is_none() {
                debug!(topic = %place.topic, queue = %place.queue_id, %offset, "a popped message is no longer in the log");
            }
            Ok(found)
        }
        Err(error) if error.damaged_at().is_some() => {
            error!(%error, "a popped message is damaged and dropped");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What becomes of a message that nobody acknowledged in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Again,
    DeadLetter,
    /// Its group's retry policy makes it rest.
    Later(UnixMillis),
    Gone,
}

/// A group's own retry policy is a lower bound for the time from a pop to the next one, unless a consumer chose the time.
fn fate(group: &SubscriptionGroup, stored: &StoredMessage, lapsed: &Lapsed, now: UnixMillis) -> Fate {
    let times = stored.message.reconsume_times;
    if times >= group.retry_max_times {
        return Fate::DeadLetter;
    }
    let policy = RetryPolicy::of(&group.group_retry_policy).filter(|_| !lapsed.by_consumer);
    match policy.map(|policy| lapsed.id.pop_time.plus(policy.next_delay(times))) {
        Some(until) if until > now => Fate::Later(until),
        _ => Fate::Again,
    }
}

fn again(broker: &Broker, stored: StoredMessage, topic: String, lapsed: &Lapsed, dead: bool) -> Message {
    let StoredMessage { message, log_offset, .. } = stored;
    let place = &lapsed.id.place;
    let mut properties = message.parsed_properties();
    properties.remove(name::POP_CK);
    if message.reconsume_times == 0 || properties.get(name::FIRST_POP_TIME).is_none() {
        properties.set(name::FIRST_POP_TIME, lapsed.id.pop_time.to_string());
    }
    if properties.get(name::ORIGIN_MESSAGE_ID).is_none() {
        properties.set(name::ORIGIN_MESSAGE_ID, offset_id(message.store_host, log_offset));
    }
    if dead {
        let origin = properties.get(name::ORIGIN_MESSAGE_ID).cloned().unwrap_or_default();
        let own_topic = normal_topic(&place.topic, &place.group).to_owned();
        properties.remove(name::DELAY);
        properties.set(name::RETRY_TOPIC, own_topic.clone());
        properties.set(name::DLQ_ORIGIN_TOPIC, own_topic);
        properties.set(name::DLQ_ORIGIN_MESSAGE_ID, origin);
    }
    Message {
        topic: topic.into(),
        queue_id: QueueId(0),
        store_host: broker.store_host,
        reconsume_times: message.reconsume_times.saturating_add(1),
        prepared_transaction_offset: LogOffset::ZERO,
        properties: properties.encode(),
        ..message
    }
}
