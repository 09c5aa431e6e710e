//! How long requests take, by what was asked and what was answered.
//!
//! A session counts its answers as it gives them and adds them here once a turn, with one look at the clock. The table
//! is of a fixed size and has no lock; calls beyond it count together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mq_protocol::codes::{request, response};
use tokio::time::Instant;

use crate::histogram::{Distribution, Histogram, Scale};
use crate::limits::KEPT_ENTRIES;

/// Apache's bounds, in microseconds.
static MILLIS: Scale<9> =
    Scale { bounds: [1000, 3000, 5000, 7000, 10_000, 100_000, 1_000_000, 2_000_000, 3_000_000], per_unit: 1000 };
/// Kinds of calls that are told apart: some ninety requests, each with its success and a few refusals.
const SLOTS: usize = 512;
/// Slots that are looked at for one call.
const PROBES: usize = 16;
/// Different calls of one turn are few.
const NEAR: usize = 4;

/// A kind of answered request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) request: i32,
    pub(crate) response: i32,
    pub(crate) long_polling: bool,
    pub(crate) oneway: bool,
}

impl Call {
    pub(crate) fn new(request: i32, response: i32) -> Self {
        Self { request, response, long_polling: false, oneway: false }
    }

    /// Never zero. A code that is not known is as good as any other such: clients choose them.
    fn key(self) -> u64 {
        let request = request::name(self.request).map_or(0, |_| self.request.cast_unsigned());
        let response = response::name(self.response).map_or(u32::from(u16::MAX), |_| self.response.cast_unsigned());
        let flags = u64::from(self.long_polling) << 1 | u64::from(self.oneway);
        1 << 63 | flags << 61 | u64::from(request) << 24 | u64::from(response & 0xff_ffff)
    }

    fn of_key(key: u64) -> Self {
        Self {
            request: ((key >> 24) as u32).cast_signed(),
            response: ((key & 0xff_ffff) as u32).cast_signed(),
            long_polling: key >> 62 & 1 == 1,
            oneway: key >> 61 & 1 == 1,
        }
    }
}

pub(crate) struct RpcLatency {
    slots: Box<[Slot]>,
    others: Histogram<9>,
}

struct Slot {
    /// Zero: free.
    key: AtomicU64,
    times: Histogram<9>,
}

impl RpcLatency {
    pub(crate) fn new() -> Self {
        let slot = || Slot { key: AtomicU64::new(0), times: Histogram::new(&MILLIS) };
        Self { slots: std::iter::repeat_with(slot).take(SLOTS).collect(), others: Histogram::new(&MILLIS) }
    }

    pub(crate) fn add(&self, call: Call, took: Duration, times: u64) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.of(call.key()).add(micros, times);
    }

    fn of(&self, key: u64) -> &Histogram<9> {
        // Fibonacci's hash: the codes lie close together.
        let start = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 55) as usize;
        for probe in 0..PROBES {
            let slot = &self.slots[(start + probe) % SLOTS];
            let known = match slot.key.load(Ordering::Relaxed) {
                0 => slot
                    .key
                    .compare_exchange(0, key, Ordering::Relaxed, Ordering::Relaxed)
                    .map_or_else(|by| by, |_| key),
                known => known,
            };
            if known == key {
                return &slot.times;
            }
        }
        &self.others
    }

    /// Every kind of call there was; `None` for those that are not told apart.
    pub(crate) fn told(&self) -> Vec<(Option<Call>, Distribution)> {
        let used = self.slots.iter().filter_map(|slot| {
            let key = slot.key.load(Ordering::Relaxed);
            (key != 0).then(|| (Some(Call::of_key(key)), slot.times.distribution()))
        });
        let others = Some((None, self.others.distribution())).filter(|(_, others)| others.count() > 0);
        used.chain(others).collect()
    }
}

/// What a session answered in this turn.
#[derive(Default)]
pub(crate) struct Tally(Vec<(Call, Instant, u64)>);

impl Tally {
    /// `times` answers to requests that came at `since`.
    pub(crate) fn count(&mut self, call: Call, since: Instant, times: u64) {
        let near = self.0.iter_mut().rev().take(NEAR);
        match near.into_iter().find(|(known, at, _)| *known == call && *at == since) {
            Some((_, _, count)) => *count += times,
            None => self.0.push((call, since, times)),
        }
    }

    pub(crate) fn settle(&mut self, latency: &RpcLatency) {
        if self.0.is_empty() {
            return;
        }
        let now = Instant::now();
        for (call, since, times) in self.0.drain(..) {
            latency.add(call, now.saturating_duration_since(since), times);
        }
        if self.0.capacity() > KEPT_ENTRIES {
            self.0 = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_apart_up_to_the_limit_and_none_is_lost() {
        let latency = RpcLatency::new();
        let mut calls = 0;
        for (request, _) in request::ALL {
            for (response, _) in response::ALL {
                for (long_polling, oneway) in [(false, false), (true, false), (false, true)] {
                    let call = Call { request: *request, response: *response, long_polling, oneway };
                    assert_eq!(Call::of_key(call.key()), call);
                    latency.add(call, Duration::from_millis(2), 2);
                    calls += 2;
                }
            }
        }
        let told = latency.told();
        assert!((SLOTS / 2..=SLOTS + 1).contains(&told.len()), "{}", told.len());
        assert_eq!(told.iter().map(|(_, times)| times.count()).sum::<u64>(), calls);
        let unknown = [4711, -1].map(|code| Call::new(code, 77_777).key());
        assert_eq!(unknown[0], unknown[1], "clients cannot fill the table with codes of their own");
    }

    #[test]
    fn answers_of_one_turn_are_added_together() {
        let (latency, mut tally, start) = (RpcLatency::new(), Tally::default(), Instant::now());
        let (send, pull) = (Call::new(request::SEND_MESSAGE_V2, 0), Call::new(request::PULL_MESSAGE, 19));
        for (call, times) in [(send, 1), (pull, 1), (send, 5)] {
            tally.count(call, start, times);
        }
        assert_eq!(tally.0.len(), 2);
        tally.settle(&latency);
        let mut counts: Vec<_> =
            latency.told().into_iter().map(|(call, times)| (call.map(|call| call.request), times.count())).collect();
        counts.sort_unstable();
        assert_eq!(counts, [(Some(request::PULL_MESSAGE), 1), (Some(request::SEND_MESSAGE_V2), 6)]);
    }
}
