//! Starting: what the last run left of wheel, log and checkpoint, and how much of it can be believed.

use std::collections::HashSet;
use std::sync::Arc;

use mq_protocol::ids::{LogOffset, UnixMillis};

use super::TimerError;
use super::checkpoint::{CheckpointFile, Left, TimerProgress};
use super::index::{TimerIndex, TimerOptions, with};
use super::log::TimerLog;
use super::wheel::{Slot, Wheel};
use crate::backend::Backend;
use crate::error::DiskError;

/// What a start found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimerStart {
    /// As it was saved; with nothing in it if nothing was.
    Kept,
    /// Apache ran here last. It may have linked these messages already, although its checkpoint does not count them.
    Apaches { linked: HashSet<LogOffset> },
    /// Wheel or log cannot be used: the timer topic has to be enqueued again.
    Lost,
}

impl TimerIndex {
    /// Where to go on, and from what. The wheel is made for other times when the precision changed: then it is lost.
    pub fn open(
        backend: Arc<dyn Backend>,
        options: TimerOptions,
        now: UnixMillis,
    ) -> Result<(Self, TimerProgress, TimerStart), TimerError> {
        let (checkpoint, left) = CheckpointFile::open(backend.clone())?;
        let wheel = Wheel::open(backend.clone(), &options)?;
        let log = TimerLog::open(backend.clone(), options.log_file_bytes)?;
        let whole = wheel.is_some() && log.is_some();
        let nothing_there =
            wheel.as_ref().is_some_and(|wheel| !wheel.is_here()) && log.as_ref().is_some_and(|log| !log.has_files());
        let mut index = Self {
            wheel: wheel.unwrap_or_else(|| Wheel::empty(backend.clone(), &options)),
            log: log.unwrap_or_else(|| TimerLog::empty(backend, options.log_file_bytes)),
            options,
            checkpoint,
            suspect: false,
        };
        let (progress, kept) = match left {
            Left::Nothing if nothing_there => (TimerProgress::default(), Ok(Some(TimerStart::Kept))),
            // Nothing of it was ever counted.
            Left::Nothing => (index.reset(TimerProgress::default(), now)?, Ok(Some(TimerStart::Kept))),
            Left::Ours(progress, _) if index.checkpoint.current.log_end == 0 => (progress, index.keep_nothing()),
            Left::Ours(progress, precision_ms) if whole && precision_ms == options.precision_ms => {
                (progress, index.keep(progress.read_time))
            }
            Left::Apaches(progress) if whole && index.wheel.is_here() => (progress, index.adopt(progress.read_time)),
            Left::Ours(progress, _) | Left::Apaches(progress) => (progress, Ok(None)),
        };
        match kept {
            Ok(Some(start)) => {
                // A slot can be emptied on disk before the checkpoint counts it; never in part.
                let begun = index.wheel.get(progress.read_time)?.is_some();
                let fired = if begun { progress.fired } else { 0 };
                Ok((index, TimerProgress { fired, ..progress }, start))
            }
            Ok(None) | Err(TimerError::Damaged { .. }) => {
                let progress = index.reset(progress, now)?;
                Ok((index, progress, TimerStart::Lost))
            }
            Err(error) => Err(error),
        }
    }

    /// The checkpoint counts no entry.
    fn keep_nothing(&mut self) -> Result<Option<TimerStart>, TimerError> {
        self.wheel.remove()?;
        self.log.clear()?;
        Ok(Some(TimerStart::Kept))
    }

    /// Takes everything back that the checkpoint does not count. `None`: the files do not belong to it.
    fn keep(&mut self, read_time: UnixMillis) -> Result<Option<TimerStart>, TimerError> {
        let end = self.checkpoint.current.log_end;
        if !self.log.reaches(end) || !self.wheel.is_here() {
            return Ok(None);
        }
        self.wheel.load(read_time)?;
        for slot in self.slots_behind(end)? {
            self.cut_slot(slot, end)?;
        }
        // Before new entries come to stand where slots on disk still point to.
        self.wheel.write()?;
        self.sync_wheel()?;
        self.log.cut(end)?;
        Ok(Some(TimerStart::Kept))
    }

    /// Apache writes the wheel some time after the log, also when it stops: entries that the wheel does not have yet are
    /// linked in. `None`: the wheel points to entries that are not there.
    fn adopt(&mut self, read_time: UnixMillis) -> Result<Option<TimerStart>, TimerError> {
        let synced = self.checkpoint.current.log_end;
        self.wheel.load(read_time)?;
        let (wheel, mut linked, mut failed) = (&mut self.wheel, HashSet::new(), None);
        self.log.scan(self.log.file_before(synced), |at, found| {
            let entry = &found.entry;
            if at >= synced {
                linked.insert(entry.log_offset);
            }
            if entry.slot < read_time {
                return;
            }
            match wheel.get(entry.slot) {
                Ok(Some(slot)) if slot.last >= at => {}
                Ok(slot) => wheel.put(with(slot, entry, at)),
                Err(error) => failed = Some(error),
            }
        })?;
        failed.map_or(Ok(()), |error: DiskError| Err(error))?;
        if !self.slots_behind(self.log.end())?.is_empty() {
            return Ok(None);
        }
        self.log.cut(self.log.end())?;
        Ok(Some(TimerStart::Apaches { linked }))
    }

    fn slots_behind(&self, end: u64) -> Result<Vec<Slot>, DiskError> {
        let mut found = Vec::new();
        self.wheel.for_each(|slot| {
            if slot.last >= end {
                found.push(slot);
            }
        })?;
        Ok(found)
    }
}
