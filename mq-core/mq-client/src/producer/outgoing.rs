//! A message on its way to the wire, apart from its queue.

use std::sync::Arc;

use bytes::Bytes;
use mq_protocol::body::MessageQueue;
use mq_protocol::codes::request;
use mq_protocol::command::Command;
use mq_protocol::header::{SendMessage, SendMessageResponse};
use mq_protocol::properties::{Properties, name};
use mq_protocol::{ByteString, compression, sys_flag, topic};

use super::traced::Traced;
use super::{Producer, REPLY, SendReceipt, SendStatus};
use crate::error::{SendError, SendFailure};
use crate::message::Message;
use crate::unique_key;

/// A message ready for the wire, apart from its queue.
pub(super) struct Outgoing {
    pub(super) code: i32,
    pub(super) header: SendMessage,
    pub(super) body: Bytes,
    pub(super) message_id: ByteString,
    /// What its trace will say; nothing without one.
    pub(super) traced: Vec<Traced>,
}

impl Producer {
    pub(super) fn prepare(&self, message: Message) -> Result<Outgoing, SendError> {
        match message.check(self.0.options.max_message_bytes) {
            Ok(()) => Ok(self.prepare_checked(message)),
            Err(reason) => Err(SendError::new(message.topic, ByteString::new(), 0, SendFailure::Invalid(reason))),
        }
    }

    pub(super) fn prepare_checked(&self, mut message: Message) -> Outgoing {
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
    pub(super) fn identify(&self, message: &mut Message) -> ByteString {
        if let Some(own) = message.properties.get(name::UNIQ_KEY) {
            return own.clone();
        }
        let id = self.inner().keys.next();
        message.properties.set(ByteString::from_static(name::UNIQ_KEY), id.clone());
        id
    }

    pub(super) fn header(&self, topic: ByteString, properties: &Properties) -> SendMessage {
        SendMessage {
            born_timestamp: unique_key::now(),
            properties: Some(properties.encode()),
            ..SendMessage::new(self.0.group.clone(), topic)
        }
    }
}

impl Outgoing {
    pub(super) fn is_half(&self) -> bool {
        self.header.sys_flag & sys_flag::TRANSACTION_PREPARED != 0
    }

    pub(super) fn command(&self, queue: &MessageQueue) -> Command {
        let mut command = Command::request(self.code).with_body(self.body.clone());
        let header = SendMessage {
            queue_id: queue.queue_id as i32,
            bname: Some(queue.broker_name.as_str().into()),
            ..self.header.clone()
        };
        header.encode_v2(&mut command.ext);
        command
    }

    pub(super) fn receipt(
        &self,
        status: SendStatus,
        header: SendMessageResponse,
        queue: &Arc<MessageQueue>,
    ) -> SendReceipt {
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

    pub(super) fn error(&self, attempts: u32, reason: SendFailure) -> SendError {
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
