//! How fast a consumer works, topic by topic, over the last minute: what tools show of it (`statusTable` of 307).

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

const MINUTE: Buckets = Buckets { width: Duration::from_secs(5), count: 12 };
/// Failures are counted over an hour, too.
const HOUR: Buckets = Buckets { width: Duration::from_secs(300), count: 12 };

/// A span of time, forgotten bucket by bucket.
#[derive(Clone, Copy)]
struct Buckets {
    width: Duration,
    count: u64,
}

/// What happened in a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    pulls: u64,
    pull_ms: u64,
    pulled: u64,
    batches: u64,
    handle_ms: u64,
    acknowledged: u64,
    failed: u64,
}

impl Sums {
    fn add(&mut self, other: Self) {
        self.pulls += other.pulls;
        self.pull_ms += other.pull_ms;
        self.pulled += other.pulled;
        self.batches += other.batches;
        self.handle_ms += other.handle_ms;
        self.acknowledged += other.acknowledged;
        self.failed += other.failed;
    }
}

/// The sums of the last `count` buckets, by their number since the start.
struct Window {
    size: Buckets,
    sums: BTreeMap<u64, Sums>,
}

impl Window {
    fn new(size: Buckets) -> Self {
        Self { size, sums: BTreeMap::new() }
    }

    /// `since_start`: now.
    fn add(&mut self, since_start: Duration, more: Sums) {
        let bucket = self.forget_until(since_start);
        self.sums.entry(bucket).or_default().add(more);
    }

    fn total(&mut self, since_start: Duration) -> Sums {
        self.forget_until(since_start);
        let mut total = Sums::default();
        self.sums.values().for_each(|sums| total.add(*sums));
        total
    }

    fn forget_until(&mut self, since_start: Duration) -> u64 {
        let bucket = since_start.as_secs() / self.size.width.as_secs();
        self.sums = self.sums.split_off(&(bucket + 1).saturating_sub(self.size.count));
        bucket
    }

    /// Seconds that a total is of.
    fn covers(&self, since_start: Duration) -> f64 {
        let whole = self.size.width * u32::try_from(self.size.count).unwrap_or(u32::MAX);
        since_start.clamp(Duration::from_secs(1), whole).as_secs_f64()
    }
}

pub(super) struct Meters {
    start: Instant,
    topics: BTreeMap<String, Mutex<[Window; 2]>>,
}

impl Meters {
    pub(super) fn of<'t>(topics: impl Iterator<Item = &'t String>) -> Self {
        let windows = || Mutex::new([Window::new(MINUTE), Window::new(HOUR)]);
        Self { start: Instant::now(), topics: topics.map(|topic| (topic.clone(), windows())).collect() }
    }

    /// A pull that found something.
    pub(super) fn pulled(&self, topic: &str, messages: usize, took: Duration) {
        let pull_ms = took.as_millis() as u64;
        self.add(topic, Sums { pulls: 1, pull_ms, pulled: messages as u64, ..Sums::default() });
    }

    pub(super) fn handled(&self, topic: &str, messages: usize, took: Duration, acknowledged: bool) {
        let (messages, handle_ms) = (messages as u64, took.as_millis() as u64);
        let (acknowledged, failed) = if acknowledged { (messages, 0) } else { (0, messages) };
        self.add(topic, Sums { batches: 1, handle_ms, acknowledged, failed, ..Sums::default() });
    }

    fn add(&self, topic: &str, more: Sums) {
        if let Some(windows) = self.topics.get(topic) {
            let since_start = self.start.elapsed();
            windows.lock().iter_mut().for_each(|window| window.add(since_start, more));
        }
    }

    /// By topic, under Apache's names.
    pub(super) fn status(&self) -> Value {
        let since_start = self.start.elapsed();
        let status = |windows: &Mutex<[Window; 2]>| {
            let [minute, hour] = &mut *windows.lock();
            status(minute.total(since_start), minute.covers(since_start), hour.total(since_start).failed)
        };
        self.topics.iter().map(|(topic, windows)| (topic.clone(), status(windows))).collect::<Map<_, _>>().into()
    }
}

fn status(minute: Sums, seconds: f64, failed_in_hour: u64) -> Value {
    let mean = |sum: u64, count: u64| if count == 0 { 0.0 } else { sum as f64 / count as f64 };
    let rate = |count: u64| count as f64 / seconds;
    json!({
        "pullRT": mean(minute.pull_ms, minute.pulls),
        "pullTPS": rate(minute.pulled),
        "consumeRT": mean(minute.handle_ms, minute.batches),
        "consumeOKTPS": rate(minute.acknowledged),
        "consumeFailedTPS": rate(minute.failed),
        "consumeFailedMsgs": failed_in_hour,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_forgets_what_is_older_than_itself() {
        let mut window = Window::new(MINUTE);
        let one = Sums { failed: 1, ..Sums::default() };
        for (at_s, failed) in [(0, 1), (4, 2), (30, 3), (59, 4), (60, 3), (64, 4), (89, 5), (90, 5), (500, 1)] {
            let at = Duration::from_secs(at_s);
            window.add(at, one);
            assert_eq!(window.total(at).failed, failed, "after {at_s} s");
        }
        assert!(window.sums.len() <= 12);
    }

    #[test]
    fn figures_are_means_of_times_and_rates_of_messages() {
        let sums = Sums { pulls: 2, pull_ms: 9, pulled: 60, batches: 4, handle_ms: 10, acknowledged: 30, failed: 6 };
        let expected = json!({
            "pullRT": 4.5, "pullTPS": 2.0, "consumeRT": 2.5, "consumeOKTPS": 1.0, "consumeFailedTPS": 0.2,
            "consumeFailedMsgs": 7,
        });
        assert_eq!(status(sums, 30.0, 7), expected);
        assert_eq!(status(Sums::default(), 1.0, 0)["pullRT"], 0.0);
    }
}
