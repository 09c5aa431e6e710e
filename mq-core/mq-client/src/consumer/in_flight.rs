//! Bookkeeping of one queue: what was pulled and is not settled, and thereby what may be committed. Pure.

use std::collections::BTreeMap;

use mq_protocol::ids::QueueOffset;

/// How much of one queue may be in memory; pulling pauses beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowLimits {
    pub messages: usize,
    pub bytes: usize,
    /// From the oldest unsettled message to the newest: how much would be delivered again after a crash.
    pub span: u64,
}

impl Default for FlowLimits {
    fn default() -> Self {
        Self { messages: 1000, bytes: 100 * 1024 * 1024, span: 2000 }
    }
}

#[derive(Debug)]
pub(super) struct InFlight {
    unsettled: BTreeMap<QueueOffset, usize>,
    bytes: usize,
    /// Where the next pull begins.
    next: QueueOffset,
}

impl InFlight {
    pub(super) fn new(next: QueueOffset) -> Self {
        Self { unsettled: BTreeMap::new(), bytes: 0, next }
    }

    pub(super) fn next(&self) -> QueueOffset {
        self.next
    }

    pub(super) fn pulled(&mut self, messages: impl IntoIterator<Item = (QueueOffset, usize)>, next: QueueOffset) {
        for (offset, bytes) in messages {
            self.bytes += bytes;
            self.bytes -= self.unsettled.insert(offset, bytes).unwrap_or(0);
        }
        self.next = next;
    }

    pub(super) fn settle(&mut self, offset: QueueOffset) {
        if let Some(bytes) = self.unsettled.remove(&offset) {
            self.bytes -= bytes;
        }
    }

    /// Everything before it is settled.
    pub(super) fn committable(&self) -> QueueOffset {
        self.unsettled.first_key_value().map_or(self.next, |(first, _)| *first)
    }

    pub(super) fn has_room(&self, limits: FlowLimits) -> bool {
        let span = self.unsettled.first_key_value().map_or(0, |(first, _)| self.next.0.saturating_sub(first.0));
        self.unsettled.len() < limits.messages && self.bytes < limits.bytes && span < limits.span
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_unsettled_message_holds_the_commit_back() {
        let mut queue = InFlight::new(QueueOffset(10));
        assert_eq!(queue.committable(), QueueOffset(10));
        queue.pulled((10..14).map(|offset| (QueueOffset(offset), 5)), QueueOffset(20));
        for (settled, committable) in [(12, 10), (10, 11), (11, 13), (11, 13), (13, 20)] {
            queue.settle(QueueOffset(settled));
            assert_eq!(queue.committable(), QueueOffset(committable), "after {settled}");
        }
    }

    #[test]
    fn each_limit_closes_the_queue_by_itself() {
        let limits = FlowLimits { messages: 3, bytes: 100, span: 10 };
        for (sizes, next, room) in
            [(&[1, 1][..], 2, true), (&[1, 1, 1], 3, false), (&[60, 60], 2, false), (&[1, 1], 10, false)]
        {
            let mut queue = InFlight::new(QueueOffset(0));
            queue.pulled(sizes.iter().zip(0..).map(|(size, offset)| (QueueOffset(offset), *size)), QueueOffset(next));
            assert_eq!(queue.has_room(limits), room, "{sizes:?} {next}");
            for offset in 0..3 {
                queue.settle(QueueOffset(offset));
            }
            assert!(queue.has_room(limits));
        }
    }
}
