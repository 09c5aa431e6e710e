//! Consumer groups: which there are, who is in them, how far they came, and setting them back or forward.

use std::collections::BTreeMap;

use mq_protocol::ByteString;
use mq_protocol::body::{
    BrokerConsumeStats, ConsumeStats, ConsumerConnections, INBOX_PROPERTY, InboxAnswer, IsPopped, MessageQueue,
    MessageRequestMode, Popped, ProducerConnections, ProducerTable, RunningInfo, SubscriptionGroup,
    SubscriptionGroupTable, SubscriptionGroups,
};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{
    self, CloneGroupOffset, ConsumerConnectionList, ConsumerRunningInfo, DeleteSubscriptionGroup, GroupName,
    ProducerConnectionList, ResetOffset,
};
use mq_protocol::ids::{QueueOffset, UnixMillis};

use super::{Admin, Master};
use crate::client::Client;
use crate::error::{ClientError, RouteError};

/// How far a group is in one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueProgress {
    pub queue: MessageQueue,
    /// The next offset to be written.
    pub end: QueueOffset,
    /// What the group committed.
    pub committed: QueueOffset,
    /// What it was handed and did not commit yet.
    pub in_flight: u64,
    /// Store time of the last message that it consumed.
    pub consumed_at: Option<UnixMillis>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupProgress {
    pub queues: Vec<QueueProgress>,
    /// Messages a second, over the last minute.
    pub rate: f64,
}

impl QueueProgress {
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.end.0.saturating_sub(self.committed.0)
    }
}

/// What a reset would do, or did, to one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueReset {
    pub queue: MessageQueue,
    pub from: Option<QueueOffset>,
    pub to: QueueOffset,
}

impl Admin {
    /// Every group's settings, by name; of brokers that differ, the last one's.
    pub async fn groups(&self) -> Result<BTreeMap<String, SubscriptionGroup>, ClientError> {
        let command = Command::request(request::GET_ALL_SUBSCRIPTIONGROUP_CONFIG);
        let tables = self.read_all::<SubscriptionGroupTable>(&command, &[]).await?;
        Ok(tables.into_iter().flat_map(|(_, table)| table.subscription_group_table).collect())
    }

    /// Creates the group on every broker, or changes it there.
    pub async fn put_group(&self, settings: &SubscriptionGroup) -> Result<(), ClientError> {
        let command = Command::request(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP);
        self.tell_all(&command.with_body(mq_protocol::body::to_json(settings))).await
    }

    /// The same for several groups: on each broker all of them, or none.
    pub async fn put_groups(&self, groups: Vec<SubscriptionGroup>) -> Result<(), ClientError> {
        let list = SubscriptionGroups { group_config_list: groups };
        let command = Command::request(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST);
        self.tell_all(&command.with_body(mq_protocol::body::to_json(&list))).await
    }

    /// What each broker has set for a group.
    pub async fn group(&self, group: &str) -> Result<Vec<(Master, SubscriptionGroup)>, ClientError> {
        let command = Command::request_with(request::GET_SUBSCRIPTIONGROUP_CONFIG, &GroupName { group: group.into() });
        self.read_all(&command, &[response::SUBSCRIPTION_GROUP_NOT_EXIST]).await
    }

    /// Whether a group that leaves it to the brokers pulls or pops a topic.
    pub async fn set_request_mode(&self, mode: &MessageRequestMode) -> Result<(), ClientError> {
        let command = Command::request(request::SET_MESSAGE_REQUEST_MODE);
        self.tell_all(&command.with_body(mq_protocol::body::to_json(mode))).await
    }

    /// Deletes the group on every broker, with what it committed.
    pub async fn delete_group(&self, group: &str) -> Result<(), ClientError> {
        let header = DeleteSubscriptionGroup { group_name: group.into(), clean_offset: Some(true) };
        self.tell_all(&Command::request_with(request::DELETE_SUBSCRIPTIONGROUP, &header)).await
    }

    /// How far a group came, in one topic or in all that it consumes.
    pub async fn progress(&self, group: &str, topic: Option<&str>) -> Result<GroupProgress, ClientError> {
        let header =
            header::ConsumeStats { consumer_group: group.into(), topic: topic.map(Into::into), topic_list: None };
        let command = Command::request_with(request::GET_CONSUME_STATS, &header);
        let mut progress = GroupProgress::default();
        for (_, stats) in self.read_all::<ConsumeStats>(&command, &[]).await? {
            progress.rate += stats.consume_tps;
            progress.queues.extend(stats.offset_table.into_iter().map(|(queue, offsets)| QueueProgress {
                queue: queue.0,
                end: QueueOffset(offsets.broker_offset),
                committed: QueueOffset(offsets.consumer_offset),
                in_flight: offsets.pull_offset.saturating_sub(offsets.consumer_offset),
                consumed_at: (offsets.last_timestamp > 0).then_some(UnixMillis(offsets.last_timestamp)),
            }));
        }
        Ok(progress)
    }

    /// How far every group of a broker is.
    pub async fn consume_stats(&self, broker: &Master) -> Result<BrokerConsumeStats, ClientError> {
        let header = header::BrokerConsumeStats { is_order: Some(false) };
        self.read(broker, Command::request_with(request::GET_BROKER_CONSUME_STATS, &header)).await
    }

    /// The consumers of a group that are connected now, by broker.
    pub async fn consumers(&self, group: &str) -> Result<Vec<(String, ConsumerConnections)>, ClientError> {
        let header = ConsumerConnectionList { consumer_group: group.into() };
        let command = Command::request_with(request::GET_CONSUMER_CONNECTION_LIST, &header);
        let answers = self.read_all(&command, &[response::CONSUMER_NOT_ONLINE]).await?;
        Ok(answers.into_iter().map(|(master, connections)| (master.name, connections)).collect())
    }

    /// The producers of a group that are connected now, by broker.
    pub async fn producers(&self, group: &str) -> Result<Vec<(String, ProducerConnections)>, ClientError> {
        let header = ProducerConnectionList { producer_group: group.into() };
        let command = Command::request_with(request::GET_PRODUCER_CONNECTION_LIST, &header);
        let answers = self.read_all(&command, &[response::SYSTEM_ERROR]).await?;
        Ok(answers.into_iter().map(|(master, connections)| (master.name, connections)).collect())
    }

    /// What one connected consumer does, by its own account.
    pub async fn running_info(&self, broker: &Master, group: &str, client: &str) -> Result<RunningInfo, ClientError> {
        self.ask_member(broker, group, client, None).await
    }

    /// What the inbox of one connected consumer says of the message with this offset id. `None`: it has no inbox.
    pub async fn inbox(
        &self,
        broker: &Master,
        group: &str,
        client: &str,
        offset_id: &str,
    ) -> Result<Option<InboxAnswer>, ClientError> {
        let told = self.ask_member(broker, group, client, Some(offset_id.into())).await?;
        let answer = told.properties.get(INBOX_PROPERTY);
        Ok(answer.and_then(|answer| mq_protocol::body::from_json("inbox", answer.as_bytes()).ok()))
    }

    async fn ask_member(
        &self,
        broker: &Master,
        group: &str,
        client: &str,
        inbox_of: Option<ByteString>,
    ) -> Result<RunningInfo, ClientError> {
        let header = ConsumerRunningInfo {
            consumer_group: group.into(),
            client_id: client.into(),
            jstack_enable: Some(false),
            inbox_of,
        };
        self.read(broker, Command::request_with(request::GET_CONSUMER_RUNNING_INFO, &header)).await
    }

    /// Whether a group has a message in its hands by a pop. Brokers of Checkback only.
    pub async fn popped(&self, broker: &Master, message: &IsPopped) -> Result<Popped, ClientError> {
        self.read(broker, Command::request(request::IS_POPPED).with_body(mq_protocol::body::to_json(message))).await
    }

    /// Every producer that is connected to a broker now, by group.
    pub async fn all_producers(&self, broker: &Master) -> Result<ProducerTable, ClientError> {
        self.read(broker, Command::request(request::GET_ALL_PRODUCER_INFO)).await
    }

    /// Puts a group where another one is, in one topic or in all that the other one consumes.
    pub async fn clone_offsets(&self, from: &str, to: &str, topic: Option<&str>) -> Result<(), ClientError> {
        let header = CloneGroupOffset {
            src_group: from.into(),
            dest_group: to.into(),
            topic: topic.map(Into::into),
            offline: Some(true),
        };
        self.tell_all(&Command::request_with(request::CLONE_GROUP_OFFSET, &header)).await
    }

    /// Where a reset to this time would put a group, queue by queue. Changes nothing.
    pub async fn plan_reset(&self, group: &str, topic: &str, to: ResetTo) -> Result<Vec<QueueReset>, ClientError> {
        let inner = &self.0.0;
        let route = inner.routes.get(&topic.into()).await?;
        let mut plan = Vec::new();
        for queue in &route.readable {
            let offset = match to {
                ResetTo::End => inner.max_offset(queue).await?,
                ResetTo::Time(time) => inner.offset_at(queue, time).await?,
            };
            let from = inner.committed(&group.into(), queue).await?;
            plan.push(QueueReset { queue: queue.as_ref().clone(), from, to: offset });
        }
        Ok(plan)
    }

    /// Sets a group back or forward on every broker of the topic; consumers that are connected go on from there.
    pub async fn reset(&self, group: &str, topic: &str, to: ResetTo) -> Result<(), ClientError> {
        let header = ResetOffset {
            topic: topic.into(),
            group: group.into(),
            timestamp: to.as_timestamp(),
            is_force: Some(true),
            queue_id: None,
            offset: None,
        };
        let route = self.0.0.routes.get(&topic.into()).await?;
        let named = |(name, address): (&str, &ByteString)| Master {
            cluster: String::new(),
            name: name.to_owned(),
            address: address.clone(),
        };
        let masters = route.named_masters().map(named).collect();
        self.tell(masters, &Command::request_with(request::INVOKE_BROKER_TO_RESET_OFFSET, &header)).await
    }
}

/// Where a group goes on after a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetTo {
    /// Behind the last message: the backlog is skipped.
    End,
    /// At the first message that was stored at or after this time.
    Time(UnixMillis),
}

impl ResetTo {
    /// As Apache's tools write it: -1 is the end.
    fn as_timestamp(self) -> UnixMillis {
        match self {
            Self::End => UnixMillis(-1),
            Self::Time(time) => time,
        }
    }
}

impl Client {
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
}
