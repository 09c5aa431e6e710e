//! Producers: what each can send, and with which options.

mod ask;
mod attempts;
mod batch;
mod beyond;
mod builder;
mod check;
mod fault;
mod outgoing;
mod recall;
mod receipt;
mod select;
mod traced;
mod transaction;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mq_protocol::ByteString;
use mq_protocol::body::MessageQueue;

use crate::client::{Client, Inner};
use crate::error::{RouteError, SendError};
use crate::message::Message;
use crate::trace::Tracer;
use attempts::Target;
use fault::FaultTable;

pub use ask::{NotARequest, ReplyError, RequestFailed};
pub(crate) use ask::{Requests, on_reply};
pub use beyond::MAX_PARTS;
pub use builder::ProducerBuilder;
pub use check::{CheckedHalf, TransactionChecker};
pub(crate) use check::{Checks, on_check};
pub use receipt::{HalfReceipt, SendReceipt, SendStatus, Verdict};

/// The message type of a reply.
const REPLY: &str = "reply";

/// Sends messages for a group. A cheap handle: clone it into tasks.
#[derive(Clone)]
pub struct Producer(Arc<Shared>);

struct Shared {
    client: Client,
    group: ByteString,
    options: ProducerOptions,
    faults: FaultTable,
    tracer: Option<Tracer>,
}

#[derive(Clone, Debug)]
pub struct ProducerOptions {
    /// For one send with all of its retries.
    pub send_timeout: Duration,
    /// Tries after the first one.
    pub retries: u32,
    pub max_message_bytes: usize,
    /// Bodies of this size and more travel compressed (zlib); `None`: never.
    pub compress_from_bytes: Option<usize>,
    /// Leave brokers alone for a while that failed or were slow.
    pub avoid_slow_brokers: bool,
    /// The topic that traces of sends and transactions go to, mostly [`TRACE_TOPIC`](crate::TRACE_TOPIC); `None`: no
    /// traces.
    pub trace: Option<ByteString>,
    /// How many transactions are open in this process. With many, halves and ends wait up to a millisecond for each
    /// other: far fewer packets, wake-ups and disk syncs. `None`: each goes at once.
    pub open_transactions: Option<OpenTransactions>,
}

/// Says how many transactions are open.
#[derive(Clone)]
pub struct OpenTransactions(Arc<dyn Fn() -> usize + Send + Sync>);

impl OpenTransactions {
    /// `count` is asked at each half and end: it has to be quick.
    pub fn counted_by(count: impl Fn() -> usize + Send + Sync + 'static) -> Self {
        Self(Arc::new(count))
    }

    fn count(&self) -> usize {
        (self.0)()
    }
}

impl fmt::Debug for OpenTransactions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} open", self.count())
    }
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self {
            send_timeout: Duration::from_secs(3),
            retries: 2,
            max_message_bytes: 4 * 1024 * 1024,
            compress_from_bytes: None,
            avoid_slow_brokers: true,
            trace: None,
            open_transactions: None,
        }
    }
}

impl Producer {
    /// `name_servers` as in `NAMESRV_ADDR`.
    #[must_use]
    pub fn builder(name_servers: impl Into<String>) -> ProducerBuilder {
        ProducerBuilder::new(name_servers.into())
    }

    /// For the client's own sends: brokers do not hear of the group.
    pub(crate) fn unregistered(client: Client, group: ByteString) -> Self {
        let options = ProducerOptions::default();
        Self(Arc::new(Shared { client, group, options, faults: FaultTable::default(), tracer: None }))
    }

    #[must_use]
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    #[must_use]
    pub fn group(&self) -> &str {
        &self.0.group
    }

    /// Sends and waits for the acknowledgement; retries on another queue or broker, so that it may be stored twice.
    pub async fn send(&self, message: Message) -> Result<SendReceipt, SendError> {
        let outgoing = self.prepare(message)?;
        self.send_to(&outgoing, Target::Any).await
    }

    /// Messages of one key go to one queue, in the order of their sends (Java's hash selector picks the same queue).
    pub async fn send_by_hash(&self, message: Message, key: &str) -> Result<SendReceipt, SendError> {
        let outgoing = self.prepare(message)?;
        self.send_to(&outgoing, Target::Key(key)).await
    }

    pub async fn send_to_queue(&self, message: Message, queue: &MessageQueue) -> Result<SendReceipt, SendError> {
        let outgoing = self.prepare(message)?;
        self.send_to(&outgoing, Target::Queue(queue)).await
    }

    /// Hands the message to a connection and hears nothing of it: it may be lost.
    pub async fn send_oneway(&self, message: Message) -> Result<(), SendError> {
        let outgoing = self.prepare(message)?;
        self.hand_over(&outgoing).await
    }

    /// Queues that take sends.
    pub async fn queues(&self, topic: &str) -> Result<Vec<MessageQueue>, RouteError> {
        let route = self.inner().routes.for_sending(&topic.into()).await?;
        Ok(route.writable.iter().map(|queue| (**queue).clone()).collect())
    }

    /// Whether all brokers of the topics that the builder named can ask this client about half messages now.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.inner().is_registered(&self.0.group)
    }

    /// Takes the group off the brokers, so that they ask others from now on. Connections close with the last handle.
    pub async fn close(&self) {
        if let Some(tracer) = &self.0.tracer {
            tracer.flush().await;
        }
        self.inner().unregister(Some(self.0.group.clone()), None).await;
    }

    fn inner(&self) -> &Arc<Inner> {
        &self.0.client.0
    }
}
