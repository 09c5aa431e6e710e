//! Brokers: clusters, run-time figures, settings.

use std::collections::BTreeMap;

use bytes::Bytes;
use mq_protocol::body::{ClusterInfo, KvTable};
use mq_protocol::codes::request;
use mq_protocol::command::Command;
use mq_protocol::java_properties;

use super::{Admin, Master};
use crate::error::ClientError;

impl Admin {
    /// All clusters and their brokers.
    pub async fn clusters(&self) -> Result<ClusterInfo, ClientError> {
        Ok(self.0.0.routes.names().cluster().await?)
    }

    /// What a broker tells of itself, under Apache's names.
    pub async fn runtime(&self, broker: &Master) -> Result<BTreeMap<String, String>, ClientError> {
        let table: KvTable = self.read(broker, Command::request(request::GET_BROKER_RUNTIME_INFO)).await?;
        Ok(table.table)
    }

    /// A broker's settings, under the names of broker.conf.
    pub async fn settings(&self, broker: &Master) -> Result<BTreeMap<String, String>, ClientError> {
        let answer = self.call(broker, Command::request(request::GET_BROKER_CONFIG)).await?;
        Ok(java_properties::parse(&String::from_utf8_lossy(&answer.body)).into_iter().collect())
    }

    /// Has a broker remove now what it would remove in time. Returns what it has to say about it.
    pub async fn clean(&self, broker: &Master, what: Leftovers) -> Result<String, ClientError> {
        let code = match what {
            Leftovers::Queues => request::CLEAN_EXPIRED_CONSUMEQUEUE,
            Leftovers::Topics => request::CLEAN_UNUSED_TOPIC,
            Leftovers::Log => request::DELETE_EXPIRED_COMMITLOG,
        };
        Ok(remark(self.call(broker, Command::request(code)).await?))
    }

    /// Changes settings of a running broker. Returns what the broker has to say about it.
    pub async fn change_settings(&self, broker: &Master, settings: &[(String, String)]) -> Result<String, ClientError> {
        let text = java_properties::print(settings.iter().map(|(key, value)| (key, value)));
        let command = Command::request(request::UPDATE_BROKER_CONFIG).with_body(Bytes::from(text));
        Ok(remark(self.call(broker, command).await?))
    }
}

/// What a broker removes by itself, sooner or later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftovers {
    /// Files of queues and indexes whose messages the log no longer has.
    Queues,
    /// Messages of topics that do not exist any more.
    Topics,
    /// Files of the log that are older than fileReservedTime.
    Log,
}

fn remark(answer: Command) -> String {
    answer.remark.map_or_else(String::new, |remark| remark.to_string())
}
