//! The texts of pop consumption: receipt handles, where an answer's messages come from, retry topics, bit sets.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::{QueueId, QueueOffset, UnixMillis};
use crate::topic::RETRY_PREFIX;

/// The revive queue of messages that are popped in order: nothing revives them, their queue waits.
pub const ORDERLY: u32 = 999;
/// Messages of one pop: a checkpoint has 32 bits.
pub const MAX_MESSAGES: usize = 32;

/// Which topic a popped message lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mark {
    Normal,
    /// `%RETRY%group_topic`.
    RetryV1,
    /// `%RETRY%group+topic`.
    RetryV2,
}

impl Mark {
    pub const RETRIES: [Self; 2] = [Self::RetryV1, Self::RetryV2];

    #[must_use]
    pub fn topic(self, topic: &str, group: &str) -> String {
        match self {
            Self::Normal => topic.to_owned(),
            Self::RetryV1 => format!("{RETRY_PREFIX}{group}_{topic}"),
            Self::RetryV2 => format!("{RETRY_PREFIX}{group}+{topic}"),
        }
    }

    /// What a topic's name says of it.
    #[must_use]
    pub fn of(topic: &str) -> Self {
        match topic.strip_prefix(RETRY_PREFIX) {
            None => Self::Normal,
            Some(rest) if rest.contains('+') => Self::RetryV2,
            Some(_) => Self::RetryV1,
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Normal => "0",
            Self::RetryV1 => "1",
            Self::RetryV2 => "2",
        })
    }
}

impl FromStr for Mark {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "0" => Ok(Self::Normal),
            "1" => Ok(Self::RetryV1),
            "2" => Ok(Self::RetryV2),
            _ => Err(()),
        }
    }
}

/// The topic that a pop retry topic of this group belongs to; any other topic as it is.
#[must_use]
pub fn normal_topic<'t>(topic: &'t str, group: &str) -> &'t str {
    let rest = topic.strip_prefix(RETRY_PREFIX).and_then(|rest| rest.strip_prefix(group));
    rest.and_then(|rest| rest.strip_prefix(['_', '+'])).unwrap_or(topic)
}

/// A receipt handle: the property `POP_CK`, and `extraInfo` of what is asked about a popped message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Handle {
    /// Where the checkpoint starts.
    pub start_offset: QueueOffset,
    pub pop_time: UnixMillis,
    pub invisible_time: i64,
    pub revive_qid: u32,
    pub mark: Mark,
    pub broker_name: String,
    pub queue_id: QueueId,
    /// Of the message; old clients leave it out.
    pub offset: Option<QueueOffset>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a receipt handle (ckOffset popTime invisibleTime reviveQid retry brokerName queueId msgOffset)")]
pub struct HandleError(String);

impl FromStr for Handle {
    type Err = HandleError;

    /// A ninth word, the commit-log offset that the gRPC proxy adds, is left aside.
    fn from_str(text: &str) -> Result<Self, HandleError> {
        read_handle(text).ok_or_else(|| HandleError(text.chars().take(256).collect()))
    }
}

fn read_handle(text: &str) -> Option<Handle> {
    let mut words = text.split(' ');
    Some(Handle {
        start_offset: words.next()?.parse().ok()?,
        pop_time: words.next()?.parse().ok()?,
        invisible_time: words.next()?.parse().ok()?,
        revive_qid: words.next()?.parse().ok()?,
        mark: words.next()?.parse().ok()?,
        broker_name: words.next()?.to_owned(),
        queue_id: words.next()?.parse().ok()?,
        offset: words.next().map(str::parse).transpose().ok()?,
    })
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start_offset, pop_time, invisible_time, revive_qid, mark, broker_name, queue_id, offset } = self;
        write!(f, "{start_offset} {pop_time} {invisible_time} {revive_qid} {mark} {broker_name} {queue_id}")?;
        offset.iter().try_for_each(|offset| write!(f, " {offset}"))
    }
}

/// The part of one queue in an answer to a pop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueShare {
    pub mark: Mark,
    pub queue_id: QueueId,
    pub start_offset: QueueOffset,
    /// Ascending.
    pub offsets: Vec<QueueOffset>,
}

/// `startOffsetInfo`: `mark queueId startOffset;…`.
#[must_use]
pub fn start_offset_info(shares: &[QueueShare]) -> String {
    joined(shares, |share| format!("{} {} {}", share.mark, share.queue_id, share.start_offset))
}

/// `msgOffsetInfo`: `mark queueId offset,offset;…`.
#[must_use]
pub fn msg_offset_info(shares: &[QueueShare]) -> String {
    joined(shares, |share| {
        let offsets: Vec<_> = share.offsets.iter().map(ToString::to_string).collect();
        format!("{} {} {}", share.mark, share.queue_id, offsets.join(","))
    })
}

fn joined(shares: &[QueueShare], one: impl Fn(&QueueShare) -> String) -> String {
    shares.iter().map(one).collect::<Vec<_>>().join(";")
}

/// Reads both texts together; `None` if they do not fit.
#[must_use]
pub fn read_shares(start_offset_info: &str, msg_offset_info: &str) -> Option<Vec<QueueShare>> {
    let triple = |text: &str| -> Option<(Mark, QueueId, String)> {
        let mut words = text.split(' ');
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?.to_owned()))
    };
    let parts =
        |text: &str| -> Option<Vec<_>> { text.split(';').filter(|part| !part.is_empty()).map(triple).collect() };
    let starts = parts(start_offset_info)?;
    parts(msg_offset_info)?
        .into_iter()
        .map(|(mark, queue_id, offsets)| {
            let (.., start) = starts.iter().find(|(m, q, _)| (*m, *q) == (mark, queue_id))?;
            let offsets = offsets.split(',').map(|offset| offset.parse().ok()).collect::<Option<_>>()?;
            Some(QueueShare { mark, queue_id, start_offset: start.parse().ok()?, offsets })
        })
        .collect()
}

/// Java's `BitSet` as JSON: its bytes, the lowest bit first, in base64.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BitSet(Vec<u8>);

impl BitSet {
    /// The numbers of the set bits, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        let bits = |(at, byte): (usize, &u8)| {
            let byte = *byte;
            (0..8u64).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| at as u64 * 8 + bit)
        };
        self.0.iter().enumerate().flat_map(bits)
    }
}

impl FromIterator<u64> for BitSet {
    fn from_iter<I: IntoIterator<Item = u64>>(bits: I) -> Self {
        let mut bytes = Vec::new();
        for bit in bits {
            let at = (bit / 8) as usize;
            if bytes.len() <= at {
                bytes.resize(at + 1, 0);
            }
            bytes[at] |= 1 << (bit % 8);
        }
        Self(bytes)
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

impl Serialize for BitSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::new();
        for three in self.0.chunks(3) {
            let word = three.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
            for digit in 0..4 {
                let index = (word >> (18 - 6 * digit) & 63) as usize;
                text.push(if digit <= three.len() { char::from(BASE64[index]) } else { '=' });
            }
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for BitSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let digits = text.trim_end_matches('=').bytes().map(|byte| BASE64.iter().position(|digit| *digit == byte));
        let digits: Option<Vec<usize>> = digits.collect();
        let digits = digits.ok_or_else(|| serde::de::Error::custom("a bit set is not in base64"))?;
        let mut bytes = Vec::new();
        for four in digits.chunks(4) {
            let word = four.iter().fold(0u32, |word, digit| word << 6 | *digit as u32) << (6 * (4 - four.len()));
            let whole = [(word >> 16) as u8, (word >> 8) as u8, word as u8];
            bytes.extend_from_slice(&whole[..four.len() * 6 / 8]);
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_round_trip_and_broken_ones_are_named() {
        for text in ["0 1795257799730 20000 1 0 broker-a 0 0", "10 5 60000 999 2 b 3 15", "1 2 3 4 1 b 5"] {
            let handle: Handle = text.parse().expect(text);
            assert_eq!(handle.to_string(), text);
            let by_proxy: Handle = format!("{handle} 9976").parse().expect("a word more");
            assert_eq!(by_proxy.start_offset, handle.start_offset);
        }
        for broken in
            ["", "1", "1 2 3 4 5 b 6 7", "1 2 3 4 0 b", "x 2 3 4 0 b 6 7", "1 2 3 4 0 b 6 x", "-1 2 3 4 0 b 6 7"]
        {
            assert!(broken.parse::<Handle>().is_err(), "{broken:?}");
        }
    }

    #[test]
    fn retry_topics_lead_back_to_their_topic() {
        for (mark, name) in
            [(Mark::Normal, "a_T"), (Mark::RetryV1, "%RETRY%g_1_a_T"), (Mark::RetryV2, "%RETRY%g_1+a_T")]
        {
            assert_eq!(mark.topic("a_T", "g_1"), name);
            assert_eq!((Mark::of(name), normal_topic(name, "g_1")), (mark, "a_T"));
            assert_eq!(mark.to_string().parse(), Ok(mark));
        }
        assert_eq!(normal_topic("%RETRY%g", "g"), "%RETRY%g");
    }

    #[test]
    fn the_shares_of_an_answer_are_what_apache_prints() {
        let share = |mark, queue, start, offsets: &[u64]| QueueShare {
            mark,
            queue_id: QueueId(queue),
            start_offset: QueueOffset(start),
            offsets: offsets.iter().copied().map(QueueOffset).collect(),
        };
        let shares = [share(Mark::Normal, 3, 0, &[0, 1]), share(Mark::RetryV1, 0, 4, &[4, 7])];
        let (start, msg) = (start_offset_info(&shares), msg_offset_info(&shares));
        assert_eq!((start.as_str(), msg.as_str()), ("0 3 0;1 0 4", "0 3 0,1;1 0 4,7"));
        assert_eq!(read_shares(&start, &msg).as_deref(), Some(&shares[..]));
        assert_eq!(read_shares("", "").as_deref(), Some(&[][..]));
        assert_eq!(read_shares("0 3 0", "0 4 0"), None);
    }

    #[test]
    fn bit_sets_are_javas() {
        for (bits, json) in [
            (&[][..], "\"\""),
            (&[0], "\"AQ==\""),
            (&[0, 1, 31], "\"AwAAgA==\""),
            (&[9], "\"AAI=\""),
            (&[23, 24], "\"AACAAQ==\""),
        ] {
            let set: BitSet = bits.iter().copied().collect();
            assert_eq!(serde_json::to_string(&set).expect("prints"), json);
            let read: BitSet = serde_json::from_str(json).expect("reads");
            assert_eq!(read.iter().collect::<Vec<_>>(), bits);
        }
        assert!(serde_json::from_str::<BitSet>("\"?\"").is_err());
    }
}
