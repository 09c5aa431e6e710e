//! The index file that grows. Its slots are in memory: they follow from the entries, so they reach the file when it is
//! full or the store closes, and a start reads them off the entries again.

use mq_protocol::ids::{LogOffset, UnixMillis};

use super::file::{ENTRY_BYTES, Header, IndexEntry, IndexFile, SLOTS_AT_ONCE};
use crate::backend::Backend;
use crate::error::DiskError;

pub(super) struct Writer {
    pub(super) file: IndexFile,
    pub(super) header: Header,
    slots: Slots,
    /// Entries that are in memory only; the last ones below `header.next`.
    waiting: Vec<u8>,
    /// Something was written since the last sync.
    unsynced: bool,
}

impl Writer {
    pub(super) fn create(file: IndexFile) -> Self {
        let slots = Slots::new(file.shape.slots);
        Self { file, header: Header::empty(), slots, waiting: Vec::new(), unsynced: true }
    }

    /// Goes on with a file of which the header can be trusted.
    pub(super) fn resume(file: IndexFile, backend: &dyn Backend, mut header: Header) -> Result<Self, DiskError> {
        let mut slots = Slots::new(file.shape.slots);
        header.used_slots = 0;
        file.each_entry(backend, header.next, |number, entry| {
            header.used_slots += u32::from(slots.replace(entry.key_hash, number) == 0);
        })?;
        Ok(Self { file, header, slots, waiting: Vec::new(), unsynced: true })
    }

    pub(super) fn is_full(&self) -> bool {
        self.header.next >= self.file.shape.entries
    }

    pub(super) fn put(&mut self, key_hash: u32, log_offset: LogOffset, stored: UnixMillis) {
        assert!(!self.is_full(), "a full file is finished before the next key");
        let header = &mut self.header;
        if header.next == 1 {
            (header.begin, header.begin_offset) = (stored, log_offset);
        }
        let seconds = header.seconds_to(stored);
        let older = self.slots.replace(key_hash, header.next);
        self.waiting.extend_from_slice(&IndexEntry { key_hash, log_offset, seconds, older }.encode());
        header.used_slots += u32::from(older == 0);
        header.next += 1;
        (header.end, header.end_offset) = (stored, log_offset);
    }

    /// The newest entry of a key's slot.
    pub(super) fn newest(&self, key_hash: u32) -> u32 {
        self.slots.newest(key_hash)
    }

    /// The waiting entries go to the file. After an error they go on waiting.
    pub(super) fn write_out(&mut self, backend: &dyn Backend) -> Result<(), DiskError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let first = self.header.next - (self.waiting.len() / ENTRY_BYTES) as u32;
        self.file.write_entries(backend, first, &self.waiting)?;
        self.waiting.clear();
        self.unsynced = true;
        Ok(())
    }

    /// Makes the entries durable, and only then lets the header speak of them. Nobody derives the slots of a full file,
    /// so they come before its header too.
    pub(super) fn flush(&mut self, backend: &dyn Backend) -> Result<(), DiskError> {
        self.write_out(backend)?;
        if self.unsynced {
            if self.is_full() {
                self.slots.write(backend, &self.file)?;
            }
            self.file.sync(backend)?;
            self.file.write_header(backend, &self.header)?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// Makes the file whole, for any reader.
    pub(super) fn finish(&mut self, backend: &dyn Backend) -> Result<(), DiskError> {
        self.write_out(backend)?;
        self.slots.write(backend, &self.file)?;
        self.file.sync(backend)?;
        self.file.write_header(backend, &self.header)?;
        self.file.sync(backend)
    }
}

/// The newest entry of each slot.
pub(crate) struct Slots {
    numbers: Vec<u32>,
    /// Chunks that have a number.
    used: Vec<bool>,
}

impl Slots {
    pub(crate) fn new(count: u32) -> Self {
        Self { numbers: vec![0; count as usize], used: vec![false; (count as usize).div_ceil(SLOTS_AT_ONCE)] }
    }

    fn of(&self, key_hash: u32) -> usize {
        key_hash as usize % self.numbers.len()
    }

    fn newest(&self, key_hash: u32) -> u32 {
        self.numbers[self.of(key_hash)]
    }

    pub(crate) fn newest_of(&self, slot: u32) -> u32 {
        self.numbers[slot as usize]
    }

    pub(crate) fn replace(&mut self, key_hash: u32, newest: u32) -> u32 {
        let slot = self.of(key_hash);
        self.used[slot / SLOTS_AT_ONCE] = true;
        std::mem::replace(&mut self.numbers[slot], newest)
    }

    fn write(&self, backend: &dyn Backend, file: &IndexFile) -> Result<(), DiskError> {
        let chunks = self.numbers.chunks(SLOTS_AT_ONCE).enumerate();
        chunks
            .filter(|(chunk, _)| self.used[*chunk])
            .try_for_each(|(chunk, slots)| file.write_slots(backend, chunk, slots))
    }
}
