//! The small files beside the log: Apache's `checkpoint` and `abort`, and our durable mark.
//!
//! ```text
//! checkpoint (4,096 bytes)          checkback/durable-mark (one sector, ours)
//!  0 flushed until, store time       0 magic "CBMARK01"       40 abort file before
//!  8 queues until, store time        8 durable u64            48 checkpoint now
//! 16 index until, store time        16 queues settled u64     56 checkpoint before
//! 24 flushed at the master          24 clean end, see below    64 CRC-32 of the bytes above u32
//! 32 confirmed offset               32 abort file now
//! ```
//!
//! A clean end is 1 u32 and the CRC-32 of the log's last bytes u32; while the store is open it is zero. It spares the
//! next start the reading of the last segment.
//!
//! The mark says how far the log was durable, so that recovery can tell a torn tail from damage. It is written without
//! a sync, in one sector, after the log's sync: an old or lost mark only protects less. It is believed only if `abort`
//! and `checkpoint` are as this store left them: if Apache ran in between, they are not.

use std::io;
use std::sync::Arc;

use mq_protocol::ids::{LogOffset, UnixMillis};

use crate::backend::{self, Backend, File, Space};
use crate::error::{AtPath, DiskError};

pub(crate) const CHECKPOINT: &str = "checkpoint";
pub(crate) const CHECKPOINT_BYTES: u64 = 4096;
const ABORT: &str = "abort";
pub(crate) const MARK: &str = "checkback/durable-mark";
const MARK_MAGIC: &[u8; 8] = b"CBMARK01";
const MARK_BYTES: usize = 68;
/// Apache takes this off before it trusts the times in its checkpoint.
const CHECKPOINT_SLACK_MS: i64 = 3000;

/// Apache's five numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checkpoint([i64; 5]);

impl Checkpoint {
    fn encode(self) -> [u8; 40] {
        let mut bytes = [0; 40];
        for (chunk, number) in bytes.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    fn decode(bytes: [u8; 40]) -> Self {
        let (numbers, _) = bytes.as_chunks::<8>();
        Self(std::array::from_fn(|index| i64::from_be_bytes(numbers[index])))
    }

    /// Tells one checkpoint from another.
    fn stamp(self) -> i64 {
        i64::from(crc32fast::hash(&self.encode()))
    }

    /// Store time of the last flushed record.
    pub(crate) fn flushed_until(self) -> UnixMillis {
        UnixMillis(self.0[0])
    }

    /// Index files that end before are whole.
    pub(crate) fn indexed_until(self) -> UnixMillis {
        UnixMillis(self.0[2])
    }

    /// Records with an earlier store time are flushed and have their queue entries.
    pub(crate) fn settled_until(self) -> UnixMillis {
        UnixMillis((self.0[0].min(self.0[1]) - CHECKPOINT_SLACK_MS).max(0))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mark {
    durable: u64,
    settled: u64,
    tail: Option<u32>,
    abort_now: i64,
    abort_before: i64,
    checkpoint_now: i64,
    checkpoint_before: i64,
}

impl Mark {
    fn encode(&self) -> [u8; MARK_BYTES] {
        let mut bytes = [0; MARK_BYTES];
        bytes[..8].copy_from_slice(MARK_MAGIC);
        bytes[8..16].copy_from_slice(&self.durable.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.settled.to_be_bytes());
        let tail = self.tail.map_or(0, |crc| 1 << 32 | u64::from(crc));
        bytes[24..32].copy_from_slice(&tail.to_be_bytes());
        let rest = [self.abort_now, self.abort_before, self.checkpoint_now, self.checkpoint_before];
        for (index, number) in rest.into_iter().enumerate() {
            bytes[32 + 8 * index..][..8].copy_from_slice(&number.to_be_bytes());
        }
        let crc = crc32fast::hash(&bytes[..64]);
        bytes[64..].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8; MARK_BYTES]) -> Option<Self> {
        let (numbers, crc) = bytes.as_chunks::<8>();
        let whole = &bytes[..8] == MARK_MAGIC && crc == crc32fast::hash(&bytes[..64]).to_be_bytes();
        let number = |index: usize| u64::from_be_bytes(numbers[index]);
        whole.then(|| Self {
            durable: number(1),
            settled: number(2),
            tail: (number(3) >> 32 == 1).then_some(number(3) as u32),
            abort_now: number(4).cast_signed(),
            abort_before: number(5).cast_signed(),
            checkpoint_now: number(6).cast_signed(),
            checkpoint_before: number(7).cast_signed(),
        })
    }
}

/// What becomes of the mark that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MarkState {
    Missing,
    Unreadable,
    /// The abort file is not as this store left it.
    OtherAbort,
    OtherCheckpoint,
    Believed,
}

/// What the last run left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastRun {
    /// `abort` was gone.
    pub(crate) clean: bool,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) mark: MarkState,
    /// (durable, queues settled), if the mark can be believed.
    pub(crate) marks: Option<(LogOffset, LogOffset)>,
    /// The log ended whole where the mark says, and this is the checksum of its last bytes.
    pub(crate) tail: Option<u32>,
}

/// Keeps the three files of a running store.
pub(crate) struct Checkpoints {
    backend: Arc<dyn Backend>,
    checkpoint: Checkpoint,
    mark: Mark,
    indexed_until: UnixMillis,
    mark_file: Option<Arc<dyn File>>,
}

impl Checkpoints {
    pub(crate) fn load(backend: Arc<dyn Backend>) -> Result<(Self, LastRun), DiskError> {
        let mut checkpoint = [0; 40];
        read(&*backend, CHECKPOINT, &mut checkpoint).at_path(&*backend, CHECKPOINT)?;
        let checkpoint = Checkpoint::decode(checkpoint);
        let mut bytes = [0; MARK_BYTES];
        let mark_is_there = read(&*backend, MARK, &mut bytes).at_path(&*backend, MARK)?;
        let mark = Mark::decode(&bytes);
        let abort = read_abort(&*backend).at_path(&*backend, ABORT)?;
        let stamp = checkpoint.stamp();
        let state = match &mark {
            None if mark_is_there => MarkState::Unreadable,
            None => MarkState::Missing,
            Some(mark) if mark.abort_now != abort && mark.abort_before != abort => MarkState::OtherAbort,
            Some(mark) if mark.checkpoint_now != stamp && mark.checkpoint_before != stamp => MarkState::OtherCheckpoint,
            Some(_) => MarkState::Believed,
        };
        let believed = mark.filter(|_| state == MarkState::Believed);
        let marks = believed.map(|mark| (LogOffset(mark.durable), LogOffset(mark.settled)));
        let now = Mark { abort_now: abort, checkpoint_now: stamp, ..Mark::default() };
        let last =
            LastRun { clean: abort == 0, checkpoint, mark: state, marks, tail: believed.and_then(|mark| mark.tail) };
        let indexed_until = checkpoint.indexed_until();
        Ok((Self { backend, checkpoint, mark: now, indexed_until, mark_file: None }, last))
    }

    /// Recovery is over: everything up to `durable` is durable and has its queue entries. Creates `abort`.
    pub(crate) fn start(&mut self, durable: LogOffset, until: UnixMillis) -> Result<(), DiskError> {
        self.mark.durable = durable.0;
        self.settle(durable, until)?;
        self.mark.abort_before = self.mark.abort_now;
        self.mark.abort_now = i64::from(std::process::id());
        self.sync_mark()?;
        let pid = self.mark.abort_now.to_string();
        put(&*self.backend, ABORT, pid.as_bytes()).at_path(&*self.backend, ABORT)
    }

    /// After a sync of the log. A mark that cannot be written stays behind, which is safe.
    pub(crate) fn durable(&mut self, durable: LogOffset) {
        self.mark.durable = durable.0;
        if let Err(error) = self.write_mark() {
            tracing::warn!(path = MARK, %error, "the durable mark could not be written");
        }
    }

    #[cfg(feature = "failpoints")]
    pub(crate) fn settled(&self) -> LogOffset {
        LogOffset(self.mark.settled)
    }

    /// The next start derives all queues from the log. For a store that is stopped.
    pub(crate) fn unsettle(&mut self, last_run: &LastRun) -> Result<(), DiskError> {
        self.mark.durable = last_run.marks.map_or(0, |(durable, _)| durable.0);
        self.mark.settled = 0;
        self.sync_mark()
    }

    /// The log is about to be cut at `end`: the mark must not stand above it.
    pub(crate) fn lower(&mut self, end: LogOffset) -> Result<(), DiskError> {
        self.mark.durable = self.mark.durable.min(end.0);
        self.mark.settled = self.mark.settled.min(end.0);
        self.sync_mark()
    }

    /// Index files that end before `until` are whole; the next settling says so.
    pub(crate) fn indexed(&mut self, until: UnixMillis) {
        self.indexed_until = until;
    }

    /// Queue entries of all records below `settled` are durable, and `until` is the store time of the last of them.
    pub(crate) fn settle(&mut self, settled: LogOffset, until: UnixMillis) -> Result<(), DiskError> {
        let mut next = self.checkpoint;
        next.0[0] = until.0;
        next.0[1] = until.0;
        next.0[2] = self.indexed_until.0;
        self.mark.settled = settled.0;
        self.mark.checkpoint_before = self.checkpoint.stamp();
        self.mark.checkpoint_now = next.stamp();
        self.sync_mark()?;
        let mut bytes = vec![0; CHECKPOINT_BYTES as usize];
        bytes[..40].copy_from_slice(&next.encode());
        put(&*self.backend, CHECKPOINT, &bytes).at_path(&*self.backend, CHECKPOINT)?;
        self.checkpoint = next;
        Ok(())
    }

    /// The store ends whole, with these last bytes: removes `abort`.
    pub(crate) fn finish(&mut self, tail: u32) -> Result<(), DiskError> {
        self.mark.tail = Some(tail);
        self.mark.abort_before = self.mark.abort_now;
        self.mark.abort_now = 0;
        self.sync_mark()?;
        let removed = self.backend.remove(ABORT).and_then(|()| self.backend.sync_directory(""));
        removed.at_path(&*self.backend, ABORT)
    }

    fn sync_mark(&mut self) -> Result<(), DiskError> {
        let synced = self.write_mark().and_then(|file| file.sync());
        synced.and_then(|()| backend::sync_parents(&*self.backend, MARK)).at_path(&*self.backend, MARK)
    }

    fn write_mark(&mut self) -> io::Result<&Arc<dyn File>> {
        let file = match self.mark_file.take() {
            Some(file) => file,
            None => open_or_create(&*self.backend, MARK)?,
        };
        let file = self.mark_file.insert(file);
        file.write_at(0, &self.mark.encode())?;
        Ok(file)
    }
}

fn open_or_create(backend: &dyn Backend, path: &str) -> io::Result<Arc<dyn File>> {
    match backend::open_if_there(backend, path)? {
        Some(file) => Ok(file),
        None => backend.create(path, 0, Space::Sparse),
    }
}

/// Leaves `into` alone where the file is missing or too short. Says whether it is there.
fn read(backend: &dyn Backend, path: &str, into: &mut [u8]) -> io::Result<bool> {
    let Some(file) = backend::open_if_there(backend, path)? else { return Ok(false) };
    if file.bytes()? >= into.len() as u64 {
        file.read_at(0, into)?;
    }
    Ok(true)
}

/// The process that `abort` names; 0 for no file, -1 for one that names none.
fn read_abort(backend: &dyn Backend) -> io::Result<i64> {
    let Some(file) = backend::open_if_there(backend, ABORT)? else { return Ok(0) };
    let mut text = vec![0; file.bytes()?.min(20) as usize];
    file.read_at(0, &mut text)?;
    Ok(std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(-1))
}

fn put(backend: &dyn Backend, path: &str, bytes: &[u8]) -> io::Result<()> {
    let file = open_or_create(backend, path)?;
    if file.bytes()? != bytes.len() as u64 {
        file.resize(bytes.len() as u64, Space::Sparse)?;
    }
    file.write_at(0, bytes)?;
    file.sync()?;
    backend::sync_parents(backend, path)
}
