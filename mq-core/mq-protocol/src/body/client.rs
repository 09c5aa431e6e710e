//! What clients say of themselves: heartbeats, subscriptions, locks.

use std::collections::BTreeSet;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use crate::java;

/// One queue of a topic on one broker.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageQueue {
    // Field order is the order in which Java compares queues: topic, broker, queue id.
    pub topic: String,
    pub broker_name: String,
    pub queue_id: u32,
}

/// HEART_BEAT (34).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeartbeatData {
    #[serde(rename = "clientID")]
    pub client_id: String,
    pub consumer_data_set: Vec<ConsumerData>,
    pub heartbeat_fingerprint: i32,
    pub producer_data_set: Vec<ProducerData>,
    /// The subscriptions were left out because the broker knows them by their fingerprint.
    pub without_sub: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProducerData {
    pub group_name: String,
    /// Ours, which Apache ignores: topics whose half messages this client can answer checks for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checkback_topics: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerData {
    pub consume_from_where: ConsumeFromWhere,
    pub consume_type: ConsumeType,
    pub group_name: String,
    pub message_model: MessageModel,
    pub subscription_data_set: Vec<Subscription>,
    pub unit_mode: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ConsumeFromWhere {
    #[default]
    ConsumeFromLastOffset,
    ConsumeFromFirstOffset,
    ConsumeFromTimestamp,
    /// Deprecated names that old clients may still send, and anything newer than this.
    #[serde(other)]
    Other,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ConsumeType {
    ConsumeActively,
    #[default]
    ConsumePassively,
    ConsumePop,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MessageModel {
    #[default]
    Clustering,
    Broadcasting,
}

/// What a consumer wants of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Subscription {
    pub class_filter_mode: bool,
    /// Java hashes of the tags; empty: all. Java writes numbers, Go texts.
    #[serde(deserialize_with = "numbers_or_texts")]
    pub code_set: BTreeSet<i32>,
    pub expression_type: String,
    pub sub_string: String,
    /// Milliseconds at which the client made it; the newest wins.
    pub sub_version: i64,
    pub tags_set: BTreeSet<String>,
    pub topic: String,
}

fn numbers_or_texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<i32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Code {
        Number(i32),
        Text(String),
    }
    let codes = Vec::<Code>::deserialize(deserializer)?.into_iter();
    let numbers = codes.map(|code| match code {
        Code::Number(number) => Ok(number),
        Code::Text(text) => text.parse().map_err(D::Error::custom),
    });
    numbers.collect()
}

impl Default for Subscription {
    fn default() -> Self {
        Self {
            class_filter_mode: false,
            code_set: BTreeSet::new(),
            expression_type: Self::TAG.into(),
            sub_string: Self::ALL.into(),
            sub_version: 0,
            tags_set: BTreeSet::new(),
            topic: String::new(),
        }
    }
}

impl Subscription {
    pub const TAG: &'static str = "TAG";
    pub const SQL92: &'static str = "SQL92";
    pub const ALL: &'static str = "*";

    /// A tag expression: tags joined by `||`, or `*` or nothing for all.
    #[must_use]
    pub fn tags(topic: &str, expression: &str, sub_version: i64) -> Self {
        let all = expression.is_empty() || expression == Self::ALL;
        let tags = if all { "" } else { expression };
        let tags_set: BTreeSet<String> =
            tags.split("||").map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned).collect();
        Self {
            code_set: tags_set.iter().map(|tag| java::string_hash(tag)).collect(),
            sub_string: if all { Self::ALL.into() } else { expression.into() },
            sub_version,
            tags_set,
            topic: topic.into(),
            ..Self::default()
        }
    }

    #[must_use]
    pub fn is_tag(&self) -> bool {
        self.expression_type.is_empty() || self.expression_type == Self::TAG
    }

    /// Whether an entry with this tags code may match. Collisions are the client's to sort out.
    #[must_use]
    pub fn may_match(&self, tags_code: i64) -> bool {
        self.code_set.is_empty() || i32::try_from(tags_code).is_ok_and(|code| self.code_set.contains(&code))
    }
}

/// The answer to GET_CONSUMER_LIST_BY_GROUP (38).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerIds {
    pub consumer_id_list: Vec<String>,
}

/// LOCK_BATCH_MQ (41) and UNLOCK_BATCH_MQ (42).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LockBatch {
    pub client_id: String,
    pub consumer_group: String,
    pub mq_set: Vec<MessageQueue>,
    pub only_this_broker: bool,
}

/// The answer to 41.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LockedQueues {
    #[serde(rename = "lockOKMQSet")]
    pub locked: Vec<MessageQueue>,
}

/// CHECK_CLIENT_CONFIG (46).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckClientConfig {
    pub client_id: String,
    pub group: String,
    pub namespace: String,
    pub subscription_data: Subscription,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_tags_are_numbers_or_texts() {
        for (json, codes) in
            [("[]", Some(&[][..])), ("[-3,7]", Some(&[-3, 7])), (r#"["7","-3"]"#, Some(&[-3, 7])), (r#"["x"]"#, None)]
        {
            let read = serde_json::from_str::<Subscription>(&format!(r#"{{"topic":"t","codeSet":{json}}}"#));
            let read = read.ok().map(|subscription| subscription.code_set.into_iter().collect::<Vec<_>>());
            assert_eq!(read.as_deref(), codes, "{json}");
        }
    }

    #[test]
    fn tag_expressions_match_by_hash() {
        for (expression, tag, matches) in [
            ("*", Some("a"), true),
            ("", None, true),
            ("a || b", Some("b"), true),
            (" a||b ", Some("a"), true),
            ("a", Some("b"), false),
            ("a", None, false),
        ] {
            let subscription = Subscription::tags("t", expression, 1);
            assert_eq!(subscription.may_match(java::tags_code(tag)), matches, "{expression} {tag:?}");
        }
    }
}
