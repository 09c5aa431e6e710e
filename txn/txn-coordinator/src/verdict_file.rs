//! The files that keep the verdicts, and what became of given-up halves' copies: derived from the log, so that a start
//! need not read all of it.
//!
//! ```text
//! page 0      magic u64, version u32, crc u32 (of the rest), covered log offset u64, covered half u64,
//!             log offset of the last covered half u64, first OP record needed u64, halves finished below u64,
//!             first half kept u64, blocks written below u64, covered log offset of the file of copies u64
//! page 1 + n  crc u32 (of n u64 and the rest), 4,092 bytes of block n (two bits per half)
//! ```
//! The file of copies says "copy" where this says "half"; it is written first, and only when something has changed.
//! Pages are 4,096 bytes, numbers big-endian; pages of forgotten blocks are holes. Blocks are synced before the header
//! that covers them. A page that fails its checksum or stands elsewhere, a header that does not fit the log, or no file:
//! the whole log is read instead.

use std::io;
use std::sync::Arc;

use mq_protocol::ids::{LogOffset, QueueOffset};
use mq_store::backend::{Backend, File, Space};

use crate::types::HalfOffset;
use crate::verdicts::{BLOCK_BYTES, Dense, HALVES_PER_BLOCK, Mark};

pub(crate) const PATH: &str = "checkback/verdicts";
pub(crate) const COPIES_PATH: &str = "checkback/parked";
const MAGIC: u64 = u64::from_be_bytes(*b"CKBKVRDT");
const VERSION: u32 = 3;
const PAGE: u64 = 4096;
const HEADER_BYTES: usize = 80;

/// What the file says of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Covered {
    /// Every record below is accounted for.
    pub(crate) log: LogOffset,
    /// Every half below has its verdict, or none yet.
    pub(crate) half: HalfOffset,
    /// Where the half before it lies: tells this log from another one.
    pub(crate) last_half_at: LogOffset,
    pub(crate) op: QueueOffset,
    /// Every half below has its verdict.
    pub(crate) finished: HalfOffset,
    /// Halves below were forgotten.
    pub(crate) first: HalfOffset,
    /// The file of copies says all up to here that there is to say up to `log`.
    pub(crate) copies: LogOffset,
}

pub(crate) type Block = (u64, Box<[u8; BLOCK_BYTES]>);

pub(crate) struct VerdictFile {
    file: Arc<dyn File>,
    /// Every block below that is kept has its page: each is written when the table grows to it.
    end: u64,
    /// The pages of all blocks below are holes, but for those that an earlier run had no time for.
    begin: u64,
}

impl VerdictFile {
    pub(crate) fn open(backend: &dyn Backend, path: &str) -> io::Result<Self> {
        let file = match backend.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = backend.create(path, PAGE, Space::Sparse)?;
                backend.sync_directory("checkback")?;
                backend.sync_directory("")?;
                file
            }
            opened => opened?,
        };
        Ok(Self { file, end: 0, begin: 0 })
    }

    /// What was saved last; `None` when nothing was, or not all of it is as it was written.
    pub(crate) fn load<E: Mark>(&mut self) -> io::Result<Option<(Covered, Dense<E>)>> {
        let bytes = self.file.bytes()?;
        let mut header = [0; HEADER_BYTES];
        if bytes < PAGE {
            return Ok(None);
        }
        self.file.read_at(0, &mut header)?;
        let Some((covered, end)) = decode(&header) else { return Ok(None) };
        let mut verdicts = Dense::starting_at(QueueOffset::from(covered.first).into());
        for number in covered.first.0 / HALVES_PER_BLOCK..end {
            let at = PAGE * (1 + number);
            if at + PAGE > bytes {
                return Ok(None);
            }
            let mut page = [0; PAGE as usize];
            self.file.read_at(at, &mut page)?;
            let (stored, block) = page.split_first_chunk::<4>().expect("a page is longer than its checksum");
            let block: &[u8; BLOCK_BYTES] = block.try_into().expect("the rest of a page is a block");
            if u32::from_be_bytes(*stored) != page_crc(number, block) {
                return Ok(None);
            }
            verdicts.restore(Box::new(*block));
        }
        self.end = end;
        Ok(Some((covered, verdicts)))
    }

    /// The caller knows that the log is durable up to what `covered` says.
    pub(crate) fn save(&mut self, covered: &Covered, blocks: &[Block]) -> io::Result<()> {
        if let Some((last, _)) = blocks.last() {
            let needed = PAGE * (2 + last);
            if self.file.bytes()? < needed {
                self.file.resize(needed, Space::Sparse)?;
            }
            self.end = self.end.max(last + 1);
        }
        for (number, block) in blocks {
            let mut page = Vec::with_capacity(PAGE as usize);
            page.extend(page_crc(*number, block).to_be_bytes());
            page.extend(&block[..]);
            self.file.write_at(PAGE * (1 + number), &page)?;
        }
        self.file.sync()?;
        self.file.write_at(0, &encode(covered, self.end))?;
        self.file.sync()?;
        // Only now nobody asks for them: what a crash leaves of them goes with the next ones.
        let kept = (covered.first.0 / HALVES_PER_BLOCK).min(self.end);
        if kept > self.begin {
            self.file.zero(PAGE * (1 + self.begin), PAGE * (kept - self.begin), Space::Sparse)?;
            self.begin = kept;
        }
        Ok(())
    }
}

fn page_crc(number: u64, block: &[u8; BLOCK_BYTES]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_be_bytes());
    hasher.update(block);
    hasher.finalize()
}

fn encode(covered: &Covered, end: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC.to_be_bytes());
    header[8..12].copy_from_slice(&VERSION.to_be_bytes());
    let Covered { log, half, last_half_at, op, finished, first, copies } = covered;
    let numbers = [log.0, half.0, last_half_at.0, op.0, finished.0, first.0, end, copies.0];
    for (place, number) in header[16..].chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_be_bytes());
    }
    let crc = crc32fast::hash(&header[16..]);
    header[12..16].copy_from_slice(&crc.to_be_bytes());
    header
}

/// What is covered, and the end of the blocks.
fn decode(header: &[u8; HEADER_BYTES]) -> Option<(Covered, u64)> {
    let mut numbers = header[16..].as_chunks::<8>().0.iter().map(|bytes| u64::from_be_bytes(*bytes));
    let mut next = || numbers.next();
    let mut covered = Covered {
        log: LogOffset(next()?),
        half: HalfOffset(next()?),
        last_half_at: LogOffset(next()?),
        op: QueueOffset(next()?),
        finished: HalfOffset(next()?),
        first: HalfOffset(next()?),
        copies: LogOffset::ZERO,
    };
    let end = next()?;
    covered.copies = LogOffset(next()?);
    (encode(&covered, end) == *header && covered.first <= covered.half).then_some((covered, end))
}

#[cfg(test)]
mod tests {
    use mq_store::MemoryBackend;

    use super::*;
    use crate::types::Outcome;
    use crate::verdicts::Verdicts;

    fn saved() -> (MemoryBackend, Covered, Verdicts) {
        let backend = MemoryBackend::new();
        let mut verdicts = Verdicts::starting_at(HalfOffset(0));
        for half in (0..60_000).filter(|half| half % 3 > 0) {
            verdicts.set(HalfOffset(half), if half % 3 == 1 { Outcome::Committed } else { Outcome::RolledBack });
        }
        let covered = Covered {
            log: LogOffset(9_000_000),
            half: HalfOffset(60_000),
            last_half_at: LogOffset(8_999_000),
            op: QueueOffset(5),
            finished: HalfOffset(0),
            first: HalfOffset(0),
            copies: LogOffset(8_000_000),
        };
        let mut file = VerdictFile::open(&backend, PATH).expect("a file");
        file.save(&covered, &verdicts.take_changed()).expect("saved");
        (backend, covered, verdicts)
    }

    fn outcomes(verdicts: &Verdicts) -> Vec<Option<Outcome>> {
        (0..60_000).map(|half| verdicts.get(HalfOffset(half))).collect()
    }

    #[test]
    fn pages_of_forgotten_halves_are_given_back_and_the_rest_is_read_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let backend = mq_store::FileBackend::new(directory.path()).expect("a backend");
        let mut file = VerdictFile::open(&backend, PATH).expect("a file");
        let mut verdicts = Verdicts::starting_at(HalfOffset(0));
        let mut covered = saved().1;
        let kib = || {
            use std::os::unix::fs::MetadataExt;
            std::fs::metadata(directory.path().join(PATH)).expect("it is there").blocks() / 2
        };
        for round in 1..=20 {
            let end = round * 10 * HALVES_PER_BLOCK;
            for half in end - 10 * HALVES_PER_BLOCK..end {
                verdicts.set(HalfOffset(half), Outcome::Committed);
            }
            let first = HalfOffset(end - HALVES_PER_BLOCK - 5);
            verdicts.forget_below(first);
            covered = Covered { half: HalfOffset(end), finished: HalfOffset(end), first, ..covered };
            file.save(&covered, &verdicts.take_changed()).expect("saved");
            assert!(kib() <= 64, "{} KiB after {round} rounds", kib());
        }
        let (found, again) =
            VerdictFile::open(&backend, PATH).and_then(|mut file| file.load()).expect("read").expect("whole");
        assert_eq!(found, covered);
        let last = HalfOffset(covered.half.0 - 1);
        assert_eq!((again.get(last), again.get(covered.first)), (Some(Outcome::Committed), Some(Outcome::Committed)));
    }

    #[test]
    fn a_damaged_file_is_not_believed() {
        let (backend, covered, verdicts) = saved();
        let file = backend.open(PATH).expect("it is there");
        let mut whole = vec![0; file.bytes().expect("its length") as usize];
        file.read_at(0, &mut whole).expect("read");
        let expected = outcomes(&verdicts);
        let mut believed = 0;
        let mut check = |damaged: &[u8], name: &str| {
            file.resize(damaged.len() as u64, Space::Sparse).expect("resized");
            file.write_at(0, damaged).expect("written");
            let loaded = VerdictFile::open(&backend, PATH).and_then(|mut file| file.load()).expect("readable");
            if let Some((loaded, verdicts)) = loaded {
                believed += 1;
                assert!(loaded == covered && outcomes(&verdicts) == expected, "{name} went unnoticed");
            }
        };
        check(&whole, "nothing");
        let pages = whole.len() / PAGE as usize;
        let page = |number: usize| number * PAGE as usize..(number + 1) * PAGE as usize;
        for at in (0..HEADER_BYTES).chain((PAGE as usize..whole.len()).step_by(97)) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            check(&damaged, &format!("a bit of byte {at}"));
        }
        for number in 0..pages {
            let mut zeroed = whole.clone();
            zeroed[page(number)].fill(0);
            check(&zeroed, &format!("page {number} of zeros"));
            check(&whole[..page(number).start], &format!("the end at page {number}"));
            check(&whole[..page(number).start + 100], &format!("the end in page {number}"));
            for other in 0..number {
                let mut swapped = whole.clone();
                swapped[page(number)].copy_from_slice(&whole[page(other)]);
                swapped[page(other)].copy_from_slice(&whole[page(number)]);
                check(&swapped, &format!("pages {number} and {other} in each other's place"));
            }
        }
        assert_eq!(believed, 1, "only the whole file");
    }
}
