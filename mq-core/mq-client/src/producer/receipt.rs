//! What a broker said to a send.

use std::sync::Arc;

use mq_protocol::ByteString;
use mq_protocol::body::MessageQueue;
use mq_protocol::codes::response;
use mq_protocol::ids::{LogOffset, QueueOffset};

/// How safe a stored message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendStatus {
    SendOk,
    /// Stored, but the disk did not confirm in time.
    FlushDiskTimeout,
    /// Stored, but no slave confirmed in time.
    FlushSlaveTimeout,
    /// Stored, but there is no slave where one is required.
    SlaveNotAvailable,
}

impl SendStatus {
    pub(crate) fn of(code: i32) -> Option<Self> {
        match code {
            response::SUCCESS => Some(Self::SendOk),
            response::FLUSH_DISK_TIMEOUT => Some(Self::FlushDiskTimeout),
            response::FLUSH_SLAVE_TIMEOUT => Some(Self::FlushSlaveTimeout),
            response::SLAVE_NOT_AVAILABLE => Some(Self::SlaveNotAvailable),
            _ => None,
        }
    }
}

/// A stored message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendReceipt {
    pub status: SendStatus,
    /// The client's unique key, which consumers see as the message id.
    pub message_id: ByteString,
    /// Names the stored copy: store address and commit-log offset.
    pub offset_message_id: ByteString,
    pub queue: Arc<MessageQueue>,
    pub queue_offset: QueueOffset,
    /// By which [`Producer::recall`](super::Producer::recall) takes a delayed message back; not for delay levels.
    pub recall_handle: Option<ByteString>,
}

/// A stored half message: invisible until its transaction is ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HalfReceipt {
    pub group: ByteString,
    /// The topic that it becomes visible in.
    pub topic: ByteString,
    /// The client's unique key; together with the group it names the transaction.
    pub message_id: ByteString,
    pub transaction_id: ByteString,
    pub broker_name: ByteString,
    /// Its place in the half queue.
    pub half_offset: QueueOffset,
    pub log_offset: LogOffset,
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Commit,
    Rollback,
    /// Not known yet: the broker asks again later.
    Unknown,
}
