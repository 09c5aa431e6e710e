//! Popping: messages of any queue that are the caller's for a time. Nothing is assigned and nothing is committed: what is
//! not acknowledged in time comes again, to whoever pops next.

use std::sync::Arc;
use std::time::Duration;

use mq_protocol::ByteString;
use mq_protocol::body::{
    self, ConsumeType, ConsumedDirectly, ConsumerData, ConsumerPositions, DirectResult, InboxAnswer, MessageModel,
    MessageQueue, QueueOffsets,
};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{
    AckMessage, ChangeInvisibleTime, ChangeInvisibleTimeResponse, PopMessage, PopMessageResponse,
};
use mq_protocol::pop::{Handle, MAX_MESSAGES, Mark, QueueShare, read_shares};
use mq_protocol::properties::name;
use mq_protocol::record::{self, StoredMessage};
use mq_protocol::topic;
use tokio::time::Instant;

use super::filter::{Filter, wants};
use super::start::ConsumeFrom;
use crate::client::{Client, ClientChoice, ClientOptions, Consuming, GroupMember};
use crate::error::{CallError, ClientError, RouteError};
use crate::message::ReceivedMessage;
use crate::route::Route;

/// An answer may come this much later than the wait that was asked for.
const GRACE: Duration = Duration::from_secs(15);
const DEFAULT_INVISIBLE: Duration = Duration::from_secs(60);

pub struct PopConsumerBuilder {
    client: ClientChoice,
    group: ByteString,
    filter: Filter,
    consume_from: ConsumeFrom,
    invisible: Duration,
}

impl PopConsumerBuilder {
    #[must_use]
    pub fn group(mut self, group: impl Into<ByteString>) -> Self {
        self.group = group.into();
        self
    }

    #[must_use]
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = filter;
        self
    }

    /// Where a group begins that never read a queue: the first message, or the last.
    #[must_use]
    pub fn consume_from(mut self, from: ConsumeFrom) -> Self {
        self.consume_from = from;
        self
    }

    /// How long a message is the caller's before it comes again.
    #[must_use]
    pub fn invisible(mut self, time: Duration) -> Self {
        self.invisible = time;
        self
    }

    #[must_use]
    pub fn client(mut self, client: Client) -> Self {
        self.client.shared = Some(client);
        self
    }

    #[must_use]
    pub fn client_options(mut self, change: impl FnOnce(&mut ClientOptions)) -> Self {
        change(&mut self.client.options);
        self
    }

    pub async fn build(self) -> Result<PopConsumer, ClientError> {
        topic::check_group(&self.group).map_err(|error| ClientError::Invalid(error.to_string()))?;
        if let ConsumeFrom::Time(_) = self.consume_from {
            return Err(ClientError::Invalid("a group that pops begins at the first or at the last message".into()));
        }
        let client = self.client.open()?;
        let shared = Arc::new(Shared {
            client,
            group: self.group,
            filter: self.filter,
            consume_from: self.consume_from,
            invisible: self.invisible,
        });
        let member: Arc<dyn GroupMember> = shared.clone();
        shared.client.0.register_consumer(shared.group.clone(), Arc::downgrade(&member)).await;
        Ok(PopConsumer(shared))
    }
}

struct Shared {
    client: Client,
    group: ByteString,
    filter: Filter,
    consume_from: ConsumeFrom,
    invisible: Duration,
}

/// Takes messages for a time. Many may do so for one group, more than there are queues.
pub struct PopConsumer(Arc<Shared>);

/// A message that is the caller's until its time is over.
#[derive(Clone, Debug)]
pub struct PoppedMessage {
    pub message: ReceivedMessage,
    handle: Handle,
}

impl PoppedMessage {
    /// The receipt handle, as brokers and other clients write it.
    #[must_use]
    pub fn handle(&self) -> String {
        self.handle.to_string()
    }
}

impl PopConsumer {
    /// `name_servers` as in `NAMESRV_ADDR`.
    #[must_use]
    pub fn builder(name_servers: impl Into<String>) -> PopConsumerBuilder {
        PopConsumerBuilder {
            client: ClientChoice::of(name_servers),
            group: ByteString::from_static("DEFAULT_CONSUMER"),
            filter: Filter::all(),
            consume_from: ConsumeFrom::Last,
            invisible: DEFAULT_INVISIBLE,
        }
    }

    /// Up to `max` messages (32 at most) of one of the topic's brokers, which take turns. Waits for the first one.
    pub async fn receive(&self, topic: &str, max: usize, wait: Duration) -> Result<Vec<PoppedMessage>, ClientError> {
        let Shared { client, group, filter, consume_from, invisible } = &*self.0;
        let route = client.0.routes.get(&topic.into()).await?;
        let (broker, address) = turn(&route)?;
        let subscription = filter.subscription(topic, 0);
        let from_first = matches!(consume_from, ConsumeFrom::First);
        let header = PopMessage {
            max_msg_nums: max.clamp(1, MAX_MESSAGES) as i32,
            poll_time: millis(wait),
            init_mode: if from_first { PopMessage::INIT_AT_FIRST } else { PopMessage::INIT_AT_LAST },
            exp_type: Some(subscription.expression_type.as_str().into()),
            exp: Some(subscription.sub_string.as_str().into()),
            order: Some(false),
            bname: Some(broker.as_str().into()),
            ..PopMessage::new(group.clone(), topic.into(), millis(*invisible))
        };
        let deadline = Instant::now() + wait + GRACE;
        let connection = client.0.connection_by(&address, deadline).await?;
        let within = deadline.saturating_duration_since(Instant::now());
        let answer = connection.request(Command::request_with(request::POP_MESSAGE, &header), within).await?;
        match answer.code {
            response::SUCCESS => {}
            response::POLLING_TIMEOUT | response::PULL_NOT_FOUND => return Ok(Vec::new()),
            _ => return Err(CallError::from(connection.refused(request::POP_MESSAGE, &answer)).into()),
        }
        let found = read(&answer, &broker, topic);
        let found = found.map_err(|reason| connection.unreadable(request::POP_MESSAGE, reason))?;
        let mut messages = Vec::with_capacity(found.len());
        for popped in found {
            if popped.handle.mark == Mark::Normal && !wants(&subscription, &popped.message) {
                // Two tags may have one hash: this one was not meant, and is done with, or comes again to be passed over.
                if let Err(error) = self.ack(&popped).await {
                    tracing::debug!(%group, message_id = %popped.message.message_id, %error, "not acknowledged");
                }
                continue;
            }
            messages.push(popped);
        }
        Ok(messages)
    }

    /// The message is done with.
    pub async fn ack(&self, popped: &PoppedMessage) -> Result<(), ClientError> {
        let (real_topic, address) = self.place(popped).await?;
        let header = AckMessage {
            consumer_group: self.0.group.clone(),
            topic: real_topic,
            queue_id: popped.handle.queue_id.0 as i32,
            extra_info: popped.handle.to_string().into(),
            offset: popped.message.queue_offset.0 as i64,
            bname: Some(popped.handle.broker_name.as_str().into()),
        };
        self.0.client.0.call(&address, Command::request_with(request::ACK_MESSAGE, &header)).await?;
        Ok(())
    }

    /// The message comes again after `time` from now, if it is not acknowledged before. Its old handle ends.
    pub async fn change_invisible(&self, popped: &mut PoppedMessage, time: Duration) -> Result<(), ClientError> {
        let (real_topic, address) = self.place(popped).await?;
        let header = ChangeInvisibleTime {
            consumer_group: self.0.group.clone(),
            topic: real_topic,
            queue_id: popped.handle.queue_id.0 as i32,
            extra_info: popped.handle.to_string().into(),
            offset: popped.message.queue_offset.0 as i64,
            invisible_time: millis(time),
            bname: Some(popped.handle.broker_name.as_str().into()),
        };
        let code = request::CHANGE_MESSAGE_INVISIBLETIME;
        let answer = self.0.client.0.call(&address, Command::request_with(code, &header)).await?;
        let unreadable = |reason: String| CallError::unreadable(&address, code, reason);
        let changed: ChangeInvisibleTimeResponse = answer.header().map_err(|error| unreadable(error.to_string()))?;
        let ChangeInvisibleTimeResponse { pop_time, invisible_time, revive_qid } = changed;
        let start_offset = popped.message.queue_offset;
        popped.handle = Handle { start_offset, pop_time, invisible_time, revive_qid, ..popped.handle.clone() };
        Ok(())
    }

    /// The topic that a message lies in, and its broker.
    async fn place(&self, popped: &PoppedMessage) -> Result<(ByteString, ByteString), ClientError> {
        let topic = &popped.message.topic;
        let address = self.0.client.0.address_of(&popped.message.queue, 0).await?;
        Ok((popped.handle.mark.topic(topic, &self.0.group).into(), address))
    }
}

fn turn(route: &Route) -> Result<(String, ByteString), RouteError> {
    let masters: Vec<_> = route.named_masters().collect();
    let none = || RouteError::NoQueue { topic: route.topic().into(), used: "popped" };
    let (name, address) = masters.get(route.next_turn() % masters.len().max(1)).ok_or_else(none)?;
    Ok(((*name).to_string(), (*address).clone()))
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Messages with their handles: those of retry topics carry theirs, the others' are made from the answer.
fn read(answer: &Command, broker: &str, topic: &str) -> Result<Vec<PoppedMessage>, String> {
    let header: PopMessageResponse = answer.header().map_err(|error| error.to_string())?;
    let texts = [&header.start_offset_info, &header.msg_offset_info].map(|text| text.clone().unwrap_or_default());
    let shares = read_shares(&texts[0], &texts[1]).ok_or("its offsets do not fit together")?;
    let stored = record::decode_all(&answer.body).map_err(|error| error.to_string())?;
    stored.into_iter().map(|stored| popped(stored, &header, &shares, broker, topic)).collect()
}

fn popped(
    stored: StoredMessage,
    header: &PopMessageResponse,
    shares: &[QueueShare],
    broker: &str,
    topic: &str,
) -> Result<PoppedMessage, String> {
    let (queue_id, offset) = (stored.message.queue_id, stored.queue_offset);
    let handle = match stored.message.property(name::POP_CK) {
        Some(handle) => handle.parse::<Handle>().map_err(|error| error.to_string())?,
        None => {
            let share = shares.iter().find(|share| share.mark == Mark::Normal && share.queue_id == queue_id);
            let share = share.ok_or("a message is of a queue that the answer does not name")?;
            Handle {
                start_offset: share.start_offset,
                pop_time: header.pop_time,
                invisible_time: header.invisible_time,
                revive_qid: header.revive_qid,
                mark: Mark::Normal,
                broker_name: broker.to_owned(),
                queue_id,
                offset: Some(offset),
            }
        }
    };
    let queue = MessageQueue { topic: topic.into(), broker_name: broker.to_owned(), queue_id: queue_id.0 };
    Ok(PoppedMessage { message: ReceivedMessage::new(stored, &Arc::new(queue)), handle })
}

impl GroupMember for Shared {
    fn heartbeat(&self) -> ConsumerData {
        ConsumerData {
            consume_from_where: self.consume_from.on_the_wire(),
            consume_type: ConsumeType::ConsumePop,
            group_name: self.group.to_string(),
            message_model: MessageModel::Clustering,
            subscription_data_set: Vec::new(),
            unit_mode: false,
        }
    }

    fn members_changed(&self) {}

    /// Its group's offsets are the broker's.
    fn reset(self: Arc<Self>, _: QueueOffsets) {}

    fn positions(&self, _: &str) -> ConsumerPositions {
        ConsumerPositions::default()
    }

    fn consume_directly(self: Arc<Self>, _: ReceivedMessage) -> Consuming {
        let remark = Some("a pop consumer has no handler".to_owned());
        Box::pin(async {
            ConsumedDirectly { consume_result: DirectResult::Threw, remark, ..ConsumedDirectly::default() }
        })
    }

    fn running_info(&self, _: Option<&InboxAnswer>) -> bytes::Bytes {
        let properties = serde_json::json!({"PROP_CONSUME_TYPE": "CONSUME_POP"});
        body::to_json(
            &serde_json::json!({"mqTable": {}, "properties": properties, "statusTable": {}, "subscriptionSet": []}),
        )
    }
}
