//! The half message: how a prepared message becomes one, and what one says about its transaction. Pure.

use std::time::Duration;

use bytes::Bytes;
use mq_protocol::codes::response;
use mq_protocol::header::CheckTransactionState;
use mq_protocol::ids::{LogOffset, QueueId};
use mq_protocol::message_id::offset_id;
use mq_protocol::properties::{self, MAX_PROPERTIES_BYTES, Properties, name};
use mq_protocol::record::{self, Message, StoredMessage};
use mq_protocol::{ByteString, codes, command::Command, sys_flag, topic};

use crate::engine::Half;
use crate::types::{HalfOffset, TransactionKey};

/// All halves and all OP records lie in queue 0 of their topics.
pub(crate) const QUEUE: QueueId = QueueId(0);
/// An immunity longer than the time that Apache keeps messages would never be checked at all.
const MAX_IMMUNITY: Duration = Duration::from_secs(72 * 3600);
/// What the broker's marks add to the properties, about.
const MARKS_BYTES: usize = 128;
const DELAYS: [&str; 4] = [name::DELAY, name::TIMER_DELIVER_MS, name::TIMER_DELAY_MS, name::TIMER_DELAY_SEC];

/// Why a message cannot be a half.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HalfError {
    #[error("a transactional message needs the property {0}")]
    Missing(&'static str),
    #[error("the property {0} holds a separator of properties, so its transaction could be taken for another one")]
    Separator(&'static str),
    #[error("a transactional message cannot be delayed: remove the property {0}")]
    Delayed(&'static str),
    #[error("the properties take {0} bytes with the transaction's own, the limit is {MAX_PROPERTIES_BYTES}")]
    Properties(usize),
    #[error("{0} half messages wait for their verdict, which is the limit")]
    TooManyPending(usize),
    #[error("this transaction has {0} half messages already, which is the limit")]
    TooManySiblings(usize),
}

impl HalfError {
    /// The response code: the message is at fault, or the broker is busy (clients try another one).
    #[must_use]
    pub fn code(&self) -> i32 {
        match self {
            Self::Missing(_) | Self::Separator(_) | Self::Delayed(_) | Self::Properties(_) => response::MESSAGE_ILLEGAL,
            Self::TooManyPending(_) | Self::TooManySiblings(_) => response::SYSTEM_BUSY,
        }
    }
}

/// What is known of a half before it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewHalf {
    pub(crate) transaction: TransactionKey,
    pub(crate) immunity: Duration,
    /// An operator opens a parked transaction again.
    pub(crate) resumes: bool,
}

/// Turns a prepared message into the half that is stored: hidden in the half topic, with the way back in its properties.
///
/// A delay is refused, not stripped: its consumers would see the message at once, and nobody would know why.
pub fn half_of(message: Message) -> Result<(Message, NewHalf), HalfError> {
    let (mut group, mut id, mut immunity, mut delayed) = (None, None, Duration::ZERO, None);
    let mut text = String::with_capacity(message.properties.len() + message.topic.len() + MARKS_BYTES);
    for (name, value) in properties::pairs(&message.properties) {
        match name {
            name::PRODUCER_GROUP => group = group.or(Some(value)),
            name::UNIQ_KEY => id = id.or(Some(value)),
            name::CHECK_IMMUNITY_SECONDS => immunity = immunity_of(value),
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
            | name::REAL_QUEUE_ID => continue,
            _ => {}
        }
        properties::push(&mut text, name, value);
    }
    let (group, id) = (required(name::PRODUCER_GROUP, group)?, required(name::UNIQ_KEY, id)?);
    if let Some(delay) = delayed {
        return Err(HalfError::Delayed(delay));
    }
    properties::push(&mut text, name::TRANSACTION_ID, id);
    properties::push(&mut text, name::REAL_TOPIC, &message.topic);
    properties::push(&mut text, name::REAL_QUEUE_ID, &message.queue_id.to_string());
    if text.len() > MAX_PROPERTIES_BYTES {
        return Err(HalfError::Properties(text.len()));
    }
    let new = NewHalf { transaction: TransactionKey::new(group, id), immunity, resumes: false };
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

fn required<'t>(name: &'static str, value: Option<&'t str>) -> Result<&'t str, HalfError> {
    let value = value.ok_or(HalfError::Missing(name))?;
    if Properties::has_separator(value) { Err(HalfError::Separator(name)) } else { Ok(value) }
}

fn immunity_of(seconds: &str) -> Duration {
    let seconds = seconds.parse::<i64>().ok().and_then(|seconds| u64::try_from(seconds).ok());
    seconds.map_or(Duration::ZERO, |seconds| Duration::from_secs(seconds).min(MAX_IMMUNITY))
}

/// The transaction that a record belongs to: a half, a committed message or a parked copy.
#[must_use]
pub(crate) fn transaction_in(message: &Message) -> Option<TransactionKey> {
    Some(TransactionKey::new(message.property(name::PRODUCER_GROUP)?, message.property(name::UNIQ_KEY)?))
}

/// What the engine needs to know of a half that was read back; its client is not known. `None`: not a half that could
/// ever be ended.
#[must_use]
pub(crate) fn read_half(stored: &StoredMessage) -> Option<Half> {
    let message = &stored.message;
    message.property(name::REAL_TOPIC)?;
    message.property(name::REAL_QUEUE_ID)?.parse::<QueueId>().ok()?;
    let checks = message.property(name::TRANSACTION_CHECK_TIMES).and_then(|checks| checks.parse::<i64>().ok());
    let checks = checks.and_then(|checks| u32::try_from(checks).ok());
    Some(Half {
        offset: HalfOffset::from(stored.queue_offset),
        transaction: transaction_in(message)?,
        stored_at: stored.store_timestamp,
        immunity: message.property(name::CHECK_IMMUNITY_SECONDS).map_or(Duration::ZERO, immunity_of),
        checks: checks.unwrap_or(0),
        // Clients' halves have no count; a renewed one has at least 1; resuming writes 0.
        resumes: checks == Some(0),
        client: None,
    })
}

/// The message that consumers see. `None` when the half does not say where it belongs.
#[must_use]
pub(crate) fn real_message(half: &StoredMessage) -> Option<Message> {
    let (mut real_topic, mut queue_id) = (None, None);
    let mut text = String::with_capacity(half.message.properties.len());
    for (name, value) in properties::pairs(&half.message.properties) {
        match name {
            name::REAL_TOPIC => real_topic = real_topic.or(Some(value)),
            name::REAL_QUEUE_ID => queue_id = queue_id.or(Some(value)),
            _ => properties::push(&mut text, name, value),
        }
    }
    Some(Message {
        topic: half.message.properties.slice_ref(real_topic?),
        queue_id: queue_id?.parse().ok()?,
        sys_flag: sys_flag::with_transaction_bits(half.message.sys_flag, sys_flag::TRANSACTION_COMMIT),
        prepared_transaction_offset: half.log_offset,
        properties: text.into(),
        ..half.message.clone()
    })
}

/// The copy that an operator finds: the half as it is, in the topic of given-up halves.
#[must_use]
pub(crate) fn parked_copy(half: &StoredMessage, checks: u32) -> Message {
    Message {
        topic: ByteString::from_static(topic::CHECK_MAX_TIME),
        queue_id: QUEUE,
        prepared_transaction_offset: half.log_offset,
        properties: counted(half, checks),
        ..half.message.clone()
    }
}

/// Why a message cannot be opened again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    #[error("the message lies in topic {0}; only half messages in {max} can be resumed", max = topic::CHECK_MAX_TIME)]
    NotParked(String),
    #[error("the message in {topic} is not a half: {reason}", topic = topic::CHECK_MAX_TIME)]
    NotAHalf { reason: HalfError },
    #[error("the message in {max} does not name a topic and queue to publish in", max = topic::CHECK_MAX_TIME)]
    NoRealTopic,
}

/// The half to append for a copy that was parked: its transaction is open again, and its checks are counted anew.
pub fn resumed(parked: &StoredMessage) -> Result<(Message, NewHalf), ResumeError> {
    let message = &parked.message;
    if message.topic != topic::CHECK_MAX_TIME {
        return Err(ResumeError::NotParked(message.topic.to_string()));
    }
    let part = |name| required(name, message.property(name)).map_err(|reason| ResumeError::NotAHalf { reason });
    let transaction = TransactionKey::new(part(name::PRODUCER_GROUP)?, part(name::UNIQ_KEY)?);
    real_message(parked).ok_or(ResumeError::NoRealTopic)?;
    let immunity = message.property(name::CHECK_IMMUNITY_SECONDS).map_or(Duration::ZERO, immunity_of);
    let mut properties = message.parsed_properties();
    properties.set(name::TRANSACTION_CHECK_TIMES, "0");
    let properties = properties.encode();
    if properties.len() > MAX_PROPERTIES_BYTES {
        return Err(ResumeError::NotAHalf { reason: HalfError::Properties(properties.len()) });
    }
    let half = Message {
        topic: ByteString::from_static(topic::HALF),
        queue_id: QUEUE,
        prepared_transaction_offset: LogOffset::ZERO,
        properties,
        ..message.clone()
    };
    Ok((half, NewHalf { transaction, immunity, resumes: true }))
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
