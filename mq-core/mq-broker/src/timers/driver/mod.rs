//! Links what arrives in the timer topic into the wheel, and appends what is due to its real place.
//!
//! Runs on a thread of its own. Everything that arrived is linked before a slot fires, so that a message and the one
//! that takes it back meet there. A start finds in the log what was delivered after the last save and steps over it, so
//! that a crash delivers nothing twice.

mod firing;
mod linking;
mod saving;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mq_protocol::ids::{LogOffset, QueueOffset, UnixMillis};
use mq_protocol::topic;
use mq_store::timer::{TimerEntry, TimerError, TimerProgress, TimerStart};
use mq_store::{AppendError, Clock, DiskError, Poisoned, ReadError, Store};
use tracing::warn;

use super::copies::Copies;
use super::{Timers, UNLIMITED, message};
use crate::bell::Bell;

/// How often the clock is looked at while something waits: a bound for how late a delivery is when the clock jumps.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Rest after a failed append (a full disk, say).
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Bytes of log after which progress is saved although it stands still: a start reads from there.
const SAVE_EVERY_BYTES: u64 = 256 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum TimersError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Index(#[from] TimerError),
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
}

impl From<DiskError> for TimersError {
    fn from(error: DiskError) -> Self {
        Self::Index(error.into())
    }
}

pub(crate) struct Driver {
    pub(in crate::timers) store: Store,
    pub(in crate::timers) clock: Arc<dyn Clock>,
    pub(in crate::timers) timers: Arc<Timers>,
    pub(in crate::timers) bell: Arc<Bell>,
    pub(in crate::timers) progress: TimerProgress,
    copies: Copies,
    /// By which the full slots were put down last.
    congestion_limit: u64,
    /// Messages that Apache linked without counting them.
    linked: HashSet<LogOffset>,
    /// The progress counts nothing of the log behind it.
    counted_until: LogOffset,
    unsaved: bool,
    copies_unsaved: u64,
    saved_at: Instant,
    saved_log_offset: LogOffset,
}

impl Driver {
    pub(crate) fn new(
        store: Store,
        clock: Arc<dyn Clock>,
        timers: Arc<Timers>,
        bell: Arc<Bell>,
        (mut progress, start): (TimerProgress, TimerStart),
    ) -> Self {
        if start == TimerStart::Lost {
            warn!("the timer wheel is unusable and made anew from its topic");
        }
        let linked = if let TimerStart::Apaches { linked } = start { linked } else { HashSet::new() };
        let end = store.end();
        progress.log_offset = progress.log_offset.map(|at| at.min(end));
        let arrived = store.queue_bounds(topic::TIMER, message::QUEUE).max;
        progress.queue_offset = progress.queue_offset.min(arrived);
        if arrived == QueueOffset::ZERO {
            progress.read_time = progress.read_time.max(timers.index.lock().slot_of(clock.now()));
        }
        Self {
            saved_log_offset: progress.log_offset.unwrap_or(end),
            store,
            clock,
            timers,
            bell,
            // None: what the slots hold is not put down yet.
            congestion_limit: UNLIMITED,
            progress,
            copies: Copies::default(),
            linked,
            counted_until: LogOffset::ZERO,
            unsaved: true,
            copies_unsaved: 0,
            saved_at: Instant::now(),
        }
    }

    /// Links and delivers until the bell says stop.
    pub(crate) fn run(mut self) {
        if let Err(error) = self.begin() {
            warn!(%error, "messages for a later time wait: {error}");
        }
        loop {
            let pause = match self.turn() {
                Ok(next) => next.map(|due| due.since(self.clock.now()).min(LOOK_EVERY)),
                Err(error) => {
                    warn!(%error, "messages for a later time wait: {error}");
                    Some(RETRY_AFTER)
                }
            };
            let save = self.save_if_due();
            if !self.bell.wait(pause.into_iter().chain(save).min()) {
                break;
            }
        }
        if let Err(error) = self.save_all() {
            warn!(%error, "the progress of the timers is not saved; the next start finds it in the log");
        }
    }

    /// Finds out where things stand, and puts it down before anyone adds to it.
    pub(in crate::timers) fn begin(&mut self) -> Result<(), TimersError> {
        self.find_copies();
        self.turn()?;
        self.save_if_durable();
        Ok(())
    }

    /// Everything that was stored for later but was delivered before this start.
    fn find_copies(&mut self) {
        let arrived = self.store.queue_bounds(topic::TIMER, message::QUEUE).max > self.progress.queue_offset;
        let waiting = self.timers.index.lock().next_slot(self.progress.read_time).is_some();
        if let Some(from) = self.progress.log_offset.filter(|from| (arrived || waiting) && *from < self.store.end()) {
            self.copies = Copies::find(&self.store, from);
        }
    }

    /// Does all there is to do now; gives the time of the next delivery, if anything waits.
    pub(in crate::timers) fn turn(&mut self) -> Result<Option<UnixMillis>, TimersError> {
        if self.store.end().0 - self.saved_log_offset.0.min(self.store.end().0) >= SAVE_EVERY_BYTES {
            self.unsaved = true;
            self.save_if_durable();
        }
        self.note_limit()?;
        loop {
            let blocked = self.link_arrivals()?;
            let (next, precision_ms) = {
                let index = self.timers.index.lock();
                (index.next_slot(self.progress.read_time), index.precision_ms())
            };
            let now = self.clock.now();
            match next.map(|slot| (slot, UnixMillis(slot.0 + precision_ms))) {
                Some((slot, due)) if due <= now => self.fire(slot)?,
                next => {
                    let moved = self.pass_empty_slots(now);
                    if !(blocked && moved) {
                        *self.timers.progress.lock() = self.progress;
                        if !blocked {
                            self.copies.forget_below(self.progress.read_time);
                        }
                        return Ok(next.map(|(_, due)| due));
                    }
                }
            }
        }
    }

    /// No slot before now's has anything in it. False if the time did not go on.
    fn pass_empty_slots(&mut self, now: UnixMillis) -> bool {
        let current = self.timers.index.lock().slot_of(now);
        let moved = current > self.progress.read_time;
        if moved {
            (self.progress.read_time, self.progress.fired) = (current, 0);
        }
        moved
    }
}

/// A message that takes back another one counts against it.
fn weight(entry: &TimerEntry) -> i64 {
    if entry.deletes { -1 } else { 1 }
}
