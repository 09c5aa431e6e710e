//! Pulling: 11, 361 and their answer; 12.

use bytestring::ByteString;

use super::headers;
use crate::ids::{LogOffset, QueueId, QueueOffset, UnixMillis};
use crate::sys_flag::pull;

headers! {
    /// PULL_MESSAGE (11) and LITE_PULL_MESSAGE (361).
    PullMessage {
        consumer_group: ByteString = "consumerGroup",
        topic: ByteString = "topic",
        queue_id: QueueId = "queueId",
        /// Signed: tools ask for what is before the queue.
        queue_offset: i64 = "queueOffset",
        max_msg_nums: i32 = "maxMsgNums",
        /// Bits of `sys_flag::pull`.
        sys_flag: i32 = "sysFlag",
        /// Taken when the commit bit is set.
        commit_offset: i64 = "commitOffset",
        suspend_timeout_millis: i64 = "suspendTimeoutMillis",
        subscription: Option<ByteString> = "subscription",
        sub_version: i64 = "subVersion",
        /// `TAG` when absent.
        expression_type: Option<ByteString> = "expressionType",
        max_msg_bytes: Option<i32> = "maxMsgBytes",
        request_source: Option<i32> = "requestSource",
        /// Apache's spelling.
        proxy_forward_client_id: Option<ByteString> = "proxyFrowardClientId",
        bname: Option<ByteString> = "bname",
    }

    /// The answer to a pull. The first four are unboxed by Java in every answer of codes 0, 19, 20 and 21.
    PullMessageResponse {
        suggest_which_broker_id: u64 = "suggestWhichBrokerId",
        next_begin_offset: QueueOffset = "nextBeginOffset",
        min_offset: QueueOffset = "minOffset",
        max_offset: QueueOffset = "maxOffset",
        offset_delta: Option<i64> = "offsetDelta",
        topic_sys_flag: Option<i32> = "topicSysFlag",
        group_sys_flag: Option<i32> = "groupSysFlag",
        forbidden_type: Option<i32> = "forbiddenType",
    }

    /// QUERY_MESSAGE (12).
    QueryMessage {
        topic: ByteString = "topic",
        key: ByteString = "key",
        max_num: i32 = "maxNum",
        begin_timestamp: UnixMillis = "beginTimestamp",
        end_timestamp: UnixMillis = "endTimestamp",
        unique_key_query: Option<bool> = "_UNIQUE_KEY_QUERY",
        index_type: Option<ByteString> = "indexType",
    }

    /// The answer to 12; the messages are the body.
    QueryMessageResponse {
        index_last_update_timestamp: UnixMillis = "indexLastUpdateTimestamp",
        index_last_update_phyoffset: LogOffset = "indexLastUpdatePhyoffset",
    }
}

impl PullMessage {
    /// Every tag of a queue, subscribed to in the request itself; it does not wait and commits nothing.
    #[must_use]
    pub fn new(consumer_group: ByteString, topic: ByteString, queue_id: QueueId, queue_offset: i64) -> Self {
        Self {
            consumer_group,
            topic,
            queue_id,
            queue_offset,
            max_msg_nums: 32,
            sys_flag: pull::SUBSCRIPTION,
            commit_offset: 0,
            suspend_timeout_millis: 0,
            subscription: Some(ByteString::from_static("*")),
            sub_version: 0,
            expression_type: None,
            max_msg_bytes: None,
            request_source: None,
            proxy_forward_client_id: None,
            bname: None,
        }
    }
}
