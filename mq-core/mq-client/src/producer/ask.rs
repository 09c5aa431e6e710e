//! Request and reply: a message whose sender waits for the answer of whoever consumes it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mq_protocol::ByteString;
use mq_protocol::body::MessageQueue;
use mq_protocol::codes::response;
use mq_protocol::command::Command;
use mq_protocol::header::PushReplyMessage;
use mq_protocol::properties::{Properties, name};
use mq_protocol::topic;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Producer, REPLY, SendReceipt};
use crate::error::SendError;
use crate::message::{Message, ReceivedMessage};

/// Requests of one client that wait at the same time.
const MAX_REQUESTS: usize = 65_536;

/// A request that got no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestFailed {
    #[error(transparent)]
    Send(#[from] SendError),
    /// It was sent: whoever handles it may do so later, and its reply goes nowhere.
    #[error("no reply to message {message_id} within {within:?}")]
    NoReply { message_id: ByteString, within: Duration },
    #[error("{MAX_REQUESTS} requests of this client wait for replies, the limit; wait for some of them")]
    TooMany,
}

/// The message does not ask for a reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message {message_id} is no request: it has no property {missing}")]
pub struct NotARequest {
    pub message_id: ByteString,
    pub missing: &'static str,
}

/// A reply that did not reach who asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    #[error(transparent)]
    NotARequest(#[from] NotARequest),
    #[error(transparent)]
    Send(#[from] SendError),
}

impl Producer {
    /// Sends a message and waits for the reply of the consumer that handles it; `within` covers both ways.
    ///
    /// The reply comes through a broker that knows this client: of the topic that the message goes to.
    pub async fn request(&self, message: Message, within: Duration) -> Result<ReceivedMessage, RequestFailed> {
        let id = self.inner().keys.next();
        let message = message
            .property(name::CORRELATION_ID, id.clone())
            .property(name::REPLY_TO_CLIENT, self.inner().id.clone())
            .property(name::TTL, within.as_millis().to_string());
        let waiting = self.inner().requests.open(id).ok_or(RequestFailed::TooMany)?;
        let mut message_id = ByteString::new();
        let replied = async {
            message_id = self.send(message).await?.message_id;
            Ok(waiting.reply().await)
        };
        match timeout(within, replied).await {
            Ok(Ok(Some(reply))) => Ok(reply),
            Ok(Err(error)) => Err(RequestFailed::Send(error)),
            Ok(Ok(None)) | Err(_) => Err(RequestFailed::NoReply { message_id, within }),
        }
    }

    /// Answers a request. It takes the way that the request came: its sender is connected to that broker.
    pub async fn reply(
        &self,
        request: &ReceivedMessage,
        body: impl Into<Bytes> + Send,
    ) -> Result<SendReceipt, ReplyError> {
        let reply = request.reply(body)?;
        let broker = &request.queue.broker_name;
        let queues = self.queues(&reply.topic).await.unwrap_or_default();
        match queues.iter().find(|queue| queue.broker_name == *broker) {
            Some(queue) => Ok(self.send_to_queue(reply, queue).await?),
            None => Ok(self.send(reply).await?),
        }
    }
}

impl ReceivedMessage {
    /// The answer to this request, to be sent by any producer; [`Producer::reply`] does both.
    pub fn reply(&self, body: impl Into<Bytes>) -> Result<Message, NotARequest> {
        let need = |missing: &'static str| {
            let not_a_request = || NotARequest { message_id: self.message_id.clone(), missing };
            self.properties.get(missing).cloned().ok_or_else(not_a_request)
        };
        let reply = Message::new(topic::reply_topic(&need(name::CLUSTER)?), body)
            .property(name::MESSAGE_TYPE, REPLY)
            .property(name::CORRELATION_ID, need(name::CORRELATION_ID)?)
            .property(name::REPLY_TO_CLIENT, need(name::REPLY_TO_CLIENT)?)
            .property(name::TTL, self.property(name::TTL).unwrap_or_default().to_owned());
        Ok(reply)
    }
}

/// The requests of a client that wait for their replies.
#[derive(Default)]
pub(crate) struct Requests(Mutex<HashMap<ByteString, oneshot::Sender<ReceivedMessage>>>);

/// One of them; it is forgotten when this is dropped.
struct Waiting<'r> {
    requests: &'r Requests,
    id: ByteString,
    reply: oneshot::Receiver<ReceivedMessage>,
}

impl Requests {
    /// `None`: there are too many.
    fn open(&self, id: ByteString) -> Option<Waiting<'_>> {
        let mut waiting = self.0.lock();
        if waiting.len() >= MAX_REQUESTS {
            return None;
        }
        let (sender, reply) = oneshot::channel();
        waiting.insert(id.clone(), sender);
        Some(Waiting { requests: self, id, reply })
    }

    fn replied(&self, id: &str, reply: ReceivedMessage) {
        let waiting = self.0.lock().remove(id);
        if waiting.is_none_or(|waiting| waiting.send(reply).is_err()) {
            tracing::debug!(id, "a reply that nobody waits for any more");
        }
    }
}

impl Waiting<'_> {
    async fn reply(mut self) -> Option<ReceivedMessage> {
        (&mut self.reply).await.ok()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.requests.0.lock().remove(&self.id);
    }
}

/// Code 326, on the connection's reader.
pub(crate) fn on_reply(requests: &Requests, command: &Command) -> Command {
    let header: PushReplyMessage = match command.header() {
        Ok(header) => header,
        Err(error) => return command.error(response::SYSTEM_ERROR, error.to_string()),
    };
    let properties = Properties::parse(&header.properties.unwrap_or_default());
    let Some(id) = properties.get(name::CORRELATION_ID).cloned() else {
        return command.error(response::SYSTEM_ERROR, "the reply has no CORRELATION_ID");
    };
    let queue = MessageQueue {
        topic: header.topic.to_string(),
        broker_name: String::new(),
        queue_id: u32::try_from(header.queue_id).unwrap_or(0),
    };
    let reply = ReceivedMessage::pushed(properties, command.body.clone(), header.sys_flag, Arc::new(queue));
    let reply = ReceivedMessage {
        born_timestamp: header.born_timestamp,
        store_timestamp: header.store_timestamp,
        reconsume_times: header.reconsume_times.unwrap_or(0),
        flag: header.flag,
        ..reply
    };
    requests.replied(&id, reply);
    command.response(response::SUCCESS)
}
