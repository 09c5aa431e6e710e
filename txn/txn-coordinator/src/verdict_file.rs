//! The file that keeps the verdicts: derived from the log, so that a start need not read all of it.
//!
//! ```text
//! page 0      magic u64, version u32, crc u32 (of the rest), covered log offset u64, covered half u64,
//!             log offset of the last covered half u64, first OP record needed u64, halves finished below u64,
//!             first half kept u64
//! page 1 + n  crc u32, 4,092 bytes of block n (two bits per half)
//! ```
//! Pages are 4,096 bytes, numbers big-endian; pages of forgotten blocks are holes. Blocks are synced before the header
//! that covers them. A page that fails its checksum, a header that does not fit the log, or no file: the whole log is
//! read instead.

use std::io;
use std::sync::Arc;

use mq_protocol::ids::{LogOffset, QueueOffset};
use mq_store::backend::{Backend, File, Space};

use crate::types::HalfOffset;
use crate::verdicts::{BLOCK_BYTES, HALVES_PER_BLOCK, Verdicts};

pub(crate) const PATH: &str = "checkback/verdicts";
const MAGIC: u64 = u64::from_be_bytes(*b"CKBKVRDT");
const VERSION: u32 = 1;
const PAGE: u64 = 4096;
const HEADER_BYTES: usize = 64;

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
}

pub(crate) type Block = (u64, Box<[u8; BLOCK_BYTES]>);

pub(crate) struct VerdictFile {
    file: Arc<dyn File>,
}

impl VerdictFile {
    pub(crate) fn open(backend: &dyn Backend) -> io::Result<Self> {
        let file = match backend.open(PATH) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = backend.create(PATH, PAGE, Space::Sparse)?;
                backend.sync_directory("checkback")?;
                backend.sync_directory("")?;
                file
            }
            opened => opened?,
        };
        Ok(Self { file })
    }

    /// What was saved last; `None` when nothing was, or not all of it is as it was written.
    pub(crate) fn load(&self) -> io::Result<Option<(Covered, Verdicts)>> {
        let bytes = self.file.bytes()?;
        let mut header = [0; HEADER_BYTES];
        if bytes < PAGE {
            return Ok(None);
        }
        self.file.read_at(0, &mut header)?;
        let Some(covered) = decode(&header) else { return Ok(None) };
        let mut verdicts = Verdicts::starting_at(covered.first);
        for number in covered.first.0 / HALVES_PER_BLOCK..covered.half.0.div_ceil(HALVES_PER_BLOCK) {
            let at = PAGE * (1 + number);
            let mut page = [0; PAGE as usize];
            if at + PAGE <= bytes {
                self.file.read_at(at, &mut page)?;
            }
            let (stored, block) = page.split_first_chunk::<4>().expect("a page is longer than its checksum");
            let block: &[u8; BLOCK_BYTES] = block.try_into().expect("the rest of a page is a block");
            // A block without any verdict is never written.
            if page != [0; PAGE as usize] && u32::from_be_bytes(*stored) != crc32fast::hash(block) {
                return Ok(None);
            }
            verdicts.restore(Box::new(*block));
        }
        Ok(Some((covered, verdicts)))
    }

    /// The caller knows that the log is durable up to what `covered` says.
    pub(crate) fn save(&self, covered: &Covered, blocks: &[Block]) -> io::Result<()> {
        if let Some((last, _)) = blocks.last() {
            let needed = PAGE * (2 + last);
            if self.file.bytes()? < needed {
                self.file.resize(needed, Space::Sparse)?;
            }
        }
        for (number, block) in blocks {
            let mut page = Vec::with_capacity(PAGE as usize);
            page.extend(crc32fast::hash(&block[..]).to_be_bytes());
            page.extend(&block[..]);
            self.file.write_at(PAGE * (1 + number), &page)?;
        }
        self.file.sync()?;
        self.file.write_at(0, &encode(covered))?;
        self.file.sync()
    }
}

fn encode(covered: &Covered) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC.to_be_bytes());
    header[8..12].copy_from_slice(&VERSION.to_be_bytes());
    let numbers =
        [covered.log.0, covered.half.0, covered.last_half_at.0, covered.op.0, covered.finished.0, covered.first.0];
    for (place, number) in header[16..].chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_be_bytes());
    }
    let crc = crc32fast::hash(&header[16..]);
    header[12..16].copy_from_slice(&crc.to_be_bytes());
    header
}

fn decode(header: &[u8; HEADER_BYTES]) -> Option<Covered> {
    let mut numbers = header[16..].as_chunks::<8>().0.iter().map(|bytes| u64::from_be_bytes(*bytes));
    let mut next = || numbers.next();
    let covered = Covered {
        log: LogOffset(next()?),
        half: HalfOffset(next()?),
        last_half_at: LogOffset(next()?),
        op: QueueOffset(next()?),
        finished: HalfOffset(next()?),
        first: HalfOffset(next()?),
    };
    (encode(&covered) == *header && covered.first <= covered.half).then_some(covered)
}
