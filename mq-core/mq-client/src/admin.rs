//! What an operator does with a client: creating topics, reading how far a group has come.

use mq_protocol::ByteString;
use mq_protocol::body::perm;
use mq_protocol::codes::request;
use mq_protocol::command::Command;
use mq_protocol::header::CreateTopic;
use mq_protocol::ids::QueueOffset;
use mq_protocol::topic;

use crate::client::Client;
use crate::error::{ClientError, RouteError};
use crate::{MessageQueue, names};

/// How a topic is created on every broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    pub read_queues: u32,
    pub write_queues: u32,
    /// Bits of [`perm`].
    pub perm: u32,
}

impl TopicSettings {
    #[must_use]
    pub fn with_queues(queues: u32) -> Self {
        Self { read_queues: queues, write_queues: queues, perm: perm::READ_WRITE }
    }
}

impl Client {
    /// Creates the topic on the master of every broker, or changes it there.
    pub async fn create_topic(&self, name: &str, settings: TopicSettings) -> Result<(), ClientError> {
        topic::check_topic(name).map_err(|error| ClientError::Invalid(error.to_string()))?;
        let header = CreateTopic {
            topic: name.into(),
            default_topic: Some(ByteString::from_static(topic::AUTO_CREATE)),
            read_queue_nums: settings.read_queues as i32,
            write_queue_nums: settings.write_queues as i32,
            perm: settings.perm as i32,
            topic_filter_type: Some(ByteString::from_static("SINGLE_TAG")),
            topic_sys_flag: Some(0),
            order: Some(false),
            attributes: None,
            force: None,
        };
        for master in self.masters().await? {
            self.0.call(&master, Command::request_with(request::UPDATE_AND_CREATE_TOPIC, &header)).await?;
        }
        Ok(())
    }

    /// What this group committed for a queue, if it ever did.
    pub async fn committed(&self, group: &str, queue: &MessageQueue) -> Result<Option<QueueOffset>, ClientError> {
        self.0.committed(&group.into(), queue).await
    }

    /// How many messages of a topic a group has not committed yet; nothing, where the topic does not exist.
    pub async fn lag(&self, group: &str, topic: &str) -> Result<u64, ClientError> {
        let route = match self.0.routes.get(&topic.into()).await {
            Err(RouteError::NoTopic { .. }) => return Ok(0),
            route => route?,
        };
        let mut lag = 0;
        for queue in &route.readable {
            let end = self.0.max_offset(queue).await?;
            let done = self.0.committed(&group.into(), queue).await?.unwrap_or_default();
            lag += end.0.saturating_sub(done.0);
        }
        Ok(lag)
    }

    /// Addresses of all masters that the name servers know.
    async fn masters(&self) -> Result<Vec<ByteString>, ClientError> {
        let cluster = self.0.routes.names().cluster().await?;
        let masters: Vec<ByteString> = cluster
            .broker_addr_table
            .values()
            .filter_map(|broker| broker.broker_addrs.get(&names::MASTER_ID))
            .map(|address| address.as_str().into())
            .collect();
        if masters.is_empty() {
            return Err(ClientError::Invalid("no broker is registered at the name servers".into()));
        }
        Ok(masters)
    }
}
