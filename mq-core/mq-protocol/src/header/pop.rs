//! Pop consumption: 200050–200055 and their answers.

use bytestring::ByteString;

use super::headers;
use crate::ids::{QueueId, UnixMillis};

headers! {
    /// POP_MESSAGE (200050).
    PopMessage {
        consumer_group: ByteString = "consumerGroup",
        topic: ByteString = "topic",
        /// -1: any queue.
        queue_id: i32 = "queueId",
        max_msg_nums: i32 = "maxMsgNums",
        invisible_time: i64 = "invisibleTime",
        poll_time: i64 = "pollTime",
        /// By the client's clock; 0 or absent: when the broker reads it.
        born_time: Option<i64> = "bornTime",
        /// Where a new group starts: 0 at the first message, 1 at the last.
        init_mode: i32 = "initMode",
        exp_type: Option<ByteString> = "expType",
        exp: Option<ByteString> = "exp",
        order: Option<bool> = "order",
        attempt_id: Option<ByteString> = "attemptId",
        bname: Option<ByteString> = "bname",
    }

    /// The answer to 200050, found or not, and to 200052. See [`crate::pop`] for the three texts.
    PopMessageResponse {
        pop_time: UnixMillis = "popTime",
        invisible_time: i64 = "invisibleTime",
        revive_qid: u32 = "reviveQid",
        /// Messages that are left.
        rest_num: u64 = "restNum",
        start_offset_info: Option<ByteString> = "startOffsetInfo",
        msg_offset_info: Option<ByteString> = "msgOffsetInfo",
        order_count_info: Option<ByteString> = "orderCountInfo",
    }

    /// ACK_MESSAGE (200051). The topic is the one that the message lies in, so perhaps a retry topic.
    AckMessage {
        consumer_group: ByteString = "consumerGroup",
        topic: ByteString = "topic",
        queue_id: i32 = "queueId",
        extra_info: ByteString = "extraInfo",
        offset: i64 = "offset",
        bname: Option<ByteString> = "bname",
    }

    /// CHANGE_MESSAGE_INVISIBLETIME (200053).
    ChangeInvisibleTime {
        consumer_group: ByteString = "consumerGroup",
        topic: ByteString = "topic",
        queue_id: i32 = "queueId",
        extra_info: ByteString = "extraInfo",
        offset: i64 = "offset",
        invisible_time: i64 = "invisibleTime",
        bname: Option<ByteString> = "bname",
    }

    /// The answer to 200053: what the message's new handle is made of.
    ChangeInvisibleTimeResponse {
        pop_time: UnixMillis = "popTime",
        invisible_time: i64 = "invisibleTime",
        revive_qid: u32 = "reviveQid",
    }

    /// NOTIFICATION (200054): whether a pop would find something, as soon as it would.
    Notification {
        consumer_group: ByteString = "consumerGroup",
        topic: ByteString = "topic",
        queue_id: i32 = "queueId",
        poll_time: i64 = "pollTime",
        born_time: Option<i64> = "bornTime",
        order: Option<bool> = "order",
        attempt_id: Option<ByteString> = "attemptId",
        bname: Option<ByteString> = "bname",
    }

    NotificationResponse {
        has_msg: bool = "hasMsg",
        polling_full: bool = "pollingFull",
    }

    /// PEEK_MESSAGE (200052).
    PeekMessage {
        consumer_group: ByteString = "consumerGroup",
        topic: ByteString = "topic",
        queue_id: i32 = "queueId",
        max_msg_nums: i32 = "maxMsgNums",
        bname: Option<ByteString> = "bname",
    }

    /// POLLING_INFO (200055).
    PollingInfo {
        consumer_group: ByteString = "consumerGroup",
        topic: ByteString = "topic",
        queue_id: i32 = "queueId",
        bname: Option<ByteString> = "bname",
    }

    PollingInfoResponse {
        polling_num: u32 = "pollingNum",
    }
}

impl PopMessage {
    pub const INIT_AT_FIRST: i32 = 0;
    pub const INIT_AT_LAST: i32 = 1;
    pub const ANY_QUEUE: i32 = -1;

    /// Whatever tag, of all queues, from the first message on; it does not wait. `invisible_time` in milliseconds.
    #[must_use]
    pub fn new(consumer_group: ByteString, topic: ByteString, invisible_time: i64) -> Self {
        Self {
            consumer_group,
            topic,
            queue_id: Self::ANY_QUEUE,
            max_msg_nums: 32,
            invisible_time,
            poll_time: 0,
            born_time: None,
            init_mode: Self::INIT_AT_FIRST,
            exp_type: None,
            exp: None,
            order: None,
            attempt_id: None,
            bname: None,
        }
    }

    /// The queue that is asked for, if it is one.
    #[must_use]
    pub fn queue(queue_id: i32) -> Option<QueueId> {
        u32::try_from(queue_id).ok().map(QueueId)
    }
}
