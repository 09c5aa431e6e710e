//! Requests of one connection that wait for the log to be durable: their replies, already encoded, and the halves to be
//! learned then.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::BytesMut;
use mq_protocol::ids::LogOffset;
use smallvec::SmallVec;
use tokio::time::Instant;
use txn_coordinator::StoredHalf;

use crate::metrics::Call;
use crate::output::Encode;

/// In the order of their marks. Marks of one connection hardly ever go back; an older one then waits with a newer one.
#[derive(Default)]
pub(crate) struct Waiting {
    queue: VecDeque<Entry>,
    requests: usize,
    bytes: usize,
}

struct Entry {
    at: LogOffset,
    since: Instant,
    encoded: BytesMut,
    requests: usize,
    calls: SmallVec<[(Call, u64); 2]>,
    halves: Vec<StoredHalf>,
}

/// Replies that became true.
pub(crate) struct Released {
    pub(crate) encoded: BytesMut,
    pub(crate) halves: Vec<StoredHalf>,
    /// What is answered, and how often, since when.
    pub(crate) calls: SmallVec<[(Call, u64); 2]>,
    pub(crate) since: Instant,
}

impl Waiting {
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// One-way requests count as well: a peer that never waits for an answer has to feel the disk too.
    pub(crate) fn requests(&self) -> usize {
        self.requests
    }

    /// Of their replies: a pop's have its messages.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How long the oldest of them waits.
    pub(crate) fn longest(&self, now: Instant) -> Duration {
        self.queue.front().map_or(Duration::ZERO, |first| now.saturating_duration_since(first.since))
    }

    /// Keeps the answer, if any, until the log is durable up to `at`.
    pub(crate) fn push(
        &mut self,
        at: LogOffset,
        now: Instant,
        call: Option<Call>,
        answer: Option<&dyn Encode>,
        half: Option<StoredHalf>,
    ) {
        if self.queue.back().is_none_or(|last| last.at < at) {
            let (encoded, calls, halves) = (BytesMut::new(), SmallVec::new(), Vec::new());
            self.queue.push_back(Entry { at, since: now, encoded, requests: 0, calls, halves });
        }
        let last = self.queue.back_mut().expect("pushed above if there was none");
        last.halves.extend(half);
        last.requests += 1;
        if let Some(call) = call {
            match last.calls.iter_mut().find(|(known, _)| *known == call) {
                Some((_, times)) => *times += 1,
                None => last.calls.push((call, 1)),
            }
        }
        self.requests += 1;
        if let Some(answer) = answer {
            let before = last.encoded.len();
            answer.encode(&mut last.encoded);
            self.bytes += last.encoded.len() - before;
        }
    }

    /// The oldest replies, if they are true by now.
    pub(crate) fn take_one(&mut self, durable: LogOffset) -> Option<Released> {
        let Entry { since, encoded, requests, calls, halves, .. } =
            self.queue.pop_front_if(|first| first.at <= durable)?;
        self.requests -= requests;
        self.bytes -= encoded.len();
        Some(Released { encoded, halves, calls, since })
    }

    /// What is left to learn when nobody waits for the replies any more.
    pub(crate) fn take_halves(&mut self) -> Vec<(LogOffset, StoredHalf)> {
        let entries = self.queue.drain(..);
        entries.flat_map(|entry| entry.halves.into_iter().map(move |half| (entry.at, half))).collect()
    }
}

#[cfg(test)]
mod tests {
    use mq_protocol::codes::{request, response};
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
        let call = Call::new(request::SEND_MESSAGE, response::SUCCESS);
        for (at, answer) in [(8, Some(answer)), (8, None), (8, Some(answer)), (9, None), (5, Some(answer))] {
            waiting.push(LogOffset(at), now, Some(call), answer, None);
        }
        assert_eq!((waiting.requests(), waiting.bytes()), (5, 3 * one.len()));
        assert_eq!(waiting.longest(now + Duration::from_millis(70)), Duration::from_millis(70));
        assert!(waiting.take_one(LogOffset(7)).is_none());
        for (durable, left, replies) in [(8, 2, 2), (9, 0, 1)] {
            let Released { encoded, calls, .. } = waiting.take_one(LogOffset(durable)).expect("durable");
            assert_eq!(calls[..], [(call, if durable == 8 { 3 } else { 2 })]);
            assert_eq!((waiting.requests(), encoded.len()), (left, replies * one.len()), "durable up to {durable}");
            assert!(waiting.take_one(LogOffset(durable)).is_none());
        }
        assert!(waiting.is_empty());
    }
}
