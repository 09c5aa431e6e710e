//! The shapes of a message that waits: as it is stored meanwhile, stored anew, and delivered; and of the message that
//! takes it back.

use bytes::Bytes;
use mq_protocol::ByteString;
use mq_protocol::ids::{LogOffset, QueueId, UnixMillis};
use mq_protocol::properties::{MAX_PROPERTIES_BYTES, Properties, name};
use mq_protocol::recall::RecallHandle;
use mq_protocol::record::{Message, StoredMessage};
use mq_protocol::{sys_flag, topic};
use mq_store::timer::TimerEntry;

use super::copies::Identity;

/// The one queue of the timer topic.
pub(crate) const QUEUE: QueueId = QueueId(0);
const RECALL_TAG: &str = "_RECALL_TAG_";

/// A message on its way to wait for its slot.
pub(crate) fn waiting(message: Message, slot: UnixMillis) -> Message {
    let mut properties = message.parsed_properties();
    properties.set(name::TIMER_OUT_MS, slot.0.to_string());
    properties.set(name::REAL_TOPIC, message.topic);
    properties.set(name::REAL_QUEUE_ID, message.queue_id.to_string());
    Message {
        topic: ByteString::from_static(topic::TIMER),
        queue_id: QUEUE,
        sys_flag: sys_flag::with_transaction_bits(message.sys_flag, sys_flag::TRANSACTION_NONE),
        properties: properties.encode(),
        ..message
    }
}

/// The message that takes back the one that `handle` names; it waits for the same slot. `like` gives hosts and times.
pub(crate) fn recall(handle: &RecallHandle, group: Option<&str>, slot: UnixMillis, like: Message) -> Message {
    let mut properties = Properties::default();
    properties.set(name::TIMER_DELETE_KEY, handle.unique_key.clone());
    properties.set(name::UNIQ_KEY, handle.unique_key.clone());
    properties.set(name::TAGS, RECALL_TAG);
    properties.set(name::TIMER_DELIVER_MS, handle.deliver_ms.to_string());
    properties.set(name::PRODUCER_GROUP, group.unwrap_or_default().to_owned());
    let body = Bytes::from_static(b"0");
    waiting(Message { topic: handle.topic.clone(), properties: properties.encode(), body, ..like }, slot)
}

/// What is read of a record of the timer topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) due: UnixMillis,
    pub(super) real_topic: ByteString,
    pub(super) deletes: bool,
}

/// `None`: not a message that could ever be delivered.
pub(super) fn facts(message: &Message) -> Option<Facts> {
    let due = message.property(name::TIMER_OUT_MS)?.parse().ok().filter(|due| *due >= 0)?;
    message.property(name::REAL_QUEUE_ID)?.parse::<QueueId>().ok()?;
    let real_topic = message.property(name::REAL_TOPIC).filter(|real| *real != topic::HALF)?;
    let deletes = message.property(name::TIMER_DELETE_KEY).is_some();
    Some(Facts { due: UnixMillis(due), real_topic: real_topic.into(), deletes })
}

/// Whether a record waits as its entry in the timer log says.
pub(crate) fn fits(entry: &TimerEntry, stored: &StoredMessage, precision_ms: i64) -> bool {
    let Some(facts) = facts(&stored.message).filter(|_| *stored.message.topic == *topic::TIMER) else { return false };
    let slot = facts.due.0 - facts.due.0.rem_euclid(precision_ms);
    entry.deletes == facts.deletes && entry.rolls == (entry.slot.0 != slot)
}

/// What names a message within its slot: Apache's deleting message carries the key alone, or `topic+key` before 5.4.
pub(super) fn deleted_by(deleting: &Message) -> Option<Identity> {
    let real_topic = deleting.property(name::REAL_TOPIC)?;
    let key = deleting.property(name::TIMER_DELETE_KEY)?;
    let bare = key.strip_prefix(real_topic).and_then(|rest| rest.strip_prefix('+')).unwrap_or(key);
    Some(Identity::of(&(real_topic, bare)))
}

pub(super) fn deletable_as(message: &Message) -> Option<Identity> {
    Some(Identity::of(&(message.property(name::REAL_TOPIC)?, message.property(name::UNIQ_KEY)?)))
}

/// When a copy was made, and since when its message waited. `None`: it never did.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) linked_at: Option<UnixMillis>,
    pub(super) now: UnixMillis,
}

/// The message as it was meant. Like Apache it keeps what it waited by, by which a copy is recognised.
pub(super) fn delivered(message: &Message, times: Times) -> Option<Message> {
    let properties = message.parsed_properties();
    let topic = properties.get(name::REAL_TOPIC)?.clone();
    let queue_id = properties.get(name::REAL_QUEUE_ID)?.parse().ok()?;
    Some(Message { topic, queue_id, ..stamped(message, properties, times) })
}

/// The message for another round of waiting.
pub(super) fn rolled(message: &Message, times: Times) -> Message {
    let mut properties = message.parsed_properties();
    let rolls: u64 = properties.get(name::TIMER_ROLL_TIMES).and_then(|rolls| rolls.parse().ok()).unwrap_or(0);
    properties.set(name::TIMER_ROLL_TIMES, (rolls + 1).to_string());
    stamped(message, properties, times)
}

fn stamped(message: &Message, properties: Properties, times: Times) -> Message {
    let mut marked = properties.clone();
    // Apache's mark of a message that was due before it could wait.
    let linked_at = times.linked_at.map_or(i64::MAX, |at| at.0);
    marked.set(name::TIMER_ENQUEUE_MS, linked_at.to_string());
    marked.set(name::TIMER_DEQUEUE_MS, times.now.0.to_string());
    let marked = marked.encode();
    let properties = if marked.len() <= MAX_PROPERTIES_BYTES { marked } else { properties.encode() };
    Message { properties, prepared_transaction_offset: LogOffset::ZERO, ..message.clone() }
}
