//! The only place that chooses response codes for errors.

mod conversions;
mod pop;

use std::borrow::Cow;
use std::time::Duration;

use mq_protocol::codes::response;
use mq_protocol::command::Command;
use mq_protocol::ids::{LogOffset, QueueOffset};

/// Why a request was not done, as the client will read it: what happened, which limit, what to do.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: i32,
    pub(crate) remark: Cow<'static, str>,
}

impl Refusal {
    pub(crate) fn new(code: i32, remark: impl Into<Cow<'static, str>>) -> Self {
        Self { code, remark: remark.into() }
    }

    pub(crate) fn answer(self, request: &Command) -> Command {
        request.error(self.code, self.remark.into_owned())
    }

    pub(crate) fn unsupported(code: i32) -> Self {
        Self::new(response::REQUEST_CODE_NOT_SUPPORTED, format!(" request type {code} not supported"))
    }

    pub(crate) fn broken() -> Self {
        Self::new(response::SYSTEM_ERROR, "the broker failed at this request, see its log; other requests go on")
    }

    pub(crate) fn disk_busy(behind: Duration, limit: Duration) -> Self {
        let (behind, limit) = (behind.as_millis(), limit.as_millis());
        Self::new(
            response::SYSTEM_BUSY,
            format!(
                "[BUSY] earlier messages of this connection wait for the disk since {behind} ms, the limit is {limit} \
                 (osPageCacheBusyTimeOutMills); retry after {behind} ms"
            ),
        )
    }

    pub(crate) fn illegal(remark: impl Into<Cow<'static, str>>) -> Self {
        Self::new(response::MESSAGE_ILLEGAL, remark)
    }

    pub(crate) fn body_too_large(bytes: usize, limit: usize) -> Self {
        Self::illegal(format!(
            "the body takes {bytes} bytes, the limit is {limit} (maxMessageSize); compress it or send it in parts"
        ))
    }

    pub(crate) fn recall_forbidden() -> Self {
        Self::new(
            response::NO_PERMISSION,
            "messages cannot be taken back here; set recallMessageEnable=true in the broker's configuration",
        )
    }

    pub(crate) fn not_recallable(reason: impl std::fmt::Display) -> Self {
        Self::new(response::ILLEGAL_OPERATION, format!("the message cannot be taken back: {reason}"))
    }

    pub(crate) fn no_such_topic(topic: &str) -> Self {
        Self::new(response::TOPIC_NOT_EXIST, format!("topic[{topic}] does not exist; create it or check its name"))
    }

    pub(crate) fn system_topic(topic: &str) -> Self {
        Self::new(response::NO_PERMISSION, format!("topic[{topic}] belongs to the system; clients may not send to it"))
    }

    pub(crate) fn not_writable(topic: &str) -> Self {
        Self::new(response::NO_PERMISSION, format!("sending to topic[{topic}] is forbidden by its permissions"))
    }

    pub(crate) fn not_readable(topic: &str) -> Self {
        Self::new(response::NO_PERMISSION, format!("reading topic[{topic}] is forbidden by its permissions"))
    }

    pub(crate) fn broker_not_writable() -> Self {
        Self::new(response::NO_PERMISSION, "this broker takes no messages (brokerPermission)")
    }

    pub(crate) fn broker_not_readable() -> Self {
        Self::new(response::NO_PERMISSION, "this broker gives no messages (brokerPermission)")
    }

    pub(crate) fn no_such_queue(topic: &str, queue_id: i32, queues: u32) -> Self {
        Self::new(
            response::INVALID_PARAMETER,
            format!("topic[{topic}] has {queues} queues, there is no queue {queue_id}; ask for its route again"),
        )
    }

    pub(crate) fn no_such_group(group: &str) -> Self {
        Self::new(
            response::SUBSCRIPTION_GROUP_NOT_EXIST,
            format!("subscription group [{group}] does not exist; create it or send a heartbeat first"),
        )
    }

    pub(crate) fn group_may_not_consume(group: &str) -> Self {
        Self::new(response::NO_PERMISSION, format!("subscription group [{group}] may not consume (consumeEnable)"))
    }

    pub(crate) fn group_may_not_read(group: &str, topic: &str) -> Self {
        Self::new(
            response::NO_PERMISSION,
            format!("an operator forbade subscription group [{group}] to read topic[{topic}]"),
        )
    }

    pub(crate) fn not_subscribed(group: &str, topic: &str) -> Self {
        Self::new(
            response::SUBSCRIPTION_NOT_EXIST,
            format!("group [{group}] has no subscription to topic[{topic}] here; its next heartbeat brings it"),
        )
    }

    pub(crate) fn subscription_not_latest(group: &str, topic: &str) -> Self {
        Self::new(
            response::SUBSCRIPTION_NOT_LATEST,
            format!("the subscription of [{group}] to topic[{topic}] is newer than the last heartbeat"),
        )
    }

    pub(crate) fn filter_unsupported() -> Self {
        Self::new(
            response::SYSTEM_ERROR,
            "this broker does not filter by SQL92; set enablePropertyFilter=true, or subscribe by tags",
        )
    }

    /// What the group's heartbeat brought cannot be used; its members learn it from their pulls.
    pub(crate) fn no_filter(group: &str, topic: &str, reason: &str) -> Self {
        Self::new(
            response::FILTER_DATA_NOT_EXIST,
            format!("the filter of group [{group}] for topic[{topic}] cannot be used: {reason}"),
        )
    }

    pub(crate) fn expression_too_long(bytes: usize, limit: usize) -> Self {
        Self::new(
            response::SUBSCRIPTION_PARSE_FAILED,
            format!("the filter takes {bytes} bytes, the limit is {limit}; subscribe to fewer tags, or to all"),
        )
    }

    pub(crate) fn no_offset(group: &str, topic: &str) -> Self {
        Self::new(response::QUERY_NOT_FOUND, format!("group [{group}] has no offset of topic[{topic}] yet"))
    }

    pub(crate) fn no_message_of(topic: &str, key: &str) -> Self {
        let remark = format!("no message of topic[{topic}] has the key {key} in this time; widen it or check the key");
        Self::new(response::QUERY_NOT_FOUND, remark)
    }

    pub(crate) fn not_indexed() -> Self {
        Self::new(
            response::SERVICE_NOT_AVAILABLE,
            "this broker does not find messages by key (messageIndexEnable=false); ask by message id",
        )
    }

    pub(crate) fn nobody_of(group: &str) -> Self {
        Self::new(response::SYSTEM_ERROR, format!("no member of group [{group}] is connected to this broker"))
    }

    pub(crate) fn not_online(group: &str) -> Self {
        Self::new(response::CONSUMER_NOT_ONLINE, format!("the consumer group[{group}] not online"))
    }

    pub(crate) fn nobody_to_reply_to() -> Self {
        Self::new(response::SYSTEM_ERROR, "the reply has no property REPLY_TO_CLIENT; make it from the request")
    }

    pub(crate) fn reply_is_half() -> Self {
        Self::illegal("a reply (324, 325) cannot be a half message; send it without TRAN_MSG")
    }

    pub(crate) fn requester_is_gone(client_id: &str) -> Self {
        Self::new(response::SYSTEM_ERROR, format!("the requester {client_id} is not connected to this broker"))
    }

    pub(crate) fn reply_not_taken(client_id: &str, reason: &str) -> Self {
        Self::new(response::SYSTEM_ERROR, format!("the requester {client_id} did not take the reply: {reason}"))
    }

    pub(crate) fn member_not_online(group: &str, client_id: &str) -> Self {
        Self::new(response::SYSTEM_ERROR, format!("The Consumer <{group}> <{client_id}> not online"))
    }

    pub(crate) fn member_is_late(group: &str, client_id: &str, within: Duration) -> Self {
        let remark = format!("consumer <{group}> <{client_id}> did not answer within {within:?}");
        Self::new(response::CONSUME_MSG_TIMEOUT, remark)
    }

    pub(crate) fn outside_queue(offset: i64, min: QueueOffset, max: QueueOffset) -> Self {
        let remark = format!("Target offset {offset} not in consume queue range [{min}-{max}]");
        Self::new(response::SYSTEM_ERROR, remark)
    }

    pub(crate) fn lock_without_owner() -> Self {
        Self::new(response::INVALID_PARAMETER, "a lock needs clientId and consumerGroup")
    }

    pub(crate) fn not_an_offset_id(id: &str) -> Self {
        Self::new(
            response::SYSTEM_ERROR,
            format!("{id:?} is not the id of a stored message (offsetMsgId, 32 hex digits)"),
        )
    }

    pub(crate) fn answer_too_large(bytes: usize, limit: usize) -> Self {
        Self::new(
            response::SYSTEM_ERROR,
            format!("the answer takes {bytes} bytes, a frame holds {limit}; ask for a part (one topic, one page)"),
        )
    }

    pub(crate) fn damaged(error: impl std::fmt::Display) -> Self {
        Self::new(response::SYSTEM_ERROR, format!("a stored message cannot be read: {error}"))
    }

    pub(crate) fn no_message_at(offset: LogOffset) -> Self {
        Self::new(response::SYSTEM_ERROR, format!("there is no message at commit-log offset {offset}, or no longer"))
    }
}
