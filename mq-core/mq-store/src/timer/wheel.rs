//! The slots: which entry is the last one of each second. Read and written in place; what changed since the last save
//! is in memory, and one bit per slot says whether anything is in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use mq_protocol::ids::UnixMillis;

use super::index::TimerOptions;
use crate::backend::{self, Backend, File, Space};
use crate::error::{AtPath, DiskError};

pub(super) const PATH: &str = "timerwheel";
const SLOT_BYTES: usize = 32;
/// Slots that are read at once when many are wanted.
const PIECE: u64 = 2048;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) time: UnixMillis,
    pub(super) first: u64,
    pub(super) last: u64,
    /// As Apache counts: an entry that deletes another one takes one off.
    pub(super) count: i32,
}

pub(super) struct Wheel {
    backend: Arc<dyn Backend>,
    precision_ms: i64,
    slots: u64,
    /// Made with the first save that has something for it.
    file: Option<Arc<dyn File>>,
    /// Its name may not be durable yet.
    new: bool,
    occupied: Vec<u64>,
    /// What the file does not have yet; `None` empties the slot.
    dirty: BTreeMap<u64, Option<Slot>>,
    /// No slot behind it was ever occupied.
    latest: UnixMillis,
}

impl Wheel {
    /// `None`: there is a file of another length.
    pub(super) fn open(backend: Arc<dyn Backend>, options: &TimerOptions) -> Result<Option<Self>, DiskError> {
        let file = backend::open_if_there(&*backend, PATH).at_path(&*backend, PATH)?;
        let wheel = Self::empty(backend, options);
        if let Some(file) = &file
            && file.bytes().at_path(&*wheel.backend, PATH)? != wheel.file_bytes()
        {
            return Ok(None);
        }
        Ok(Some(Self { file, ..wheel }))
    }

    pub(super) fn empty(backend: Arc<dyn Backend>, options: &TimerOptions) -> Self {
        let occupied = vec![0; options.slots.div_ceil(64) as usize];
        Self {
            backend,
            precision_ms: options.precision_ms,
            slots: options.slots,
            file: None,
            new: false,
            occupied,
            dirty: BTreeMap::new(),
            latest: UnixMillis(i64::MIN),
        }
    }

    fn file_bytes(&self) -> u64 {
        self.slots * SLOT_BYTES as u64
    }

    fn index(&self, time: UnixMillis) -> u64 {
        (time.0 / self.precision_ms).cast_unsigned() % self.slots
    }

    /// Where in the file the slot of a time stands.
    pub(super) fn bytes_of(&self, time: UnixMillis) -> std::ops::Range<u64> {
        let at = self.index(time) * SLOT_BYTES as u64;
        at..at + SLOT_BYTES as u64
    }

    /// What the wheel spans, beginning with any slot.
    pub(super) fn span_ms(&self) -> i64 {
        self.slots.cast_signed() * self.precision_ms
    }

    pub(super) fn is_here(&self) -> bool {
        self.file.is_some()
    }

    pub(super) fn latest(&self) -> UnixMillis {
        self.latest
    }

    pub(super) fn dirty_slots(&self) -> usize {
        self.dirty.len()
    }

    fn is_occupied(&self, index: u64) -> bool {
        self.occupied[(index / 64) as usize] >> (index % 64) & 1 == 1
    }

    pub(super) fn get(&self, time: UnixMillis) -> Result<Option<Slot>, DiskError> {
        let index = self.index(time);
        if !self.is_occupied(index) {
            return Ok(None);
        }
        let slot = match (self.dirty.get(&index), &self.file) {
            (Some(slot), _) => *slot,
            (None, None) => None,
            (None, Some(file)) => {
                let mut bytes = [0; SLOT_BYTES];
                let read = file.read_at(index * SLOT_BYTES as u64, &mut bytes);
                read.at_path(&*self.backend, PATH)?;
                self.decode(&bytes)
            }
        };
        Ok(slot.filter(|slot| slot.time == time))
    }

    pub(super) fn put(&mut self, slot: Slot) {
        let index = self.index(slot.time);
        self.occupied[(index / 64) as usize] |= 1 << (index % 64);
        self.latest = self.latest.max(slot.time);
        self.dirty.insert(index, Some(slot));
    }

    pub(super) fn clear(&mut self, time: UnixMillis) {
        let index = self.index(time);
        self.occupied[(index / 64) as usize] &= !(1 << (index % 64));
        self.dirty.insert(index, None);
    }

    /// The time of the first occupied slot at or behind `from`.
    pub(super) fn next(&self, from: UnixMillis) -> Option<UnixMillis> {
        let start = self.index(from);
        let words = self.occupied.len() as u64;
        // The first word twice: from the slot on, and at the end what stands before it.
        for step in 0..=words {
            let word = (start / 64 + step) % words;
            let mut bits = self.occupied[word as usize];
            if step == 0 {
                bits &= u64::MAX << (start % 64);
            }
            if bits != 0 {
                let found = word * 64 + u64::from(bits.trailing_zeros());
                let ahead = (found + self.slots - start) % self.slots;
                let first = from.0 / self.precision_ms;
                return Some(UnixMillis((first + ahead.cast_signed()) * self.precision_ms));
            }
        }
        None
    }

    /// Every occupied slot, in the order of the file.
    pub(super) fn for_each(&self, mut each: impl FnMut(Slot)) -> Result<(), DiskError> {
        for first in (0..self.slots).step_by(PIECE as usize) {
            let piece = first..self.slots.min(first + PIECE);
            if !piece.clone().any(|index| self.is_occupied(index)) {
                continue;
            }
            let on_disk = self.read_piece(piece.clone())?;
            for (index, bytes) in piece.zip(on_disk.chunks_exact(SLOT_BYTES)) {
                if self.is_occupied(index) {
                    let slot = self.dirty.get(&index).copied().unwrap_or_else(|| self.decode(bytes));
                    slot.into_iter().for_each(&mut each);
                }
            }
        }
        Ok(())
    }

    /// Takes over the slots of the file that lie within the wheel's span from `from` on; the others are Apache's fired
    /// ones.
    pub(super) fn load(&mut self, from: UnixMillis) -> Result<(), DiskError> {
        if self.file.is_none() {
            return Ok(());
        }
        let until = from.0.saturating_add(self.span_ms());
        for first in (0..self.slots).step_by(PIECE as usize) {
            let piece = first..self.slots.min(first + PIECE);
            for (index, bytes) in piece.clone().zip(self.read_piece(piece)?.chunks_exact(SLOT_BYTES)) {
                let Some(slot) = self.decode(bytes) else { continue };
                if self.index(slot.time) == index && (from.0..until).contains(&slot.time.0) {
                    self.occupied[(index / 64) as usize] |= 1 << (index % 64);
                    self.latest = self.latest.max(slot.time);
                }
            }
        }
        Ok(())
    }

    fn read_piece(&self, piece: std::ops::Range<u64>) -> Result<Vec<u8>, DiskError> {
        let mut bytes = vec![0; (piece.end - piece.start) as usize * SLOT_BYTES];
        if let Some(file) = &self.file {
            file.read_at(piece.start * SLOT_BYTES as u64, &mut bytes).at_path(&*self.backend, PATH)?;
        }
        Ok(bytes)
    }

    /// Writes what changed, neighbours together. The entries that it points to have to be durable.
    pub(super) fn write(&mut self) -> Result<(), DiskError> {
        if self.dirty.is_empty() {
            return Ok(());
        }
        let file = self.made()?;
        let mut run: Vec<u8> = Vec::new();
        let mut run_at = 0;
        for (index, slot) in &self.dirty {
            let at = index * SLOT_BYTES as u64;
            if at != run_at + run.len() as u64 {
                file.write_at(run_at, &run).at_path(&*self.backend, PATH)?;
                run.clear();
                run_at = at;
            }
            run.extend_from_slice(&self.encode(*slot));
        }
        file.write_at(run_at, &run).at_path(&*self.backend, PATH)
    }

    /// What was written is durable; only then it is forgotten here.
    pub(super) fn sync(&mut self) -> Result<(), DiskError> {
        if let Some(file) = self.file.as_ref().filter(|_| !self.dirty.is_empty()) {
            file.sync().at_path(&*self.backend, PATH)?;
            if self.new {
                self.backend.sync_directory("").at_path(&*self.backend, PATH)?;
                self.new = false;
            }
        }
        self.dirty.clear();
        Ok(())
    }

    /// Forgets all slots, on disk too.
    pub(super) fn remove(&mut self) -> Result<(), DiskError> {
        let there = backend::open_if_there(&*self.backend, PATH).at_path(&*self.backend, PATH)?.is_some();
        if there {
            let removed = self.backend.remove(PATH).and_then(|()| self.backend.sync_directory(""));
            removed.at_path(&*self.backend, PATH)?;
        }
        (self.file, self.new, self.latest) = (None, false, UnixMillis(i64::MIN));
        self.dirty.clear();
        self.occupied.fill(0);
        Ok(())
    }

    fn made(&mut self) -> Result<Arc<dyn File>, DiskError> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let file = self.backend.create(PATH, self.file_bytes(), Space::Sparse).at_path(&*self.backend, PATH)?;
        self.new = true;
        self.file = Some(file.clone());
        Ok(file)
    }

    fn encode(&self, slot: Option<Slot>) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        if let Some(slot) = slot {
            bytes[..8].copy_from_slice(&(slot.time.0 / self.precision_ms).to_be_bytes());
            bytes[8..16].copy_from_slice(&slot.first.to_be_bytes());
            bytes[16..24].copy_from_slice(&slot.last.to_be_bytes());
            bytes[24..28].copy_from_slice(&slot.count.to_be_bytes());
        }
        bytes
    }

    fn decode(&self, bytes: &[u8]) -> Option<Slot> {
        let long = |at: usize| i64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let time = long(0).checked_mul(self.precision_ms).filter(|time| *time > 0)?;
        Some(Slot {
            time: UnixMillis(time),
            first: u64::try_from(long(8)).ok()?,
            last: u64::try_from(long(16)).ok()?,
            count: i32::from_be_bytes(bytes[24..28].try_into().expect("four bytes")),
        })
    }
}
