//! The checksums of one segment of the commit log, in a file of ours beside it:
//!
//! ```text
//!   0 magic "CBSUMS01"        512 + 16 n  entry of the n-th range of 4,096 bytes of the segment:
//!   8 segment's base u64                   0 bytes covered u32, from the start of the range
//!  16 segment's bytes u64                  4 CRC-32 of these bytes u32
//!  24 entries on disk up to u64            8 CRC-32 of (log offset of the range u64, the 8 bytes above) u32
//!  32 CRC-32 of the above u32             12 (zero) u32
//! ```
//!
//! An entry lies in one sector, and zeros say that its range has none yet. Its own checksum ties it to its place, so
//! that neither a swapped sector nor another segment's file can speak for the wrong bytes. Knows no records.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::backend::{self, Backend, File, Space};

pub(super) const DIRECTORY: &str = "checkback/checksums";
/// Small enough that a read checks little more than what it wants, and that damage is told to a page.
pub(crate) const RANGE_BYTES: u64 = 4096;
const MAGIC: &[u8; 8] = b"CBSUMS01";
const HEADER_BYTES: usize = 36;
const ENTRIES_AT: u64 = 512;
const ENTRY_BYTES: usize = 16;

/// What is known of the bytes of one range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Nothing,
    /// The first so many bytes have this CRC-32.
    Sum {
        covered: u32,
        crc: u32,
    },
    /// The entry itself is damaged.
    Unreadable,
}

impl Known {
    pub(crate) fn encode(covered: u32, crc: u32, range_at: u64) -> [u8; ENTRY_BYTES] {
        let mut entry = [0; ENTRY_BYTES];
        entry[..4].copy_from_slice(&covered.to_be_bytes());
        entry[4..8].copy_from_slice(&crc.to_be_bytes());
        let own = own_crc(range_at, &entry[..8]);
        entry[8..12].copy_from_slice(&own.to_be_bytes());
        entry
    }

    fn decode(entry: &[u8; ENTRY_BYTES], range_at: u64) -> Self {
        let (words, _) = entry.as_chunks::<4>();
        let [covered, crc, own, spare] = std::array::from_fn(|index| u32::from_be_bytes(words[index]));
        if *entry == [0; ENTRY_BYTES] {
            Self::Nothing
        } else if own == own_crc(range_at, &entry[..8]) && spare == 0 && u64::from(covered) <= RANGE_BYTES {
            Self::Sum { covered, crc }
        } else {
            Self::Unreadable
        }
    }
}

fn own_crc(range_at: u64, entry: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&range_at.to_be_bytes());
    hasher.update(entry);
    hasher.finalize()
}

#[derive(Clone)]
pub(crate) struct SumFile {
    pub(crate) base: u64,
    segment_bytes: u64,
    file: Arc<dyn File>,
}

impl SumFile {
    pub(crate) fn path(base: u64) -> String {
        format!("{DIRECTORY}/{}", backend::offset_name(base))
    }

    /// `None` if it is missing, or is not such a file of this segment.
    pub(crate) fn open(backend: &dyn Backend, base: u64, segment_bytes: u64) -> io::Result<Option<Self>> {
        let Some(file) = backend::open_if_there(backend, &Self::path(base))? else { return Ok(None) };
        let whole = file.bytes()? == Self::file_bytes(segment_bytes);
        let found = Self { base, segment_bytes, file };
        Ok(if whole && found.on_disk_up_to()?.is_some() { Some(found) } else { None })
    }

    /// An empty one, in place of any other.
    pub(crate) fn create(backend: &dyn Backend, base: u64, segment_bytes: u64) -> io::Result<Self> {
        let path = Self::path(base);
        match backend.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = backend.create(&path, Self::file_bytes(segment_bytes), Space::Sparse)?;
        let made = Self { base, segment_bytes, file };
        made.write_header(base)?;
        Ok(made)
    }

    fn file_bytes(segment_bytes: u64) -> u64 {
        ENTRIES_AT + segment_bytes.div_ceil(RANGE_BYTES) * ENTRY_BYTES as u64
    }

    fn header(&self, on_disk_up_to: u64) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(MAGIC);
        for (index, number) in [self.base, self.segment_bytes, on_disk_up_to].into_iter().enumerate() {
            header[8 + 8 * index..][..8].copy_from_slice(&number.to_be_bytes());
        }
        let crc = crc32fast::hash(&header[..32]);
        header[32..].copy_from_slice(&crc.to_be_bytes());
        header
    }

    fn write_header(&self, on_disk_up_to: u64) -> io::Result<()> {
        self.file.write_at(0, &self.header(on_disk_up_to))
    }

    /// Every range below, of this segment, has an entry that outlives a power cut; `None` for a header that is not
    /// this segment's.
    pub(crate) fn on_disk_up_to(&self) -> io::Result<Option<u64>> {
        let mut header = [0; HEADER_BYTES];
        self.file.read_at(0, &mut header)?;
        let number = u64::from_be_bytes(header[24..32].try_into().expect("8 bytes"));
        let within = (self.base..=self.base + self.segment_bytes).contains(&number);
        Ok((within && header == self.header(number)).then_some(number))
    }

    pub(crate) fn end(&self) -> u64 {
        self.base + self.segment_bytes
    }

    /// Syncs the entries, then lets the header say so.
    pub(crate) fn settle(&self, backend: &dyn Backend, up_to: u64) -> io::Result<()> {
        self.file.sync()?;
        backend::sync_parents(backend, &Self::path(self.base))?;
        self.write_header(up_to)
    }

    /// Writes the entries of consecutive ranges, the first of which starts at `range_at`.
    pub(crate) fn write(&self, range_at: u64, entries: &[u8]) -> io::Result<()> {
        self.file.write_at(self.place_of(range_at), entries)
    }

    /// Where in this file the entry of a range stands.
    pub(crate) fn place_of(&self, range_at: u64) -> u64 {
        ENTRIES_AT + (range_at - self.base) / RANGE_BYTES * ENTRY_BYTES as u64
    }

    /// What is known of each range that has bytes in the part `log` of this segment: the range's start, and its sum.
    pub(crate) fn read(&self, log: Range<u64>) -> io::Result<Vec<(u64, Known)>> {
        let (first, mut entries) = self.room_for(log);
        self.file.read_at(self.place_of(first), entries.as_flattened_mut())?;
        Ok(decoded(first, &entries))
    }

    /// The same; `None`: the disk would have to be waited for.
    pub(crate) fn read_now(&self, log: Range<u64>) -> io::Result<Option<Vec<(u64, Known)>>> {
        let (first, mut entries) = self.room_for(log);
        let read = self.file.read_now(self.place_of(first), entries.as_flattened_mut())?;
        Ok(read.then(|| decoded(first, &entries)))
    }

    fn room_for(&self, log: Range<u64>) -> (u64, Vec<[u8; ENTRY_BYTES]>) {
        let first = range_of(self.base, log.start);
        (first, vec![[0; ENTRY_BYTES]; (log.end - first).div_ceil(RANGE_BYTES) as usize])
    }
}

fn decoded(first: u64, entries: &[[u8; ENTRY_BYTES]]) -> Vec<(u64, Known)> {
    let starts = (first..).step_by(RANGE_BYTES as usize);
    starts.zip(entries).map(|(at, entry)| (at, Known::decode(entry, at))).collect()
}

/// The start of the range that byte `at` of the segment at `base` lies in.
pub(super) fn range_of(base: u64, at: u64) -> u64 {
    at - (at - base) % RANGE_BYTES
}
