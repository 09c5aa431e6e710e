//! How many messages wait for a later time, by topic: `config/timermetrics`, and the answer to 61.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::DataVersion;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TimerMetrics {
    pub data_version: DataVersion,
    pub timing_count: BTreeMap<String, TimerCount>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TimerCount {
    pub count: i64,
    /// Of the last change, Unix milliseconds.
    pub time_stamp: i64,
}
