//! Messages: one by its id or place, several by key.

use std::sync::Arc;

use mq_protocol::body::MessageQueue;
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{QueryMessage, ViewMessage};
use mq_protocol::ids::UnixMillis;
use mq_protocol::{message_id, record};

use super::{Admin, Master};
use crate::error::{CallError, ClientError};
use crate::message::ReceivedMessage;
use crate::trace::TraceRecord;

/// Brokers answer no more to one question.
const MOST_MESSAGES: u32 = 32;

impl Admin {
    /// The stored copy that this offset id names.
    pub async fn message_by_offset_id(&self, id: &str) -> Result<ReceivedMessage, ClientError> {
        let (address, offset) = message_id::parse_offset_id(id).ok_or_else(|| {
            ClientError::Invalid(format!("{id} is no offset id: 32 hex digits of address and offset"))
        })?;
        let broker = Master { cluster: String::new(), name: String::new(), address: address.to_string().into() };
        let command = Command::request_with(request::VIEW_MESSAGE_BY_ID, &ViewMessage { offset, topic: None });
        let answer = self.call(&broker, command).await?;
        let none = || ClientError::Invalid(format!("{address} answered with nothing for {id}"));
        messages(&broker, request::VIEW_MESSAGE_BY_ID, &answer)?.pop().ok_or_else(none)
    }

    /// Messages with this key, or with this unique key, of every broker; newest last.
    pub async fn messages_by_key(
        &self,
        topic: &str,
        key: &str,
        unique: bool,
    ) -> Result<Vec<ReceivedMessage>, ClientError> {
        let header = QueryMessage {
            topic: topic.into(),
            key: key.into(),
            max_num: MOST_MESSAGES as i32,
            begin_timestamp: UnixMillis(0),
            end_timestamp: UnixMillis(i64::MAX),
            unique_key_query: unique.then_some(true),
            index_type: None,
        };
        let command = Command::request_with(request::QUERY_MESSAGE, &header);
        let mut found = Vec::new();
        for master in self.masters().await? {
            match self.call(&master, command.clone()).await {
                Ok(answer) => found.extend(messages(&master, command.code, &answer)?),
                Err(ClientError::Call(error)) if error.code() == Some(response::QUERY_NOT_FOUND) => {}
                Err(error) => return Err(error),
            }
        }
        found.sort_by_key(|message| (message.store_timestamp, message.log_offset));
        Ok(found)
    }

    /// What the traces in this topic say of a message, in the order in which it happened.
    pub async fn traces(&self, trace_topic: &str, message_id: &str) -> Result<Vec<TraceRecord>, ClientError> {
        let mut records = Vec::new();
        for message in self.messages_by_key(trace_topic, message_id, false).await? {
            let all = TraceRecord::decode_all(&String::from_utf8_lossy(&message.body));
            records.extend(all.into_iter().filter(|record| **record.message_id() == *message_id));
        }
        records.sort_by_key(TraceRecord::at);
        Ok(records)
    }
}

fn messages(broker: &Master, request: i32, answer: &Command) -> Result<Vec<ReceivedMessage>, ClientError> {
    let unreadable = |error| CallError::unreadable(&broker.address, request, error);
    let stored = record::decode_all(&answer.body).map_err(unreadable)?;
    let place = |topic: &str, queue_id| {
        Arc::new(MessageQueue { topic: topic.to_owned(), broker_name: broker.name.clone(), queue_id })
    };
    Ok(stored
        .into_iter()
        .map(|one| {
            let queue = place(&one.message.topic, one.message.queue_id.0);
            ReceivedMessage::new(one, &queue)
        })
        .collect())
}
