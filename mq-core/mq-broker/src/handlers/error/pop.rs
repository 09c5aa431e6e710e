//! What is refused of pops and their acknowledgements.

use std::time::Duration;

use mq_protocol::codes::response;
use mq_protocol::ids::{QueueId, QueueOffset};
use mq_protocol::pop::MAX_MESSAGES;
use mq_store::Bounds;

use super::Refusal;

impl Refusal {
    pub(crate) fn poll_too_late() -> Self {
        Self::new(response::POLLING_TIMEOUT, "the request came later than its client waits for it; look at the clocks")
    }

    pub(crate) fn too_many_to_pop(asked: i32) -> Self {
        Self::new(
            response::INVALID_PARAMETER,
            format!("{asked} messages are asked for, one pop gives at most {MAX_MESSAGES}"),
        )
    }

    pub(crate) fn invisible_time(millis: i64, limit: Duration) -> Self {
        let remark = match (millis, limit.as_millis()) {
            (..0, _) => format!("invisibleTime={millis} is negative"),
            (_, limit) => {
                format!("invisibleTime={millis} is longer than the limit of {limit} ms; change it again in time")
            }
        };
        Self::new(response::INVALID_PARAMETER, remark)
    }

    pub(crate) fn too_many_acknowledgements(entries: usize, limit: usize) -> Self {
        Self::new(
            response::INVALID_PARAMETER,
            format!("the batch has {entries} entries of acknowledgements, the limit is {limit}; send it in parts"),
        )
    }

    pub(crate) fn too_many_acknowledged(limit: usize) -> Self {
        let remark = format!("the batch acknowledges more than {limit} messages, its limit; send it in parts");
        Self::new(response::INVALID_PARAMETER, remark)
    }

    pub(crate) fn nothing_to_acknowledge() -> Self {
        Self::new(response::NO_MESSAGE, "the batch acknowledges nothing")
    }

    pub(crate) fn unknown_mark(mark: &str) -> Self {
        Self::new(
            response::INVALID_PARAMETER,
            format!("r={mark} is not 0, 1 or 2 (the topic, its retry topic, its newer one)"),
        )
    }

    pub(crate) fn no_queue_to_acknowledge(topic: &str, queue_id: i32, queues: u32) -> Self {
        Self::illegal(format!("topic[{topic}] has {queues} queues, there is no queue {queue_id}"))
    }

    pub(crate) fn no_message_in_queue(topic: &str, queue_id: QueueId, offset: i64, bounds: Bounds) -> Self {
        let Bounds { min, max } = bounds;
        Self::new(
            response::NO_MESSAGE,
            format!("topic[{topic}] queue {queue_id} holds {min} to {max}, not offset {offset}"),
        )
    }

    pub(crate) fn not_of_that_pop(topic: &str, queue_id: QueueId, offset: QueueOffset) -> Self {
        Self::illegal(format!("offset {offset} of topic[{topic}] queue {queue_id} was not given out by that pop"))
    }

    pub(crate) fn comes_again(topic: &str, offset: QueueOffset) -> Self {
        Self::new(
            response::NO_MESSAGE,
            format!("the time of offset {offset} of topic[{topic}] is over: it is on its way to come again"),
        )
    }

    pub(crate) fn no_revive_queue(queue: u32) -> Self {
        Self::new(
            response::INVALID_PARAMETER,
            format!("the receipt handle names revive queue {queue}, which is not here"),
        )
    }

    pub(crate) fn retry_topics_are_pulled(topic: &str) -> Self {
        Self::new(response::NO_PERMISSION, format!("topic[{topic}] is a retry topic: its request mode cannot be set"))
    }
}
