//! What is counted for metrics only, where it happens. Everything else is read from the tables when somebody asks.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use super::rpc::RpcLatency;
use crate::histogram::{Histogram, Scale};

/// Apache's bounds of creating a topic or group, in microseconds.
static CREATE_MILLIS: Scale<5> = Scale { bounds: [10_000, 100_000, 1_000_000, 3_000_000, 5_000_000], per_unit: 1000 };
/// A sync of the log on good and on bad disks, in microseconds.
static SYNC_MILLIS: Scale<9> =
    Scale { bounds: [100, 250, 500, 1000, 2500, 5000, 10_000, 100_000, 1_000_000], per_unit: 1000 };

pub(crate) struct Instruments {
    pub(crate) rpc: RpcLatency,
    pub(crate) topics_created: ByOutcome,
    pub(crate) groups_created: ByOutcome,
    pub(crate) log_syncs: Histogram<9>,
    /// Requests whose answers wait for the disk.
    pub(crate) waiting_for_disk: AtomicUsize,
    /// Requests on the blocking lane.
    pub(crate) on_lane: AtomicUsize,
}

/// How long something took that may fail.
pub(crate) struct ByOutcome {
    pub(crate) done: Histogram<5>,
    pub(crate) failed: Histogram<5>,
}

impl Instruments {
    pub(crate) fn new() -> Self {
        let created = || ByOutcome { done: Histogram::new(&CREATE_MILLIS), failed: Histogram::new(&CREATE_MILLIS) };
        Self {
            rpc: RpcLatency::new(),
            topics_created: created(),
            groups_created: created(),
            log_syncs: Histogram::new(&SYNC_MILLIS),
            waiting_for_disk: AtomicUsize::new(0),
            on_lane: AtomicUsize::new(0),
        }
    }

    pub(crate) fn log_synced(&self, took: Duration) {
        self.log_syncs.add(micros(took), 1);
    }

    /// The number of requests of one session that wait for the disk is another one now.
    pub(crate) fn waiting_changed(&self, before: usize, now: usize) {
        if now > before {
            self.waiting_for_disk.fetch_add(now - before, Relaxed);
        } else {
            self.waiting_for_disk.fetch_sub(before - now, Relaxed);
        }
    }
}

impl ByOutcome {
    pub(crate) fn timed<T, E>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let start = std::time::Instant::now();
        let outcome = work();
        let histogram = if outcome.is_ok() { &self.done } else { &self.failed };
        histogram.add(micros(start.elapsed()), 1);
        outcome
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
