//! The records of the revive topic as messages: what a pop gave out (`ck`), what came back (`ack`, `bAck`).
//!
//! Apache sends them through its timer, due when the messages are; here they stand in the revive topic at once and carry
//! the time of their writing as their timer's time: an Apache broker that takes over waits for each checkpoint's own time.

use std::net::SocketAddr;
use std::time::Duration;

use bytestring::ByteString;
use mq_protocol::body::{self, AckRecord, BodyError, CheckpointRecord};
use mq_protocol::ids::{LogOffset, QueueId, UnixMillis};
use mq_protocol::properties::{Properties, name};
use mq_protocol::record::{Message, StoredMessage};
use serde::Serialize;

const CHECKPOINT: &str = "ck";
const ACK: &str = "ack";
const BATCH_ACK: &str = "bAck";
/// Apache's timer brings a checkpoint a second before its acknowledgements, and each within a second.
const APACHES_ACKS_COME_WITHIN: Duration = Duration::from_secs(3);

/// A record of the revive topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Checkpoint(CheckpointRecord),
    Ack(AckRecord),
}

impl Record {
    /// `None`: a tag that is not known.
    pub(crate) fn read(message: &Message) -> Result<Option<Self>, BodyError> {
        Ok(match message.property(name::TAGS) {
            Some(CHECKPOINT) => Some(Self::Checkpoint(body::from_json("checkpoint", &message.body)?)),
            Some(ACK | BATCH_ACK) => Some(Self::Ack(body::from_json("acknowledgement", &message.body)?)),
            _ => None,
        })
    }
}

/// For a checkpoint that Apache wrote: until when its acknowledgements, which wait in the timer, may be on their way.
/// They are as late as this broker if it did not run.
pub(crate) fn apaches_acks_come_until(checkpoint: &StoredMessage, started_at: UnixMillis) -> Option<UnixMillis> {
    checkpoint.message.property(name::TIMER_OUT_MS)?;
    Some(checkpoint.store_timestamp.max(started_at).plus(APACHES_ACKS_COME_WITHIN))
}

/// Where and by whom records are written.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    pub(crate) topic: ByteString,
    pub(crate) broker_name: String,
    pub(crate) store_host: SocketAddr,
}

impl Writer {
    pub(crate) fn checkpoint(&self, record: &CheckpointRecord, revive_queue: QueueId, now: UnixMillis) -> Message {
        let CheckpointRecord { topic, queue_id, start_offset, consumer_group, pop_time, .. } = record;
        let broker = &self.broker_name;
        let key = format!("{topic}@{queue_id}@{start_offset}@{consumer_group}@{pop_time}@{broker}@{CHECKPOINT}");
        self.message(record, CHECKPOINT, key, revive_queue, now)
    }

    pub(crate) fn ack(&self, record: &AckRecord, revive_queue: QueueId, now: UnixMillis) -> Message {
        let AckRecord { topic, queue_id, ack_offset, consumer_group, pop_time, .. } = record;
        let broker = &self.broker_name;
        let key = format!("{topic}@{queue_id}@{ack_offset}@{consumer_group}@{pop_time}@{broker}@{ACK}");
        let tag = if record.ack_offsets.is_empty() { ACK } else { BATCH_ACK };
        self.message(record, tag, key, revive_queue, now)
    }

    fn message(
        &self,
        record: &impl Serialize,
        tag: &'static str,
        key: String,
        queue_id: QueueId,
        now: UnixMillis,
    ) -> Message {
        let properties: Properties = [
            (name::TAGS, ByteString::from_static(tag)),
            (name::UNIQ_KEY, key.into()),
            (name::TIMER_DELIVER_MS, now.to_string().into()),
        ]
        .into_iter()
        .collect();
        Message {
            topic: self.topic.clone(),
            queue_id,
            flag: 0,
            sys_flag: 0,
            born_timestamp: now,
            born_host: self.store_host,
            store_host: self.store_host,
            reconsume_times: 0,
            prepared_transaction_offset: LogOffset::ZERO,
            properties: properties.encode(),
            body: body::to_json(record),
        }
    }
}
