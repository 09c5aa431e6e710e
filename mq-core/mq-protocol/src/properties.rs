//! Message properties: `name 0x01 value 0x02` repeated, and the names that the protocol gives a meaning.

use bytestring::ByteString;

const NAME_END: char = '\u{1}';
const VALUE_END: char = '\u{2}';
/// The length of the property text is a signed 16-bit number in the record.
pub const MAX_PROPERTIES_BYTES: usize = i16::MAX as usize;

/// Names with a meaning to brokers and clients.
pub mod name {
    pub const KEYS: &str = "KEYS";
    pub const TAGS: &str = "TAGS";
    pub const UNIQ_KEY: &str = "UNIQ_KEY";
    pub const WAIT: &str = "WAIT";
    pub const DELAY: &str = "DELAY";
    pub const RETRY_TOPIC: &str = "RETRY_TOPIC";
    pub const REAL_TOPIC: &str = "REAL_TOPIC";
    pub const REAL_QUEUE_ID: &str = "REAL_QID";
    pub const TRANSACTION_PREPARED: &str = "TRAN_MSG";
    pub const PRODUCER_GROUP: &str = "PGROUP";
    pub const ORIGIN_MESSAGE_ID: &str = "ORIGIN_MESSAGE_ID";
    pub const RECONSUME_TIME: &str = "RECONSUME_TIME";
    pub const MAX_RECONSUME_TIMES: &str = "MAX_RECONSUME_TIMES";
    pub const MSG_REGION: &str = "MSG_REGION";
    pub const TRACE_ON: &str = "TRACE_ON";
    pub const CLUSTER: &str = "CLUSTER";
    pub const CHECK_IMMUNITY_SECONDS: &str = "CHECK_IMMUNITY_TIME_IN_SECONDS";
    pub const TRANSACTION_CHECK_TIMES: &str = "TRANSACTION_CHECK_TIMES";
    pub const TRAN_PREPARED_QUEUE_OFFSET: &str = "TRAN_PREPARED_QUEUE_OFFSET";
    pub const TRANSACTION_ID: &str = "__transactionId__";
    pub const INSTANCE_ID: &str = "INSTANCE_ID";
    pub const SHARDING_KEY: &str = "__SHARDINGKEY";
    pub const TIMER_DELIVER_MS: &str = "TIMER_DELIVER_MS";
    pub const TIMER_DELAY_MS: &str = "TIMER_DELAY_MS";
    pub const TIMER_DELAY_SEC: &str = "TIMER_DELAY_SEC";
    pub const CORRELATION_ID: &str = "CORRELATION_ID";
    pub const REPLY_TO_CLIENT: &str = "REPLY_TO_CLIENT";
    /// How long the requester waits, in milliseconds.
    pub const TTL: &str = "TTL";
    /// `reply` on replies to requests.
    pub const MESSAGE_TYPE: &str = "MSG_TYPE";
    pub const PUSH_REPLY_TIME: &str = "PUSH_REPLY_TIME";
    /// The slot that a message waits for; the next ones say since when it waited, until when, and how often anew.
    pub const TIMER_OUT_MS: &str = "TIMER_OUT_MS";
    pub const TIMER_ENQUEUE_MS: &str = "TIMER_ENQUEUE_MS";
    pub const TIMER_DEQUEUE_MS: &str = "TIMER_DEQUEUE_MS";
    pub const TIMER_ROLL_TIMES: &str = "TIMER_ROLL_TIMES";
    /// On a message that takes back another one: that one's unique key.
    pub const TIMER_DELETE_KEY: &str = "TIMER_DEL_UNIQKEY";
    /// 0 is the lowest; a priority is a queue.
    pub const PRIORITY: &str = "_SYS_MSG_PRIORITY_";
    pub const POP_CK: &str = "POP_CK";
    pub const FIRST_POP_TIME: &str = "1ST_POP_TIME";
    pub const DLQ_ORIGIN_TOPIC: &str = "DLQ_ORIGIN_TOPIC";
    pub const DLQ_ORIGIN_MESSAGE_ID: &str = "DLQ_ORIGIN_MESSAGE_ID";
    // Of ours, on half messages: Apache's brokers carry them and do nothing.
    /// The id that several messages of one transaction share.
    pub const SHARED_ID: &str = "CHECKBACK_SHARED_ID";
    /// Which of them this is: `i/n`.
    pub const PART: &str = "CHECKBACK_PART";
    /// How many records of its append follow this one; on the first message of a transaction that has several.
    pub const FOLLOWERS: &str = "CHECKBACK_FOLLOWERS";
    /// The message is delivered so long after its commit.
    pub const DELAY_FROM_COMMIT_MS: &str = "CHECKBACK_DELAY_MS";
    /// Messages with the same key stand in one queue in the order of their commits.
    pub const ORDER_KEY: &str = "CHECKBACK_ORDER_KEY";
    /// The transaction that a message belongs to, as its SDK knows it.
    pub const SDK_TRANSACTION: &str = "CHECKBACK_TX_ID";
    /// The database that knows what became of it.
    pub const SDK_DATABASE: &str = "CHECKBACK_DATABASE";
    /// On a message from an SDK's outbox: the transaction that put it there.
    pub const SDK_OUTBOX_TRANSACTION: &str = "CHECKBACK_OUTBOX_TX_ID";
    /// Instead of `transactionCheckMax`.
    pub const MAX_CHECKS: &str = "CHECKBACK_MAX_CHECKS";
    /// Why a half was parked; on its copy.
    pub const PARKED_REASON: &str = "CHECKBACK_PARKED";
    /// Which half it was: its offset in the half queue; on the same.
    pub const PARKED_HALF: &str = "CHECKBACK_HALF";
    /// Who sent the half, and the questions and answers about it; on the same.
    pub const PARKED_TOLD: &str = "CHECKBACK_TOLD";
}

/// An ordered map of properties, sharing the buffer that it was read from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties(Vec<(ByteString, ByteString)>);

impl Properties {
    /// Pairs with an empty name or value are dropped, as Apache does; the last terminator may be missing.
    #[must_use]
    pub fn parse(text: &ByteString) -> Self {
        Self(pairs(text).map(|(name, value)| (text.slice_ref(name), text.slice_ref(value))).collect())
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&ByteString> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Replaces or adds; an empty value removes.
    pub fn set(&mut self, name: impl Into<ByteString>, value: impl Into<ByteString>) {
        let (name, value) = (name.into(), value.into());
        self.remove(&name);
        if !value.is_empty() {
            self.0.push((name, value));
        }
    }

    pub fn remove(&mut self, name: &str) -> Option<ByteString> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.remove(at).1)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&ByteString, &ByteString)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// The text form, with the trailing terminator that 5.x brokers write.
    #[must_use]
    pub fn encode(&self) -> ByteString {
        let mut text = String::with_capacity(self.0.iter().map(|(name, value)| name.len() + value.len() + 2).sum());
        for (name, value) in &self.0 {
            push(&mut text, name, value);
        }
        text.into()
    }

    /// Whether a name or value could not be told apart from a separator on the wire.
    #[must_use]
    pub fn has_separator(text: &str) -> bool {
        text.contains([NAME_END, VALUE_END])
    }
}

impl<N: Into<ByteString>, V: Into<ByteString>> FromIterator<(N, V)> for Properties {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut properties = Self::default();
        for (name, value) in pairs {
            properties.set(name, value);
        }
        properties
    }
}

/// The value of one property in its text form, without parsing the rest.
#[must_use]
pub fn find<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    fields(text).find_map(|field| value_of(field, name))
}

/// The pairs of a text form, in order, without those that have an empty name or value.
pub fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let whole = |(name, value): &(&str, &str)| !name.is_empty() && !value.is_empty();
    fields(text).filter_map(move |field| cut(field, NAME_END).filter(whole))
}

/// The same as they stand there, for who looks for few of them: see [`value_of`].
pub fn fields(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (field, behind) = cut(rest, VALUE_END).unwrap_or((rest, ""));
        let more = !rest.is_empty();
        rest = behind;
        more.then_some(field)
    })
}

/// The value, if the field has this name.
#[must_use]
pub fn value_of<'t>(field: &'t str, name: &str) -> Option<&'t str> {
    let value = field.strip_prefix(name)?.strip_prefix(NAME_END)?;
    (!value.is_empty() && !name.is_empty()).then_some(value)
}

/// Before and behind the separator.
fn cut(text: &str, separator: char) -> Option<(&str, &str)> {
    let at = position(text.as_bytes(), separator as u8)?;
    Some((&text[..at], &text[at + 1..]))
}

/// Of the first such byte. Eight at a time, and without the start-up of a search made for long texts.
fn position(bytes: &[u8], wanted: u8) -> Option<usize> {
    const LOW_BITS: u64 = 0x7F7F_7F7F_7F7F_7F7F;
    let all = u64::from_be_bytes([wanted; 8]);
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let different = u64::from_be_bytes(*word) ^ all;
        // The high bit of each byte that is zero here.
        let found = !(((different & LOW_BITS) + LOW_BITS) | different | LOW_BITS);
        if found != 0 {
            return Some(index * 8 + found.leading_zeros() as usize / 8);
        }
    }
    let at = rest.iter().position(|byte| *byte == wanted)?;
    Some(bytes.len() - rest.len() + at)
}

/// Appends one pair of a text form.
pub fn push(text: &mut String, name: &str, value: &str) {
    text.push_str(name);
    text.push(NAME_END);
    text.push_str(value);
    text.push(VALUE_END);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_as_apache_reads_it() {
        for (text, expected) in [
            ("", ""),
            ("a\u{1}b\u{2}", "a=b"),
            ("a\u{1}b\u{2}c\u{1}d", "a=b,c=d"),
            ("a\u{1}\u{2}\u{1}b\u{2}junk\u{2}c\u{1}d\u{2}", "c=d"),
        ] {
            let read = Properties::parse(&text.into());
            assert_eq!(read.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join(","), expected);
            assert_eq!(Properties::parse(&read.encode()), read);
            for (name, value) in read.iter() {
                assert_eq!(find(text, name), Some(&**value), "{name} in {text:?}");
            }
            for name in ["", "b", "junk", "nothing"] {
                assert_eq!(find(text, name), None, "{name} in {text:?}");
            }
        }
    }

    #[test]
    fn a_separator_is_found_wherever_it_stands() {
        for length in 0..40 {
            let mut bytes = [vec![0x82, 3, 0], vec![0x7F; 40]].concat();
            bytes.rotate_left(length % 5);
            bytes.truncate(length);
            assert_eq!(position(&bytes, 2), None);
            for at in (0..length).rev() {
                bytes[at] = 2;
                assert_eq!(position(&bytes, 2), Some(at), "of {length} bytes");
            }
        }
    }
}
