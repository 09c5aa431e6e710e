//! One index file: where its numbers stand, and reading it. Knows no keys' meaning and nothing of the log.
//!
//! ```text
//! 0 begin time i64    16 begin offset u64    32 used slots u32     40 slots: the newest entry of each, u32
//! 8 end time i64      24 end offset u64      36 next entry u32      . entries of 20 bytes; number 0 is not used
//!
//! entry: 0 key hash u32    4 log offset u64    12 seconds since begin time u32    16 next older entry of the slot u32
//! ```

use std::sync::Arc;

use mq_protocol::ids::{LogOffset, UnixMillis};

use crate::backend::{Backend, File};
use crate::error::{AtPath, DiskError};

pub(super) const ENTRY_BYTES: usize = 20;
pub(crate) const HEADER_BYTES: u64 = 40;
const SLOT_BYTES: u64 = 4;
/// Entries that are read at once when a file is read from its beginning.
const ENTRIES_AT_ONCE: u32 = 16 * 1024;
/// Slots that are written at once; where none is used nothing is written, so that the file stays sparse.
pub(super) const SLOTS_AT_ONCE: usize = 1024;

/// How large every index file is. Apache's numbers by default: 420 MB, sparse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexOptions {
    pub slots: u32,
    pub entries: u32,
}

impl Default for IndexOptions {
    fn default() -> Self {
        Self { slots: 5_000_000, entries: 20_000_000 }
    }
}

impl IndexOptions {
    pub(super) fn file_bytes(self) -> u64 {
        self.entry_at(self.entries)
    }

    pub(crate) fn entry_at(self, number: u32) -> u64 {
        HEADER_BYTES + SLOT_BYTES * u64::from(self.slots) + ENTRY_BYTES as u64 * u64::from(number)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) begin: UnixMillis,
    pub(crate) end: UnixMillis,
    pub(crate) begin_offset: LogOffset,
    pub(crate) end_offset: LogOffset,
    pub(crate) used_slots: u32,
    /// The number of the entry that comes next; 1 in an empty file.
    pub(crate) next: u32,
}

impl Header {
    pub(super) fn empty() -> Self {
        Self {
            begin: UnixMillis(0),
            end: UnixMillis(0),
            begin_offset: LogOffset::ZERO,
            end_offset: LogOffset::ZERO,
            used_slots: 0,
            next: 1,
        }
    }

    /// How an entry tells its record's time.
    pub(crate) fn seconds_to(&self, stored: UnixMillis) -> u32 {
        (stored.0.saturating_sub(self.begin.0) / 1000).clamp(0, i64::from(i32::MAX)) as u32
    }

    fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = [0; HEADER_BYTES as usize];
        bytes[..8].copy_from_slice(&self.begin.0.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.end.0.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.begin_offset.0.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.end_offset.0.to_be_bytes());
        bytes[32..36].copy_from_slice(&self.used_slots.to_be_bytes());
        bytes[36..].copy_from_slice(&self.next.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER_BYTES as usize]) -> Self {
        let (longs, _) = bytes.as_chunks::<8>();
        let (words, _) = bytes.as_chunks::<4>();
        Self {
            begin: UnixMillis(i64::from_be_bytes(longs[0])),
            end: UnixMillis(i64::from_be_bytes(longs[1])),
            begin_offset: LogOffset(u64::from_be_bytes(longs[2])),
            end_offset: LogOffset(u64::from_be_bytes(longs[3])),
            used_slots: u32::from_be_bytes(words[8]),
            next: u32::from_be_bytes(words[9]),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) key_hash: u32,
    pub(crate) log_offset: LogOffset,
    /// Since the file's begin time.
    pub(crate) seconds: u32,
    /// The next older entry of the slot; 0 for none.
    pub(crate) older: u32,
}

impl IndexEntry {
    pub(super) fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..4].copy_from_slice(&self.key_hash.to_be_bytes());
        bytes[4..12].copy_from_slice(&self.log_offset.0.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.seconds.to_be_bytes());
        bytes[16..].copy_from_slice(&self.older.to_be_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; ENTRY_BYTES]) -> Self {
        let (words, _) = bytes.as_chunks::<4>();
        let word = |index: usize| u32::from_be_bytes(words[index]);
        Self {
            key_hash: word(0),
            log_offset: LogOffset(u64::from(word(1)) << 32 | u64::from(word(2))),
            seconds: word(3),
            older: word(4),
        }
    }
}

/// An open file. What its header says is kept beside it, by whoever writes it.
#[derive(Clone)]
pub(crate) struct IndexFile {
    pub(crate) path: String,
    pub(crate) shape: IndexOptions,
    file: Arc<dyn File>,
}

impl IndexFile {
    pub(super) fn new(path: String, shape: IndexOptions, file: Arc<dyn File>) -> Self {
        Self { path, shape, file }
    }

    pub(crate) fn has_its_length(&self, backend: &dyn Backend) -> Result<bool, DiskError> {
        Ok(self.file.bytes().at_path(backend, &self.path)? == self.shape.file_bytes())
    }

    pub(crate) fn header(&self, backend: &dyn Backend) -> Result<Header, DiskError> {
        let mut bytes = [0; HEADER_BYTES as usize];
        self.file.read_at(0, &mut bytes).at_path(backend, &self.path)?;
        Ok(Header::decode(&bytes))
    }

    pub(super) fn write_header(&self, backend: &dyn Backend, header: &Header) -> Result<(), DiskError> {
        self.file.write_at(0, &header.encode()).at_path(backend, &self.path)
    }

    pub(super) fn sync(&self, backend: &dyn Backend) -> Result<(), DiskError> {
        self.file.sync().at_path(backend, &self.path)
    }

    /// The newest entry of a slot, as the file says; 0 for none.
    pub(crate) fn slot(&self, backend: &dyn Backend, slot: u32) -> Result<u32, DiskError> {
        let mut bytes = [0; SLOT_BYTES as usize];
        let at = HEADER_BYTES + SLOT_BYTES * u64::from(slot);
        self.file.read_at(at, &mut bytes).at_path(backend, &self.path)?;
        Ok(u32::from_be_bytes(bytes))
    }

    /// Writes one chunk of [`SLOTS_AT_ONCE`] slots.
    pub(super) fn write_slots(&self, backend: &dyn Backend, chunk: usize, slots: &[u32]) -> Result<(), DiskError> {
        let bytes: Vec<u8> = slots.iter().flat_map(|slot| slot.to_be_bytes()).collect();
        let at = HEADER_BYTES + SLOT_BYTES * (chunk * SLOTS_AT_ONCE) as u64;
        self.file.write_at(at, &bytes).at_path(backend, &self.path)
    }

    pub(crate) fn entry(&self, backend: &dyn Backend, number: u32) -> Result<IndexEntry, DiskError> {
        let mut bytes = [0; ENTRY_BYTES];
        self.file.read_at(self.shape.entry_at(number), &mut bytes).at_path(backend, &self.path)?;
        Ok(IndexEntry::decode(&bytes))
    }

    pub(super) fn write_entries(&self, backend: &dyn Backend, first: u32, entries: &[u8]) -> Result<(), DiskError> {
        self.file.write_at(self.shape.entry_at(first), entries).at_path(backend, &self.path)
    }

    /// Entries from `first` on and below `next`: as many as are read at once.
    pub(crate) fn entries(
        &self,
        backend: &dyn Backend,
        first: u32,
        next: u32,
    ) -> Result<impl ExactSizeIterator<Item = IndexEntry> + use<>, DiskError> {
        let count = next.saturating_sub(first).min(ENTRIES_AT_ONCE);
        let mut bytes = vec![[0; ENTRY_BYTES]; count as usize];
        self.file.read_at(self.shape.entry_at(first), bytes.as_flattened_mut()).at_path(backend, &self.path)?;
        Ok(bytes.into_iter().map(|entry| IndexEntry::decode(&entry)))
    }

    /// Calls `each` with the entries below `next`, oldest first.
    pub(super) fn each_entry(
        &self,
        backend: &dyn Backend,
        next: u32,
        mut each: impl FnMut(u32, IndexEntry),
    ) -> Result<(), DiskError> {
        let mut number = 1;
        while number < next {
            for entry in self.entries(backend, number, next)? {
                each(number, entry);
                number += 1;
            }
        }
        Ok(())
    }

    /// Calls `each` with all slots, as the file says.
    pub(crate) fn each_slot(&self, backend: &dyn Backend, mut each: impl FnMut(u32, u32)) -> Result<(), DiskError> {
        let mut bytes = vec![[0; SLOT_BYTES as usize]; SLOTS_AT_ONCE];
        for first in (0..self.shape.slots).step_by(SLOTS_AT_ONCE) {
            let count = bytes.len().min((self.shape.slots - first) as usize);
            let at = HEADER_BYTES + SLOT_BYTES * u64::from(first);
            self.file.read_at(at, bytes[..count].as_flattened_mut()).at_path(backend, &self.path)?;
            bytes[..count].iter().zip(first..).for_each(|(newest, slot)| each(slot, u32::from_be_bytes(*newest)));
        }
        Ok(())
    }
}
