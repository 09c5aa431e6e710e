//! How often each open half was asked about, across restarts: an append-only file of counts. No message is rewritten.
//!
//! ```text
//! header  magic u64 "CKBKCHKS", version u32, crc u32 (of the rest), half u64, its log offset u64: tells this log from
//!         another one
//! batch   magic u32 "CKCB", entries u32, crc u32 (of the entries), entries: half u64, checks u32, attempts since the
//!         last of them that found nobody to ask u32
//! ```
//! Numbers are big-endian. The last count of a half is the one that counts; reading ends at the first batch that is not
//! whole. Not synced by itself: what a power cut takes are a few counts. A file that is missing, damaged or of another
//! log counts nothing; checks begin again at what the records say.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use mq_protocol::ids::LogOffset;
use mq_store::backend::{Backend, File, Space, open_if_there, replace_file};

use crate::engine::Count;
use crate::types::HalfOffset;

pub(crate) const PATH: &str = "checkback/checks";
const MAGIC: u64 = u64::from_be_bytes(*b"CKBKCHKS");
const VERSION: u32 = 2;
const HEADER_BYTES: u64 = 32;
const BATCH_MAGIC: u32 = u32::from_be_bytes(*b"CKCB");
const BATCH_HEAD_BYTES: usize = 12;
const ENTRY_BYTES: usize = 16;
/// The file grows by so much.
const STEP_BYTES: u64 = 64 << 10;
/// A file of fewer counts is not worth writing anew.
const MIN_ENTRIES: usize = 10_000;

pub(crate) type Entry = (HalfOffset, Count);

/// A half of the log that the counts belong to, and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Anchor {
    pub(crate) half: HalfOffset,
    pub(crate) at: LogOffset,
}

pub(crate) struct CheckJournal {
    backend: Arc<dyn Backend>,
    /// `None` until there is something to count.
    file: Option<Arc<dyn File>>,
    end: u64,
    entries: usize,
    /// A write failed: what the file says is not all.
    lacking: bool,
}

impl CheckJournal {
    /// The journal, and what it says, if its anchor is `known` to be of this log.
    pub(crate) fn open(
        backend: Arc<dyn Backend>,
        known: impl FnOnce(Anchor) -> bool,
    ) -> io::Result<(Self, HashMap<HalfOffset, Count>)> {
        let mut journal = Self { backend, file: None, end: 0, entries: 0, lacking: false };
        let Some(file) = open_if_there(&*journal.backend, PATH)? else { return Ok((journal, HashMap::new())) };
        let mut bytes = vec![0; usize::try_from(file.bytes()?).unwrap_or(0)];
        file.read_at(0, &mut bytes)?;
        let Some((anchor, mut rest)) = read_header(&bytes).filter(|(anchor, _)| known(*anchor)) else {
            return Ok((journal, HashMap::new()));
        };
        let mut counts = HashMap::new();
        while let Some((batch, behind)) = read_batch(rest) {
            journal.entries += batch.len();
            counts.extend(batch);
            rest = behind;
        }
        tracing::debug!(?anchor, halves = counts.len(), "counts of checks read back");
        journal.end = (bytes.len() - rest.len()) as u64;
        journal.file = Some(file);
        Ok((journal, counts))
    }

    /// Adds these counts. `anchor` is asked for when the file begins.
    pub(crate) fn append(&mut self, counts: &[Entry], anchor: impl FnOnce() -> Option<Anchor>) -> io::Result<()> {
        if counts.is_empty() {
            return Ok(());
        }
        if self.file.is_none() {
            let anchor = anchor();
            self.lacking |= anchor.is_none();
            return anchor.map_or(Ok(()), |anchor| self.rewrite(counts, anchor));
        }
        let batch = batch(counts);
        let written = self.write(&batch);
        self.lacking |= written.is_err();
        written?;
        self.end += batch.len() as u64;
        self.entries += counts.len();
        Ok(())
    }

    fn write(&self, batch: &[u8]) -> io::Result<()> {
        let file = self.file.as_ref().expect("begun by the caller");
        let needed = self.end + batch.len() as u64;
        if file.bytes()? < needed {
            file.resize(needed.next_multiple_of(STEP_BYTES), Space::Sparse)?;
        }
        file.write_at(self.end, batch)
    }

    /// Whether most of the file is old, for so many halves that have a count.
    pub(crate) fn wants_rewrite(&self, pending: usize) -> bool {
        self.lacking || self.entries > 2 * pending + MIN_ENTRIES
    }

    /// There is nothing to count any more: what the file says is about halves that have ended.
    pub(crate) fn begin_anew(&mut self) {
        (self.file, self.end, self.entries, self.lacking) = (None, 0, 0, false);
    }

    /// A new file in its place, with these counts alone.
    pub(crate) fn rewrite(&mut self, counts: &[Entry], anchor: Anchor) -> io::Result<()> {
        let mut bytes = header(anchor);
        if !counts.is_empty() {
            bytes.extend(batch(counts));
        }
        let end = bytes.len() as u64;
        let file = replace_file(&*self.backend, PATH, &bytes)?;
        (self.file, self.end, self.entries, self.lacking) = (Some(file), end, counts.len(), false);
        Ok(())
    }
}

fn header(anchor: Anchor) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES as usize);
    bytes.extend(MAGIC.to_be_bytes());
    bytes.extend(VERSION.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(anchor.half.0.to_be_bytes());
    bytes.extend(anchor.at.0.to_be_bytes());
    let crc = crc32fast::hash(&bytes[16..]);
    bytes[12..16].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn read_header(bytes: &[u8]) -> Option<(Anchor, &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEADER_BYTES as usize)?;
    let number = |at: usize| head[at..at + 8].try_into().map(u64::from_be_bytes).ok();
    let anchor = Anchor { half: HalfOffset(number(16)?), at: LogOffset(number(24)?) };
    (header(anchor) == head).then_some((anchor, rest))
}

fn batch(counts: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BATCH_HEAD_BYTES + counts.len() * ENTRY_BYTES);
    bytes.extend(BATCH_MAGIC.to_be_bytes());
    bytes.extend((counts.len() as u32).to_be_bytes());
    bytes.extend([0; 4]);
    for (half, Count { checks, unasked }) in counts {
        bytes.extend(half.0.to_be_bytes());
        bytes.extend(u32::from(*checks).to_be_bytes());
        bytes.extend(unasked.to_be_bytes());
    }
    let crc = crc32fast::hash(&bytes[BATCH_HEAD_BYTES..]);
    bytes[8..12].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// The first batch of `bytes`, if it is whole, and what is behind it.
fn read_batch(bytes: &[u8]) -> Option<(Vec<Entry>, &[u8])> {
    let (head, rest) = bytes.split_at_checked(BATCH_HEAD_BYTES)?;
    let number = |at: usize| head[at..at + 4].try_into().map(u32::from_be_bytes).ok();
    let (magic, entries, crc) = (number(0)?, number(4)?, number(8)?);
    let (body, behind) = rest.split_at_checked(usize::try_from(entries).ok()?.checked_mul(ENTRY_BYTES)?)?;
    if magic != BATCH_MAGIC || crc != crc32fast::hash(body) {
        return None;
    }
    let count = |entry: &[u8; ENTRY_BYTES]| {
        let (half, counts) = entry.split_first_chunk::<8>()?;
        let (checks, unasked) = counts.split_first_chunk::<4>()?;
        let checks = u16::try_from(u32::from_be_bytes(*checks)).ok()?;
        let unasked = u32::from_be_bytes(unasked.try_into().ok()?);
        Some((HalfOffset(u64::from_be_bytes(*half)), Count { checks, unasked }))
    };
    let counts: Option<Vec<Entry>> = body.as_chunks::<ENTRY_BYTES>().0.iter().map(count).collect();
    Some((counts?, behind))
}

#[cfg(test)]
mod tests {
    use mq_store::MemoryBackend;

    use super::*;

    const ANCHOR: Anchor = Anchor { half: HalfOffset(3), at: LogOffset(999) };

    /// So many checks, and attempts that found nobody.
    fn count(checks: u16) -> Count {
        Count { checks, unasked: u32::from(checks) * 70_000 }
    }

    fn opened(backend: &MemoryBackend) -> (CheckJournal, Vec<(u64, u16)>) {
        let (journal, counts) = CheckJournal::open(Arc::new(backend.clone()), |anchor| anchor == ANCHOR).unwrap();
        assert!(counts.values().all(|each| *each == count(each.checks)), "{counts:?}");
        let mut counts: Vec<_> = counts.into_iter().map(|(half, count)| (half.0, count.checks)).collect();
        counts.sort_unstable();
        (journal, counts)
    }

    #[test]
    fn the_last_count_of_each_half_is_read_back_up_to_the_first_torn_byte() {
        let backend = MemoryBackend::new();
        let (mut journal, _) = opened(&backend);
        let batches = [vec![(3, 1), (4, 1)], vec![(3, 2)], vec![(5, 1), (4, 2), (3, 3)]];
        for counts in &batches {
            let counts: Vec<_> = counts.iter().map(|(half, checks)| (HalfOffset(*half), count(*checks))).collect();
            journal.append(&counts, || Some(ANCHOR)).unwrap();
        }
        assert_eq!(opened(&backend).1, [(3, 3), (4, 2), (5, 1)]);
        let (file, end) = (backend.open(PATH).unwrap(), journal.end);
        let mut whole = vec![0; end as usize];
        file.read_at(0, &mut whole).unwrap();
        for at in 0..end {
            let mut byte = [whole[at as usize]];
            byte[0] ^= 0x10;
            file.write_at(at, &byte).unwrap();
            let expected: &[_] = match at {
                0..32 => &[],
                32..76 => &[],
                76..104 => &[(3, 1), (4, 1)],
                _ => &[(3, 2), (4, 1)],
            };
            assert_eq!(opened(&backend).1, expected, "byte {at}");
            file.write_at(at, &whole[at as usize..=at as usize]).unwrap();
        }
    }

    #[test]
    fn a_journal_of_another_log_counts_nothing_and_is_replaced() {
        let backend = MemoryBackend::new();
        let (mut journal, _) = opened(&backend);
        let other = Anchor { at: LogOffset(5), ..ANCHOR };
        journal.append(&[(HalfOffset(3), count(7))], || Some(other)).unwrap();
        let (mut journal, counts) = opened(&backend);
        assert_eq!(counts, []);
        journal.append(&[(HalfOffset(4), count(1))], || Some(ANCHOR)).unwrap();
        assert_eq!(opened(&backend).1, [(4, 1)]);
    }

    #[test]
    fn the_file_is_written_anew_when_most_of_it_is_old() {
        let backend = MemoryBackend::new();
        let (mut journal, _) = opened(&backend);
        for round in 1..=300 {
            let counts: Vec<_> = (0..100).map(|half| (HalfOffset(half), count(round))).collect();
            journal.append(&counts, || Some(ANCHOR)).unwrap();
            if journal.wants_rewrite(100) {
                journal.rewrite(&counts, ANCHOR).unwrap();
            }
            assert!(backend.open(PATH).unwrap().bytes().unwrap() <= 256 << 10);
        }
        assert_eq!(opened(&backend).1.len(), 100);
        assert!(opened(&backend).1.iter().all(|(_, checks)| *checks == 300));
    }
}
