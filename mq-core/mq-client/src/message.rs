//! Messages as users write and read them. Knows no connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mq_protocol::ByteString;
use mq_protocol::body::MessageQueue;
use mq_protocol::compression;
use mq_protocol::ids::{LogOffset, QueueOffset, UnixMillis};
use mq_protocol::message_id;
use mq_protocol::properties::{MAX_PROPERTIES_BYTES, Properties, name};
use mq_protocol::record::StoredMessage;
use mq_protocol::{sys_flag, topic};

/// Inflated bodies beyond it stay as they came, so that a small message cannot fill our memory.
const MAX_INFLATED_BYTES: usize = 64 * 1024 * 1024;

/// A message to send.
///
/// ```
/// # use mq_client::Message;
/// let message = Message::new("ORDER_PAID", r#"{"order":7}"#).tags("gift").key("order-7").property("tenant", "a");
/// assert_eq!(message.topic(), "ORDER_PAID");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub(crate) topic: ByteString,
    pub(crate) body: Bytes,
    pub(crate) flag: i32,
    pub(crate) properties: Properties,
}

impl Message {
    #[must_use]
    pub fn new(topic: impl Into<ByteString>, body: impl Into<Bytes>) -> Self {
        let mut properties = Properties::default();
        properties.set(name::WAIT, "true");
        Self { topic: topic.into(), body: body.into(), flag: 0, properties }
    }

    /// What consumers filter by. One tag, in spite of the name that the field has on the wire.
    #[must_use]
    pub fn tags(self, tag: impl Into<ByteString>) -> Self {
        self.property(name::TAGS, tag)
    }

    /// What operators find it by.
    #[must_use]
    pub fn key(self, key: impl Into<ByteString>) -> Self {
        self.property(name::KEYS, key)
    }

    #[must_use]
    pub fn keys<K: AsRef<str>>(self, keys: impl IntoIterator<Item = K>) -> Self {
        let keys: Vec<K> = keys.into_iter().collect();
        let keys: Vec<&str> = keys.iter().map(AsRef::as_ref).collect();
        self.property(name::KEYS, keys.join(" "))
    }

    /// A property of your own, or one of the protocol's ([`mq_protocol::properties::name`]). An empty value removes it.
    #[must_use]
    pub fn property(mut self, name: impl Into<ByteString>, value: impl Into<ByteString>) -> Self {
        self.properties.set(name, value);
        self
    }

    /// Delivered after one of the 18 delays (1 s, 5 s, 10 s, 30 s, 1 to 10 min, 20 min, 30 min, 1 h, 2 h); 0: at once.
    #[must_use]
    pub fn delay_level(self, level: u8) -> Self {
        let level = if level == 0 { String::new() } else { level.to_string() };
        self.property(name::DELAY, level)
    }

    /// Delivered at this time: never before it, and at most a second after.
    #[must_use]
    pub fn deliver_at(self, time: UnixMillis) -> Self {
        self.property(name::TIMER_DELIVER_MS, time.0.to_string())
    }

    /// Delivered when so much time is over, by the broker's clock.
    #[must_use]
    pub fn delay(self, delay: Duration) -> Self {
        self.property(name::TIMER_DELAY_MS, delay.as_millis().to_string())
    }

    /// Goes to the queue of this number, or to the last one, whichever queue the send chose; consumers that pop begin
    /// with the highest. Not for messages that are delayed, transactional or ordered by a key of Apache's.
    #[must_use]
    pub fn priority(self, priority: u16) -> Self {
        self.property(name::PRIORITY, priority.to_string())
    }

    /// False: acknowledged before it is on disk.
    #[must_use]
    pub fn wait_stored(self, wait: bool) -> Self {
        self.property(name::WAIT, if wait { "true" } else { "false" })
    }

    /// Half messages: how long the broker waits before it first asks for the verdict.
    #[must_use]
    pub fn check_after(self, after: Duration) -> Self {
        self.property(name::CHECK_IMMUNITY_SECONDS, after.as_secs().max(1).to_string())
    }

    /// A number that travels beside the body, for the application.
    #[must_use]
    pub fn flag(mut self, flag: i32) -> Self {
        self.flag = flag;
        self
    }

    /// The number of [`Message::flag`].
    #[must_use]
    pub fn user_flag(&self) -> i32 {
        self.flag
    }

    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    #[must_use]
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// What is wrong with it, before anything is sent.
    pub(crate) fn check(&self, max_message_bytes: usize) -> Result<(), String> {
        topic::check_topic(&self.topic).map_err(|error| error.to_string())?;
        if !topic::is_writable_by_clients(&self.topic) {
            return Err(format!("topic {} belongs to the system and takes no sends", self.topic));
        }
        if self.body.is_empty() {
            return Err("the body is empty".into());
        }
        if self.body.len() > max_message_bytes {
            return Err(format!("the body takes {} bytes, the limit is {max_message_bytes}", self.body.len()));
        }
        if let Some((name, _)) = self.properties.iter().find(separates) {
            return Err(format!("property {name:?} or its value has a character 1 or 2, which separate properties"));
        }
        let bytes: usize = self.properties.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
        // The client adds an id and a group, the broker a region and a cluster.
        let limit = MAX_PROPERTIES_BYTES - 1024;
        if bytes > limit {
            return Err(format!("the properties take {bytes} bytes, the limit is {limit}"));
        }
        Ok(())
    }
}

fn separates((name, value): &(&ByteString, &ByteString)) -> bool {
    name.is_empty() || Properties::has_separator(name) || Properties::has_separator(value)
}

/// A message that a broker delivered. Its texts and body share the buffer of the delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedMessage {
    /// The topic that it was sent to, also when it comes from the group's retry topic.
    pub topic: ByteString,
    /// As its sender wrote it (inflated).
    pub body: Bytes,
    pub properties: Properties,
    /// The client's unique key, the same on every redelivery.
    pub message_id: ByteString,
    /// The queue that it was read from; of a retry, a queue of the retry topic.
    pub queue: Arc<MessageQueue>,
    pub queue_offset: QueueOffset,
    /// Deliveries that failed before this one.
    pub reconsume_times: i32,
    pub born_timestamp: UnixMillis,
    pub store_timestamp: UnixMillis,
    pub flag: i32,
    pub sys_flag: i32,
    pub log_offset: LogOffset,
    /// Names the stored copy, and changes when it is stored again for a retry.
    pub offset_message_id: ByteString,
}

impl ReceivedMessage {
    pub(crate) fn new(stored: StoredMessage, broker: &Arc<MessageQueue>) -> Self {
        let message = stored.message;
        let offset_message_id: ByteString = message_id::offset_id(message.store_host, stored.log_offset).into();
        let properties = Properties::parse(&message.properties);
        let retried = topic::is_retry(&message.topic).then(|| properties.get(name::RETRY_TOPIC).cloned()).flatten();
        let (body, sys_flag) = inflated(message.sys_flag, message.body);
        Self {
            topic: retried.unwrap_or(message.topic),
            body,
            message_id: properties.get(name::UNIQ_KEY).cloned().unwrap_or_else(|| offset_message_id.clone()),
            properties,
            queue: broker.clone(),
            queue_offset: stored.queue_offset,
            reconsume_times: message.reconsume_times,
            born_timestamp: message.born_timestamp,
            store_timestamp: stored.store_timestamp,
            flag: message.flag,
            sys_flag,
            log_offset: stored.log_offset,
            offset_message_id,
        }
    }

    /// A message that no broker delivered, for tests of handlers and checks: as its consumers would read it, from the first
    /// place of the topic's first queue.
    #[must_use]
    pub fn undelivered(message: Message) -> Self {
        let topic = message.topic.to_string();
        let queue = MessageQueue { topic, broker_name: String::new(), queue_id: 0 };
        Self { flag: message.flag, ..Self::pushed(message.properties, message.body, 0, Arc::new(queue)) }
    }

    /// A message that came without being read from a queue.
    pub(crate) fn pushed(properties: Properties, body: Bytes, sys_flag: i32, queue: Arc<MessageQueue>) -> Self {
        let (body, sys_flag) = inflated(sys_flag, body);
        Self {
            topic: queue.topic.as_str().into(),
            body,
            message_id: properties.get(name::UNIQ_KEY).cloned().unwrap_or_default(),
            properties,
            queue,
            queue_offset: QueueOffset(0),
            reconsume_times: 0,
            born_timestamp: UnixMillis(0),
            store_timestamp: UnixMillis(0),
            flag: 0,
            sys_flag,
            log_offset: LogOffset(0),
            offset_message_id: ByteString::new(),
        }
    }

    #[must_use]
    pub fn tags(&self) -> Option<&str> {
        self.property(name::TAGS)
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.property(name::KEYS).unwrap_or_default().split(' ').filter(|key| !key.is_empty())
    }

    #[must_use]
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties.get(name).map(|value| &**value)
    }
}

fn inflated(flags: i32, body: Bytes) -> (Bytes, i32) {
    match compression::inflate(flags, &body, MAX_INFLATED_BYTES) {
        Ok(inflated) => (inflated, flags & !sys_flag::COMPRESSED),
        Err(error) => {
            tracing::error!(%error, "a body is handed on as it was stored");
            (body, flags)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_no_broker_would_take_are_refused_with_the_reason() {
        let ok = || Message::new("T", "body");
        for (message, reason) in [
            (ok(), None),
            (ok().keys(["a", "b"]).tags("t").delay_level(3), None),
            (Message::new("a b", "body"), Some("may only have")),
            (Message::new("RMQ_SYS_TRANS_HALF_TOPIC", "body"), Some("belongs to the system")),
            (Message::new("T", ""), Some("the body is empty")),
            (Message::new("T", vec![0; 101]), Some("101 bytes, the limit is 100")),
            (ok().property("a", "x\u{2}y"), Some("separate properties")),
            (ok().property("a", "x".repeat(32_000)), Some("the properties take")),
        ] {
            let checked = message.check(100);
            match reason {
                None => assert_eq!(checked, Ok(())),
                Some(reason) => assert!(checked.as_ref().is_err_and(|error| error.contains(reason)), "{checked:?}"),
            }
        }
    }
}
