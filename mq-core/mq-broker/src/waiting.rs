//! Requests of one connection that wait for the log to be durable: their replies, already encoded, and the halves to be
//! learned then.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::BytesMut;
use mq_protocol::ids::LogOffset;
use tokio::time::Instant;
use txn_coordinator::StoredHalf;

use crate::output::Encode;

/// In the order of their marks. Marks of one connection hardly ever go back; an older one then waits with a newer one.
#[derive(Default)]
pub(crate) struct Waiting {
    queue: VecDeque<Entry>,
    requests: usize,
}

struct Entry {
    at: LogOffset,
    since: Instant,
    encoded: BytesMut,
    requests: usize,
    halves: Vec<StoredHalf>,
}

impl Waiting {
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// One-way requests count as well: a peer that never waits for an answer has to feel the disk too.
    pub(crate) fn requests(&self) -> usize {
        self.requests
    }

    /// How long the oldest of them waits.
    pub(crate) fn longest(&self, now: Instant) -> Duration {
        self.queue.front().map_or(Duration::ZERO, |first| now.saturating_duration_since(first.since))
    }

    /// Keeps the answer, if any, until the log is durable up to `at`.
    pub(crate) fn push(&mut self, at: LogOffset, now: Instant, answer: Option<&dyn Encode>, half: Option<StoredHalf>) {
        if self.queue.back().is_none_or(|last| last.at < at) {
            self.queue.push_back(Entry { at, since: now, encoded: BytesMut::new(), requests: 0, halves: Vec::new() });
        }
        let last = self.queue.back_mut().expect("pushed above if there was none");
        last.halves.extend(half);
        last.requests += 1;
        self.requests += 1;
        if let Some(answer) = answer {
            answer.encode(&mut last.encoded);
        }
    }

    /// The oldest replies, if they are true by now.
    pub(crate) fn take_one(&mut self, durable: LogOffset) -> Option<(BytesMut, Vec<StoredHalf>)> {
        let entry = self.queue.pop_front_if(|first| first.at <= durable)?;
        self.requests -= entry.requests;
        Some((entry.encoded, entry.halves))
    }

    /// What is left to learn when nobody waits for the replies any more.
    pub(crate) fn take_halves(&mut self) -> Vec<(LogOffset, StoredHalf)> {
        let entries = self.queue.drain(..);
        entries.flat_map(|entry| entry.halves.into_iter().map(move |half| (entry.at, half))).collect()
    }
}

#[cfg(test)]
mod tests {
    use mq_protocol::codes::response;
    use mq_protocol::command::Command;

    use super::*;

    #[test]
    fn every_waiting_request_counts_and_the_replies_of_one_mark_leave_together() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        assert_eq!(waiting.longest(now), Duration::ZERO);
        let answer = Command::request(0).response(response::SUCCESS);
        let mut one = BytesMut::new();
        answer.encode(&mut one);
        let answer: &dyn Encode = &answer;
        for (at, answer) in [(8, Some(answer)), (8, None), (8, Some(answer)), (9, None), (5, Some(answer))] {
            waiting.push(LogOffset(at), now, answer, None);
        }
        assert_eq!(waiting.requests(), 5);
        assert_eq!(waiting.longest(now + Duration::from_millis(70)), Duration::from_millis(70));
        assert!(waiting.take_one(LogOffset(7)).is_none());
        for (durable, left, replies) in [(8, 2, 2), (9, 0, 1)] {
            let (encoded, _) = waiting.take_one(LogOffset(durable)).expect("durable");
            assert_eq!((waiting.requests(), encoded.len()), (left, replies * one.len()), "durable up to {durable}");
            assert!(waiting.take_one(LogOffset(durable)).is_none());
        }
        assert!(waiting.is_empty());
    }
}
