//! Checksums of every byte of the commit log below the durable mark. Apache's own cover the bodies only: not topics,
//! properties, offsets or lengths.
//!
//! ```text
//! … ranges with their sums ………… on disk ………… sealed ……… durable ……… written
//!   said by the file's header │ in its pages │ by the next round (a second)
//! ```
//!
//! The store's own thread follows the durable mark and writes one sum per range of 4,096 bytes, the last range's as far
//! as it goes; no send waits for it. A sum speaks only of bytes that no longer change, so a lost one protects less and
//! accuses nobody. That holds as long as nobody else writes the log: when Apache ran in between (the durable mark is
//! not believed), all sums are removed and made again from what is found.

mod file;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crc32fast::Hasher;
use mq_protocol::ids::LogOffset;
use parking_lot::Mutex;

use self::file::{DIRECTORY, range_of};
pub(crate) use self::file::{Known, RANGE_BYTES, SumFile};
use crate::backend::{self, Backend};
use crate::error::{AtPath, DiskError, Mismatch};
use crate::segments::{self, Segments};

/// Bytes of the log that one round reads: bounds how long it takes, and what a crash makes it read again.
const ROUND_BYTES: u64 = 64 << 20;
/// Bytes read at once.
const CHUNK_BYTES: u64 = 1 << 20;

pub(crate) struct Checksums {
    /// False: none are added.
    enabled: bool,
    backend: Arc<dyn Backend>,
    segments: Arc<Segments>,
    files: Mutex<HashMap<u64, Option<SumFile>>>,
    progress: Mutex<Progress>,
    /// Sums of the last run reach up to here: what is below was durable.
    durable_before: LogOffset,
}

struct Progress {
    /// Every range below has its sum.
    sealed: u64,
    /// Of the bytes from the start of the range that holds `sealed` up to it.
    hasher: Hasher,
    /// Entries below are on disk.
    on_disk: u64,
}

impl Checksums {
    /// Takes up the sums of the last run, or removes them if they cannot be `believed`.
    pub(crate) fn load(
        backend: Arc<dyn Backend>,
        segments: Arc<Segments>,
        enabled: bool,
        believed: bool,
    ) -> Result<Self, DiskError> {
        let bases = backend::list_bases(&*backend, DIRECTORY).at_path(&*backend, DIRECTORY)?;
        let stale = |base: &u64| !believed || segments.get(*base).is_none();
        remove(&*backend, bases.iter().copied().filter(stale))?;
        let start = segments.min().0;
        let progress = Progress { sealed: start, hasher: Hasher::new(), on_disk: start };
        let mut checksums = Self {
            enabled,
            backend,
            segments,
            files: Mutex::default(),
            progress: Mutex::new(progress),
            durable_before: LogOffset::ZERO,
        };
        let sealed = checksums.first_without_sum()?;
        *checksums.progress.get_mut() = Progress { sealed, hasher: Hasher::new(), on_disk: sealed };
        checksums.durable_before = checksums.last_covered(sealed)?;
        Ok(checksums)
    }

    /// The start of the first range that has no sum which is surely on disk.
    fn first_without_sum(&self) -> Result<u64, DiskError> {
        for base in self.segments.bases() {
            let on_disk = match self.file(base)? {
                Some(file) => file.on_disk_up_to().at_path(&*self.backend, &SumFile::path(base))?.unwrap_or(base),
                None => base,
            };
            if on_disk < base + self.segments.segment_bytes {
                return Ok(range_of(base, on_disk));
            }
        }
        Ok(self.segments.limit())
    }

    /// The end of the last range from `from` on that has a sum; `from` when there is none.
    fn last_covered(&self, from: u64) -> Result<LogOffset, DiskError> {
        let mut last = from;
        for base in self.segments.bases().into_iter().filter(|base| base + self.segments.segment_bytes > from) {
            let Some(file) = self.file(base)? else { break };
            let known = file.read(base.max(from)..file.end()).at_path(&*self.backend, &SumFile::path(base))?;
            for (at, known) in known {
                if let Known::Sum { covered, .. } = known {
                    last = at + u64::from(covered);
                }
            }
        }
        Ok(LogOffset(last))
    }

    /// Where the sums of the last run ended: everything below was durable when they were written.
    pub(crate) fn durable_before(&self) -> LogOffset {
        self.durable_before
    }

    /// From here on the sums of the last run may not all be on disk, and are made again.
    pub(crate) fn unsure_from(&self) -> LogOffset {
        LogOffset(self.progress.lock().sealed)
    }

    /// The file of the segment at `base`, if there is one that can be read.
    fn file(&self, base: u64) -> Result<Option<SumFile>, DiskError> {
        let mut files = self.files.lock();
        if let Some(known) = files.get(&base) {
            return Ok(known.clone());
        }
        let file = SumFile::open(&*self.backend, base, self.segments.segment_bytes);
        let file = file.at_path(&*self.backend, &SumFile::path(base))?;
        files.insert(base, file.clone());
        Ok(file)
    }

    fn file_or_new(&self, base: u64) -> Result<SumFile, DiskError> {
        if let Some(file) = self.file(base)? {
            return Ok(file);
        }
        let made = SumFile::create(&*self.backend, base, self.segments.segment_bytes);
        let made = made.at_path(&*self.backend, &SumFile::path(base))?;
        self.files.lock().insert(base, Some(made.clone()));
        self.forget_gone()?;
        Ok(made)
    }

    /// Segments that the log has no more need no sums.
    pub(crate) fn forget_gone(&self) -> Result<(), DiskError> {
        let min = self.segments.min().0;
        self.files.lock().retain(|base, _| *base >= min);
        let bases = backend::list_bases(&*self.backend, DIRECTORY).at_path(&*self.backend, DIRECTORY)?;
        remove(&*self.backend, bases.into_iter().filter(|base| *base < min))
    }

    /// The first range with bytes in this part of the log whose bytes are not what they were. Ranges without a sum pass.
    pub(crate) fn check(&self, log: Range<u64>) -> Result<Option<Mismatch>, DiskError> {
        for (base, piece) in self.by_segment(log) {
            let Some(file) = self.file(base)? else { continue };
            let known = file.read(piece).at_path(&*self.backend, &SumFile::path(base))?;
            if let Some(mismatch) = self.first_wrong(base, known)? {
                return Ok(Some(mismatch));
            }
        }
        Ok(None)
    }

    /// Whether this part of the log is in memory, and as it was written. Waits for no disk.
    pub(crate) fn is_at_hand(&self, log: Range<u64>) -> Result<bool, DiskError> {
        for (base, piece) in self.by_segment(log) {
            let bytes = self.segments.bytes(piece.start, (piece.end - piece.start) as usize)?;
            if !bytes.is_some_and(|bytes| backend::is_resident(&bytes)) {
                return Ok(false);
            }
            let Some(file) = self.file(base)? else { continue };
            let known = file.read_now(piece).at_path(&*self.backend, &SumFile::path(base))?;
            let Some(known) = known else { return Ok(false) };
            if self.first_wrong(base, known)?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The parts of a part of the log, each with the base of its segment.
    fn by_segment(&self, log: Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> + '_ {
        let end = log.end.min(self.segments.limit());
        let mut at = log.start.max(self.segments.min().0);
        std::iter::from_fn(move || {
            let base = self.segments.base_of(at);
            let piece = at..end.min(base + self.segments.segment_bytes);
            at = piece.end;
            (piece.start < piece.end).then_some((base, piece))
        })
    }

    fn first_wrong(&self, base: u64, known: Vec<(u64, Known)>) -> Result<Option<Mismatch>, DiskError> {
        for (start, known) in known {
            if let Known::Sum { covered, crc } = known
                && let Some(bytes) = self.segments.bytes(start, covered as usize)?
                && crc32fast::hash(&bytes) != crc
            {
                let path = self.backend.locate(&segments::path_of(base));
                let (from, to) = (start - base, start - base + u64::from(covered));
                return Ok(Some(Mismatch { path, at: LogOffset(start), from, to }));
            }
        }
        Ok(None)
    }

    /// One round: gives sums to the bytes below `up_to`, which are durable and stay as they are. True if there is more.
    pub(crate) fn seal(&self, up_to: LogOffset) -> Result<bool, DiskError> {
        if !self.enabled {
            return Ok(false);
        }
        let mut progress = self.progress.lock();
        let gone_below = self.segments.min().0;
        if progress.sealed < gone_below {
            *progress = Progress { sealed: gone_below, hasher: Hasher::new(), on_disk: gone_below };
        }
        let round_end = up_to.0.min(progress.sealed + ROUND_BYTES);
        while progress.sealed < round_end {
            let segment_end = self.segments.base_of(progress.sealed) + self.segments.segment_bytes;
            let to = round_end.min(segment_end).min(progress.sealed + CHUNK_BYTES);
            self.seal_chunk(&mut progress, to)?;
            if to == segment_end || to - progress.on_disk >= ROUND_BYTES {
                self.settle(&mut progress, segment_end - self.segments.segment_bytes)?;
            }
        }
        Ok(progress.sealed < up_to.0)
    }

    /// Within one segment.
    fn seal_chunk(&self, progress: &mut Progress, to: u64) -> Result<(), DiskError> {
        let base = self.segments.base_of(progress.sealed);
        let file = self.file_or_new(base)?;
        let Some(bytes) = self.segments.bytes(progress.sealed, (to - progress.sealed) as usize)? else {
            progress.sealed = to;
            return Ok(());
        };
        let first = range_of(base, progress.sealed);
        let (mut at, mut rest, mut hasher) = (progress.sealed, &bytes[..], progress.hasher.clone());
        let mut entries = Vec::with_capacity((to - first).div_ceil(RANGE_BYTES) as usize * 16);
        while !rest.is_empty() {
            let start = range_of(base, at);
            let (piece, later) = rest.split_at(rest.len().min((start + RANGE_BYTES - at) as usize));
            hasher.update(piece);
            at += piece.len() as u64;
            rest = later;
            entries.extend(Known::encode((at - start) as u32, hasher.clone().finalize(), start));
            if at == start + RANGE_BYTES || at == file.end() {
                hasher = Hasher::new();
            }
        }
        file.write(first, &entries).at_path(&*self.backend, &SumFile::path(base))?;
        (progress.sealed, progress.hasher) = (to, hasher);
        Ok(())
    }

    /// Makes what is sealed outlive a power cut.
    pub(crate) fn sync(&self) -> Result<(), DiskError> {
        let mut progress = self.progress.lock();
        let last = progress.sealed.saturating_sub(1).max(self.segments.min().0);
        if progress.sealed > progress.on_disk {
            self.settle(&mut progress, self.segments.base_of(last))
        } else {
            Ok(())
        }
    }

    fn settle(&self, progress: &mut Progress, base: u64) -> Result<(), DiskError> {
        let settled = self.file_or_new(base)?.settle(&*self.backend, progress.sealed);
        settled.at_path(&*self.backend, &SumFile::path(base))?;
        progress.on_disk = progress.sealed;
        Ok(())
    }
}

/// Without sums nobody is accused.
pub(crate) fn remove_all(backend: &dyn Backend) -> Result<(), DiskError> {
    let bases = backend::list_bases(backend, DIRECTORY).at_path(backend, DIRECTORY)?;
    remove(backend, bases.into_iter())
}

fn remove(backend: &dyn Backend, bases: impl Iterator<Item = u64>) -> Result<(), DiskError> {
    let mut any = false;
    for base in bases {
        let path = SumFile::path(base);
        match backend.remove(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).at_path(backend, &path),
            _ => any = true,
        }
    }
    // Before a mark is believed again: one that came back would accuse bytes that it never saw.
    if any { backend.sync_directory(DIRECTORY).at_path(backend, DIRECTORY) } else { Ok(()) }
}
