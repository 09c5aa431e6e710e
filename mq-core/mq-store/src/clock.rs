//! Where the time comes from: the system, or a test's hand.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use mq_protocol::ids::UnixMillis;

pub trait Clock: Send + Sync {
    fn now(&self) -> UnixMillis;
    /// Time since some moment; who sets the clock does not change it.
    fn uptime(&self) -> Duration;
}

#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixMillis {
        UnixMillis(0).plus(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
    }

    fn uptime(&self) -> Duration {
        static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
        FIRST.elapsed()
    }
}

/// Stands still until told otherwise.
#[derive(Debug, Default)]
pub struct ManualClock {
    now: AtomicI64,
    uptime: AtomicI64,
}

impl ManualClock {
    #[must_use]
    pub fn at(now: UnixMillis) -> Self {
        Self { now: AtomicI64::new(now.0), uptime: AtomicI64::new(0) }
    }

    /// Time passes.
    pub fn advance(&self, by: Duration) {
        let by_ms = UnixMillis(0).plus(by).0;
        self.uptime.fetch_add(by_ms, Ordering::SeqCst);
        self.now.fetch_add(by_ms, Ordering::SeqCst);
    }

    /// Somebody sets the clock; no time passes.
    pub fn set(&self, now: UnixMillis) {
        self.now.store(now.0, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixMillis {
        UnixMillis(self.now.load(Ordering::SeqCst))
    }

    fn uptime(&self) -> Duration {
        Duration::from_millis(self.uptime.load(Ordering::SeqCst).unsigned_abs())
    }
}
