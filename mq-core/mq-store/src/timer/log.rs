//! The files of the timer log: contiguous, of equal length, sparse. Knows entries, not slots.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mq_protocol::ids::{LogOffset, UnixMillis};
use mq_protocol::record::MAGIC_BLANK;

use super::TimerError;
use super::entry::{BYTES, Linked};
use crate::backend::{self, Backend, File, Space};
use crate::error::{AtPath, DiskError};

pub(super) const DIRECTORY: &str = "timerlog";
const BLANK_BYTES: u64 = 16;
const ENTRY_BYTES: u64 = BYTES as u64;
/// What a reader of neighbouring entries reads at once.
const WINDOW_BYTES: u64 = 64 << 10;

pub(super) struct TimerLog {
    backend: Arc<dyn Backend>,
    file_bytes: u64,
    files: BTreeMap<u64, Arc<dyn File>>,
    end: u64,
    /// Files, by their base, with bytes that may not be durable.
    unsynced: BTreeSet<u64>,
    new_file: bool,
}

/// A piece of the log in memory, for one reader.
#[derive(Default)]
pub(super) struct Window {
    at: u64,
    bytes: Vec<u8>,
}

impl TimerLog {
    /// Its end is not known yet. `None`: the files are not contiguous, or of another length.
    pub(super) fn open(backend: Arc<dyn Backend>, file_bytes: u64) -> Result<Option<Self>, DiskError> {
        let bases = backend::list_bases(&*backend, DIRECTORY).at_path(&*backend, DIRECTORY)?;
        let mut log = Self::empty(backend, file_bytes);
        for (index, base) in bases.iter().copied().enumerate() {
            let path = path_of(base);
            let file = log.backend.open(&path).at_path(&*log.backend, &path)?;
            let found = file.bytes().at_path(&*log.backend, &path)?;
            let contiguous = index == 0 || base == bases[index - 1] + file_bytes;
            if contiguous && found < file_bytes {
                // The power failed while this file was being made: no checkpoint counts entries in it.
                file.resize(file_bytes, Space::Sparse).at_path(&*log.backend, &path)?;
            } else if found != file_bytes || !contiguous {
                return Ok(None);
            }
            log.files.insert(base, file);
        }
        Ok(Some(log))
    }

    pub(super) fn empty(backend: Arc<dyn Backend>, file_bytes: u64) -> Self {
        Self { backend, file_bytes, files: BTreeMap::new(), end: 0, unsynced: BTreeSet::new(), new_file: false }
    }

    /// Takes over a file of its own length. False if it is of another one.
    pub(super) fn add(&mut self, base: u64) -> Result<bool, DiskError> {
        let path = path_of(base);
        let file = self.backend.open(&path).at_path(&*self.backend, &path)?;
        let bytes = file.bytes().at_path(&*self.backend, &path)?;
        let whole = base.is_multiple_of(self.file_bytes) && bytes == self.file_bytes;
        if whole {
            self.files.insert(base, file);
        }
        Ok(whole)
    }

    /// Where its first file starts.
    pub(super) fn start(&self) -> u64 {
        self.files.first_key_value().map_or(0, |(base, _)| *base)
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    pub(super) fn has_files(&self) -> bool {
        !self.files.is_empty()
    }

    /// Whether the log could end at `end`.
    pub(super) fn reaches(&self, end: u64) -> bool {
        let limit = self.files.last_key_value().map(|(base, _)| base + self.file_bytes);
        let first = self.files.first_key_value().map_or(0, |(base, _)| *base);
        limit.is_some_and(|limit| (first..=limit).contains(&end))
    }

    fn base_of(&self, at: u64) -> u64 {
        at - at % self.file_bytes
    }

    /// Where the next entry goes, and how many fit from there on without another file.
    pub(super) fn prepare(&mut self) -> Result<(u64, usize), DiskError> {
        let left = self.file_bytes - self.end % self.file_bytes;
        if left < ENTRY_BYTES + BLANK_BYTES {
            let mut blank = [0; BLANK_BYTES as usize];
            blank[..4].copy_from_slice(&(left as u32).to_be_bytes());
            blank[12..].copy_from_slice(&MAGIC_BLANK.to_be_bytes());
            self.write(self.end, &blank)?;
            self.end += left;
        }
        let base = self.base_of(self.end);
        if !self.files.contains_key(&base) {
            let path = path_of(base);
            let made = self.backend.create(&path, self.file_bytes, Space::Sparse);
            self.files.insert(base, made.at_path(&*self.backend, &path)?);
            self.new_file = true;
        }
        let left = self.file_bytes - self.end % self.file_bytes;
        Ok((self.end, ((left - BLANK_BYTES) / ENTRY_BYTES) as usize))
    }

    /// Entries for which `prepare` found the room.
    pub(super) fn append(&mut self, entries: &[u8]) -> Result<(), DiskError> {
        self.write(self.end, entries)?;
        self.end += entries.len() as u64;
        Ok(())
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let base = self.base_of(at);
        let file = self.files.get(&base).expect("the file of the log's end is there");
        self.unsynced.insert(base);
        file.write_at(at - base, bytes).at_path(&*self.backend, &path_of(base))
    }

    pub(super) fn sync(&mut self) -> Result<(), DiskError> {
        for base in &self.unsynced {
            let path = path_of(*base);
            self.files[base].sync().at_path(&*self.backend, &path)?;
            if self.new_file {
                backend::sync_parents(&*self.backend, &path).at_path(&*self.backend, &path)?;
            }
        }
        self.unsynced.clear();
        self.new_file = false;
        Ok(())
    }

    pub(super) fn read(&self, at: u64, window: &mut Window) -> Result<Linked, TimerError> {
        let base = self.base_of(at);
        let file = self.files.get(&base).ok_or_else(|| self.damaged(at))?;
        let end = at + ENTRY_BYTES;
        if end > base + self.file_bytes {
            return Err(self.damaged(at));
        }
        if at < window.at || end > window.at + window.bytes.len() as u64 {
            // Chains are read backwards.
            window.at = base.max(end.saturating_sub(WINDOW_BYTES));
            window.bytes.resize((end - window.at) as usize, 0);
            file.read_at(window.at - base, &mut window.bytes).at_path(&*self.backend, &path_of(base))?;
        }
        let within = (at - window.at) as usize;
        let bytes = window.bytes[within..within + BYTES].try_into().expect("an entry's bytes");
        Linked::decode(bytes, at).ok_or_else(|| self.damaged(at))
    }

    /// An entry that a slot or another entry of it points to.
    pub(super) fn read_of_slot(&self, at: u64, slot: UnixMillis, window: &mut Window) -> Result<Linked, TimerError> {
        let linked = self.read(at, window)?;
        if linked.entry.slot == slot { Ok(linked) } else { Err(self.damaged(at)) }
    }

    fn damaged(&self, at: u64) -> TimerError {
        TimerError::Damaged { path: self.backend.locate(&path_of(self.base_of(at))), at }
    }

    /// The entries from the file of `from` on, until the first place that holds none: there the log ends, as Apache has
    /// it. A file's first entry follows the blank of the one before it.
    pub(super) fn scan(&mut self, from: u64, mut each: impl FnMut(u64, Linked)) -> Result<(), DiskError> {
        let first = self.files.first_key_value().map_or(0, |(base, _)| *base);
        let per_file = (self.file_bytes - BLANK_BYTES) / ENTRY_BYTES;
        self.end = self.base_of(from).max(first);
        while let Some(file) = self.files.get(&self.base_of(self.end)) {
            let base = self.base_of(self.end);
            let mut bytes = vec![0; (64 * ENTRY_BYTES) as usize];
            for at in (0..per_file).step_by(64) {
                let count = (per_file - at).min(64) as usize;
                let piece = &mut bytes[..count * BYTES];
                file.read_at(at * ENTRY_BYTES, piece).at_path(&*self.backend, &path_of(base))?;
                for chunk in piece.chunks_exact(BYTES) {
                    let bytes = chunk.try_into().expect("an entry's bytes");
                    let Some(linked) = Linked::decode(bytes, self.end) else { return Ok(()) };
                    each(self.end, linked);
                    self.end += ENTRY_BYTES;
                }
            }
            self.end = base + self.file_bytes;
        }
        Ok(())
    }

    /// Where a scan has to begin that is to be as sure as Apache's: a file before the one that was synced last.
    pub(super) fn file_before(&self, at: u64) -> u64 {
        at.saturating_sub(self.file_bytes)
    }

    /// Makes `end` the end: zeros behind it, no further files.
    pub(super) fn cut(&mut self, end: u64) -> Result<(), DiskError> {
        self.end = end;
        let behind: Vec<u64> = self.files.range(end..).map(|(base, _)| *base).collect();
        for base in behind.into_iter().rev() {
            self.remove(base)?;
        }
        if let Some((base, file)) = self.files.last_key_value() {
            let path = path_of(*base);
            let zeroed = file.zero(end - base, base + self.file_bytes - end, Space::Sparse);
            zeroed.and_then(|()| file.sync()).at_path(&*self.backend, &path)?;
        }
        Ok(())
    }

    /// Removes the files whose last entry is of a message that is no longer in the commit log.
    pub(super) fn remove_below(&mut self, log_min: LogOffset) -> Result<(), TimerError> {
        let last_entry = (self.file_bytes - BLANK_BYTES) / ENTRY_BYTES * ENTRY_BYTES - ENTRY_BYTES;
        while self.files.len() > 1
            && let Some((base, _)) = self.files.first_key_value()
        {
            let base = *base;
            if self.read(base + last_entry, &mut Window::default())?.entry.log_offset >= log_min {
                break;
            }
            self.remove(base)?;
        }
        Ok(())
    }

    /// Removes all files, whatever they are.
    pub(super) fn clear(&mut self) -> Result<(), DiskError> {
        for base in backend::list_bases(&*self.backend, DIRECTORY).at_path(&*self.backend, DIRECTORY)? {
            self.remove(base)?;
        }
        self.end = 0;
        Ok(())
    }

    fn remove(&mut self, base: u64) -> Result<(), DiskError> {
        let path = path_of(base);
        let removed = self.backend.remove(&path).and_then(|()| self.backend.sync_directory(DIRECTORY));
        removed.at_path(&*self.backend, &path)?;
        self.files.remove(&base);
        self.unsynced.remove(&base);
        Ok(())
    }
}

/// The file of a position, and where in it that is.
pub(super) fn place(at: u64, file_bytes: u64) -> (String, u64) {
    (path_of(at - at % file_bytes), at % file_bytes)
}

fn path_of(base: u64) -> String {
    format!("{DIRECTORY}/{}", backend::offset_name(base))
}
