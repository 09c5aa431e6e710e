//! Messages for an arbitrary time: they wait in the topic `rmq_sys_wheel_timer`, indexed by the store's timer wheel, and
//! are appended to their real place when their slot is over. What a send asks for is `plan`'s matter, who waits and who
//! is due `driver`'s.

mod congestion;
mod copies;
mod counts;
mod driver;
mod from_commit;
mod message;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use mq_protocol::body::TimerMetrics;
use mq_protocol::ids::{LogOffset, QueueOffset, UnixMillis};
use mq_protocol::topic;
use mq_store::timer::{TimerCheckpoint, TimerError, TimerIndex, TimerOptions, TimerProgress, TimerStart};
use mq_store::{Backend, DiskError, ReadError, Store};
use parking_lot::Mutex;

use congestion::Congestion;
use counts::{ToldFlow, TopicCounts};

use crate::retention::first_at;
use crate::stats::Stats;

pub(crate) use congestion::UNLIMITED;
pub(crate) use driver::Driver;
pub(crate) use from_commit::FromCommit;
pub(crate) use message::{QUEUE, fits, recall, waiting};
pub(crate) use plan::{TimerRefusal, TimerRules, TimerWish};

/// Up to when messages are counted together, as Apache's broker does it.
const DUE_WITHIN_SECONDS: [u64; 8] = [5, 60, 300, 900, 3600, 14_400, 28_800, 86_400];

/// What others may know of the waiting messages.
pub(crate) struct Timers {
    index: Mutex<TimerIndex>,
    counts: Mutex<TopicCounts>,
    progress: Mutex<TimerProgress>,
    stats: Arc<Stats>,
    pub(crate) congestion: Congestion,
    /// A message whose time is further away is stored anew in between.
    window_ms: AtomicI64,
}

/// What may change while the broker runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimerSettings {
    pub(crate) window: Duration,
    /// Messages of a slot.
    pub(crate) congestion: u64,
}

/// How far linking and delivering are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TimersBehind {
    /// The oldest slot that is not fired yet ended so long ago.
    pub(crate) late: Duration,
    /// Messages of the timer topic below it are linked.
    pub(crate) linked: QueueOffset,
}

impl Timers {
    pub(crate) fn open(
        backend: Arc<dyn Backend>,
        options: TimerOptions,
        config_directory: &Path,
        settings: TimerSettings,
        stats: Arc<Stats>,
        now: UnixMillis,
    ) -> Result<(Arc<Self>, TimerProgress, TimerStart), TimerError> {
        let (index, progress, start) = TimerIndex::open(backend, options, now)?;
        let mut counts = TopicCounts::open(config_directory.join("timermetrics"));
        if start == TimerStart::Lost {
            counts.clear();
        }
        let (counts, shared_progress) = (Mutex::new(counts), Mutex::new(progress));
        let (congestion, window_ms) = (Congestion::new(UNLIMITED), AtomicI64::new(0));
        let shared = Self { index: Mutex::new(index), counts, progress: shared_progress, stats, congestion, window_ms };
        shared.adopt(settings);
        Ok((Arc::new(shared), progress, start))
    }

    /// From the driver's next turn on.
    pub(crate) fn adopt(&self, settings: TimerSettings) {
        let window_ms = i64::try_from(settings.window.as_millis()).unwrap_or(i64::MAX);
        self.window_ms.store(window_ms, Relaxed);
        self.congestion.set_limit(settings.congestion);
    }

    pub(crate) fn checkpoint(&self) -> TimerCheckpoint {
        self.index.lock().checkpoint()
    }

    pub(crate) fn metrics(&self) -> TimerMetrics {
        self.counts.lock().metrics().clone()
    }

    /// What came and went by topic, since the start.
    pub(crate) fn flows(&self) -> Vec<(String, ToldFlow)> {
        self.counts.lock().flows()
    }

    pub(crate) fn behind(&self, now: UnixMillis) -> TimersBehind {
        let progress = *self.progress.lock();
        let index = self.index.lock();
        // Without a message that is due nothing is behind, however long ago the last one was.
        let due = index.next_slot(progress.read_time).map(|slot| UnixMillis(slot.0 + index.precision_ms()));
        let late = due.map_or(Duration::ZERO, |due| now.since(due));
        TimersBehind { late, linked: progress.queue_offset }
    }

    /// The first record of the log that waits in the wheel or for it. Where the timer log is unreadable anything may wait
    /// in the wheel: it is made anew from the topic when the damage is met.
    pub(crate) fn needed_from(&self, store: &Store) -> Result<Option<LogOffset>, ReadError> {
        let unlinked = first_at(store, topic::TIMER, QUEUE, self.progress.lock().queue_offset)?;
        let oldest = match self.index.lock().oldest() {
            Err(TimerError::Disk(error)) => return Err(error.into()),
            Err(TimerError::Damaged { .. }) => first_at(store, topic::TIMER, QUEUE, QueueOffset::ZERO)?,
            Ok(oldest) => oldest,
        };
        Ok(oldest.into_iter().chain(unlinked).min())
    }

    /// How many messages are due within each time and not within a shorter one; those later than all count by
    /// `Duration::MAX`.
    pub(crate) fn pending(&self, now: UnixMillis) -> Result<BTreeMap<Duration, u64>, DiskError> {
        let index = self.index.lock();
        let bounds = DUE_WITHIN_SECONDS.map(Duration::from_secs).into_iter().chain([Duration::MAX]);
        let mut pending: BTreeMap<Duration, u64> = bounds.map(|bound| (bound, 0)).collect();
        index.counts(|count| {
            let due = UnixMillis(count.slot.0 + index.precision_ms());
            let ahead = due.since(now);
            let (_, messages) = pending.range_mut(ahead..).next().expect("nothing is later than the last bound");
            *messages += count.messages;
        })?;
        Ok(pending)
    }
}
