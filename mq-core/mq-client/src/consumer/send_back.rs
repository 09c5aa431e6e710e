//! Failed messages on their way to a later delivery or to the dead-letter topic.

use mq_protocol::properties::name;
use mq_protocol::topic;

use super::group::{Group, Mode};
use crate::error::{ClientError, SendError};
use crate::message::{Message, ReceivedMessage};

/// The first retry's delay level; each further one takes the next.
const FIRST_RETRY_LEVEL: i32 = 3;

impl Group {
    /// `None`: as the broker's setting of the group says.
    pub(super) fn max_reconsume_times(&self) -> Option<i32> {
        match (self.options.max_reconsume_times, self.mode) {
            (Some(times), _) => Some(i32::try_from(times).unwrap_or(i32::MAX)),
            (None, Mode::Concurrent) => None,
            (None, Mode::Orderly) => Some(i32::MAX),
        }
    }

    /// Asks the message's own broker; if that fails, sends a copy to the retry topic by any broker.
    pub(super) async fn send_back(&self, message: &ReceivedMessage, delay_level: i32) -> Result<(), SendError> {
        let max = self.max_reconsume_times();
        let asked: Result<(), ClientError> = self.inner().send_back(&self.name, message, delay_level, max).await;
        let Err(error) = asked else { return Ok(()) };
        tracing::debug!(message_id = %message.message_id, %error, "sending a copy to the retry topic instead");
        self.send_retry_copy(message, message.reconsume_times + 1).await
    }

    /// The broker puts it into the dead-letter topic when it was tried more often than it may be.
    pub(super) async fn send_retry_copy(&self, message: &ReceivedMessage, times: i32) -> Result<(), SendError> {
        let mut copy = Message::new(topic::retry_topic(&self.name), message.body.clone()).flag(message.flag);
        for (name, value) in message.properties.iter() {
            copy.properties.set(name.clone(), value.clone());
        }
        let origin = message.property(name::ORIGIN_MESSAGE_ID).unwrap_or(&message.offset_message_id);
        if let Some(max) = self.max_reconsume_times() {
            copy = copy.property(name::MAX_RECONSUME_TIMES, max.to_string());
        }
        let copy = copy
            .property(name::ORIGIN_MESSAGE_ID, origin)
            .property(name::RETRY_TOPIC, message.topic.clone())
            .property(name::RECONSUME_TIME, times.to_string())
            .property(name::TRANSACTION_PREPARED, "")
            .property(name::DELAY, (FIRST_RETRY_LEVEL + message.reconsume_times).to_string());
        self.producer.send(copy).await.map(drop)
    }
}
