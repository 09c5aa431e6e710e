//! Where a group begins: its attribute `consume.from`, and the first offset of each queue that follows from it.
//!
//! Without the attribute each client decides for itself, at the moment when it first asks for a queue. With it the group
//! begins every queue at the same moment, also one that is added later or read late: nothing in between is passed over.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use mq_protocol::body::SubscriptionGroup;
use mq_protocol::ids::{QueueId, QueueOffset, UnixMillis};
use mq_protocol::topic;
use mq_store::Boundary;

use crate::broker::Broker;
use crate::handlers::error::Refusal;

const CONSUME_FROM: &str = "consume.from";

/// What a group's attribute says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    First,
    /// What is stored from the moment on at which the attribute was set.
    Last(UnixMillis),
    Time(UnixMillis),
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AttributeError {
    #[error("{0}: write +{CONSUME_FROM} to set a group's attribute and -{CONSUME_FROM} to take it back")]
    Unsigned(String),
    #[error("{0} is not an attribute of groups; {CONSUME_FROM} is")]
    Unknown(String),
    #[error("{CONSUME_FROM}={0}: first, last, or timestamp:<milliseconds since 1970> is expected")]
    Value(String),
}

impl Start {
    pub(crate) fn of(group: &SubscriptionGroup) -> Option<Self> {
        group.attributes.get(CONSUME_FROM)?.parse().ok()
    }

    /// What `asked` sets; a `last` that is held already keeps its moment, so that asking twice passes over nothing.
    fn set(asked: &str, held: Option<Self>, now: UnixMillis) -> Result<Self, AttributeError> {
        match (asked, held) {
            ("last", Some(held @ Self::Last(_))) => Ok(held),
            ("last", _) => Ok(Self::Last(now)),
            _ => asked.parse(),
        }
    }
}

impl FromStr for Start {
    type Err = AttributeError;

    fn from_str(text: &str) -> Result<Self, AttributeError> {
        let wrong = || AttributeError::Value(text.to_owned());
        let (kind, time) = match text.split_once(':') {
            None if text == "first" => return Ok(Self::First),
            None => return Err(wrong()),
            Some((kind, time)) => (kind, UnixMillis(time.parse().map_err(|_| wrong())?)),
        };
        match kind {
            "last" => Ok(Self::Last(time)),
            "timestamp" => Ok(Self::Time(time)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => f.write_str("first"),
            Self::Last(since) => write!(f, "last:{}", since.0),
            Self::Time(time) => write!(f, "timestamp:{}", time.0),
        }
    }
}

type Attributes = BTreeMap<String, String>;

/// The attributes of a group that holds `held`, after a tool asked for `changes` (`+key` sets, `-key` takes back).
pub(crate) fn altered(held: &Attributes, changes: &Attributes, now: UnixMillis) -> Result<Attributes, AttributeError> {
    let mut altered = held.clone();
    for (signed, value) in changes {
        if held.get(signed) == Some(value) {
            continue; // A tool that read the group and writes it back.
        }
        let (set, key) = match (signed.strip_prefix('+'), signed.strip_prefix('-')) {
            (Some(key), _) => (true, key),
            (_, Some(key)) => (false, key),
            _ => return Err(AttributeError::Unsigned(signed.clone())),
        };
        if key != CONSUME_FROM {
            return Err(AttributeError::Unknown(key.to_owned()));
        }
        if set {
            let held = held.get(key).and_then(|held| held.parse().ok());
            altered.insert(key.to_owned(), Start::set(value, held, now)?.to_string());
        } else {
            altered.remove(key);
        }
    }
    Ok(altered)
}

/// Puts a group that has no offset in this queue where it is to start, for good. Reads the log.
pub(crate) fn begin(
    broker: &Broker,
    start: Start,
    group: &str,
    topic: &str,
    queue: QueueId,
) -> Result<QueueOffset, Refusal> {
    let offset = match start {
        // Retries of a group are its own: none of them is old news.
        _ if topic::is_retry(topic) => broker.store.queue_bounds(topic, queue).min,
        Start::First => broker.store.queue_bounds(topic, queue).min,
        Start::Last(time) | Start::Time(time) => broker.store.offset_by_time(topic, queue, time, Boundary::Lower)?,
    };
    broker.offsets.admit(group, topic, queue)?;
    Ok(broker.offsets.begin(group, topic, queue, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_set_kept_and_taken_back() {
        let all = |text: &str| -> Attributes {
            let pair = |pair: &str| pair.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
            text.split_whitespace().filter_map(pair).collect()
        };
        for (held, changes, expected) in [
            ("", "", Ok("")),
            ("", "+consume.from=first", Ok("consume.from=first")),
            ("", "+consume.from=last", Ok("consume.from=last:7")),
            ("consume.from=last:3", "+consume.from=last", Ok("consume.from=last:3")),
            ("consume.from=first", "+consume.from=last", Ok("consume.from=last:7")),
            ("consume.from=last:3", "+consume.from=timestamp:5", Ok("consume.from=timestamp:5")),
            ("consume.from=last:3", "", Ok("consume.from=last:3")),
            ("consume.from=last:3", "consume.from=last:3", Ok("consume.from=last:3")),
            ("consume.from=last:3", "-consume.from=", Ok("")),
            ("", "-consume.from=", Ok("")),
            ("other=1", "+consume.from=first", Ok("other=1 consume.from=first")),
            ("", "consume.from=first", Err(AttributeError::Unsigned("consume.from".into()))),
            ("", "+other=1", Err(AttributeError::Unknown("other".into()))),
            ("", "+consume.from=timestamp:noon", Err(AttributeError::Value("timestamp:noon".into()))),
            ("", "+consume.from=never:1", Err(AttributeError::Value("never:1".into()))),
            ("", "+consume.from=", Err(AttributeError::Value(String::new()))),
        ] {
            let outcome = altered(&all(held), &all(changes), UnixMillis(7));
            assert_eq!(outcome, expected.map(all), "{held} then {changes}");
        }
    }
}
