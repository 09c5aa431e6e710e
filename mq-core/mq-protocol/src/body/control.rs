//! What brokers and consumers tell each other on behalf of tools: offsets to go to, positions, the fate of one message.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::QueueKey;

/// The answer to INVOKE_BROKER_TO_RESET_OFFSET (222), and the body of RESET_CONSUMER_CLIENT_OFFSET (220).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueOffsets {
    pub offset_table: BTreeMap<QueueKey, i64>,
}

/// The body of 220 for clients in C++, which read no maps by object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueOffsetList {
    pub offset_table: Vec<QueueOffsetEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueOffsetEntry {
    pub broker_name: String,
    pub offset: i64,
    pub queue_id: u32,
    pub topic: String,
}

impl From<&QueueOffsets> for QueueOffsetList {
    fn from(offsets: &QueueOffsets) -> Self {
        let entry = |(QueueKey { 0: queue }, offset): (&QueueKey, &i64)| QueueOffsetEntry {
            broker_name: queue.broker_name.clone(),
            offset: *offset,
            queue_id: queue.queue_id,
            topic: queue.topic.clone(),
        };
        Self { offset_table: offsets.offset_table.iter().map(entry).collect() }
    }
}

/// The answer to 221 (one consumer's positions) and to 223 (those of each member, by client id).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerPositions {
    pub consumer_table: BTreeMap<String, BTreeMap<QueueKey, i64>>,
    pub message_queue_table: BTreeMap<QueueKey, i64>,
}

/// The answer to CONSUME_MESSAGE_DIRECTLY (309).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumedDirectly {
    pub auto_commit: bool,
    pub consume_result: DirectResult,
    pub order: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
    /// Java's name.
    pub spent_time_mills: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirectResult {
    #[default]
    #[serde(rename = "CR_SUCCESS")]
    Success,
    #[serde(rename = "CR_LATER")]
    Later,
    #[serde(rename = "CR_ROLLBACK")]
    Rollback,
    #[serde(rename = "CR_COMMIT")]
    Commit,
    #[serde(rename = "CR_THROW_EXCEPTION")]
    Threw,
    #[serde(rename = "CR_RETURN_NULL")]
    Nothing,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::{from_json, to_json, to_json_with_object_keys};

    #[test]
    fn offsets_travel_as_fastjson_prints_maps_by_queue_and_as_a_list_for_cpp() {
        let text = r#"{"offsetTable":{{"brokerName":"b","queueId":1,"topic":"t"}:2}}"#;
        let offsets: QueueOffsets = from_json("offsets", text.as_bytes()).expect("readable");
        assert_eq!(to_json_with_object_keys(&offsets), text);
        assert_eq!(
            to_json(&QueueOffsetList::from(&offsets)),
            r#"{"offsetTable":[{"brokerName":"b","offset":2,"queueId":1,"topic":"t"}]}"#
        );
        let text = r#"{"consumerTable":{"c@1":{{"brokerName":"b","queueId":1,"topic":"t"}:2}},"messageQueueTable":{}}"#;
        let positions: ConsumerPositions = from_json("positions", text.as_bytes()).expect("readable");
        assert_eq!(to_json_with_object_keys(&positions), text);
    }
}
