//! Sending: which queue, how often, and what is known afterwards.

mod ask;
mod batch;
mod beyond;
mod builder;
mod check;
mod fault;
mod recall;
mod receipt;

mod select;
mod traced;
mod transaction;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mq_protocol::ByteString;
use mq_protocol::body::MessageQueue;
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{SendMessage, SendMessageResponse};
use mq_protocol::properties::name;
use mq_protocol::{compression, sys_flag, topic};
use tokio::time::Instant;

use crate::client::{Client, Inner};
use crate::error::{CallError, RequestError, RouteError, SendError, SendFailure};
use crate::message::Message;
use crate::remoting::{Connection, Gather, Patience};
use crate::route::Route;
use crate::trace::Tracer;
use crate::unique_key;
use fault::FaultTable;
use traced::Traced;

pub use ask::{NotARequest, ReplyError, RequestFailed};
pub(crate) use ask::{Requests, on_reply};
pub use beyond::MAX_PARTS;
pub use builder::ProducerBuilder;
pub use check::{CheckedHalf, TransactionChecker};
pub(crate) use check::{Checks, on_check};
pub use receipt::{HalfReceipt, SendReceipt, SendStatus, Verdict};

/// The message type of a reply.
const REPLY: &str = "reply";
/// Pause before a broker that was too busy is tried again, when there is no other.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

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

/// A message ready for the wire, apart from its queue.
struct Outgoing {
    code: i32,
    header: SendMessage,
    body: Bytes,
    message_id: ByteString,
    /// What its trace will say; nothing without one.
    traced: Vec<Traced>,
}

/// Where a send may go.
#[derive(Clone, Copy)]
enum Target<'t> {
    Any,
    /// The queue of this key, also when it fails.
    Key(&'t str),
    Queue(&'t MessageQueue),
    /// Any queue of this broker, also when it fails.
    Broker(&'t str),
}

/// What a failed attempt means for the next one.
enum Failed {
    /// Another attempt makes sense.
    Again(SendFailure),
    Final(SendFailure),
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
        let sent = async {
            let route = self.inner().routes.for_sending(&outgoing.header.topic).await?;
            let queue = self.choose(&route, Target::Any, None)?;
            let address = address_of(&route, &queue)?;
            let deadline = Instant::now() + self.0.options.send_timeout;
            let connection = self.inner().connection_by(address, deadline).await.map_err(CallError::from)?;
            Ok(connection.oneway(outgoing.command(&queue)).await.map_err(CallError::from)?)
        };
        sent.await.map_err(|reason: SendFailure| outgoing.error(1, reason))
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

    fn prepare(&self, message: Message) -> Result<Outgoing, SendError> {
        match message.check(self.0.options.max_message_bytes) {
            Ok(()) => Ok(self.prepare_checked(message)),
            Err(reason) => Err(SendError::new(message.topic, ByteString::new(), 0, SendFailure::Invalid(reason))),
        }
    }

    fn prepare_checked(&self, mut message: Message) -> Outgoing {
        let options = &self.0.options;
        let message_id = self.identify(&mut message);
        let traced = self.0.tracer.iter().map(|_| Traced::of(&message, &message_id)).collect();
        let retried = take_retry_counts(&mut message);
        let mut header = self.header(message.topic, &message.properties);
        header.flag = message.flag;
        if let Some((times, max)) = retried {
            header.reconsume_times = times.or(header.reconsume_times);
            header.max_reconsume_times = max;
        }
        let mut body = message.body;
        if options.compress_from_bytes.is_some_and(|from| body.len() >= from) {
            body = compression::deflate_zlib(&body);
            header.sys_flag |= sys_flag::COMPRESSED;
        }
        let is_reply = message.properties.get(name::MESSAGE_TYPE).is_some_and(|kind| kind == REPLY);
        let code = if is_reply { request::SEND_REPLY_MESSAGE_V2 } else { request::SEND_MESSAGE_V2 };
        Outgoing { code, header, body, message_id, traced }
    }

    /// The message's unique key, made now unless it has one.
    fn identify(&self, message: &mut Message) -> ByteString {
        if let Some(own) = message.properties.get(name::UNIQ_KEY) {
            return own.clone();
        }
        let id = self.inner().keys.next();
        message.properties.set(ByteString::from_static(name::UNIQ_KEY), id.clone());
        id
    }

    fn header(&self, topic: ByteString, properties: &mq_protocol::properties::Properties) -> SendMessage {
        SendMessage {
            born_timestamp: unique_key::now(),
            properties: Some(properties.encode()),
            ..SendMessage::new(self.0.group.clone(), topic)
        }
    }

    async fn send_to(&self, outgoing: &Outgoing, target: Target<'_>) -> Result<SendReceipt, SendError> {
        // A reply that was refused is stored all the same: another try would store it again.
        let certain = outgoing.code == request::SEND_REPLY_MESSAGE_V2;
        self.attempts(outgoing, target, certain).await.map(|(receipt, _)| receipt)
    }

    /// Tries until it is acknowledged, refused for good, or out of tries or time. With `certain`, an attempt that may
    /// have been stored is the last one.
    async fn attempts(
        &self,
        outgoing: &Outgoing,
        target: Target<'_>,
        certain: bool,
    ) -> Result<(SendReceipt, Command), SendError> {
        let (began, deadline) = (Instant::now(), Instant::now() + self.0.options.send_timeout);
        let mut failed_broker: Option<Arc<MessageQueue>> = None;
        let mut may_be_stored = false;
        let mut attempt = 1;
        loop {
            let avoid = failed_broker.as_ref().map(|queue| queue.broker_name.as_str());
            let (queue, failed) = match self.attempt(outgoing, target, avoid, deadline).await {
                Ok((receipt, answer)) => {
                    self.trace_sent(outgoing, &receipt, &answer, began.elapsed());
                    return Ok((receipt, answer));
                }
                Err(failed) => failed,
            };
            let (reason, again) = match failed {
                Failed::Again(reason) => (reason, true),
                Failed::Final(reason) => (reason, false),
            };
            let error = outgoing.error(attempt, reason).or_stored_before(may_be_stored);
            may_be_stored = error.may_be_stored();
            let over = attempt > self.0.options.retries || Instant::now() >= deadline;
            if !again || over || (certain && may_be_stored) {
                return Err(error);
            }
            tracing::debug!(%error, "sending again");
            self.before_retry(&error.reason, &outgoing.header.topic).await;
            failed_broker = queue.or(failed_broker);
            attempt += 1;
        }
    }

    async fn attempt(
        &self,
        outgoing: &Outgoing,
        target: Target<'_>,
        avoid: Option<&str>,
        deadline: Instant,
    ) -> Result<(SendReceipt, Command), (Option<Arc<MessageQueue>>, Failed)> {
        let unrouted = |error: RouteError| (None, Failed::Final(error.into()));
        let route = self.inner().routes.for_sending(&outgoing.header.topic).await.map_err(unrouted)?;
        let queue = self.choose(&route, target, avoid).map_err(unrouted)?;
        let elsewhere = matches!(target, Target::Any) && route.has_other_writable(&queue.broker_name);
        let address = match address_of(&route, &queue) {
            Ok(address) => address,
            // A static order names a broker that is away: only what belongs there waits for it.
            Err(error) if elsewhere => {
                self.0.faults.failed(&queue.broker_name, Instant::now());
                return Err((Some(queue), Failed::Again(error.into())));
            }
            Err(error) => return Err(unrouted(error)),
        };
        let connection = match self.connect(address, elsewhere, deadline).await {
            Ok(connection) => connection,
            Err(error) => {
                self.0.faults.failed(&queue.broker_name, Instant::now());
                return Err((Some(queue), Failed::Again(SendFailure::Call(error.into()))));
            }
        };
        match self.exchange(&connection, outgoing, &queue, deadline).await {
            Ok(stored) => Ok(stored),
            Err(failed) => Err((Some(queue), failed)),
        }
    }

    async fn connect(
        &self,
        address: &ByteString,
        elsewhere: bool,
        deadline: Instant,
    ) -> Result<Arc<Connection>, RequestError> {
        if elsewhere {
            self.inner().connection(address, Patience::Fail).await
        } else {
            self.inner().connection_by(address, deadline).await
        }
    }

    async fn exchange(
        &self,
        connection: &Connection,
        outgoing: &Outgoing,
        queue: &Arc<MessageQueue>,
        deadline: Instant,
    ) -> Result<(SendReceipt, Command), Failed> {
        let began = Instant::now();
        let within = deadline.saturating_duration_since(began);
        let gather = if outgoing.is_half() { self.gather() } else { Gather::AtOnce };
        let answer = connection.request_with(outgoing.command(queue), within, gather).await;
        let now = Instant::now();
        let answer = answer.map_err(|error| {
            self.0.faults.failed(&queue.broker_name, now);
            Failed::Again(SendFailure::Call(error.into()))
        })?;
        let Some(status) = SendStatus::of(answer.code) else {
            if answer.code == response::GO_AWAY {
                connection.close();
            }
            let failure = SendFailure::Call(connection.refused(outgoing.code, &answer).into());
            return Err(if is_worth_a_retry(answer.code) { Failed::Again(failure) } else { Failed::Final(failure) });
        };
        self.0.faults.answered(&queue.broker_name, now - began, now);
        let header: SendMessageResponse = answer
            .header()
            .map_err(|error| Failed::Final(SendFailure::Call(connection.unreadable(outgoing.code, error))))?;
        Ok((outgoing.receipt(status, header, queue), answer))
    }

    fn choose(
        &self,
        route: &Route,
        target: Target<'_>,
        failed_broker: Option<&str>,
    ) -> Result<Arc<MessageQueue>, RouteError> {
        let queues = &route.writable;
        let now = Instant::now();
        let available = |broker: &str| !self.0.options.avoid_slow_brokers || self.0.faults.is_available(broker, now);
        let chosen = match target {
            Target::Any => select::by_turn(queues, route.next_turn(), failed_broker, available).cloned(),
            Target::Key(key) => select::by_hash(queues, key).cloned(),
            Target::Queue(queue) => Some(Arc::new(queue.clone())),
            Target::Broker(broker) => {
                let there = queues.iter().filter(|queue| queue.broker_name == broker).cloned().collect::<Vec<_>>();
                select::by_turn(&there, route.next_turn(), None, |_| true).cloned()
            }
        };
        chosen.ok_or_else(|| RouteError::NoQueue { topic: route.topic().into(), used: "written to" })
    }

    /// What may make the next attempt go better.
    async fn before_retry(&self, reason: &SendFailure, topic: &ByteString) {
        let SendFailure::Call(error) = reason else { return };
        match error.code() {
            Some(response::TOPIC_NOT_EXIST) => drop(self.inner().routes.refresh(topic).await),
            Some(response::SYSTEM_BUSY | response::SERVICE_NOT_AVAILABLE) => tokio::time::sleep(BUSY_PAUSE).await,
            _ => {}
        }
    }
}

impl Outgoing {
    fn is_half(&self) -> bool {
        self.header.sys_flag & sys_flag::TRANSACTION_PREPARED != 0
    }

    fn command(&self, queue: &MessageQueue) -> Command {
        let mut command = Command::request(self.code).with_body(self.body.clone());
        let header = SendMessage {
            queue_id: queue.queue_id as i32,
            bname: Some(queue.broker_name.as_str().into()),
            ..self.header.clone()
        };
        header.encode_v2(&mut command.ext);
        command
    }

    fn receipt(&self, status: SendStatus, header: SendMessageResponse, queue: &Arc<MessageQueue>) -> SendReceipt {
        let queue = if header.queue_id.0 == queue.queue_id {
            queue.clone()
        } else {
            Arc::new(MessageQueue { queue_id: header.queue_id.0, ..(**queue).clone() })
        };
        SendReceipt {
            status,
            message_id: self.message_id.clone(),
            offset_message_id: header.msg_id,
            queue,
            queue_offset: header.queue_offset,
            recall_handle: header.recall_handle,
        }
    }

    fn error(&self, attempts: u32, reason: SendFailure) -> SendError {
        SendError::new(self.header.topic.clone(), self.message_id.clone(), attempts, reason)
    }
}

/// Copies for a group's retry topic carry their counts in the header.
fn take_retry_counts(message: &mut Message) -> Option<(Option<i32>, Option<i32>)> {
    if !topic::is_retry(&message.topic) {
        return None;
    }
    let mut take = |property| message.properties.remove(property).and_then(|value| value.parse().ok());
    Some((take(name::RECONSUME_TIME), take(name::MAX_RECONSUME_TIMES)))
}

fn address_of<'r>(route: &'r Route, queue: &MessageQueue) -> Result<&'r ByteString, RouteError> {
    let unknown =
        || RouteError::NoBroker { topic: queue.topic.as_str().into(), broker: queue.broker_name.as_str().into() };
    route.master(&queue.broker_name).ok_or_else(unknown)
}

/// Refusals that another broker, or the same one a little later, may not repeat.
fn is_worth_a_retry(code: i32) -> bool {
    matches!(
        code,
        response::SYSTEM_ERROR
            | response::SYSTEM_BUSY
            | response::SERVICE_NOT_AVAILABLE
            | response::NO_PERMISSION
            | response::TOPIC_NOT_EXIST
            | response::NO_BUYER_ID
            | response::NOT_IN_CURRENT_UNIT
            | response::GO_AWAY
    )
}
