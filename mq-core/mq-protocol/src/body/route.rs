//! What the name server hears from brokers and tells clients.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{TopicConfigTable, to_json};

/// Clients from 4.9.4 on read standard JSON; older ones expect fastjson's unquoted integer keys.
const STANDARD_JSON_SINCE: i32 = 401;

/// Everything a client needs to find a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicRoute {
    pub broker_datas: Vec<BrokerData>,
    pub filter_server_table: BTreeMap<String, Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_topic_conf: Option<String>,
    pub queue_datas: Vec<QueueData>,
}

impl TopicRoute {
    /// The JSON text for a client of this version.
    #[must_use]
    pub fn to_json(&self, client_version: i32) -> Bytes {
        if client_version >= STANDARD_JSON_SINCE { to_json(self) } else { unquote_broker_ids(&to_json(self)) }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BrokerData {
    /// Broker id (0: master) to `ip:port`.
    pub broker_addrs: BTreeMap<u64, String>,
    pub broker_name: String,
    pub cluster: String,
    pub enable_acting_master: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone_name: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueData {
    pub broker_name: String,
    pub perm: u32,
    pub read_queue_nums: u32,
    pub topic_sys_flag: i32,
    pub write_queue_nums: u32,
}

/// The answer to GET_BROKER_CLUSTER_INFO (106).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterInfo {
    pub broker_addr_table: BTreeMap<String, BrokerData>,
    pub cluster_addr_table: BTreeMap<String, Vec<String>>,
}

impl ClusterInfo {
    /// Apache prints this one with unquoted broker ids for every client.
    #[must_use]
    pub fn to_json(&self) -> Bytes {
        unquote_broker_ids(&to_json(self))
    }
}

/// A list of topic names: 206, 224, 304.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicList {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker_addr: Option<String>,
    pub topic_list: Vec<String>,
}

/// A table of texts: 219, and the answer to a registration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KvTable {
    pub table: BTreeMap<String, String>,
}

/// REGISTER_BROKER (103), when it is not compressed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegisterBrokerBody {
    pub filter_server_list: Vec<String>,
    pub topic_config_serialize_wrapper: TopicConfigTable,
}

/// Turns `"brokerAddrs":{"0":` into `"brokerAddrs":{0:`. Works on our own output, where an address holds no quote.
fn unquote_broker_ids(json: &[u8]) -> Bytes {
    const KEY: &[u8] = b"\"brokerAddrs\":{";
    let mut out = Vec::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.windows(KEY.len()).position(|window| window == KEY) {
        let (head, table) = rest.split_at(at + KEY.len());
        let end = table.iter().position(|byte| *byte == b'}').unwrap_or(table.len());
        out.extend_from_slice(head);
        let mut in_key = true;
        for (index, byte) in table[..end].iter().enumerate() {
            match byte {
                b'"' if in_key => {}
                b':' if in_key && table[..index].ends_with(b"\"") => {
                    in_key = false;
                    out.push(b':');
                }
                b',' if table[..index].ends_with(b"\"") => {
                    in_key = true;
                    out.push(b',');
                }
                byte => out.push(*byte),
            }
        }
        rest = &table[end..];
    }
    out.extend_from_slice(rest);
    out.into()
}
