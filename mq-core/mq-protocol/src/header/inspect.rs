//! How tools look into queues and consumers, and repair what they find.

use bytestring::ByteString;

use super::headers;
use crate::ids::QueueId;

headers! {
    /// QUERY_CONSUME_TIME_SPAN (303).
    ConsumeTimeSpan {
        topic: ByteString = "topic",
        group: ByteString = "group",
    }

    /// QUERY_CONSUME_QUEUE (321).
    QueryConsumeQueue {
        topic: ByteString = "topic",
        queue_id: QueueId = "queueId",
        index: i64 = "index",
        count: i32 = "count",
        consumer_group: Option<ByteString> = "consumerGroup",
    }

    /// QUERY_SUBSCRIPTION_BY_CONSUMER (345).
    QuerySubscription {
        group: ByteString = "group",
        topic: Option<ByteString> = "topic",
    }

    /// QUERY_CORRECTION_OFFSET (308).
    CorrectionOffset {
        /// Comma separated; they are left out.
        filter_groups: Option<ByteString> = "filterGroups",
        compare_group: ByteString = "compareGroup",
        topic: ByteString = "topic",
    }

    /// CLONE_GROUP_OFFSET (314).
    CloneGroupOffset {
        src_group: ByteString = "srcGroup",
        dest_group: ByteString = "destGroup",
        /// All topics of the source when absent.
        topic: Option<ByteString> = "topic",
        offline: Option<bool> = "offline",
    }

    /// RESUME_CHECK_HALF_MESSAGE (323): the id of the copy in `TRANS_CHECK_MAX_TIME_TOPIC`.
    ResumeCheckHalf {
        topic: Option<ByteString> = "topic",
        msg_id: ByteString = "msgId",
    }
}
