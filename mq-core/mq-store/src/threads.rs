//! The threads that move a store's marks and look after its files. What they do stands in [`Core`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::core::Core;
use crate::options::{FlushMode, INDEX_EVERY, INDEX_IDLE, SEAL_EVERY, SEAL_REST, SETTLE_EVERY, WRITE_OUT_EVERY};
use crate::pace::Pace;

#[derive(Default)]
pub(crate) struct Threads {
    stop: Arc<AtomicBool>,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    /// The threads, and the one of them that flushes.
    pub(crate) fn start(core: &Arc<Core>) -> (Self, Option<Thread>) {
        let mut threads = Self::default();
        let flusher = match core.flush_mode {
            FlushMode::Manual => return (threads, None),
            FlushMode::Sync => threads.spawn("store-flush", core, flush_on_append),
            FlushMode::Async { every } => {
                threads.spawn("store-flush", core, move |core, stop| flush_every(every, core, stop))
            }
        };
        threads.spawn("store-keep", core, keep);
        threads.spawn("store-seal", core, seal);
        if core.index.is_some() {
            threads.spawn("store-index", core, index);
        }
        (threads, Some(flusher))
    }

    fn spawn(&mut self, name: &str, core: &Arc<Core>, run: impl FnOnce(&Core, &AtomicBool) + Send + 'static) -> Thread {
        let (core, stop) = (core.clone(), self.stop.clone());
        let spawned = thread::Builder::new().name(name.into()).spawn(move || run(&core, &stop));
        let handle = spawned.expect("the system gives a thread at start");
        let thread = handle.thread().clone();
        self.handles.push(handle);
        thread
    }

    /// Returns when they have ended.
    pub(crate) fn stop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for handle in self.handles.drain(..) {
            handle.thread().unpark();
            // The last handle may be dropped by a listener, on one of these threads.
            if handle.thread().id() != thread::current().id() && handle.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
    }
}

fn flush_on_append(core: &Core, stop: &AtomicBool) {
    let (mut pace, mut ended) = (Pace::default(), Instant::now());
    while !stop.load(Ordering::Acquire) {
        let from = core.marks.durable();
        if core.marks.written() == from {
            thread::park();
            continue;
        }
        if let Some(pause) = pace.pause(core.appender.waiting(), ended.elapsed()) {
            thread::sleep(pause);
        }
        let (waiting, began) = (core.appender.waiting(), Instant::now());
        if core.flush().is_err() {
            return;
        }
        ended = Instant::now();
        let zeros = pace.synced(from..core.marks.durable(), waiting, ended - began);
        // A listener may have dropped the store's last handle on this thread: then the log has another master.
        if let Some(range) = zeros.filter(|_| !stop.load(Ordering::Acquire)) {
            // Merely early: what fails here fails again where it counts.
            pace.zeroed(core.appender.write_zeros(range.clone()).unwrap_or(range.end));
        }
    }
}

fn flush_every(every: Duration, core: &Core, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        thread::park_timeout(every);
        if core.flush().is_err() {
            return;
        }
    }
}

/// Queue files, the checkpoint and the next segment. What fails is tried again: these are derived, or merely early.
fn keep(core: &Core, stop: &AtomicBool) {
    let mut settle_at = Instant::now() + SETTLE_EVERY;
    loop {
        thread::park_timeout(WRITE_OUT_EVERY);
        if stop.load(Ordering::Acquire) || core.poison.get().is_some() {
            return;
        }
        let mut work = core.write_out();
        if core.wants_spare() {
            work = work.and(core.segments.prepare_spare());
        }
        if Instant::now() >= settle_at {
            work = work.and(core.flush_index()).and(core.settle().map(drop));
            settle_at = Instant::now() + SETTLE_EVERY;
        }
        if let Err(error) = work {
            tracing::warn!(%error, "the store's upkeep failed and is tried again");
        }
    }
}

/// Checksums follow the durable mark. They are derived: what fails is tried again.
fn seal(core: &Core, stop: &AtomicBool) {
    let mut rest = SEAL_EVERY;
    loop {
        thread::park_timeout(rest);
        if stop.load(Ordering::Acquire) {
            return;
        }
        rest = match core.seal() {
            Ok(true) => SEAL_REST,
            Ok(false) => SEAL_EVERY,
            Err(error) => {
                tracing::warn!(%error, "the newest messages are without checksums; tried again");
                SETTLE_EVERY
            }
        };
    }
}

/// In batches behind the visible mark, by the clock: messages do not wake it.
fn index(core: &Core, stop: &AtomicBool) {
    let (mut seen, mut pause) = (core.marks.visible(), INDEX_EVERY);
    while !stop.load(Ordering::Acquire) {
        match core.advance_index() {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "messages could not be indexed; trying again"),
        }
        let visible = core.marks.visible();
        pause = if visible == seen { (pause * 2).min(INDEX_IDLE) } else { INDEX_EVERY };
        seen = visible;
        thread::park_timeout(pause);
    }
}
