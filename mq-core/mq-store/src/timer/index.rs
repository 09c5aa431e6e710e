//! Wheel, log and checkpoint together: messages are linked in, slots are read and emptied, progress is saved.

use std::collections::HashMap;

use mq_protocol::ids::{LogOffset, QueueOffset, UnixMillis};

use super::checkpoint::{CheckpointFile, TimerCheckpoint, TimerProgress};
use super::entry::{BYTES, Linked, TimerEntry};
use super::log::{TimerLog, Window};
use super::wheel::{Slot, Wheel};
use super::{Chain, TimerError};
use crate::error::DiskError;

/// Changed slots in memory at which a save is due.
const MANY_CHANGED: usize = 64 * 1024;

#[derive(Clone, Copy, Debug)]
pub struct TimerOptions {
    /// The length of a slot (`timerPrecisionMs`).
    pub precision_ms: i64,
    /// Slots of the wheel: the same for all brokers, whatever their precision.
    pub slots: u64,
    /// The length of a timer log's file (`mappedFileSizeTimerLog`).
    pub log_file_bytes: u64,
}

impl Default for TimerOptions {
    fn default() -> Self {
        Self { precision_ms: 1000, slots: 2 * 7 * 86_400, log_file_bytes: 100 << 20 }
    }
}

/// How many messages wait for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotCount {
    pub slot: UnixMillis,
    pub messages: u64,
}

/// See the module. One thread changes it; nothing is durable before [`TimerIndex::save`].
pub struct TimerIndex {
    pub(super) options: TimerOptions,
    pub(super) wheel: Wheel,
    pub(super) log: TimerLog,
    pub(super) checkpoint: CheckpointFile,
    /// A sync failed: what the file holds is unknown, so the last checkpoint stays the one that a start goes by.
    pub(super) suspect: bool,
}

impl TimerIndex {
    #[must_use]
    pub fn precision_ms(&self) -> i64 {
        self.options.precision_ms
    }

    /// The slot of a time.
    #[must_use]
    pub fn slot_of(&self, time: UnixMillis) -> UnixMillis {
        UnixMillis(time.0 - time.0.rem_euclid(self.options.precision_ms))
    }

    /// Whether a slot can be told from all others while slots below `from` are fired.
    #[must_use]
    pub fn fits(&self, slot: UnixMillis, from: UnixMillis) -> bool {
        let until = from.0.saturating_add(self.wheel.span_ms());
        (from.0..until).contains(&slot.0) && self.wheel.latest().0 < until
    }

    /// Links entries whose slots fit; the number says how many. An error leaves all as it was.
    pub fn link(&mut self, entries: &[TimerEntry]) -> Result<usize, DiskError> {
        let (start, room) = self.log.prepare()?;
        let entries = &entries[..entries.len().min(room)];
        let mut bytes = Vec::with_capacity(entries.len() * BYTES);
        let mut changed = HashMap::new();
        for (entry, at) in entries.iter().zip((start..).step_by(BYTES)) {
            let before = match changed.get(&entry.slot.0) {
                Some(slot) => Some(*slot),
                None => self.wheel.get(entry.slot)?,
            };
            Linked { entry: *entry, previous: before.map(|slot| slot.last) }.encode(&mut bytes);
            changed.insert(entry.slot.0, with(before, entry, at));
        }
        self.log.append(&bytes)?;
        changed.into_values().for_each(|slot| self.wheel.put(slot));
        Ok(entries.len())
    }

    /// The first slot at or behind `from` that has entries.
    #[must_use]
    pub fn next_slot(&self, from: UnixMillis) -> Option<UnixMillis> {
        self.wheel.next(from)
    }

    /// Reads a slot's entries once, the newest first, and gives what [`TimerIndex::piece`] reads them again by.
    pub fn walk(&self, slot: UnixMillis, each: impl FnMut(&TimerEntry)) -> Result<Option<Chain>, TimerError> {
        let Some(found) = self.wheel.get(slot)? else { return Ok(None) };
        Chain::walk(&self.log, slot, found.last, each).map(Some)
    }

    /// A part of a slot's entries, in the order in which they were linked; part 0 is the oldest.
    pub fn piece(&self, chain: &Chain, index: usize) -> Result<Vec<TimerEntry>, TimerError> {
        chain.piece(&self.log, index)
    }

    /// Empties a slot whose messages are stored elsewhere, durably so before the next save.
    pub fn clear(&mut self, slot: UnixMillis) {
        self.wheel.clear(slot);
    }

    /// How many messages wait for one slot.
    pub fn messages_in(&self, slot: UnixMillis) -> Result<u64, DiskError> {
        Ok(self.wheel.get(slot)?.map_or(0, |slot| u64::try_from(slot.count).unwrap_or(0)))
    }

    /// How many messages wait, slot by slot; in no order.
    pub fn counts(&self, mut each: impl FnMut(SlotCount)) -> Result<(), DiskError> {
        self.wheel.for_each(|slot| {
            let messages = u64::try_from(slot.count).unwrap_or(0);
            each(SlotCount { slot: slot.time, messages });
        })
    }

    /// The first message of the commit log that waits. Entries stand in the order of their messages.
    pub fn oldest(&self) -> Result<Option<LogOffset>, TimerError> {
        let mut first: Option<u64> = None;
        self.wheel.for_each(|slot| first = Some(first.map_or(slot.first, |first| first.min(slot.first))))?;
        first.map(|at| Ok(self.log.read(at, &mut Window::default())?.entry.log_offset)).transpose()
    }

    /// Too much in memory for another second without a save.
    #[must_use]
    pub fn wants_save(&self) -> bool {
        self.wheel.dirty_slots() >= MANY_CHANGED
    }

    /// Makes all of it durable: the entries, then the slots that point to them, then how far it goes. Whatever the
    /// progress counts (linked messages, and what fired ones were stored as) has to be durable in the commit log.
    /// False: an earlier sync failed, and only the next start tries again.
    pub fn save(&mut self, progress: TimerProgress, now: UnixMillis) -> Result<bool, DiskError> {
        if self.suspect {
            return Ok(false);
        }
        self.log.sync().inspect_err(|_| self.suspect = true)?;
        self.wheel.write()?;
        self.sync_wheel()?;
        self.checkpoint.write(progress, self.log.end(), self.options.precision_ms, now)?;
        Ok(true)
    }

    pub(super) fn sync_wheel(&mut self) -> Result<(), DiskError> {
        self.wheel.sync().inspect_err(|_| self.suspect = true)
    }

    /// Apache's checkpoint as it was saved last.
    #[must_use]
    pub fn checkpoint(&self) -> TimerCheckpoint {
        self.checkpoint.current
    }

    /// Removes files of the log whose messages are all gone from the commit log.
    pub fn remove_below(&mut self, log_min: LogOffset) -> Result<(), TimerError> {
        self.log.remove_below(log_min)
    }

    /// Forgets all entries: the timer topic is to be enqueued again from its start. Gives the progress from there.
    pub fn reset(&mut self, progress: TimerProgress, now: UnixMillis) -> Result<TimerProgress, DiskError> {
        let progress = TimerProgress { queue_offset: QueueOffset::ZERO, fired: 0, ..progress };
        // First of all the checkpoint: a crash in between must not take new entries for those that it counted.
        self.checkpoint.write(progress, 0, self.options.precision_ms, now)?;
        self.wheel.remove()?;
        self.log.clear()?;
        Ok(progress)
    }

    /// Takes entries at and behind `end` out of a slot.
    pub(super) fn cut_slot(&mut self, slot: Slot, end: u64) -> Result<(), TimerError> {
        let (mut window, mut left) = (Window::default(), slot);
        let mut at = Some(slot.last);
        while let Some(here) = at.filter(|at| *at >= end) {
            let linked = self.log.read_of_slot(here, slot.time, &mut window)?;
            left.count -= weight(&linked.entry);
            at = linked.previous;
        }
        match at {
            Some(last) => self.wheel.put(Slot { last, ..left }),
            None => self.wheel.clear(slot.time),
        }
        Ok(())
    }
}

/// Apache's count: a message that takes back another one takes one off.
fn weight(entry: &TimerEntry) -> i32 {
    if entry.deletes { -1 } else { 1 }
}

/// A slot with one more entry, which stands at `at`.
pub(super) fn with(slot: Option<Slot>, entry: &TimerEntry, at: u64) -> Slot {
    match slot {
        Some(slot) => Slot { last: at, count: slot.count.saturating_add(weight(entry)), ..slot },
        None => Slot { time: entry.slot, first: at, last: at, count: weight(entry) },
    }
}
