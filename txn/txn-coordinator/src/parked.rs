//! The copy of a half that was given up, and what is made of it: a half again, a message, an end. Pure.
//!
//! Whatever is made of a copy names it by its log offset in PREPARED_TX_OFFSET. So a start knows which copies were used,
//! and none is used twice.

use std::fmt::Write as _;
use std::net::SocketAddr;

use mq_protocol::body::TxnEvent;
use mq_protocol::ids::{LogOffset, UnixMillis};
use mq_protocol::properties::{MAX_PROPERTIES_BYTES, name};
use mq_protocol::record::{Message, StoredMessage};
use mq_protocol::{ByteString, topic};

use crate::half::{HalfError, NewHalf, QUEUE, real_message};
use crate::history::Told;
use crate::op::op_record;
use crate::said::said;
use crate::types::{HalfOffset, ParkReason};

/// Of the questions and answers so many stand on the copy, the last ones: all of fifteen checks.
const MAX_TOLD: usize = 32;
/// Bytes of a name there, which comes from a client.
const MAX_NAME_BYTES: usize = 96;
/// Bytes of what was said: any of our sentences is shorter.
const MAX_SENTENCE_BYTES: usize = 160;

/// The copy that an operator finds: the half as it is, in the topic of given-up halves, with what is known of it. Of what
/// does not fit into the properties the story goes first.
#[must_use]
pub(crate) fn parked_copy(half: &StoredMessage, checks: u32, reason: Option<ParkReason>, told: &[Told]) -> Message {
    let mut properties = half.message.parsed_properties();
    properties.set(name::TRANSACTION_CHECK_TIMES, checks.to_string());
    properties.set(name::PARKED_HALF, half.queue_offset.to_string());
    properties.set(name::PARKED_REASON, reason.map_or("", ParkReason::name));
    let short = properties.encode();
    properties.set(name::PARKED_TOLD, written(told));
    let fits = |text: &ByteString| text.len() <= MAX_PROPERTIES_BYTES;
    let properties = [properties.encode(), short].into_iter().find(fits);
    Message {
        topic: ByteString::from_static(topic::CHECK_MAX_TIME),
        queue_id: QUEUE,
        prepared_transaction_offset: half.log_offset,
        properties: properties.unwrap_or_else(|| half.message.properties.clone()),
        ..half.message.clone()
    }
}

/// The half that a copy was; Apache's copies do not say.
pub(crate) fn half_in(copy: &Message) -> Option<HalfOffset> {
    copy.property(name::PARKED_HALF)?.parse().ok().map(HalfOffset)
}

/// `time|half|who|what`, a line each.
fn written(told: &[Told]) -> String {
    let mut text = String::new();
    let (first, rest) = told.split_at(usize::from(told.first().is_some_and(|first| first.what == TxnEvent::SENT)));
    for Told { at, half, by, what } in first.iter().chain(&rest[rest.len().saturating_sub(MAX_TOLD)..]) {
        let (by, what) = (plain(by, MAX_NAME_BYTES), plain(what, MAX_SENTENCE_BYTES));
        writeln!(text, "{}|{half}|{by}|{what}", at.0).expect("a string takes everything");
    }
    text
}

/// Names come from clients: nothing that separates anything.
fn plain(words: &str, most_bytes: usize) -> String {
    let short = &words[..words.floor_char_boundary(most_bytes)];
    short.chars().map(|letter| if letter == '|' || letter.is_control() { '_' } else { letter }).collect()
}

/// Who sent the half, and the questions and answers that stand on its copy, oldest first.
pub(crate) fn told_in(copy: &Message) -> Vec<Told> {
    let entry = |line: &str| {
        let mut fields = line.splitn(4, '|');
        let at = UnixMillis(fields.next()?.parse().ok()?);
        let half = HalfOffset(fields.next()?.parse().ok()?);
        Some(Told { at, half, by: fields.next()?.to_owned(), what: fields.next()?.to_owned() })
    };
    copy.property(name::PARKED_TOLD).unwrap_or_default().lines().filter_map(entry).collect()
}

/// Who sent the half that a copy was.
pub(crate) fn client_in(copy: &Message) -> Option<String> {
    told_in(copy).into_iter().next().filter(|first| first.what == TxnEvent::SENT).map(|first| first.by)
}

/// Why nothing can be made of a message.
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
pub(crate) fn resumed(parked: &StoredMessage) -> Result<(Message, NewHalf), ResumeError> {
    let message = &parked.message;
    if message.topic != topic::CHECK_MAX_TIME {
        return Err(ResumeError::NotParked(message.topic.to_string()));
    }
    let said = said(message);
    said.check().map_err(|reason| ResumeError::NotAHalf { reason })?;
    real_message(parked, 0).ok_or(ResumeError::NoRealTopic)?;
    let transaction = said.key(&message.properties).expect("checked above");
    let (part, immunity, check_max) = (said.part(), said.immunity, said.check_max());
    let mut properties = message.parsed_properties();
    properties.set(name::TRANSACTION_CHECK_TIMES, "0");
    for name in [name::PARKED_HALF, name::PARKED_REASON, name::PARKED_TOLD] {
        properties.remove(name);
    }
    let properties = properties.encode();
    if properties.len() > MAX_PROPERTIES_BYTES {
        return Err(ResumeError::NotAHalf { reason: HalfError::Properties(properties.len()) });
    }
    let half = Message {
        topic: ByteString::from_static(topic::HALF),
        queue_id: QUEUE,
        prepared_transaction_offset: parked.log_offset,
        properties,
        ..message.clone()
    };
    Ok((half, NewHalf { transaction, part, immunity, check_max, resumes: true }))
}

/// The record that rolls a copy back: an OP record of the half that it was, which has ended already. To other brokers it
/// says nothing new.
#[must_use]
pub(crate) fn rolled_back(copy: &StoredMessage, now: UnixMillis, host: SocketAddr) -> Message {
    assert!(copy.log_offset > LogOffset::ZERO, "a copy has its half in front of it");
    let half: Vec<_> = half_in(&copy.message).into_iter().collect();
    Message { prepared_transaction_offset: copy.log_offset, ..op_record(&half, now, host) }
}
