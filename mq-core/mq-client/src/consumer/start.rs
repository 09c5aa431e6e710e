//! Where a group begins to read a queue that it has not read before.

use mq_protocol::ByteString;
use mq_protocol::body::{ConsumeFromWhere, MessageQueue};
use mq_protocol::ids::{QueueOffset, UnixMillis};
use mq_protocol::topic;

use crate::client::Inner;
use crate::error::ClientError;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConsumeFrom {
    /// What is sent from now on. (A broker may start a new group at the beginning of a young queue all the same.)
    #[default]
    Last,
    First,
    /// What was stored at this time or later.
    Time(UnixMillis),
}

impl ConsumeFrom {
    pub(super) fn on_the_wire(self) -> ConsumeFromWhere {
        match self {
            Self::Last => ConsumeFromWhere::ConsumeFromLastOffset,
            Self::First => ConsumeFromWhere::ConsumeFromFirstOffset,
            Self::Time(_) => ConsumeFromWhere::ConsumeFromTimestamp,
        }
    }

    pub(super) async fn first_position(self, client: &Inner, queue: &MessageQueue) -> Result<QueueOffset, ClientError> {
        match self {
            // Retries of a group are its own: none of them is old news.
            _ if topic::is_retry(&queue.topic) => client.min_offset(queue).await,
            Self::Last => client.max_offset(queue).await,
            Self::First => client.min_offset(queue).await,
            Self::Time(time) => client.offset_at(queue, time).await,
        }
    }

    /// Where the group stands, or where it begins.
    pub(super) async fn position(
        self,
        client: &Inner,
        group: &ByteString,
        queue: &MessageQueue,
    ) -> Result<QueueOffset, ClientError> {
        match client.goes_on_at(group, queue).await? {
            Some(committed) => Ok(committed),
            None => self.first_position(client, queue).await,
        }
    }
}
