//! Several messages of one topic in one request: all stored side by side, or none.

use bytes::{BufMut, BytesMut};
use mq_protocol::ByteString;
use mq_protocol::codes::request;
use mq_protocol::properties::{Properties, name};
use mq_protocol::topic;

use super::attempts::Target;
use super::outgoing::Outgoing;
use super::traced::Traced;
use super::{Producer, SendReceipt};
use crate::error::{SendError, SendFailure};
use crate::message::Message;

/// Fixed bytes of one message in a batch: total size, magic, checksum, flag, body length, properties length.
const UNIT_BYTES: usize = 4 * 5 + 2;

impl Producer {
    /// The receipts are in the order of the messages. All must have the same topic, and none a delay.
    pub async fn send_batch(&self, messages: Vec<Message>) -> Result<Vec<SendReceipt>, SendError> {
        let (outgoing, ids) = self.prepare_batch(messages)?;
        let first = self.send_to(&outgoing, Target::Any).await?;
        let offset_ids: Vec<&str> = first.offset_message_id.split(',').collect();
        let receipts = ids.into_iter().enumerate().map(|(index, message_id)| SendReceipt {
            message_id,
            offset_message_id: offset_ids.get(index).copied().unwrap_or_default().into(),
            recall_handle: None,
            queue_offset: first.queue_offset.plus(index as u64),
            ..first.clone()
        });
        Ok(receipts.collect())
    }

    fn prepare_batch(&self, mut messages: Vec<Message>) -> Result<(Outgoing, Vec<ByteString>), SendError> {
        let limit = self.0.options.max_message_bytes;
        let topic = messages.first().map(|message| message.topic.clone()).unwrap_or_default();
        let invalid = |reason| SendError::new(topic.clone(), ByteString::new(), 0, SendFailure::Invalid(reason));
        check(&messages, limit).map_err(invalid)?;
        let ids: Vec<ByteString> = messages.iter_mut().map(|message| self.identify(message)).collect();
        let each = || messages.iter().zip(&ids).map(|(message, id)| Traced::of(message, id));
        let traced = self.0.tracer.iter().flat_map(|_| each()).collect();
        let body = encode(&messages).freeze();
        if body.len() > limit {
            return Err(invalid(format!("the batch takes {} bytes, the limit is {limit}: split it", body.len())));
        }
        let message_id = self.inner().keys.next();
        let properties: Properties = [(name::WAIT, "true"), (name::UNIQ_KEY, &*message_id)].into_iter().collect();
        let mut header = self.header(topic, &properties);
        header.batch = Some(true);
        Ok((Outgoing { code: request::SEND_BATCH_MESSAGE, header, body, message_id, traced }, ids))
    }
}

fn check(messages: &[Message], limit: usize) -> Result<(), String> {
    let Some(first) = messages.first() else { return Err("the batch is empty".into()) };
    if topic::is_retry(&first.topic) {
        return Err("a batch cannot go to a retry topic".into());
    }
    for message in messages {
        message.check(limit)?;
        if message.topic != first.topic {
            return Err(format!("a batch has one topic, this one has {} and {}", first.topic, message.topic));
        }
        let refused = [name::DELAY, name::TRANSACTION_PREPARED, name::TIMER_DELIVER_MS, name::TIMER_DELAY_MS];
        if let Some(property) = refused.into_iter().find(|property| message.properties.get(property).is_some()) {
            return Err(format!("a message with {property} cannot be in a batch: send it alone"));
        }
    }
    Ok(())
}

fn encode(messages: &[Message]) -> BytesMut {
    let mut out = BytesMut::new();
    for message in messages {
        let properties = message.properties.encode();
        out.put_u32((UNIT_BYTES + message.body.len() + properties.len()) as u32);
        out.put_u32(0);
        out.put_u32(0);
        out.put_i32(message.flag);
        out.put_u32(message.body.len() as u32);
        out.put_slice(&message.body);
        out.put_u16(properties.len() as u16);
        out.put_slice(properties.as_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_that_a_broker_would_not_take_whole_are_refused() {
        let ok = || Message::new("T", "x");
        for (messages, reason) in [
            (vec![ok(), ok()], None),
            (vec![], Some("the batch is empty")),
            (vec![ok(), Message::new("U", "x")], Some("one topic")),
            (vec![ok(), ok().delay_level(1)], Some("DELAY")),
            (vec![Message::new("%RETRY%g", "x")], Some("retry topic")),
            (vec![Message::new("T", "")], Some("body is empty")),
        ] {
            let checked = check(&messages, 100);
            match reason {
                None => assert_eq!(checked, Ok(())),
                Some(reason) => assert!(checked.as_ref().is_err_and(|error| error.contains(reason)), "{checked:?}"),
            }
        }
    }

    #[test]
    fn a_batch_is_laid_out_as_java_lays_it_out() {
        let message = Message { properties: [("a", "b")].into_iter().collect(), ..Message::new("T", "xy").flag(9) };
        let bytes = encode(&[message]);
        assert_eq!(&bytes[..], b"\0\0\0\x1c\0\0\0\0\0\0\0\0\0\0\0\x09\0\0\0\x02xy\0\x04a\x01b\x02");
    }
}
