//! One counted thing: how often, how many, how many bytes; and what that was in the last minute, hour and day.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use mq_protocol::ids::UnixMillis;
use parking_lot::Mutex;

/// Apache's windows: samples every 10 s for a minute, every 10 minutes for an hour, every hour for a day.
const MINUTE: Window = Window { step: Duration::from_secs(10), steps: 6 };
const HOUR: Window = Window { step: Duration::from_secs(600), steps: 6 };
const DAY: Window = Window { step: Duration::from_secs(3600), steps: 24 };
/// A rate over less is no rate: the first messages of a topic would look like a flood.
const LEAST_SPAN: Duration = Duration::from_secs(10);
/// What was not counted for so long is dropped until it comes again.
const FORGET_AFTER: Duration = Duration::from_secs(2 * 24 * 3600);

#[derive(Clone, Copy)]
struct Window {
    step: Duration,
    steps: usize,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Requests, or messages where requests are not told apart.
    pub(crate) times: u64,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

/// A window's sum, amount a second, and amount a time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Span {
    pub(crate) sum: u64,
    pub(crate) tps: f64,
    pub(crate) each: f64,
}

/// Amount by amount, three spans: minute, hour, day.
pub(crate) type Spans = [Span; 3];

pub(crate) struct Meter {
    times: AtomicU64,
    messages: AtomicU64,
    bytes: AtomicU64,
    history: Mutex<History>,
}

struct History {
    minute: Samples,
    hour: Samples,
    day: Samples,
    changed: UnixMillis,
}

/// Ascending in time; the first one starts the window.
struct Samples(VecDeque<(UnixMillis, Counted)>);

impl Meter {
    pub(crate) fn new(now: UnixMillis) -> Self {
        let start = || Samples(VecDeque::from([(now, Counted::default())]));
        Self {
            times: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            history: Mutex::new(History { minute: start(), hour: start(), day: start(), changed: now }),
        }
    }

    pub(crate) fn add(&self, times: u64, messages: u64, bytes: u64) {
        self.times.fetch_add(times, Relaxed);
        self.messages.fetch_add(messages, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn counted(&self) -> Counted {
        Counted {
            times: self.times.load(Relaxed),
            messages: self.messages.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
        }
    }

    pub(super) fn sample(&self, now: UnixMillis) {
        let counted = self.counted();
        let mut history = self.history.lock();
        if history.minute.0.back().is_some_and(|(_, last)| *last != counted) {
            history.changed = now;
        }
        history.minute.sample(MINUTE, now, counted);
        history.hour.sample(HOUR, now, counted);
        history.day.sample(DAY, now, counted);
    }

    pub(super) fn is_forgotten(&self, now: UnixMillis) -> bool {
        let history = self.history.lock();
        now.since(history.changed) > FORGET_AFTER
            && history.minute.0.back().is_some_and(|(_, last)| *last == self.counted())
    }

    pub(super) fn spans(&self, now: UnixMillis, amount: fn(&Counted) -> u64) -> Spans {
        self.sample(now);
        let counted = self.counted();
        let history = self.history.lock();
        [&history.minute, &history.hour, &history.day].map(|samples| samples.span(now, counted, amount))
    }

    pub(super) fn messages_in_minute(&self, now: UnixMillis) -> Span {
        self.spans(now, |counted| counted.messages)[0]
    }
}

impl Samples {
    fn sample(&mut self, window: Window, now: UnixMillis, counted: Counted) {
        let last = self.0.back().expect("a window has a start").0;
        if now.since(last) >= window.step {
            self.0.push_back((now, counted));
        }
        // The one in front of the window's first step starts it.
        let length = window.step * u32::try_from(window.steps).expect("a few steps");
        while self.0.len() > 1 && (self.0.len() > window.steps + 1 || now.since(self.0[1].0) >= length) {
            self.0.pop_front();
        }
    }

    fn span(&self, now: UnixMillis, counted: Counted, amount: fn(&Counted) -> u64) -> Span {
        let (since, first) = self.0.front().expect("a window has a start");
        let sum = amount(&counted) - amount(first);
        let times = counted.times - first.times;
        let seconds = now.since(*since).max(LEAST_SPAN).as_secs_f64();
        Span { sum, tps: sum as f64 / seconds, each: if times == 0 { 0.0 } else { sum as f64 / times as f64 } }
    }
}
