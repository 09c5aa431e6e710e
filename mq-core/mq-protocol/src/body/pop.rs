//! Pop consumption: batches of acknowledgements, the records of the revive topic, retry policies; and which queues a
//! consumer gets when the broker shares them out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{MessageModel, MessageQueue};
use crate::ids::{QueueId, QueueOffset, UnixMillis};
use crate::pop::BitSet;

/// BATCH_ACK_MESSAGE (200151).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BatchAcks {
    pub broker_name: String,
    pub acks: Vec<BatchAck>,
}

/// Messages of one queue that one pop gave out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchAck {
    #[serde(rename = "c", alias = "consumerGroup")]
    pub consumer_group: String,
    #[serde(rename = "t", alias = "topic")]
    pub topic: String,
    /// `0`, `1` or `2`: see [`crate::pop::Mark`].
    #[serde(rename = "r", alias = "retry")]
    pub retry: String,
    #[serde(rename = "so", alias = "startOffset")]
    pub start_offset: QueueOffset,
    #[serde(rename = "q", alias = "queueId")]
    pub queue_id: QueueId,
    #[serde(rename = "rq", alias = "reviveQueueId")]
    pub revive_qid: u32,
    #[serde(rename = "pt", alias = "popTime")]
    pub pop_time: UnixMillis,
    #[serde(rename = "it", alias = "invisibleTime")]
    pub invisible_time: i64,
    /// Bit `i` stands for the offset `start_offset + i`.
    #[serde(rename = "b", alias = "bitSet")]
    pub bits: BitSet,
}

/// A checkpoint: messages of one queue that one pop gave out. Tag `ck` of the revive topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointRecord {
    #[serde(rename = "so")]
    pub start_offset: QueueOffset,
    #[serde(rename = "pt")]
    pub pop_time: UnixMillis,
    #[serde(rename = "it")]
    pub invisible_time: i64,
    /// Bits of what is acknowledged: Apache's memory form, 0 in the log.
    #[serde(rename = "bm", default)]
    pub bit_map: i32,
    #[serde(rename = "n", default)]
    pub num: i8,
    #[serde(rename = "q")]
    pub queue_id: QueueId,
    #[serde(rename = "t")]
    pub topic: String,
    #[serde(rename = "c")]
    pub consumer_group: String,
    #[serde(rename = "ro", default)]
    pub revive_offset: i64,
    /// From `start_offset` to each message; empty: the first `num` messages.
    #[serde(rename = "d", default)]
    pub diffs: Vec<u32>,
    #[serde(rename = "bn", default, skip_serializing_if = "Option::is_none")]
    pub broker_name: Option<String>,
    #[serde(rename = "rp", default, skip_serializing_if = "Option::is_none")]
    pub re_put_times: Option<String>,
    /// Ours, which Apache ignores: the message was taken over from this checkpoint by 200053.
    #[serde(rename = "from", default, skip_serializing_if = "Option::is_none")]
    pub from: Option<TakenFrom>,
}

/// See [`CheckpointRecord::from`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenFrom {
    #[serde(rename = "so")]
    pub start_offset: QueueOffset,
    #[serde(rename = "pt")]
    pub pop_time: UnixMillis,
}

impl CheckpointRecord {
    /// The queue offsets of its messages.
    pub fn offsets(&self) -> impl Iterator<Item = QueueOffset> + '_ {
        let count = if self.diffs.is_empty() { u32::try_from(self.num).unwrap_or(0) } else { 0 };
        (0..count).chain(self.diffs.iter().copied()).map(|diff| self.start_offset.plus(u64::from(diff)))
    }
}

/// An acknowledgement: tag `ack` of the revive topic, and with a list tag `bAck`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AckRecord {
    /// -1 beside a list.
    #[serde(rename = "ao", alias = "ackOffset")]
    pub ack_offset: i64,
    #[serde(rename = "so", alias = "startOffset")]
    pub start_offset: QueueOffset,
    #[serde(rename = "c", alias = "consumerGroup")]
    pub consumer_group: String,
    #[serde(rename = "t", alias = "topic")]
    pub topic: String,
    #[serde(rename = "q", alias = "queueId")]
    pub queue_id: QueueId,
    #[serde(rename = "pt", alias = "popTime")]
    pub pop_time: UnixMillis,
    #[serde(rename = "bn", alias = "brokerName", default, skip_serializing_if = "Option::is_none")]
    pub broker_name: Option<String>,
    #[serde(rename = "aol", alias = "ackOffsetList", default, skip_serializing_if = "Vec::is_empty")]
    pub ack_offsets: Vec<QueueOffset>,
}

impl AckRecord {
    pub fn offsets(&self) -> impl Iterator<Item = QueueOffset> + '_ {
        let one = u64::try_from(self.ack_offset).ok().map(QueueOffset);
        one.into_iter().chain(self.ack_offsets.iter().copied())
    }
}

/// How long a group's messages rest between two attempts: `groupRetryPolicy` of its settings, where it says more than
/// Apache's default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetryPolicy {
    Exponential {
        initial_ms: u64,
        max_ms: u64,
        multiplier: u64,
    },
    /// Milliseconds; the third is that of the first retry, because a retry starts at delay level 3.
    Customized {
        next_ms: Vec<u64>,
    },
}

/// The third of the list belongs to the first retry.
const FIRST_RETRY: usize = 2;
const MAX_EXPONENT: u32 = 32;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct StoredPolicy {
    #[serde(rename = "type")]
    kind: String,
    exponential_retry_policy: Option<StoredExponential>,
    customized_retry_policy: Option<StoredCustomized>,
}

#[derive(Deserialize)]
#[serde(default)]
struct StoredExponential {
    initial: u64,
    max: u64,
    multiplier: u64,
}

#[derive(Deserialize)]
struct StoredCustomized {
    next: Vec<u64>,
}

impl Default for StoredPolicy {
    fn default() -> Self {
        Self { kind: "CUSTOMIZED".into(), exponential_retry_policy: None, customized_retry_policy: None }
    }
}

impl Default for StoredExponential {
    fn default() -> Self {
        Self { initial: 5_000, max: 7_200_000, multiplier: 2 }
    }
}

impl RetryPolicy {
    /// `None`: the group has Apache's default, which leaves the time to the delay levels and to the consumers.
    #[must_use]
    pub fn of(group_retry_policy: &serde_json::Value) -> Option<Self> {
        let stored = StoredPolicy::deserialize(group_retry_policy).ok()?;
        match (stored.kind.as_str(), stored.exponential_retry_policy, stored.customized_retry_policy) {
            ("EXPONENTIAL", Some(policy), _) => Some(Self::Exponential {
                initial_ms: policy.initial,
                max_ms: policy.max,
                multiplier: policy.multiplier,
            }),
            ("CUSTOMIZED", _, Some(policy)) if !policy.next.is_empty() => {
                Some(Self::Customized { next_ms: policy.next })
            }
            _ => None,
        }
    }

    /// The rest before the next attempt of a message that was tried again so often.
    #[must_use]
    pub fn next_delay(&self, reconsume_times: i32) -> Duration {
        let times = u32::try_from(reconsume_times).unwrap_or(0);
        Duration::from_millis(match self {
            Self::Exponential { initial_ms, max_ms, multiplier } => {
                let factor = multiplier.saturating_pow(times.min(MAX_EXPONENT));
                initial_ms.saturating_mul(factor).min(*max_ms)
            }
            Self::Customized { next_ms } => {
                let index = (times as usize).saturating_add(FIRST_RETRY).min(next_ms.len() - 1);
                next_ms[index]
            }
        })
    }
}

/// How the members of a group read a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum RequestMode {
    #[default]
    Pull,
    Pop,
}

/// IS_POPPED (7006), ours: whether a group has this message in its hands by a pop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IsPopped {
    pub group: String,
    pub topic: String,
    pub queue_id: u32,
    pub offset: u64,
}

/// The answer to 7006.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Popped {
    /// `None`: nobody holds it. Milliseconds, as the next one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub popped_at: Option<i64>,
    /// When it is given out again, unless it is acknowledged before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
}

/// SET_MESSAGE_REQUEST_MODE (401).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MessageRequestMode {
    pub consumer_group: String,
    pub mode: RequestMode,
    /// How many of the following members' queues a member pops as well; 0 and less: all of them.
    pub pop_share_queue_num: i32,
    pub topic: String,
}

/// QUERY_ASSIGNMENT (400).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueryAssignment {
    pub client_id: String,
    pub consumer_group: String,
    pub message_model: MessageModel,
    /// `AVG` or `AVG_BY_CIRCLE`.
    pub strategy_name: String,
    pub topic: String,
}

/// The answer to 400. Without a list the client keeps what it has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueAssignments {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_queue_assignments: Option<Vec<QueueAssignment>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueAssignment {
    pub message_queue: AssignedQueue,
    pub mode: RequestMode,
}

/// A queue, or with -1 all queues of the topic on a broker.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AssignedQueue {
    pub broker_name: String,
    pub queue_id: i32,
    pub topic: String,
}

impl From<&MessageQueue> for AssignedQueue {
    fn from(queue: &MessageQueue) -> Self {
        Self {
            broker_name: queue.broker_name.clone(),
            queue_id: i32::try_from(queue.queue_id).unwrap_or(i32::MAX),
            topic: queue.topic.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_says_how_long_to_rest_and_the_default_says_nothing() {
        let exponential =
            r#"{"type":"EXPONENTIAL","exponentialRetryPolicy":{"initial":100,"max":1000,"multiplier":3}}"#;
        let customized = r#"{"type":"CUSTOMIZED","customizedRetryPolicy":{"next":[1,2,30,40]}}"#;
        for (policy, delays) in [
            (r#"{"type":"CUSTOMIZED"}"#, None),
            (r#"{"type":"EXPONENTIAL"}"#, None),
            (r#"{"type":"CUSTOMIZED","customizedRetryPolicy":{"next":[]}}"#, None),
            ("null", None),
            (r#"{"type":"EXPONENTIAL","exponentialRetryPolicy":{}}"#, Some([5_000, 10_000, 20_000, 7_200_000])),
            (exponential, Some([100, 300, 900, 1000])),
            (customized, Some([30, 40, 40, 40])),
        ] {
            let policy = RetryPolicy::of(&serde_json::from_str(policy).expect("JSON"));
            let found = policy.map(|policy| [0, 1, 2, 40].map(|times| policy.next_delay(times).as_millis() as u64));
            assert_eq!(found, delays);
        }
    }

    #[test]
    fn the_records_of_the_revive_topic_are_apaches() {
        let checkpoint = r#"{"bm":0,"bn":"broker-a","c":"g","d":[0,2],"it":60000,"n":2,"pt":1700000000000,"q":3,"ro":0,"so":10,"t":"T"}"#;
        let read: CheckpointRecord = serde_json::from_str(checkpoint).expect("readable");
        assert_eq!(read.offsets().collect::<Vec<_>>(), [QueueOffset(10), QueueOffset(12)]);
        let again: serde_json::Value = serde_json::to_value(&read).expect("printable");
        assert_eq!(again, serde_json::from_str::<serde_json::Value>(checkpoint).expect("JSON"));
        let old = r#"{"c":"g","it":1,"n":2,"pt":1,"q":0,"so":5,"t":"T"}"#;
        let read: CheckpointRecord = serde_json::from_str(old).expect("readable");
        assert_eq!(read.offsets().collect::<Vec<_>>(), [QueueOffset(5), QueueOffset(6)]);
        let ack = r#"{"ackOffset":7,"startOffset":5,"consumerGroup":"g","topic":"T","queueId":0,"popTime":1}"#;
        let read: AckRecord = serde_json::from_str(ack).expect("readable");
        assert_eq!(read.offsets().collect::<Vec<_>>(), [QueueOffset(7)]);
        let batch = r#"{"ao":-1,"so":5,"c":"g","t":"T","q":0,"pt":1,"aol":[5,6]}"#;
        let read: AckRecord = serde_json::from_str(batch).expect("readable");
        assert_eq!(read.offsets().collect::<Vec<_>>(), [QueueOffset(5), QueueOffset(6)]);
    }
}
