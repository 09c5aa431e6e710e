//! The half message: how a prepared message becomes one, and what is made of it: a message, a question. Pure.

use std::time::Duration;

use bytes::Bytes;
use mq_protocol::codes::response;
use mq_protocol::header::CheckTransactionState;
use mq_protocol::ids::{LogOffset, QueueId};
use mq_protocol::message_id::offset_id;
use mq_protocol::properties::{self, MAX_PROPERTIES_BYTES, name};
use mq_protocol::record::{self, Message, StoredMessage};
use mq_protocol::{ByteString, codes, command::Command, sys_flag, topic};

use crate::engine::Half;
use crate::said::{Said, said};
use crate::types::{HalfOffset, Part, TransactionKey};

/// All halves and all OP records lie in queue 0 of their topics.
pub(crate) const QUEUE: QueueId = QueueId(0);
/// What the broker's marks add to the properties, about.
const MARKS_BYTES: usize = 128;
const DELAYS: [&str; 4] = [name::DELAY, name::TIMER_DELIVER_MS, name::TIMER_DELAY_MS, name::TIMER_DELAY_SEC];

/// What a delayed message needs in its properties, about, when it is committed.
const WAITING_BYTES: usize = 128;

/// Why a message cannot be a half.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HalfError {
    #[error("a transactional message needs the property {0}")]
    Missing(&'static str),
    #[error("the property {0} holds a separator of properties, so its transaction could be taken for another one")]
    Separator(&'static str),
    #[error("a transactional message cannot be delayed: remove the property {0}")]
    Delayed(&'static str),
    #[error(
        "a message cannot be delayed and keep the order of its commits: remove the property {} or {}",
        name::ORDER_KEY,
        name::DELAY_FROM_COMMIT_MS
    )]
    DelayedInOrder,
    #[error("the property {name} takes {bytes} bytes, the limit is {limit}")]
    TooLong { name: &'static str, bytes: usize, limit: usize },
    #[error("the property {name} is {value:?}; {expected} is expected")]
    Malformed { name: &'static str, value: String, expected: &'static str },
    #[error(
        "one of {of} messages under one verdict takes {bytes} bytes, the limit is {limit}: they are published at once"
    )]
    LargeInSet { bytes: usize, of: u8, limit: usize },
    #[error("the properties take {0} bytes with the transaction's own, the limit is {MAX_PROPERTIES_BYTES}")]
    Properties(usize),
    #[error("{0} half messages wait for their verdict, which is the limit")]
    TooManyPending(usize),
    #[error("this transaction has {0} half messages already, which is the limit")]
    TooManySiblings(usize),
    #[error("a record has to stand before the first message of several under one verdict, and cannot be written: {0}")]
    NothingBefore(String),
}

impl HalfError {
    /// The response code: the message is at fault, or the broker is busy (clients try another one).
    #[must_use]
    pub fn code(&self) -> i32 {
        match self {
            Self::TooManyPending(_) | Self::TooManySiblings(_) | Self::NothingBefore(_) => response::SYSTEM_BUSY,
            _ => response::MESSAGE_ILLEGAL,
        }
    }
}

/// What is known of a half before it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewHalf {
    pub(crate) transaction: TransactionKey,
    pub(crate) part: Part,
    pub(crate) immunity: Duration,
    pub(crate) check_max: Option<u16>,
    /// An operator opens a parked transaction again.
    pub(crate) resumes: bool,
}

/// Turns a prepared message into the half that is stored: hidden in the half topic, with the way back in its properties.
///
/// A delay from now on is refused, not stripped: its consumers would see the message at once, and nobody would know why.
pub fn half_of(message: Message) -> Result<(Message, NewHalf), HalfError> {
    let (mut said, mut delayed) = (Said::default(), None);
    let mut text = String::with_capacity(message.properties.len() + message.topic.len() + MARKS_BYTES);
    for (name, value) in properties::pairs(&message.properties) {
        match name {
            name::DELAY | name::TIMER_DELIVER_MS | name::TIMER_DELAY_MS | name::TIMER_DELAY_SEC => {
                // Level zero or below means "no delay"; clients send it so.
                if !value.parse::<i64>().is_ok_and(|value| value <= 0) {
                    delayed = delayed.or(DELAYS.into_iter().find(|delay| *delay == name));
                }
                continue;
            }
            // The broker's own marks: a client that sends them must not count its checks or pair itself with another
            // half.
            name::TRANSACTION_CHECK_TIMES
            | name::TRAN_PREPARED_QUEUE_OFFSET
            | name::TRANSACTION_ID
            | name::REAL_TOPIC
            | name::REAL_QUEUE_ID
            | name::FOLLOWERS
            | name::PARKED_HALF
            | name::PARKED_REASON
            | name::PARKED_TOLD => continue,
            name => said.hear(name, value),
        }
        properties::push(&mut text, name, value);
    }
    said.check()?;
    if let Some(delay) = delayed {
        return Err(HalfError::Delayed(delay));
    }
    properties::push(&mut text, name::TRANSACTION_ID, said.id.expect("checked above"));
    properties::push(&mut text, name::REAL_TOPIC, &message.topic);
    properties::push(&mut text, name::REAL_QUEUE_ID, &message.queue_id.to_string());
    let needed = text.len() + said.delay_ms.map_or(0, |_| WAITING_BYTES);
    if needed > MAX_PROPERTIES_BYTES {
        return Err(HalfError::Properties(needed));
    }
    let transaction = said.key(&message.properties).expect("checked above");
    let (part, immunity, check_max) = (said.part(), said.immunity, said.check_max());
    let new = NewHalf { transaction, part, immunity, check_max, resumes: false };
    let half = Message {
        topic: ByteString::from_static(topic::HALF),
        queue_id: QUEUE,
        sys_flag: sys_flag::with_transaction_bits(message.sys_flag, sys_flag::TRANSACTION_NONE),
        prepared_transaction_offset: LogOffset::ZERO,
        properties: text.into(),
        ..message
    };
    Ok((half, new))
}

/// The transaction that a record belongs to: a half, a committed message or a parked copy.
#[must_use]
pub(crate) fn transaction_in(message: &Message) -> Option<TransactionKey> {
    said(message).key(&message.properties)
}

/// Why a record in the half topic is no half that could ever be ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAHalf {
    #[error("it has no property {0}")]
    Missing(&'static str),
    #[error("its property {} is no number", name::REAL_QUEUE_ID)]
    Queue,
}

/// What the engine needs to know of a half that was read back; its client is not known.
pub(crate) fn read_half(stored: &StoredMessage) -> Result<Half, NotAHalf> {
    let message = &stored.message;
    for name in [name::PRODUCER_GROUP, name::UNIQ_KEY, name::REAL_TOPIC, name::REAL_QUEUE_ID] {
        message.property(name).ok_or(NotAHalf::Missing(name))?;
    }
    let queue = message.property(name::REAL_QUEUE_ID).and_then(|queue| queue.parse::<QueueId>().ok());
    queue.ok_or(NotAHalf::Queue)?;
    let checks = message.property(name::TRANSACTION_CHECK_TIMES).and_then(|checks| checks.parse::<i64>().ok());
    let checks = checks.and_then(|checks| u32::try_from(checks).ok());
    let said = said(message);
    Ok(Half {
        offset: HalfOffset::from(stored.queue_offset),
        transaction: said.key(&message.properties).expect("both names are there"),
        part: said.part(),
        stored_at: stored.store_timestamp,
        immunity: said.immunity,
        check_max: said.check_max(),
        checks: checks.unwrap_or(0),
        // Clients' halves have no count; a renewed one has at least 1; resuming writes 0.
        resumes: checks == Some(0),
        client: None,
    })
}

/// What a commit publishes.
pub(crate) struct Real {
    pub(crate) message: Message,
    /// Counted from the commit.
    pub(crate) delay_ms: Option<i64>,
}

/// The message that consumers see; so many records of its append follow it. `None` when the half does not say where it
/// belongs.
#[must_use]
pub(crate) fn real_message(half: &StoredMessage, followers: usize) -> Option<Real> {
    let (mut real_topic, mut queue_id, mut delay_ms) = (None, None, None);
    let mut text = String::with_capacity(half.message.properties.len());
    for (name, value) in properties::pairs(&half.message.properties) {
        match name {
            name::REAL_TOPIC => real_topic = real_topic.or(Some(value)),
            name::REAL_QUEUE_ID => queue_id = queue_id.or(Some(value)),
            // Of a copy that an operator publishes.
            name::PARKED_HALF | name::PARKED_REASON | name::PARKED_TOLD => {}
            name => {
                if name == name::DELAY_FROM_COMMIT_MS {
                    delay_ms = delay_ms.or(value.parse().ok());
                }
                properties::push(&mut text, name, value);
            }
        }
    }
    if followers > 0 {
        properties::push(&mut text, name::FOLLOWERS, &followers.to_string());
    }
    let message = Message {
        topic: half.message.properties.slice_ref(real_topic?),
        queue_id: queue_id?.parse().ok()?,
        sys_flag: sys_flag::with_transaction_bits(half.message.sys_flag, sys_flag::TRANSACTION_COMMIT),
        prepared_transaction_offset: half.log_offset,
        properties: text.into(),
        ..half.message.clone()
    };
    Some(Real { message, delay_ms })
}

/// How many records directly behind this one belong to the same commit: the store cuts a commit that is torn back to its
/// first byte. Copies of a message (for a retry, from the timer) name no half and stand alone.
#[must_use]
pub fn followers(record: &StoredMessage) -> usize {
    let message = &record.message;
    let committed = sys_flag::transaction_bits(message.sys_flag) == sys_flag::TRANSACTION_COMMIT;
    if !committed || message.prepared_transaction_offset == LogOffset::ZERO {
        return 0;
    }
    let followers = message.property(name::FOLLOWERS).and_then(|followers| followers.parse().ok());
    followers.filter(|followers| *followers < usize::from(Part::MAX)).unwrap_or(0)
}

/// The half's properties with a count of checks, unless they are so long that it does not fit.
fn counted(half: &StoredMessage, checks: u32) -> ByteString {
    let mut properties = half.message.parsed_properties();
    properties.set(name::TRANSACTION_CHECK_TIMES, checks.to_string());
    let text = properties.encode();
    if text.len() > MAX_PROPERTIES_BYTES { half.message.properties.clone() } else { text }
}

/// The question to a producer (code 39): the half as its client knew it, with topic and queue set back.
#[must_use]
pub(crate) fn check_request(half: &StoredMessage, attempt: u32, broker_name: &ByteString) -> Option<Command> {
    let properties = half.message.parsed_properties();
    let id = properties.get(name::UNIQ_KEY).cloned();
    let asked = Message {
        topic: properties.get(name::REAL_TOPIC)?.clone(),
        queue_id: properties.get(name::REAL_QUEUE_ID)?.parse().ok()?,
        properties: counted(half, attempt),
        ..half.message.clone()
    };
    let mut body = Vec::with_capacity(asked.record_bytes());
    asked.encode(&mut body).ok()?;
    record::stamp(&mut body, half.queue_offset, half.log_offset, half.store_timestamp);
    let header = CheckTransactionState {
        topic: Some(ByteString::from_static(topic::HALF)),
        tran_state_table_offset: half.queue_offset,
        commit_log_offset: half.log_offset,
        msg_id: id.clone(),
        transaction_id: id,
        offset_msg_id: Some(offset_id(half.message.store_host, half.log_offset).into()),
        bname: Some(broker_name.clone()),
    };
    let request = Command::request_with(codes::request::CHECK_TRANSACTION_STATE, &header);
    Some(request.with_body(Bytes::from(body)).oneway())
}

#[cfg(test)]
#[path = "half_tests.rs"]
mod tests;
