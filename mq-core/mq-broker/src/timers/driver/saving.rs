//! When the wheel and its progress go to disk: never before what they count is durable.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::{Driver, LOOK_EVERY, TimersError};

/// Apache's interval.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Deliveries after which progress is saved within a slot: a start keeps what identifies each in memory.
const SAVE_EVERY_COPIES: u64 = 64 * 1024;

impl Driver {
    pub(super) fn save_if_many(&mut self) {
        if self.copies_unsaved >= SAVE_EVERY_COPIES || self.timers.index.lock().wants_save() {
            self.save_if_durable();
        }
    }

    /// Saves now and then; gives the time to come back when something is unsaved.
    pub(super) fn save_if_due(&mut self) -> Option<Duration> {
        if !self.unsaved {
            return None;
        }
        if self.saved_at.elapsed() >= SAVE_EVERY {
            self.save_if_durable();
        }
        self.unsaved.then(|| SAVE_EVERY.saturating_sub(self.saved_at.elapsed()).max(LOOK_EVERY))
    }

    /// Keeps the older state while what it counts is not durable: what is lost must be done again.
    pub(super) fn save_if_durable(&mut self) {
        if self.linked.is_empty()
            && self.store.durable() >= self.counted_until
            && let Err(error) = self.save()
        {
            warn!(%error, "the progress of the timers is not saved: {error}");
            self.saved_at = Instant::now();
        }
    }

    pub(in crate::timers) fn save(&mut self) -> Result<(), TimersError> {
        if self.copies.is_empty() {
            self.progress.log_offset = Some(self.store.end());
        }
        let mut index = self.timers.index.lock();
        self.timers.counts.lock().save();
        index.save(self.progress, self.clock.now())?;
        index.remove_below(self.store.min())?;
        self.saved_log_offset = self.store.end();
        (self.unsaved, self.copies_unsaved) = (false, 0);
        self.saved_at = Instant::now();
        Ok(())
    }

    pub(super) fn save_all(&mut self) -> Result<(), TimersError> {
        self.store.flush()?;
        if self.linked.is_empty() {
            self.save()?;
        }
        info!(linked = %self.progress.queue_offset, "timers stopped");
        Ok(())
    }
}
