//! Topics: which there are, where they lie, how far their queues reach; creating and deleting them.

use std::collections::BTreeSet;

use mq_protocol::ByteString;
use mq_protocol::body::{TopicConfig, TopicConfigs, TopicList, TopicRoute, TopicStats, perm, to_json};
use mq_protocol::codes::request;
use mq_protocol::command::Command;
use mq_protocol::header::{CreateTopic, DeleteTopicInNamesrv, GetTopicConfig, TopicName};
use mq_protocol::topic;

use super::{Admin, Master, NO_TOPIC, from_json};
use crate::client::Client;
use crate::error::ClientError;

/// Topics that a cluster keeps for itself begin or end so.
const SYSTEM_PREFIX: &str = "rmq_sys_";
const REPLY_SUFFIX: &str = "_REPLY_TOPIC";

/// How a topic is created on every broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    pub read_queues: u32,
    pub write_queues: u32,
    /// Bits of [`perm`].
    pub perm: u32,
    pub order: bool,
    /// `+key=value` sets and `-key` removes, comma separated; for instance `+message.type=TRANSACTION`.
    pub attributes: Option<String>,
}

impl TopicSettings {
    #[must_use]
    pub fn with_queues(queues: u32) -> Self {
        Self { read_queues: queues, write_queues: queues, perm: perm::READ_WRITE, order: false, attributes: None }
    }

    /// As a broker has the topic. Attributes are changed, not set: none.
    #[must_use]
    pub fn of(config: &TopicConfig) -> Self {
        let TopicConfig { read_queue_nums, write_queue_nums, perm, order, .. } = *config;
        Self { read_queues: read_queue_nums, write_queues: write_queue_nums, perm, order, attributes: None }
    }

    fn command(self, name: &str) -> Command {
        let header = CreateTopic {
            topic: name.into(),
            default_topic: Some(ByteString::from_static(topic::AUTO_CREATE)),
            read_queue_nums: self.read_queues as i32,
            write_queue_nums: self.write_queues as i32,
            perm: self.perm as i32,
            topic_filter_type: Some(ByteString::from_static("SINGLE_TAG")),
            topic_sys_flag: Some(0),
            order: Some(self.order),
            attributes: self.attributes.map(Into::into),
            force: None,
        };
        Command::request_with(request::UPDATE_AND_CREATE_TOPIC, &header)
    }
}

impl Client {
    /// Creates the topic on the master of every broker, or changes it there.
    pub async fn create_topic(&self, name: &str, settings: TopicSettings) -> Result<(), ClientError> {
        Admin(self.clone()).create_topic(name, settings).await
    }
}

impl Admin {
    /// Every topic that a name server knows.
    pub async fn topics(&self) -> Result<Vec<String>, ClientError> {
        self.listed(request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER).await
    }

    /// Those that are a user's: not of the system, of retries or of dead letters.
    pub async fn user_topics(&self) -> Result<Vec<String>, ClientError> {
        let mut system: BTreeSet<String> =
            self.listed(request::GET_SYSTEM_TOPIC_LIST_FROM_NS).await?.into_iter().collect();
        let replies: Vec<String> = system.iter().map(|cluster| format!("{cluster}{REPLY_SUFFIX}")).collect();
        system.extend(replies);
        let of_system = |name: &String| {
            topic::is_retry(name)
                || topic::is_dead_letter(name)
                || name.starts_with(SYSTEM_PREFIX)
                || !topic::is_writable_by_clients(name)
        };
        let mut topics = self.topics().await?;
        topics.retain(|name| !system.contains(name) && !of_system(name));
        Ok(topics)
    }

    async fn listed(&self, request: i32) -> Result<Vec<String>, ClientError> {
        let names = self.0.0.routes.names();
        let answer = names.call(&Command::request(request)).await?;
        let mut list: TopicList = from_json(names.first(), request, &answer)?;
        list.topic_list.sort();
        Ok(list.topic_list)
    }

    pub async fn route(&self, topic: &str) -> Result<TopicRoute, ClientError> {
        Ok(self.0.0.routes.names().route(&topic.into()).await?)
    }

    /// First and next offset of each queue, on every broker.
    pub async fn topic_stats(&self, topic: &str) -> Result<TopicStats, ClientError> {
        let command = Command::request_with(request::GET_TOPIC_STATS_INFO, &TopicName { topic: topic.into() });
        let mut all = TopicStats::default();
        for (_, stats) in self.read_all::<TopicStats>(&command, NO_TOPIC).await? {
            all.topic_put_tps += stats.topic_put_tps;
            all.offset_table.extend(stats.offset_table);
        }
        Ok(all)
    }

    /// Creates the topic on the master of every broker, or changes it there.
    pub async fn create_topic(&self, name: &str, settings: TopicSettings) -> Result<(), ClientError> {
        topic::check_topic(name).map_err(|error| ClientError::Invalid(error.to_string()))?;
        self.tell_all(&settings.command(name)).await
    }

    /// The same for several topics: on each broker all of them, or none.
    pub async fn put_topics(&self, topics: Vec<TopicConfig>) -> Result<(), ClientError> {
        let list = TopicConfigs { topic_config_list: topics };
        self.tell_all(&Command::request(request::UPDATE_AND_CREATE_TOPIC_LIST).with_body(to_json(&list))).await
    }

    /// What each broker that has the topic has set for it; an error when none has.
    pub async fn topic_configs(&self, name: &str) -> Result<Vec<(Master, TopicConfig)>, ClientError> {
        let header = GetTopicConfig { topic: name.into(), lo: None };
        self.read_all(&Command::request_with(request::GET_TOPIC_CONFIG, &header), NO_TOPIC).await
    }

    /// Changes what clients may do with a topic, on every broker that has it; its other settings stay.
    pub async fn set_topic_perm(&self, name: &str, perm: u32) -> Result<(), ClientError> {
        for (master, config) in self.topic_configs(name).await? {
            let settings = TopicSettings { perm, ..TopicSettings::of(&config) };
            self.call(&master, settings.command(name)).await?;
        }
        Ok(())
    }

    /// Deletes it on every broker, then at every name server. Its messages are gone for every group.
    pub async fn delete_topic(&self, name: &str) -> Result<(), ClientError> {
        self.tell_all(&Command::request_with(request::DELETE_TOPIC_IN_BROKER, &TopicName { topic: name.into() }))
            .await?;
        let header = DeleteTopicInNamesrv { topic: name.into(), cluster_name: None };
        Ok(self.0.0.routes.names().tell_all(&Command::request_with(request::DELETE_TOPIC_IN_NAMESRV, &header)).await?)
    }
}
