//! How far the log is written, durable, committed and visible. Each only grows, but for a truncation.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mq_protocol::ids::LogOffset;
use parking_lot::{Condvar, Mutex};

pub(crate) struct Marks {
    written: AtomicU64,
    durable: AtomicU64,
    committed: AtomicU64,
    visible: AtomicU64,
    moved: Condvar,
    moving: Mutex<()>,
}

impl Marks {
    pub(crate) fn at(end: LogOffset) -> Self {
        Self {
            written: AtomicU64::new(end.0),
            durable: AtomicU64::new(end.0),
            committed: AtomicU64::new(u64::MAX),
            visible: AtomicU64::new(end.0),
            moved: Condvar::new(),
            moving: Mutex::new(()),
        }
    }

    pub(crate) fn written(&self) -> LogOffset {
        LogOffset(self.written.load(Ordering::Acquire))
    }
    pub(crate) fn set_written(&self, to: LogOffset) {
        self.written.store(to.0, Ordering::Release);
    }
    pub(crate) fn durable(&self) -> LogOffset {
        LogOffset(self.durable.load(Ordering::Acquire))
    }
    pub(crate) fn set_durable(&self, to: LogOffset) {
        self.durable.store(to.0, Ordering::Release);
    }
    pub(crate) fn visible(&self) -> LogOffset {
        LogOffset(self.visible.load(Ordering::Acquire))
    }
    pub(crate) fn set_visible(&self, to: LogOffset) {
        self.visible.store(to.0, Ordering::Release);
    }
    pub(crate) fn committed(&self) -> LogOffset {
        LogOffset(self.committed.load(Ordering::Acquire))
    }
    pub(crate) fn set_committed(&self, to: LogOffset) {
        self.committed.store(to.0, Ordering::Release);
    }

    /// Wakes those who wait in [`Marks::wait_until`].
    pub(crate) fn announce(&self) {
        drop(self.moving.lock());
        self.moved.notify_all();
    }

    /// True once `reached` holds, false when the time is over.
    pub(crate) fn wait_until(&self, timeout: Duration, reached: impl Fn() -> bool) -> bool {
        let deadline = Instant::now() + timeout;
        let mut guard = self.moving.lock();
        while !reached() {
            if self.moved.wait_until(&mut guard, deadline).timed_out() {
                return reached();
            }
        }
        true
    }
}
