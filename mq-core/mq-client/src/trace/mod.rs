//! Traces: what became of each message, sent to a topic that tools read (`mqadmin queryMsgTraceById`).
//!
//! Records are noted in passing and travel in batches from a task. A send never waits for its trace, and never fails for
//! it: what does not fit in the queue is dropped and counted.

mod record;

use std::time::Duration;

use mq_protocol::ByteString;
use mq_protocol::properties::name;
use mq_protocol::topic;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::client::Client;
use crate::message::{Message, ReceivedMessage};
use crate::producer::Producer;
use crate::unique_key;

pub use record::{TraceRecord, TracedKind, TracedMessage};

/// The topic that Apache's clients and tools use unless they are told of another one.
pub const TRACE_TOPIC: &str = topic::TRACE;

/// Records that wait to be sent; as many as Apache's client holds.
const MAX_WAITING: usize = 2048;
/// Of one trace message; one that has so much is sent.
const MAX_RECORDS: usize = 100;
const MAX_TEXT_BYTES: usize = 100_000;
const MAX_KEY_BYTES: usize = 16_000;
/// Keys are a property, which holds no more: what has no room is found by its message's id alone.
const KEY_ROOM_BYTES: usize = 28_000;
/// How long a record waits for others.
const LINGER: Duration = Duration::from_millis(500);
/// How long a flush may take; then the records are sent when they can be.
const FLUSH_WITHIN: Duration = Duration::from_secs(3);

/// A handle. The task ends, once all is sent, when the last one is gone.
#[derive(Clone)]
pub(crate) struct Tracer(mpsc::Sender<Item>);

/// Does not keep the task alive.
#[derive(Clone)]
pub(crate) struct WeakTracer(mpsc::WeakSender<Item>);

enum Item {
    Record(Box<TraceRecord>),
    Flush(oneshot::Sender<()>),
}

impl Tracer {
    pub(crate) fn start(client: Client, topic: ByteString, group: &str) -> Self {
        let producer = Producer::unregistered(client, format!("_INNER_TRACE_PRODUCER-{group}").into());
        let (sender, items) = mpsc::channel(MAX_WAITING);
        tokio::spawn(run(producer, topic, items));
        Self(sender)
    }

    pub(crate) fn downgrade(&self) -> WeakTracer {
        WeakTracer(self.0.downgrade())
    }

    pub(crate) fn note(&self, record: TraceRecord) {
        if self.0.try_send(Item::Record(Box::new(record))).is_err() {
            tracing::debug!(limit = MAX_WAITING, "too many traces wait to be sent; one is dropped");
        }
    }

    /// Waits until what was noted before is sent, though not for long.
    pub(crate) async fn flush(&self) {
        let (done, sent) = oneshot::channel();
        let flushed = async {
            if self.0.send(Item::Flush(done)).await.is_ok() {
                let _ = sent.await;
            }
        };
        let _ = timeout(FLUSH_WITHIN, flushed).await;
    }

    /// Notes that a batch goes to its handler. `None`: none of it is to be traced.
    pub(crate) fn begun(&self, group: &ByteString, batch: &[ReceivedMessage]) -> Option<Handling> {
        let traced = |message: &&ReceivedMessage| message.property(name::TRACE_ON) != Some("false");
        let messages: Vec<(ByteString, Option<ByteString>)> = batch
            .iter()
            .filter(traced)
            .map(|message| (message.message_id.clone(), message.properties.get(name::KEYS).cloned()))
            .collect();
        if messages.is_empty() {
            return None;
        }
        let (at, request_id) = (unique_key::now(), unique_id());
        for message in batch.iter().filter(traced) {
            self.note(TraceRecord::Begun {
                at,
                region: message.properties.get(name::MSG_REGION).cloned().unwrap_or_default(),
                group: group.clone(),
                request_id: request_id.clone(),
                message_id: message.message_id.clone(),
                failed_before: message.reconsume_times,
                keys: message.properties.get(name::KEYS).cloned(),
            });
        }
        Some(Handling { request_id, messages })
    }

    /// Notes how the handler of a batch returned, each message with its share of the time.
    pub(crate) fn handled(&self, group: &ByteString, handling: Handling, took: Duration, success: bool) {
        let Handling { request_id, messages } = handling;
        let cost_ms = took.as_millis() as u64 / messages.len() as u64;
        for (message_id, keys) in messages {
            self.note(TraceRecord::Handled {
                at: unique_key::now(),
                group: group.clone(),
                request_id: request_id.clone(),
                message_id,
                keys,
                cost_ms,
                success,
                outcome: if success { SUCCESS } else { FAILED },
            });
        }
    }
}

/// How a handler returned, by Apache's numbers.
const SUCCESS: i32 = 0;
const FAILED: i32 = 4;

/// A batch that is with its handler.
pub(crate) struct Handling {
    request_id: ByteString,
    messages: Vec<(ByteString, Option<ByteString>)>,
}

fn unique_id() -> ByteString {
    format!("{:032X}", rand::random::<u128>()).into()
}

impl WeakTracer {
    pub(crate) fn upgrade(&self) -> Option<Tracer> {
        self.0.upgrade().map(Tracer)
    }
}

async fn run(producer: Producer, topic: ByteString, mut items: mpsc::Receiver<Item>) {
    let mut batch = Batch::default();
    loop {
        let item = match batch.due {
            None => items.recv().await,
            Some(due) => match timeout_at(due, items.recv()).await {
                Ok(item) => item,
                Err(_) => {
                    batch.send(&producer, &topic).await;
                    continue;
                }
            },
        };
        match item {
            Some(Item::Record(record)) => {
                batch.push(&record);
                if batch.is_full() {
                    batch.send(&producer, &topic).await;
                }
            }
            Some(Item::Flush(done)) => {
                batch.send(&producer, &topic).await;
                let _ = done.send(());
            }
            None => return batch.send(&producer, &topic).await,
        }
    }
}

/// The next trace message.
#[derive(Default)]
struct Batch {
    text: String,
    /// Joined as the property `KEYS` is.
    keys: String,
    records: usize,
    due: Option<Instant>,
}

impl Batch {
    fn push(&mut self, record: &TraceRecord) {
        record.encode(&mut self.text);
        for key in record.index_keys() {
            let has_room = self.keys.len() + key.len() < KEY_ROOM_BYTES;
            if has_room && !self.keys.split(' ').any(|known| known == key) {
                self.keys.push_str(if self.keys.is_empty() { "" } else { " " });
                self.keys.push_str(key);
            }
        }
        self.records += 1;
        self.due.get_or_insert_with(|| Instant::now() + LINGER);
    }

    fn is_full(&self) -> bool {
        self.records >= MAX_RECORDS || self.text.len() >= MAX_TEXT_BYTES || self.keys.len() >= MAX_KEY_BYTES
    }

    async fn send(&mut self, producer: &Producer, topic: &ByteString) {
        let Self { text, keys, records, .. } = std::mem::take(self);
        if records == 0 {
            return;
        }
        let message = Message::new(topic.clone(), text).property(name::KEYS, keys);
        if let Err(error) = producer.send(message).await {
            tracing::warn!(%topic, records, %error, "traces are lost");
        }
    }
}
