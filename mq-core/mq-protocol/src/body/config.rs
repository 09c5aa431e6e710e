//! Topics and groups as they are configured, registered and persisted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Permission bits of a topic.
pub mod perm {
    pub const PRIORITY: u32 = 8;
    pub const READ: u32 = 4;
    pub const WRITE: u32 = 2;
    pub const INHERIT: u32 = 1;
    pub const READ_WRITE: u32 = READ | WRITE;

    #[must_use]
    pub fn readable(perm: u32) -> bool {
        perm & READ != 0
    }

    #[must_use]
    pub fn writable(perm: u32) -> bool {
        perm & WRITE != 0
    }

    #[must_use]
    pub fn inherited(perm: u32) -> bool {
        perm & INHERIT != 0
    }
}

/// Changes with every change of the table that it stands beside; equal only if all three are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DataVersion {
    pub counter: i64,
    pub state_version: i64,
    /// Unix milliseconds.
    pub timestamp: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicConfig {
    pub attributes: BTreeMap<String, String>,
    pub order: bool,
    /// Bits of [`perm`].
    pub perm: u32,
    pub read_queue_nums: u32,
    pub topic_filter_type: String,
    pub topic_name: String,
    pub topic_sys_flag: i32,
    pub write_queue_nums: u32,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            attributes: BTreeMap::new(),
            order: false,
            perm: perm::READ_WRITE,
            read_queue_nums: 16,
            topic_filter_type: "SINGLE_TAG".into(),
            topic_name: String::new(),
            topic_sys_flag: 0,
            write_queue_nums: 16,
        }
    }
}

impl TopicConfig {
    #[must_use]
    pub fn new(name: impl Into<String>, queues: u32, perm: u32) -> Self {
        Self { topic_name: name.into(), read_queue_nums: queues, write_queue_nums: queues, perm, ..Self::default() }
    }
}

/// Topics with their version: `config/topics.json`, the answer to 21, and a part of a registration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicConfigTable {
    pub data_version: DataVersion,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mapping_data_version: Option<DataVersion>,
    pub topic_config_table: BTreeMap<String, TopicConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic_queue_mapping_detail_map: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic_queue_mapping_info_map: Option<serde_json::Value>,
}

/// A consumer group's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionGroup {
    pub attributes: BTreeMap<String, String>,
    pub broker_id: u64,
    pub consume_broadcast_enable: bool,
    pub consume_enable: bool,
    pub consume_from_min_enable: bool,
    pub consume_message_orderly: bool,
    pub consume_timeout_minute: u32,
    pub group_name: String,
    pub group_retry_policy: serde_json::Value,
    pub group_sys_flag: i32,
    pub notify_consumer_ids_changed_enable: bool,
    pub retry_max_times: i32,
    pub retry_queue_nums: u32,
    pub which_broker_when_consume_slowly: u64,
}

impl Default for SubscriptionGroup {
    fn default() -> Self {
        Self {
            attributes: BTreeMap::new(),
            broker_id: 0,
            consume_broadcast_enable: true,
            consume_enable: true,
            consume_from_min_enable: true,
            consume_message_orderly: false,
            consume_timeout_minute: 15,
            group_name: String::new(),
            group_retry_policy: serde_json::json!({"type": "CUSTOMIZED"}),
            group_sys_flag: 0,
            notify_consumer_ids_changed_enable: true,
            retry_max_times: 16,
            retry_queue_nums: 1,
            which_broker_when_consume_slowly: 1,
        }
    }
}

/// Groups with their version: `config/subscriptionGroup.json` and the answer to 201.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionGroupTable {
    pub data_version: DataVersion,
    pub forbidden_table: BTreeMap<String, BTreeMap<String, i32>>,
    pub subscription_group_table: BTreeMap<String, SubscriptionGroup>,
}

/// `config/consumerOffset.json` and the answer to 43: `topic@group` to queue to offset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerOffsetTable {
    pub data_version: DataVersion,
    pub offset_table: BTreeMap<String, BTreeMap<u32, u64>>,
}

/// `config/delayOffset.json`: delay level to the next offset of its queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DelayOffsetTable {
    pub data_version: DataVersion,
    pub offset_table: BTreeMap<u32, u64>,
}
