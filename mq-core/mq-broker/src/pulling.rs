//! A pull as the broker works on it: asked once, held perhaps, asked again.

use std::sync::Arc;
use std::time::Duration;

use mq_protocol::ByteString;
use mq_protocol::command::Command;
use mq_protocol::ids::{QueueId, QueueOffset};
use mq_store::PullLimits;
use tokio::time::Instant;

use crate::held::QueueKey;
use crate::selection::Selection;
use crate::stats::Reader;

/// Owns its texts: a held pull must not keep the buffer that it was read from.
pub(crate) struct Pull {
    /// The answer without its fields.
    pub(crate) answer: Command,
    pub(crate) topic: ByteString,
    pub(crate) queue_id: QueueId,
    pub(crate) from: QueueOffset,
    pub(crate) limits: PullLimits,
    pub(crate) selection: Arc<Selection>,
    /// How long it may wait for a message; zero: not at all.
    pub(crate) hold: Duration,
    /// The end of that time, once it waits.
    pub(crate) until: Option<Instant>,
    /// Where its group's reads are counted.
    pub(crate) reader: Option<Arc<Reader>>,
}

impl Pull {
    pub(crate) fn key(&self) -> QueueKey {
        (self.topic.clone(), self.queue_id)
    }

    pub(crate) fn wants(&self, tags_code: i64) -> bool {
        self.selection.may_match(tags_code)
    }
}
