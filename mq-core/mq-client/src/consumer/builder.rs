//! Putting a push consumer together, and its handle.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::Duration;

use mq_protocol::ByteString;
use mq_protocol::body::{InboxAnswer, MessageQueue};
use mq_protocol::topic;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::allocate::Allocation;
use super::filter::Filter;
use super::group::{Group, Mode};
use super::handler::{Handler, MessageHandler};
use super::in_flight::FlowLimits;
use super::inbox::InboxLookup;
use super::local_offsets::LocalOffsets;
use super::meters::Meters;
use super::start::ConsumeFrom;
use crate::client::{Client, ClientChoice, ClientOptions, GroupMember};
use crate::error::ClientError;
use crate::message::ReceivedMessage;
use crate::producer::Producer;
use crate::trace::Tracer;
use crate::unique_key;

#[derive(Clone, Debug)]
pub struct PushOptions {
    pub consume_from: ConsumeFrom,
    pub allocation: Allocation,
    /// Batches handled at the same time, over all queues.
    pub concurrency: usize,
    /// Messages handed to the handler at once.
    pub batch: usize,
    /// Messages of one pull.
    pub pull_batch: u32,
    /// How long a broker may hold a pull that finds nothing.
    pub hold: Duration,
    /// Deliveries after the first before the dead-letter topic; `None`: as the broker's setting of the group says (16, unless
    /// somebody changed it), and no end for orderly consumers.
    pub max_reconsume_times: Option<u32>,
    /// Per queue.
    pub flow: FlowLimits,
    /// Orderly consumers: pause before a failed batch is handled again.
    pub orderly_pause: Duration,
    pub commit_interval: Duration,
    pub rebalance_interval: Duration,
    pub lock_interval: Duration,
    /// How long a shutdown waits for handlers.
    pub drain_timeout: Duration,
    /// The topic that traces of handled messages go to, mostly [`TRACE_TOPIC`](crate::TRACE_TOPIC); `None`: no traces.
    pub trace: Option<ByteString>,
}

impl Default for PushOptions {
    fn default() -> Self {
        Self {
            consume_from: ConsumeFrom::Last,
            allocation: Allocation::Average,
            concurrency: 20,
            batch: 1,
            pull_batch: 32,
            hold: Duration::from_secs(15),
            max_reconsume_times: None,
            flow: FlowLimits::default(),
            orderly_pause: Duration::from_secs(1),
            commit_interval: Duration::from_secs(5),
            rebalance_interval: Duration::from_secs(20),
            lock_interval: Duration::from_secs(20),
            drain_timeout: Duration::from_secs(30),
            trace: None,
        }
    }
}

pub struct PushConsumerBuilder {
    client: ClientChoice,
    group: ByteString,
    subscriptions: BTreeMap<String, Filter>,
    handler: Option<(Mode, Handler)>,
    inbox: Option<InboxLookup>,
    broadcast: Option<Option<PathBuf>>,
    options: PushOptions,
}

impl PushConsumerBuilder {
    fn new(name_servers: String) -> Self {
        Self {
            client: ClientChoice::of(name_servers),
            group: ByteString::new(),
            subscriptions: BTreeMap::new(),
            handler: None,
            inbox: None,
            broadcast: None,
            options: PushOptions::default(),
        }
    }

    #[must_use]
    pub fn group(mut self, group: impl Into<ByteString>) -> Self {
        self.group = group.into();
        self
    }

    /// Every member of a group must subscribe to the same topics with the same filters.
    #[must_use]
    pub fn subscribe(mut self, topic: impl Into<String>, filter: Filter) -> Self {
        self.subscriptions.insert(topic.into(), filter);
        self
    }

    /// Messages in any order, several at once.
    #[must_use]
    pub fn concurrent(mut self, handler: impl MessageHandler) -> Self {
        self.handler = Some((Mode::Concurrent, Handler::new(handler)));
        self
    }

    /// Messages of one queue one after the other, in the order in which they were sent.
    #[must_use]
    pub fn orderly(mut self, handler: impl MessageHandler) -> Self {
        self.handler = Some((Mode::Orderly, Handler::new(handler)));
        self
    }

    /// Says to operators (`mq explain`) whether the effect of a message is in this consumer's database.
    #[must_use]
    pub fn inbox<F, L>(mut self, look: F) -> Self
    where
        F: Fn(ReceivedMessage) -> L + Send + Sync + 'static,
        L: Future<Output = InboxAnswer> + Send + 'static,
    {
        self.inbox = Some(InboxLookup::new(look));
        self
    }

    /// Every member gets every message; each keeps its own offsets in memory.
    #[must_use]
    pub fn broadcast(mut self) -> Self {
        self.broadcast = Some(None);
        self
    }

    /// As [`PushConsumerBuilder::broadcast`], with the offsets in a file.
    #[must_use]
    pub fn broadcast_with_file(mut self, offsets: impl Into<PathBuf>) -> Self {
        self.broadcast = Some(Some(offsets.into()));
        self
    }

    #[must_use]
    pub fn consume_from(self, from: ConsumeFrom) -> Self {
        self.options(|options| options.consume_from = from)
    }

    #[must_use]
    pub fn options(mut self, change: impl FnOnce(&mut PushOptions)) -> Self {
        change(&mut self.options);
        self
    }

    /// Shares the connections of this client. One client holds one consumer of a group.
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

    /// Joins the group and begins to consume. Servers that cannot be reached are no error: they are tried again.
    pub async fn start(self) -> Result<PushConsumer, ClientError> {
        let invalid = |error: topic::NameError| ClientError::Invalid(error.to_string());
        topic::check_group(&self.group).map_err(invalid)?;
        for topic in self.subscriptions.keys() {
            topic::check_topic(topic).map_err(invalid)?;
        }
        if self.subscriptions.is_empty() {
            return Err(ClientError::Invalid(format!("group {} subscribes to nothing", self.group)));
        }
        if let Some(traces) = &self.options.trace {
            topic::check_topic(traces).map_err(invalid)?;
        }
        let no_handler = || ClientError::Invalid(format!("group {} has no handler", self.group));
        let (mode, handler) = self.handler.clone().ok_or_else(no_handler)?;
        let broadcast = self.broadcast.clone().map(LocalOffsets::open).transpose()?;
        let client = self.client.clone().open()?;
        let producer = Producer::unregistered(client.clone(), topic::CLIENT_INNER_PRODUCER.into());
        let version = unique_key::now().0;
        let mut subscriptions: BTreeMap<_, _> = self
            .subscriptions
            .iter()
            .map(|(topic, filter)| (topic.clone(), filter.subscription(topic, version)))
            .collect();
        if broadcast.is_none() {
            let retry = Group::retry_topic(&self.group);
            subscriptions.insert(retry.to_string(), Filter::all().subscription(&retry, version));
        }
        client.0.check_filters(&self.group, subscriptions.values()).await?;
        let start = |topic: ByteString| Tracer::start(client.clone(), topic, &self.group);
        let tracer = self.options.trace.clone().map(start);
        let group = Arc::new(Group {
            tracer,
            meters: Meters::of(subscriptions.keys()),
            client,
            name: self.group,
            mode,
            subscriptions,
            handler,
            inbox: self.inbox,
            broadcast: broadcast.map(Arc::new),
            producer,
            assigned: Mutex::default(),
            leaving: Mutex::default(),
            locks: Mutex::default(),
            plan_changed: Notify::new(),
            told: AtomicBool::new(false),
            places: Arc::new(Semaphore::new(self.options.concurrency.max(1))),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            started: std::time::SystemTime::now(),
            options: self.options,
        });
        join(&group).await;
        Ok(PushConsumer(group))
    }

    /// Consumes until `shutdown` is done, then finishes what is in hand.
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> Result<(), ClientError> {
        let consumer = self.start().await?;
        shutdown.await;
        consumer.shut_down().await;
        Ok(())
    }
}

async fn join(group: &Arc<Group>) {
    let routes = &group.inner().routes;
    for topic in group.subscriptions.keys().map(|topic| ByteString::from(topic.as_str())) {
        routes.want(topic.clone());
        if let Err(error) = routes.get(&topic).await {
            tracing::debug!(group = %group.name, %error, "waiting for the topic");
        }
    }
    let member: Arc<dyn GroupMember> = group.clone();
    let member: Weak<dyn GroupMember> = Arc::downgrade(&member);
    group.inner().register_consumer(group.name.clone(), member).await;
    group.rebalance().await;
    group.start_loops();
}

/// A running consumer. Dropping it stops it without waiting; [`PushConsumer::shut_down`] finishes what is in hand.
pub struct PushConsumer(Arc<Group>);

impl PushConsumer {
    /// `name_servers` as in `NAMESRV_ADDR`.
    #[must_use]
    pub fn builder(name_servers: impl Into<String>) -> PushConsumerBuilder {
        PushConsumerBuilder::new(name_servers.into())
    }

    #[must_use]
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// The queues that this member reads now.
    #[must_use]
    pub fn queues(&self) -> Vec<MessageQueue> {
        self.0.assigned.lock().keys().map(|queue| (**queue).clone()).collect()
    }

    /// Takes no new messages, waits for handlers (up to `drain_timeout`), commits and leaves the group.
    pub async fn shut_down(self) {
        self.0.shut_down().await;
    }
}

impl Drop for PushConsumer {
    fn drop(&mut self) {
        self.0.stop.cancel();
    }
}
