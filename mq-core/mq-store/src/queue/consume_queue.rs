//! One consume queue: entries that wait in memory, entries in files, and the numbers around them.
//!
//! ```text
//! 0 … min ……… written ……… max ……… next
//!   gone │ in files │ in `tail` │ appended to the log, not visible yet
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytestring::ByteString;
use mq_protocol::ids::{LogOffset, QueueId, QueueOffset};
use parking_lot::Mutex;

use super::entry::{self, QueueEntry};
use super::files::QueueFiles;
use crate::error::{DiskError, OpenError};

pub(crate) struct ConsumeQueue {
    pub(crate) topic: ByteString,
    pub(crate) id: QueueId,
    directory: String,
    files: Arc<QueueFiles>,
    /// The offset of the next message. Changed under the append lock only.
    next: AtomicU64,
    has_files: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    min: u64,
    written: u64,
    tail: VecDeque<QueueEntry>,
    /// Files written since their last sync, by first index.
    unsynced: Vec<u64>,
}

impl State {
    fn max(&self) -> u64 {
        self.written + self.tail.len() as u64
    }
}

impl ConsumeQueue {
    pub(crate) fn new(topic: ByteString, id: QueueId, files: Arc<QueueFiles>) -> Self {
        let directory = format!("{}/{topic}/{id}", super::DIRECTORY);
        Self {
            topic,
            id,
            directory,
            files,
            next: AtomicU64::new(0),
            has_files: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    /// Takes up what the files hold of messages that lie before `settled` in the log; entries behind may be torn or
    /// stale and are derived from the log again. `log_min` is the first offset that the log still has.
    pub(crate) fn load(&self, settled: u64, log_min: u64) -> Result<(), OpenError> {
        let firsts = self.files.list(&self.directory)?;
        let Some(mut first) = firsts.first().copied() else { return Ok(()) };
        self.has_files.store(true, Ordering::Relaxed);
        if self.files.after_crash
            && let Some(deleted) = self.last_with_filler(&firsts)?
        {
            // The topic's deletion may have been cut short: nothing before it counts.
            first = deleted;
            self.files.remove_below(&self.directory, first)?;
        }
        let keeps = |index| {
            let entry = self.files.read_one(&self.directory, index)?;
            Ok::<_, DiskError>(entry.is_some_and(|entry| entry.is_filler() || entry.log_offset.0 < settled))
        };
        let mut written = first;
        for file in firsts.into_iter().rev().filter(|file| *file >= first) {
            if keeps(file)? {
                written = partition_point(file, file + self.files.entries_per_file, keeps)?;
                break;
            }
        }
        let gone = |index| {
            let entry = self.files.read_one(&self.directory, index)?;
            Ok::<_, DiskError>(entry.is_none_or(|entry| entry.is_filler() || entry.log_offset.0 < log_min))
        };
        let min = partition_point(first, written, gone)?;
        *self.state.lock() = State { min, written, ..State::default() };
        self.next.store(written, Ordering::Release);
        Ok(())
    }

    /// The last of these files that starts with a filler: a deletion writes them before it removes what stood before.
    fn last_with_filler(&self, firsts: &[u64]) -> Result<Option<u64>, DiskError> {
        for file in firsts.iter().rev() {
            if self.files.read_one(&self.directory, *file)?.is_some_and(|entry| entry.is_filler()) {
                return Ok(Some(*file));
            }
        }
        Ok(None)
    }

    /// Whether [`ConsumeQueue::load`] found any.
    pub(crate) fn has_files(&self) -> bool {
        self.has_files.load(Ordering::Relaxed)
    }

    pub(crate) fn next(&self) -> QueueOffset {
        QueueOffset(self.next.load(Ordering::Acquire))
    }

    /// Takes the next offset. Under the append lock.
    pub(crate) fn assign(&self) -> QueueOffset {
        let next = self.next.load(Ordering::Relaxed);
        self.next.store(next + 1, Ordering::Release);
        QueueOffset(next)
    }

    /// Gives the last offset back, because its message was not written. Under the append lock.
    pub(crate) fn unassign(&self, offset: QueueOffset) {
        let before = self.next.swap(offset.0, Ordering::AcqRel);
        assert_eq!(before, offset.0 + 1, "offsets are given back in reverse order");
    }

    pub(crate) fn bounds(&self) -> (QueueOffset, QueueOffset) {
        let state = self.state.lock();
        (QueueOffset(state.min), QueueOffset(state.max()))
    }

    /// The entry becomes visible. True if it is the first that waits for the files.
    pub(crate) fn publish(&self, offset: QueueOffset, entry: QueueEntry) -> bool {
        let mut state = self.state.lock();
        assert_eq!(offset.0, state.max(), "entries become visible in queue order");
        state.tail.push_back(entry);
        state.tail.len() == 1
    }

    /// Takes an entry that was derived from the log again: known ones are left alone, a gap moves the beginning.
    /// True if it is the first that waits for the files.
    pub(crate) fn restore(&self, offset: QueueOffset, entry: QueueEntry) -> Result<bool, DiskError> {
        let next = self.next().0;
        if offset.0 < next {
            return Ok(false);
        }
        if offset.0 > next {
            self.begin_at(offset)?;
        }
        self.next.store(offset.0 + 1, Ordering::Release);
        Ok(self.publish(offset, entry))
    }

    /// Forgets all entries and goes on at `offset`; fillers stand before it, so that a restart finds the number.
    fn begin_at(&self, offset: QueueOffset) -> Result<(), DiskError> {
        let mut state = self.state.lock();
        let first = self.files.first_of(offset.0);
        let fillers = QueueEntry::FILLER.encode().repeat((offset.0 - first) as usize);
        // Fillers of an earlier time are overwritten by the same, never by zeros: they are all that tells a restart what
        // was deleted.
        if offset.0 == first {
            self.files.cut(&self.directory, first)?;
            self.files.make(&self.directory, first)?;
        } else {
            self.files.make(&self.directory, first)?;
            self.files.write(&self.directory, first, &fillers)?;
            self.files.cut(&self.directory, offset.0)?;
        }
        self.files.remove_below(&self.directory, offset.0)?;
        *state = State { min: offset.0, written: offset.0, tail: VecDeque::new(), unsynced: vec![first] };
        Ok(())
    }

    /// A queue without entries numbers its messages from here on. At a start.
    pub(crate) fn number_from(&self, offset: QueueOffset) -> Result<(), DiskError> {
        self.begin_at(offset)?;
        self.next.store(offset.0, Ordering::Release);
        Ok(())
    }

    /// Forgets all messages. Numbering goes on, so that no offset is used twice. Says how many entries were in memory
    /// only. Under the append lock.
    pub(crate) fn clear(&self) -> Result<usize, DiskError> {
        let waiting = self.state.lock().tail.len();
        let next = self.next();
        if next.0 > 0 {
            self.begin_at(next)?;
        }
        self.sync()?;
        Ok(waiting)
    }

    /// The log begins at `log_min` now: forgets the entries of earlier records, and removes the files that hold nothing
    /// else. The last file stays, by which a start knows the numbering.
    pub(crate) fn forget_below(&self, log_min: LogOffset) -> Result<(), DiskError> {
        let (min, max) = self.bounds();
        let gone = |index| {
            let entry = self.entry(QueueOffset(index))?;
            Ok::<_, DiskError>(entry.is_none_or(|entry| entry.log_offset < log_min))
        };
        if min == max || !gone(min.0)? {
            return Ok(());
        }
        let first_left = partition_point(min.0, max.0, gone)?;
        let needed = {
            let mut state = self.state.lock();
            state.min = state.min.max(first_left);
            let needed = first_left.min(state.written.saturating_sub(1));
            let first_file = self.files.first_of(needed);
            state.unsynced.retain(|file| *file >= first_file);
            needed
        };
        self.files.remove_below(&self.directory, needed)
    }

    pub(crate) fn entry(&self, offset: QueueOffset) -> Result<Option<QueueEntry>, DiskError> {
        let mut found = None;
        self.scan(offset, 1, |entry| found = Some(entry))?;
        Ok(found)
    }

    /// Calls `each` with up to `count` entries from `from` on. Says how many there were.
    pub(crate) fn scan(
        &self,
        from: QueueOffset,
        count: usize,
        mut each: impl FnMut(QueueEntry),
    ) -> Result<usize, DiskError> {
        let written = {
            let state = self.state.lock();
            if from.0 < state.min || from.0 >= state.max() {
                return Ok(0);
            }
            if let Some(index) = from.0.checked_sub(state.written) {
                let tail = state.tail.range(index as usize..).take(count);
                let found = tail.len();
                tail.copied().for_each(each);
                return Ok(found);
            }
            state.written
        };
        let mut chunk = [[0; entry::BYTES]; 64];
        let count = (count as u64).min(written - from.0).min(chunk.len() as u64) as usize;
        let found = self.files.read(&self.directory, from.0, &mut chunk[..count])?;
        chunk[..found].iter().filter_map(QueueEntry::decode).for_each(&mut each);
        Ok(found)
    }

    /// Writes the waiting entries to the files. Says how many.
    pub(crate) fn write_out(&self) -> Result<usize, DiskError> {
        let mut state = self.state.lock();
        if state.tail.is_empty() {
            return Ok(0);
        }
        let bytes: Vec<u8> = state.tail.iter().flat_map(QueueEntry::encode).collect();
        let touched = self.files.write(&self.directory, state.written, &bytes)?;
        for file in touched {
            if !state.unsynced.contains(&file) {
                state.unsynced.push(file);
            }
        }
        let count = state.tail.len();
        state.written += count as u64;
        state.tail.clear();
        if state.tail.capacity() > 1024 {
            state.tail.shrink_to(1024);
        }
        Ok(count)
    }

    /// Syncs the files that were written since the last time.
    pub(crate) fn sync(&self) -> Result<(), DiskError> {
        let unsynced = std::mem::take(&mut self.state.lock().unsynced);
        unsynced.iter().try_for_each(|file| self.files.sync(&self.directory, *file))
    }

    /// Somebody else syncs the files.
    pub(crate) fn forget_unsynced(&self) {
        self.state.lock().unsynced.clear();
    }

    /// Removes whatever the files hold behind the last written entry.
    pub(crate) fn cut(&self) -> Result<(), DiskError> {
        let mut state = self.state.lock();
        if let Some(file) = self.files.cut(&self.directory, state.written)?
            && !state.unsynced.contains(&file)
        {
            state.unsynced.push(file);
        }
        Ok(())
    }
}

/// The first index in the range for which `holds` is false; it has to be true for a prefix of the range.
pub(crate) fn partition_point<E>(
    mut low: u64,
    mut high: u64,
    mut holds: impl FnMut(u64) -> Result<bool, E>,
) -> Result<u64, E> {
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle)? {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}
