//! What a broker counted of a topic, and what stands in a queue.

use mq_protocol::body::{BrokerStatsData, ConsumeQueueView, GroupList};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{QueryConsumeQueue, TopicName, ViewBrokerStats};

use super::{Admin, Master};
use crate::error::ClientError;

impl Admin {
    /// One of a broker's statistics under Apache's names (`TOPIC_PUT_NUMS` of a topic, `GROUP_GET_NUMS` of
    /// `topic@group`, …); `None` where it counted nothing.
    pub async fn counted(
        &self,
        broker: &Master,
        name: &str,
        key: &str,
    ) -> Result<Option<BrokerStatsData>, ClientError> {
        let header = ViewBrokerStats { stats_name: name.into(), stats_key: key.into() };
        match self.read(broker, Command::request_with(request::VIEW_BROKER_STATS_DATA, &header)).await {
            Ok(counted) => Ok(Some(counted)),
            Err(ClientError::Call(error)) if error.code() == Some(response::SYSTEM_ERROR) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The groups that read a topic, or did.
    pub async fn groups_of(&self, broker: &Master, topic: &str) -> Result<Vec<String>, ClientError> {
        let header = TopicName { topic: topic.into() };
        let command = Command::request_with(request::QUERY_TOPIC_CONSUME_BY_WHO, &header);
        Ok(self.read::<GroupList>(broker, command).await?.group_list)
    }

    /// The entries of a queue: where in the log its messages are, and whether a group's filter lets them pass.
    pub async fn queue_entries(
        &self,
        broker: &Master,
        which: &QueryConsumeQueue,
    ) -> Result<ConsumeQueueView, ClientError> {
        self.read(broker, Command::request_with(request::QUERY_CONSUME_QUEUE, which)).await
    }
}
