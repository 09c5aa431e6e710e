//! The broker's totals: since the start, since midnight, and by the second.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use mq_protocol::ids::UnixMillis;
use parking_lot::Mutex;

use super::meter::Meter;

/// Spans of the rates that tools show.
const RATE_SPANS: [Duration; 3] = [Duration::from_secs(10), Duration::from_secs(60), Duration::from_secs(600)];
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// Since the start. Messages on their way (halves, delayed ones) are counted when they arrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amounts {
    pub(crate) put_messages: u64,
    pub(crate) put_bytes: u64,
    pub(crate) got_messages: u64,
    pub(crate) got_bytes: u64,
    /// Reads that were answered with messages, and without.
    pub(crate) found: u64,
    pub(crate) missed: u64,
    pub(crate) sent_back: u64,
    /// Messages that became dead letters.
    pub(crate) dead: u64,
    /// Messages that began to wait for an arbitrary time, and those whose time came.
    pub(crate) timers_linked: u64,
    pub(crate) timers_fired: u64,
}

/// Put and got, at the last two midnights of this machine's time zone and now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Today {
    pub(crate) yesterday_morning: Amounts,
    pub(crate) this_morning: Amounts,
    pub(crate) now: Amounts,
}

pub(super) struct Totals {
    pub(super) put: Meter,
    /// Its times are the reads that found something.
    pub(super) got: Meter,
    missed: AtomicU64,
    sent_back: AtomicU64,
    dead: AtomicU64,
    timers_linked: AtomicU64,
    timers_fired: AtomicU64,
    zone: TimeZone,
    history: Mutex<History>,
}

struct History {
    day: Option<Date>,
    yesterday_morning: Amounts,
    this_morning: Amounts,
    samples: VecDeque<(UnixMillis, Amounts)>,
}

impl Totals {
    pub(super) fn new(now: UnixMillis) -> Self {
        let zone = TimeZone::system();
        let history = History {
            day: date(&zone, now),
            yesterday_morning: Amounts::default(),
            this_morning: Amounts::default(),
            samples: VecDeque::from([(now, Amounts::default())]),
        };
        Self {
            put: Meter::new(now),
            got: Meter::new(now),
            missed: AtomicU64::new(0),
            sent_back: AtomicU64::new(0),
            dead: AtomicU64::new(0),
            timers_linked: AtomicU64::new(0),
            timers_fired: AtomicU64::new(0),
            zone,
            history: Mutex::new(history),
        }
    }

    pub(super) fn missed(&self) {
        self.missed.fetch_add(1, Relaxed);
    }

    pub(super) fn sent_back(&self) {
        self.sent_back.fetch_add(1, Relaxed);
    }

    pub(super) fn dead(&self, messages: u64) {
        self.dead.fetch_add(messages, Relaxed);
    }

    pub(super) fn timers_linked(&self, messages: u64) {
        self.timers_linked.fetch_add(messages, Relaxed);
    }

    pub(super) fn timers_fired(&self, messages: u64) {
        self.timers_fired.fetch_add(messages, Relaxed);
    }

    pub(super) fn amounts(&self) -> Amounts {
        let (put, got) = (self.put.counted(), self.got.counted());
        Amounts {
            put_messages: put.messages,
            put_bytes: put.bytes,
            got_messages: got.messages,
            got_bytes: got.bytes,
            found: got.times,
            missed: self.missed.load(Relaxed),
            sent_back: self.sent_back.load(Relaxed),
            dead: self.dead.load(Relaxed),
            timers_linked: self.timers_linked.load(Relaxed),
            timers_fired: self.timers_fired.load(Relaxed),
        }
    }

    pub(super) fn sample(&self, now: UnixMillis) {
        self.put.sample(now);
        self.got.sample(now);
        let (amounts, today) = (self.amounts(), date(&self.zone, now));
        let mut history = self.history.lock();
        if today != history.day {
            // More than a night may have passed, but nothing is known of the mornings in between.
            history.day = today;
            history.yesterday_morning = std::mem::replace(&mut history.this_morning, amounts);
        }
        if history.samples.back().is_none_or(|(last, _)| now.since(*last) >= SAMPLE_EVERY) {
            history.samples.push_back((now, amounts));
        }
        let longest = RATE_SPANS[RATE_SPANS.len() - 1];
        while history.samples.len() > 1 && now.since(history.samples[1].0) >= longest {
            history.samples.pop_front();
        }
    }

    pub(super) fn today(&self) -> Today {
        let history = self.history.lock();
        Today { yesterday_morning: history.yesterday_morning, this_morning: history.this_morning, now: self.amounts() }
    }

    /// From the newest sample that is at least as old as the span, or the oldest there is.
    pub(super) fn rates(&self, now: UnixMillis, amount: impl Fn(&Amounts) -> u64) -> [f64; 3] {
        let current = amount(&self.amounts());
        let history = self.history.lock();
        RATE_SPANS.map(|span| {
            let old_enough = history.samples.iter().rev().find(|(at, _)| now.since(*at) >= span);
            let Some((since, then)) = old_enough.or(history.samples.front()) else { return 0.0 };
            let seconds = now.since(*since).max(SAMPLE_EVERY).as_secs_f64();
            (current - amount(then)) as f64 / seconds
        })
    }
}

fn date(zone: &TimeZone, now: UnixMillis) -> Option<Date> {
    Timestamp::from_millisecond(now.0).ok().map(|time| time.to_zoned(zone.clone()).date())
}
