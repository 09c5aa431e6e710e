//! Offsets of queues and of consumers: 14, 15, 29–32.

use bytestring::ByteString;

use super::headers;
use crate::ids::{QueueId, QueueOffset, UnixMillis};

headers! {
    /// QUERY_CONSUMER_OFFSET (14).
    QueryConsumerOffset {
        consumer_group: ByteString = "consumerGroup",
        topic: ByteString = "topic",
        queue_id: QueueId = "queueId",
        set_zero_if_not_found: Option<bool> = "setZeroIfNotFound",
        bname: Option<ByteString> = "bname",
    }

    /// UPDATE_CONSUMER_OFFSET (15).
    UpdateConsumerOffset {
        consumer_group: ByteString = "consumerGroup",
        topic: ByteString = "topic",
        queue_id: QueueId = "queueId",
        /// Signed: Go's client commits -1 for a queue that it has not read from yet.
        commit_offset: i64 = "commitOffset",
        bname: Option<ByteString> = "bname",
    }

    /// SEARCH_OFFSET_BY_TIMESTAMP (29).
    SearchOffset {
        topic: ByteString = "topic",
        queue_id: QueueId = "queueId",
        timestamp: UnixMillis = "timestamp",
        /// `lower` (default) or `upper`, in either case.
        boundary_type: Option<ByteString> = "boundaryType",
        bname: Option<ByteString> = "bname",
    }

    /// GET_MAX_OFFSET (30): the next offset to be written.
    GetMaxOffset {
        topic: ByteString = "topic",
        queue_id: QueueId = "queueId",
        committed: Option<bool> = "committed",
        bname: Option<ByteString> = "bname",
    }

    /// GET_MIN_OFFSET (31).
    GetMinOffset {
        topic: ByteString = "topic",
        queue_id: QueueId = "queueId",
        bname: Option<ByteString> = "bname",
    }

    /// GET_EARLIEST_MSG_STORETIME (32).
    GetEarliestStoreTime {
        topic: ByteString = "topic",
        queue_id: QueueId = "queueId",
        bname: Option<ByteString> = "bname",
    }

    /// The answer to 14, 29, 30 and 31.
    OffsetResponse {
        offset: QueueOffset = "offset",
    }

    /// The answer to 32; -1 when the queue is empty.
    EarliestStoreTimeResponse {
        timestamp: UnixMillis = "timestamp",
    }
}
