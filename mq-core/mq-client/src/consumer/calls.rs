//! What consumers ask brokers: pulls, offsets, members, locks, sending back. Typed; no decisions.

use std::sync::Arc;
use std::time::Duration;

use mq_protocol::ByteString;
use mq_protocol::body::{self, CheckClientConfig, ConsumerIds, LockBatch, LockedQueues, MessageQueue, Subscription};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{
    ConsumerSendMsgBack, GetConsumerList, GetMaxOffset, GetMinOffset, OffsetResponse, PullMessage, PullMessageResponse,
    QueryConsumerOffset, SearchOffset, UpdateConsumerOffset,
};
use mq_protocol::ids::{QueueId, QueueOffset, UnixMillis};
use mq_protocol::record;
use mq_protocol::sys_flag::pull;
use tokio::time::Instant;

use crate::client::Inner;
use crate::error::{CallError, ClientError, RouteError};
use crate::message::ReceivedMessage;
use crate::remoting::json_body;

/// An answer to a held pull may come this much later than the hold.
const PULL_GRACE: Duration = Duration::from_secs(15);

/// What a pull found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullStatus {
    Found,
    /// Nothing new in the queue.
    NoNewMessage,
    /// New messages, none of which the filter lets through.
    NoMatchedMessage,
    /// The position is not in the queue: go on from `next`.
    OffsetIllegal,
}

#[derive(Clone, Debug)]
pub struct Pulled {
    pub status: PullStatus,
    pub messages: Vec<ReceivedMessage>,
    /// Where the next pull begins.
    pub next: QueueOffset,
    pub min: QueueOffset,
    /// One behind the last message of the queue.
    pub max: QueueOffset,
    /// Which member of the broker's group to ask next.
    pub(super) suggested_broker: u64,
}

pub(super) struct PullRequest<'r> {
    pub(super) group: &'r ByteString,
    pub(super) queue: &'r Arc<MessageQueue>,
    pub(super) from: QueueOffset,
    pub(super) max_messages: u32,
    pub(super) subscription: &'r Subscription,
    /// How long the broker may wait for a message; zero: not at all.
    pub(super) hold: Duration,
    pub(super) broker_id: u64,
}

impl Inner {
    /// Has a broker of each topic look at the conditions of these subscriptions: one that no broker takes would never
    /// find a message. A topic or broker that is not there yet is no reason to fail.
    pub(super) async fn check_filters(
        &self,
        group: &ByteString,
        subscriptions: impl Iterator<Item = &Subscription>,
    ) -> Result<(), ClientError> {
        for subscription in subscriptions.filter(|subscription| !subscription.is_tag()) {
            let Ok(route) = self.routes.get(&subscription.topic.as_str().into()).await else { continue };
            let Some(address) = route.masters().next() else { continue };
            let body = CheckClientConfig {
                client_id: self.id.to_string(),
                group: group.to_string(),
                namespace: String::new(),
                subscription_data: subscription.clone(),
            };
            let command = Command::request(request::CHECK_CLIENT_CONFIG).with_body(body::to_json(&body));
            match self.call(address, command).await {
                Err(error @ CallError::Refused(_)) if error.code() != Some(response::REQUEST_CODE_NOT_SUPPORTED) => {
                    return Err(error.into());
                }
                Err(error) => tracing::debug!(%group, %error, "filter not checked"),
                Ok(_) => {}
            }
        }
        Ok(())
    }

    /// The address of a queue's broker; looks again when the broker is unknown.
    pub(super) async fn address_of(&self, queue: &MessageQueue, id: u64) -> Result<ByteString, RouteError> {
        let topic = ByteString::from(queue.topic.as_str());
        if let Some(address) = self.routes.get(&topic).await?.member(&queue.broker_name, id) {
            return Ok(address.clone());
        }
        let route = self.routes.refresh(&topic).await?;
        let unknown = RouteError::NoBroker { topic, broker: queue.broker_name.as_str().into() };
        route.member(&queue.broker_name, id).cloned().ok_or(unknown)
    }

    pub(super) async fn pull(&self, pull: PullRequest<'_>) -> Result<Pulled, ClientError> {
        let address = self.address_of(pull.queue, pull.broker_id).await?;
        let deadline = Instant::now() + pull.hold + PULL_GRACE;
        let connection = self.connection_by(&address, deadline).await?;
        let within = deadline.saturating_duration_since(Instant::now());
        let answer = connection.request(pull.command(), within).await?;
        let status = match answer.code {
            response::SUCCESS => PullStatus::Found,
            response::PULL_NOT_FOUND => PullStatus::NoNewMessage,
            response::PULL_RETRY_IMMEDIATELY => PullStatus::NoMatchedMessage,
            response::PULL_OFFSET_MOVED => PullStatus::OffsetIllegal,
            _ => return Err(CallError::from(connection.refused(request::PULL_MESSAGE, &answer)).into()),
        };
        let unreadable = |reason: String| connection.unreadable(request::PULL_MESSAGE, reason);
        let header: PullMessageResponse = answer.header().map_err(|error| unreadable(error.to_string()))?;
        let stored = match status {
            PullStatus::Found => record::decode_all(&answer.body).map_err(|error| unreadable(error.to_string()))?,
            _ => Vec::new(),
        };
        let messages = stored.into_iter().map(|stored| ReceivedMessage::new(stored, pull.queue));
        Ok(Pulled {
            status,
            messages: messages.filter(|message| super::filter::wants(pull.subscription, message)).collect(),
            next: header.next_begin_offset,
            min: header.min_offset,
            max: header.max_offset,
            suggested_broker: header.suggest_which_broker_id,
        })
    }

    /// What the group committed for this queue, if it ever did.
    pub(crate) async fn committed(
        &self,
        group: &ByteString,
        queue: &MessageQueue,
    ) -> Result<Option<QueueOffset>, ClientError> {
        self.consumer_offset(group, queue, Some(false)).await
    }

    /// Where the group goes on in this queue. A broker may place a group here that was nowhere yet, for good.
    pub(super) async fn goes_on_at(
        &self,
        group: &ByteString,
        queue: &MessageQueue,
    ) -> Result<Option<QueueOffset>, ClientError> {
        self.consumer_offset(group, queue, None).await
    }

    async fn consumer_offset(
        &self,
        group: &ByteString,
        queue: &MessageQueue,
        set_zero_if_not_found: Option<bool>,
    ) -> Result<Option<QueueOffset>, ClientError> {
        let header = QueryConsumerOffset {
            consumer_group: group.clone(),
            topic: queue.topic.as_str().into(),
            queue_id: QueueId(queue.queue_id),
            set_zero_if_not_found,
            bname: Some(queue.broker_name.as_str().into()),
        };
        match self.offset(queue, Command::request_with(request::QUERY_CONSUMER_OFFSET, &header)).await {
            Ok(offset) => Ok(Some(offset)),
            Err(ClientError::Call(error)) if error.code() == Some(response::QUERY_NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Commits; waits for the broker's word only if asked to.
    pub(super) async fn commit(
        &self,
        group: &ByteString,
        queue: &MessageQueue,
        offset: QueueOffset,
        wait: bool,
    ) -> Result<(), ClientError> {
        let header = UpdateConsumerOffset {
            consumer_group: group.clone(),
            topic: queue.topic.as_str().into(),
            queue_id: QueueId(queue.queue_id),
            commit_offset: offset.0 as i64,
            bname: Some(queue.broker_name.as_str().into()),
        };
        let command = Command::request_with(request::UPDATE_CONSUMER_OFFSET, &header);
        let address = self.address_of(queue, 0).await?;
        if wait {
            self.call(&address, command).await?;
        } else {
            let deadline = Instant::now() + self.options.request_timeout;
            self.connection_by(&address, deadline).await?.oneway(command).await?;
        }
        Ok(())
    }

    pub(super) async fn min_offset(&self, queue: &MessageQueue) -> Result<QueueOffset, ClientError> {
        let (topic, bname) = (queue.topic.as_str().into(), Some(queue.broker_name.as_str().into()));
        let header = GetMinOffset { topic, queue_id: QueueId(queue.queue_id), bname };
        self.offset(queue, Command::request_with(request::GET_MIN_OFFSET, &header)).await
    }

    pub(crate) async fn max_offset(&self, queue: &MessageQueue) -> Result<QueueOffset, ClientError> {
        let (topic, bname) = (queue.topic.as_str().into(), Some(queue.broker_name.as_str().into()));
        let header = GetMaxOffset { topic, queue_id: QueueId(queue.queue_id), committed: Some(true), bname };
        self.offset(queue, Command::request_with(request::GET_MAX_OFFSET, &header)).await
    }

    /// The first message stored at this time or later.
    pub(crate) async fn offset_at(&self, queue: &MessageQueue, time: UnixMillis) -> Result<QueueOffset, ClientError> {
        let header = SearchOffset {
            topic: queue.topic.as_str().into(),
            queue_id: QueueId(queue.queue_id),
            timestamp: time,
            boundary_type: None,
            bname: Some(queue.broker_name.as_str().into()),
        };
        self.offset(queue, Command::request_with(request::SEARCH_OFFSET_BY_TIMESTAMP, &header)).await
    }

    async fn offset(&self, queue: &MessageQueue, command: Command) -> Result<QueueOffset, ClientError> {
        let address = self.address_of(queue, 0).await?;
        let code = command.code;
        let answer = self.call(&address, command).await?;
        let unreadable = |error| CallError::unreadable(&address, code, error);
        Ok(answer.header::<OffsetResponse>().map_err(unreadable)?.offset)
    }

    /// The client ids of a group, sorted.
    pub(super) async fn members(&self, address: &ByteString, group: &ByteString) -> Result<Vec<String>, CallError> {
        let header = GetConsumerList { consumer_group: group.clone() };
        let answer = self.call(address, Command::request_with(request::GET_CONSUMER_LIST_BY_GROUP, &header)).await?;
        let mut members =
            self.read::<ConsumerIds>(address, request::GET_CONSUMER_LIST_BY_GROUP, &answer)?.consumer_id_list;
        members.sort();
        Ok(members)
    }

    /// Locks queues of one broker for this client; answers which ones it got.
    pub(super) async fn lock(
        &self,
        address: &ByteString,
        group: &ByteString,
        queues: Vec<MessageQueue>,
    ) -> Result<Vec<MessageQueue>, CallError> {
        let command = self.lock_command(request::LOCK_BATCH_MQ, group, queues);
        let answer = self.call(address, command).await?;
        Ok(self.read::<LockedQueues>(address, request::LOCK_BATCH_MQ, &answer)?.locked)
    }

    pub(super) async fn unlock(
        &self,
        address: &ByteString,
        group: &ByteString,
        queues: Vec<MessageQueue>,
    ) -> Result<(), CallError> {
        self.call(address, self.lock_command(request::UNLOCK_BATCH_MQ, group, queues)).await.map(drop)
    }

    fn lock_command(&self, code: i32, group: &ByteString, mq_set: Vec<MessageQueue>) -> Command {
        let (client_id, consumer_group) = (self.id.to_string(), group.to_string());
        let body = LockBatch { client_id, consumer_group, mq_set, only_this_broker: false };
        Command::request(code).with_body(body::to_json(&body))
    }

    /// Has the broker deliver a message again later, or to the dead-letter topic.
    pub(super) async fn send_back(
        &self,
        group: &ByteString,
        message: &ReceivedMessage,
        delay_level: i32,
        max_reconsume_times: Option<i32>,
    ) -> Result<(), ClientError> {
        let address = self.address_of(&message.queue, 0).await?;
        let header = ConsumerSendMsgBack {
            offset: message.log_offset,
            group: group.clone(),
            delay_level,
            origin_msg_id: Some(message.message_id.clone()),
            origin_topic: Some(message.topic.clone()),
            unit_mode: Some(false),
            max_reconsume_times,
            bname: Some(message.queue.broker_name.as_str().into()),
        };
        self.call(&address, Command::request_with(request::CONSUMER_SEND_MSG_BACK, &header)).await?;
        Ok(())
    }

    fn read<T: serde::de::DeserializeOwned>(
        &self,
        address: &ByteString,
        request: i32,
        answer: &Command,
    ) -> Result<T, CallError> {
        json_body("list", address, request, answer)
    }
}

impl PullRequest<'_> {
    fn command(&self) -> Command {
        let suspend = if self.hold.is_zero() { 0 } else { pull::SUSPEND };
        let (topic, queue_id) = (self.queue.topic.as_str().into(), QueueId(self.queue.queue_id));
        let header = PullMessage {
            max_msg_nums: self.max_messages as i32,
            // The subscription travels with each pull, so that a broker that just started can serve it at once.
            sys_flag: pull::SUBSCRIPTION | suspend,
            suspend_timeout_millis: self.hold.as_millis() as i64,
            subscription: Some(self.subscription.sub_string.as_str().into()),
            sub_version: self.subscription.sub_version,
            expression_type: Some(self.subscription.expression_type.as_str().into()),
            bname: Some(self.queue.broker_name.as_str().into()),
            ..PullMessage::new(self.group.clone(), topic, queue_id, self.from.0 as i64)
        };
        Command::request_with(request::PULL_MESSAGE, &header)
    }
}
