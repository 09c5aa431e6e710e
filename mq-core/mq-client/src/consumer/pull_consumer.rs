//! Reading by hand: the caller says which queues, from where, and when to commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mq_protocol::ByteString;
use mq_protocol::body::{
    self, ConsumeType, ConsumedDirectly, ConsumerData, ConsumerPositions, DirectResult, InboxAnswer, MessageModel,
    MessageQueue, QueueOffsets,
};
use mq_protocol::ids::{QueueOffset, UnixMillis};
use mq_protocol::topic;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::calls::{PullRequest, PullStatus, Pulled};
use super::filter::Filter;
use super::start::ConsumeFrom;
use crate::client::{Client, ClientChoice, ClientOptions, Consuming, GroupMember};
use crate::error::{ClientError, RouteError};
use crate::message::ReceivedMessage;
use crate::unique_key;

const HOLD: Duration = Duration::from_secs(15);
const DEFAULT_BATCH: u32 = 32;

pub struct PullConsumerBuilder {
    client: ClientChoice,
    group: ByteString,
    filter: Filter,
    consume_from: ConsumeFrom,
    batch: u32,
}

impl PullConsumerBuilder {
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

    /// Where queues begin that the group has never committed.
    #[must_use]
    pub fn consume_from(mut self, from: ConsumeFrom) -> Self {
        self.consume_from = from;
        self
    }

    /// Messages of one pull.
    #[must_use]
    pub fn batch(mut self, messages: u32) -> Self {
        self.batch = messages;
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

    pub async fn build(self) -> Result<PullConsumer, ClientError> {
        topic::check_group(&self.group).map_err(|error| ClientError::Invalid(error.to_string()))?;
        let client = self.client.open()?;
        let shared = Arc::new(Shared {
            client,
            group: self.group,
            filter: self.filter,
            version: unique_key::now().0,
            consume_from: self.consume_from,
            batch: self.batch,
        });
        let member: Arc<dyn GroupMember> = shared.clone();
        shared.client.0.register_consumer(shared.group.clone(), Arc::downgrade(&member)).await;
        Ok(PullConsumer { shared, assigned: Mutex::default(), arrivals: Arrivals::new() })
    }
}

struct Shared {
    client: Client,
    group: ByteString,
    filter: Filter,
    version: i64,
    consume_from: ConsumeFrom,
    batch: u32,
}

/// Reads assigned queues. The group's other members are not asked: whoever assigns a queue reads it.
pub struct PullConsumer {
    shared: Arc<Shared>,
    assigned: Mutex<BTreeMap<Arc<MessageQueue>, Position>>,
    arrivals: Arrivals,
}

struct Position {
    next: QueueOffset,
    broker_id: u64,
    /// The pull that waits for this queue; aborted when the position moves by hand.
    waiting: Option<JoinHandle<()>>,
}

type Arrival = (Arc<MessageQueue>, QueueOffset, Result<Pulled, ClientError>);

/// Answers of waiting pulls, in the order in which they came.
struct Arrivals {
    sender: mpsc::UnboundedSender<Arrival>,
    receiver: tokio::sync::Mutex<mpsc::UnboundedReceiver<Arrival>>,
}

impl Arrivals {
    fn new() -> Self {
        // At most one answer for each assigned queue is on its way.
        let (sender, receiver) = mpsc::unbounded_channel();
        Self { sender, receiver: receiver.into() }
    }
}

impl PullConsumer {
    /// `name_servers` as in `NAMESRV_ADDR`.
    #[must_use]
    pub fn builder(name_servers: impl Into<String>) -> PullConsumerBuilder {
        PullConsumerBuilder {
            client: ClientChoice::of(name_servers),
            group: ByteString::from_static("DEFAULT_CONSUMER"),
            filter: Filter::all(),
            consume_from: ConsumeFrom::Last,
            batch: DEFAULT_BATCH,
        }
    }

    /// The queues of a topic that can be read.
    pub async fn queues(&self, topic: &str) -> Result<Vec<MessageQueue>, RouteError> {
        let route = self.shared.client.0.routes.get(&topic.into()).await?;
        Ok(route.readable.iter().map(|queue| (**queue).clone()).collect())
    }

    /// Reads these queues from now on, and no others; new ones from where the group stands.
    pub async fn assign(&self, queues: impl IntoIterator<Item = MessageQueue>) -> Result<(), ClientError> {
        let queues: Vec<Arc<MessageQueue>> = queues.into_iter().map(Arc::new).collect();
        let topics: BTreeSet<&str> = queues.iter().map(|queue| queue.topic.as_str()).collect();
        let subscriptions: Vec<_> =
            topics.iter().map(|topic| self.shared.filter.subscription(topic, self.shared.version)).collect();
        self.shared.client.0.check_filters(&self.shared.group, subscriptions.iter()).await?;
        let mut assigned = BTreeMap::new();
        for queue in queues {
            let kept = self.assigned.lock().remove(&queue);
            let position = match kept {
                Some(position) => position,
                None => Position { next: self.first_position(&queue).await?, broker_id: 0, waiting: None },
            };
            assigned.insert(queue, position);
        }
        *self.assigned.lock() = assigned;
        Ok(())
    }

    async fn first_position(&self, queue: &MessageQueue) -> Result<QueueOffset, ClientError> {
        self.shared.consume_from.position(&self.shared.client.0, &self.shared.group, queue).await
    }

    #[must_use]
    pub fn assigned(&self) -> Vec<MessageQueue> {
        self.assigned.lock().keys().map(|queue| (**queue).clone()).collect()
    }

    /// The next messages of any assigned queue; none if nothing comes within this time.
    pub async fn poll(&self, within: Duration) -> Result<Vec<ReceivedMessage>, ClientError> {
        let deadline = Instant::now() + within;
        let mut arrivals = self.arrivals.receiver.lock().await;
        loop {
            self.keep_pulling();
            let Ok(arrival) = timeout_at(deadline, arrivals.recv()).await else { return Ok(Vec::new()) };
            let (queue, from, pulled) = arrival.expect("the consumer itself holds a sender");
            let messages = self.arrived(&queue, from, pulled)?;
            if !messages.is_empty() {
                return Ok(messages);
            }
        }
    }

    fn keep_pulling(&self) {
        for (queue, position) in self.assigned.lock().iter_mut() {
            if position.waiting.is_none() {
                let (shared, sender) = (self.shared.clone(), self.arrivals.sender.clone());
                let (queue, from, broker_id) = (queue.clone(), position.next, position.broker_id);
                position.waiting = Some(tokio::spawn(async move {
                    let pulled = shared.pull(&queue, from, shared.batch, HOLD, broker_id).await;
                    let _ = sender.send((queue, from, pulled));
                }));
            }
        }
    }

    /// Moves the position of the queue behind what came, unless it was moved or taken away meanwhile.
    fn arrived(
        &self,
        queue: &Arc<MessageQueue>,
        from: QueueOffset,
        pulled: Result<Pulled, ClientError>,
    ) -> Result<Vec<ReceivedMessage>, ClientError> {
        let mut assigned = self.assigned.lock();
        let Some(position) = assigned.get_mut(queue).filter(|position| position.next == from) else {
            return Ok(Vec::new());
        };
        position.waiting = None;
        position.broker_id = 0;
        let pulled = pulled?;
        position.next = pulled.next;
        position.broker_id = pulled.suggested_broker;
        Ok(pulled.messages)
    }

    /// One pull of one queue, which need not be assigned; moves no position. `hold`: how long the broker may wait.
    pub async fn pull(
        &self,
        queue: &MessageQueue,
        from: QueueOffset,
        max_messages: u32,
        hold: Duration,
    ) -> Result<Pulled, ClientError> {
        self.shared.pull(&Arc::new(queue.clone()), from, max_messages, hold, 0).await
    }

    /// Goes on reading an assigned queue from here.
    pub fn seek(&self, queue: &MessageQueue, to: QueueOffset) -> Result<(), ClientError> {
        let mut assigned = self.assigned.lock();
        let Some(position) = assigned.get_mut(queue) else {
            return Err(ClientError::Invalid(format!("{queue:?} is not assigned")));
        };
        position.stop_waiting();
        position.next = to;
        Ok(())
    }

    pub async fn seek_to_begin(&self, queue: &MessageQueue) -> Result<(), ClientError> {
        self.seek(queue, self.min_offset(queue).await?)
    }

    pub async fn seek_to_end(&self, queue: &MessageQueue) -> Result<(), ClientError> {
        self.seek(queue, self.max_offset(queue).await?)
    }

    /// Where the next message of an assigned queue is read.
    #[must_use]
    pub fn position(&self, queue: &MessageQueue) -> Option<QueueOffset> {
        self.assigned.lock().get(queue).map(|position| position.next)
    }

    /// Commits the positions of all assigned queues: whatever `poll` handed out counts as consumed.
    pub async fn commit(&self) -> Result<(), ClientError> {
        let positions: Vec<_> =
            self.assigned.lock().iter().map(|(queue, position)| (queue.clone(), position.next)).collect();
        for (queue, next) in positions {
            self.commit_at(&queue, next).await?;
        }
        Ok(())
    }

    /// Commits this offset (of the next message to read) of a queue.
    pub async fn commit_at(&self, queue: &MessageQueue, next: QueueOffset) -> Result<(), ClientError> {
        self.shared.client.0.commit(&self.shared.group, queue, next, true).await
    }

    pub async fn committed(&self, queue: &MessageQueue) -> Result<Option<QueueOffset>, ClientError> {
        self.shared.client.0.committed(&self.shared.group, queue).await
    }

    pub async fn min_offset(&self, queue: &MessageQueue) -> Result<QueueOffset, ClientError> {
        self.shared.client.0.min_offset(queue).await
    }

    /// One behind the last message.
    pub async fn max_offset(&self, queue: &MessageQueue) -> Result<QueueOffset, ClientError> {
        self.shared.client.0.max_offset(queue).await
    }

    /// The first message stored at this time or later.
    pub async fn offset_at(&self, queue: &MessageQueue, time: UnixMillis) -> Result<QueueOffset, ClientError> {
        self.shared.client.0.offset_at(queue, time).await
    }

    /// Leaves the group. Nothing is committed that [`PullConsumer::commit`] was not called for.
    pub async fn close(self) {
        self.shared.client.0.unregister(None, Some(self.shared.group.clone())).await;
    }
}

impl Position {
    fn stop_waiting(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            waiting.abort();
        }
    }
}

impl Drop for Position {
    fn drop(&mut self) {
        self.stop_waiting();
    }
}

impl Shared {
    async fn pull(
        &self,
        queue: &Arc<MessageQueue>,
        from: QueueOffset,
        max_messages: u32,
        hold: Duration,
        broker_id: u64,
    ) -> Result<Pulled, ClientError> {
        let subscription = self.filter.subscription(&queue.topic, self.version);
        let group = &self.group;
        let request = PullRequest { group, queue, from, max_messages, subscription: &subscription, hold, broker_id };
        let pulled = self.client.0.pull(request).await?;
        if pulled.status == PullStatus::OffsetIllegal {
            tracing::warn!(%group, ?queue, %from, to = %pulled.next, "the position is not in the queue, or was reset");
        }
        Ok(pulled)
    }
}

impl GroupMember for Shared {
    fn heartbeat(&self) -> ConsumerData {
        ConsumerData {
            consume_from_where: self.consume_from.on_the_wire(),
            consume_type: ConsumeType::ConsumeActively,
            group_name: self.group.to_string(),
            message_model: MessageModel::Clustering,
            subscription_data_set: Vec::new(),
            unit_mode: false,
        }
    }

    fn members_changed(&self) {}

    /// Whoever assigns the queues decides where they are read from.
    fn reset(self: Arc<Self>, _: QueueOffsets) {}

    fn positions(&self, _: &str) -> ConsumerPositions {
        ConsumerPositions::default()
    }

    fn consume_directly(self: Arc<Self>, _: ReceivedMessage) -> Consuming {
        let remark = Some("a pull consumer has no handler".to_owned());
        Box::pin(async {
            ConsumedDirectly { consume_result: DirectResult::Threw, remark, ..ConsumedDirectly::default() }
        })
    }

    fn running_info(&self, _: Option<&InboxAnswer>) -> bytes::Bytes {
        let properties = serde_json::json!({"PROP_CONSUME_TYPE": "CONSUME_ACTIVELY"});
        body::to_json(
            &serde_json::json!({"mqTable": {}, "properties": properties, "statusTable": {}, "subscriptionSet": []}),
        )
    }
}
