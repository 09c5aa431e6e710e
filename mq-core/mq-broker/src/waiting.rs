//! Replies of one connection that wait for the log to be durable, already encoded, and the halves to be learned then.

use std::collections::VecDeque;

use bytes::BytesMut;
use mq_protocol::command::Command;
use mq_protocol::ids::LogOffset;
use txn_coordinator::StoredHalf;

/// In the order of their marks. Marks of one connection hardly ever go back; an older one then waits with a newer one.
#[derive(Default)]
pub(crate) struct Waiting {
    queue: VecDeque<Entry>,
    replies: usize,
}

struct Entry {
    at: LogOffset,
    encoded: BytesMut,
    replies: usize,
    halves: Vec<StoredHalf>,
}

impl Waiting {
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn replies(&self) -> usize {
        self.replies
    }

    /// Keeps the answer until the log is durable up to `at`.
    pub(crate) fn push(&mut self, at: LogOffset, answer: Option<&Command>, half: Option<StoredHalf>) {
        if self.queue.back().is_none_or(|last| last.at < at) {
            self.queue.push_back(Entry { at, encoded: BytesMut::new(), replies: 0, halves: Vec::new() });
        }
        let last = self.queue.back_mut().expect("pushed above if there was none");
        last.halves.extend(half);
        if let Some(answer) = answer {
            answer.encode(&mut last.encoded);
            last.replies += 1;
            self.replies += 1;
        }
    }

    /// The oldest replies, if they are true by now.
    pub(crate) fn take_one(&mut self, durable: LogOffset) -> Option<(BytesMut, Vec<StoredHalf>)> {
        let entry = self.queue.pop_front_if(|first| first.at <= durable)?;
        self.replies -= entry.replies;
        Some((entry.encoded, entry.halves))
    }

    /// What is left to learn when nobody waits for the replies any more.
    pub(crate) fn take_halves(&mut self) -> Vec<(LogOffset, StoredHalf)> {
        let entries = self.queue.drain(..);
        entries.flat_map(|entry| entry.halves.into_iter().map(move |half| (entry.at, half))).collect()
    }
}
