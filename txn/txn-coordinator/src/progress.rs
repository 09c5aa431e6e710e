//! How far an Apache broker may skip when it opens this directory: the offsets of group `CID_RMQ_SYS_TRANS`.
//!
//! Everything below `half` has ended; every ended half at or above it is named by an OP record at or above `op`. Numbers
//! are handed out only once all that they rest on is durable: after a power cut they are never ahead of the log.

use std::collections::VecDeque;

use mq_protocol::ids::{LogOffset, QueueOffset};

use crate::types::HalfOffset;

/// OP records remembered one by one; beyond that, neighbours share an entry and Apache reads a few more of them.
const ENTRIES: usize = 16 * 1024;

/// Consumer offsets of the group `CID_RMQ_SYS_TRANS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Of `RMQ_SYS_TRANS_HALF_TOPIC`.
    pub half: QueueOffset,
    /// Of `RMQ_SYS_TRANS_OP_HALF_TOPIC`.
    pub op: QueueOffset,
}

/// OP records that may still matter, oldest first.
#[derive(Debug, Default)]
pub(crate) struct OpRecords {
    /// First OP record of the entry, and the highest half that its records end.
    entries: VecDeque<(u64, HalfOffset)>,
    next: u64,
}

impl OpRecords {
    /// Records from `op` on end halves below `below`, one does not know which.
    pub(crate) fn starting_at(op: QueueOffset, below: HalfOffset) -> Self {
        let highest = HalfOffset(below.0.saturating_sub(1));
        Self { entries: VecDeque::from([(op.0, highest)]), next: op.0 }
    }

    pub(crate) fn note(&mut self, op: QueueOffset, ends: &[HalfOffset]) {
        if op.0 < self.next {
            return;
        }
        self.next = op.0 + 1;
        self.entries.push_back((op.0, ends.iter().copied().max().unwrap_or_default()));
        if self.entries.len() > ENTRIES {
            let pairs = self.entries.make_contiguous().chunks(2);
            self.entries =
                pairs.map(|pair| (pair[0].0, pair.iter().map(|(_, high)| *high).max().unwrap_or_default())).collect();
        }
    }

    /// The first record that a reader needs whose halves below `finished` are done with.
    pub(crate) fn first_needed(&mut self, finished: HalfOffset) -> QueueOffset {
        while self.entries.front().is_some_and(|(_, highest)| *highest < finished) {
            self.entries.pop_front();
        }
        QueueOffset(self.entries.front().map_or(self.next, |(op, _)| *op))
    }
}

/// Holds numbers back until what they rest on is durable.
#[derive(Debug, Default)]
pub(crate) struct Published {
    last: Progress,
    waiting: Option<(LogOffset, Progress)>,
}

impl Published {
    pub(crate) fn at(progress: Progress) -> Self {
        Self { last: progress, waiting: None }
    }

    /// `current` rests on the log up to `end`.
    pub(crate) fn next(&mut self, current: Progress, end: LogOffset, durable: LogOffset) -> Progress {
        let (end, progress) = *self.waiting.get_or_insert((end, current));
        if end <= durable {
            self.last = progress;
            self.waiting = None;
        }
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn op_records_are_skipped_once_all_their_halves_are_finished() {
        let mut ops = OpRecords::default();
        for (op, ends) in [(0, &[2, 0][..]), (1, &[1]), (2, &[5, 3]), (3, &[4])] {
            ops.note(QueueOffset(op), &ends.iter().copied().map(HalfOffset).collect::<Vec<_>>());
        }
        for (finished, needed) in [(0, 0), (2, 0), (3, 2), (5, 2), (6, 4)] {
            assert_eq!(ops.first_needed(HalfOffset(finished)), QueueOffset(needed), "finished below {finished}");
        }
    }

    #[test]
    fn many_op_records_take_bounded_memory_and_err_on_the_safe_side() {
        let mut ops = OpRecords::default();
        for op in 0..3 * ENTRIES as u64 {
            ops.note(QueueOffset(op), &[HalfOffset(op + 1)]);
        }
        assert!(ops.entries.len() <= ENTRIES);
        for finished in (1..3 * ENTRIES as u64).step_by(1111) {
            let needed = ops.first_needed(HalfOffset(finished)).0;
            assert!(needed < finished && finished - needed <= 64, "{needed} for {finished}");
        }
    }

    #[test]
    fn numbers_wait_until_the_log_below_them_is_durable() {
        let at = |half| Progress { half: QueueOffset(half), op: QueueOffset(0) };
        let mut published = Published::at(at(1));
        assert_eq!(published.next(at(5), LogOffset(100), LogOffset(50)), at(1));
        assert_eq!(published.next(at(9), LogOffset(200), LogOffset(99)), at(1));
        assert_eq!(published.next(at(9), LogOffset(200), LogOffset(100)), at(5));
        assert_eq!(published.next(at(9), LogOffset(200), LogOffset(200)), at(9));
    }
}
