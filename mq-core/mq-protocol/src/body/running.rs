//! What a consumer tells of itself: the answer to GET_CONSUMER_RUNNING_INFO (307), as far as our tools show it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{QueueKey, Subscription};
use crate::ids::UnixMillis;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RunningInfo {
    pub mq_table: BTreeMap<QueueKey, HeldQueue>,
    pub properties: BTreeMap<String, String>,
    /// By topic.
    pub status_table: BTreeMap<String, ConsumeRates>,
    pub subscription_set: Vec<Subscription>,
}

/// Where an [`InboxAnswer`] stands among the properties of a [`RunningInfo`], as JSON.
pub const INBOX_PROPERTY: &str = "CHECKBACK_INBOX";

/// What the inbox of a consumer's own database says of one message. `key` is what the inbox knows it by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum InboxAnswer {
    /// Its row is there since then, and with it the effect.
    Done {
        key: String,
        at: UnixMillis,
    },
    NotThere {
        key: String,
    },
    /// It cannot be said now, and why.
    Unknown {
        reason: String,
    },
}

/// A queue that the consumer reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeldQueue {
    pub cached_msg_count: u64,
    pub commit_offset: i64,
    pub locked: bool,
}

/// Times in milliseconds, rates by the second, over the last minute.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ConsumeRates {
    #[serde(rename = "pullRT")]
    pub pull_ms: f64,
    #[serde(rename = "pullTPS")]
    pub pulled: f64,
    #[serde(rename = "consumeRT")]
    pub handle_ms: f64,
    #[serde(rename = "consumeOKTPS")]
    pub acknowledged: f64,
    #[serde(rename = "consumeFailedTPS")]
    pub failed: f64,
    #[serde(rename = "consumeFailedMsgs")]
    pub failed_in_an_hour: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::from_json;

    #[test]
    fn what_a_java_consumer_tells_is_read() {
        let text = r#"{"mqPopTable":{},"mqTable":{{"brokerName":"b","queueId":1,"topic":"t"}:{"cachedMsgCount":3,"cachedMsgMaxOffset":9,"commitOffset":7,"droped":false,"locked":true}},"properties":{"PROP_CONSUME_TYPE":"CONSUME_PASSIVELY"},"statusTable":{"t":{"consumeFailedMsgs":2,"consumeFailedTPS":0.5,"consumeOKTPS":10.0,"consumeRT":1.5,"pullRT":20.0,"pullTPS":10.5}},"subscriptionSet":[]}"#;
        let info: RunningInfo = from_json("running info", text.as_bytes()).expect("readable");
        let held = HeldQueue { cached_msg_count: 3, commit_offset: 7, locked: true };
        assert_eq!(info.mq_table, [(QueueKey::new("b", "t", 1), held)].into());
        let rates = &info.status_table["t"];
        assert_eq!((rates.handle_ms, rates.acknowledged, rates.failed_in_an_hour), (1.5, 10.0, 2));
    }
}
