//! `config/timercheck`: how far the timers are, in one sector that is written as a whole.

use std::sync::Arc;

use mq_protocol::ids::{LogOffset, QueueOffset, UnixMillis};

use crate::backend::{self, Backend, File, Space};
use crate::error::{AtPath, DiskError};

pub(super) const PATH: &str = "config/timercheck";
const FILE_BYTES: u64 = 4096;
const SECTOR_BYTES: usize = 512;
/// Apache's seven numbers: also what a slave is answered.
const SHARED_BYTES: usize = 56;
const MAGIC_AT: usize = 64;
const CRC_AT: usize = 104;
const MAGIC: &[u8; 8] = b"CBTIMER1";

/// How far the timers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerProgress {
    /// Slots below it are fired.
    pub read_time: UnixMillis,
    /// Messages of the timer topic below it are in the wheel, or were not for it.
    pub queue_offset: QueueOffset,
    /// Messages below it were in the wheel once. Behind the queue offset only while a lost wheel is made anew: then
    /// those of them that are due before the read time are done.
    pub seen: QueueOffset,
    /// So many entries of the slot at the read time are fired.
    pub fired: u64,
    /// Every delivery that this does not count lies at or behind it in the commit log. `None`: nobody knows.
    pub log_offset: Option<LogOffset>,
}

impl Default for TimerProgress {
    /// Nothing was ever saved: all that the log holds may be a delivery.
    fn default() -> Self {
        Self {
            read_time: UnixMillis(0),
            queue_offset: QueueOffset::ZERO,
            seen: QueueOffset::ZERO,
            fired: 0,
            log_offset: Some(LogOffset::ZERO),
        }
    }
}

/// Apache's form of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimerCheckpoint {
    pub read_time: UnixMillis,
    /// The timer log is durable up to here.
    pub log_end: u64,
    pub queue_offset: QueueOffset,
    pub master_queue_offset: QueueOffset,
    pub state_version: i64,
    pub version_timestamp: UnixMillis,
    pub version_counter: i64,
}

impl TimerCheckpoint {
    #[must_use]
    pub fn encode(&self) -> [u8; SHARED_BYTES] {
        let numbers = [
            self.read_time.0,
            self.log_end.cast_signed(),
            self.queue_offset.0.cast_signed(),
            self.master_queue_offset.0.cast_signed(),
            self.state_version,
            self.version_timestamp.0,
            self.version_counter,
        ];
        let mut bytes = [0; SHARED_BYTES];
        for (chunk, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            chunk.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    fn decode(sector: &[u8; SECTOR_BYTES]) -> Self {
        let offset = |at| QueueOffset(number(sector, at).max(0).cast_unsigned());
        Self {
            read_time: UnixMillis(number(sector, 0)),
            log_end: number(sector, 8).max(0).cast_unsigned(),
            queue_offset: offset(16),
            master_queue_offset: offset(24),
            state_version: number(sector, 32),
            version_timestamp: UnixMillis(number(sector, 40)),
            version_counter: number(sector, 48),
        }
    }
}

fn number(sector: &[u8; SECTOR_BYTES], at: usize) -> i64 {
    i64::from_be_bytes(sector[at..at + 8].try_into().expect("eight bytes"))
}

/// What the last run left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    /// Written here, for a wheel of this precision.
    Ours(TimerProgress, i64),
    Apaches(TimerProgress),
}

/// What the file says, and nothing is changed.
pub(super) fn read(backend: &dyn Backend) -> Result<(Left, TimerCheckpoint), DiskError> {
    let nothing = (Left::Nothing, TimerCheckpoint::default());
    let Some(file) = backend::open_if_there(backend, PATH).at_path(backend, PATH)? else { return Ok(nothing) };
    let mut sector = [0; SECTOR_BYTES];
    let there = file.bytes().at_path(backend, PATH)?.min(SECTOR_BYTES as u64) as usize;
    file.read_at(0, &mut sector[..there]).at_path(backend, PATH)?;
    if sector.iter().all(|byte| *byte == 0) {
        // Made, and not written before the crash.
        return Ok(nothing);
    }
    let shared = TimerCheckpoint::decode(&sector);
    Ok((left(&sector, &shared), shared))
}

pub(super) struct CheckpointFile {
    backend: Arc<dyn Backend>,
    file: Option<Arc<dyn File>>,
    pub(super) current: TimerCheckpoint,
}

impl CheckpointFile {
    pub(super) fn open(backend: Arc<dyn Backend>) -> Result<(Self, Left), DiskError> {
        let file = backend::open_if_there(&*backend, PATH).at_path(&*backend, PATH)?;
        if let Some(file) = &file
            && file.bytes().at_path(&*backend, PATH)? < FILE_BYTES
        {
            file.resize(FILE_BYTES, Space::Reserved).at_path(&*backend, PATH)?;
        }
        let (left, current) = read(&*backend)?;
        Ok((Self { backend, file, current }, left))
    }

    /// Durable when it returns. The wheel and the log have to be.
    pub(super) fn write(
        &mut self,
        progress: TimerProgress,
        log_end: u64,
        precision_ms: i64,
        now: UnixMillis,
    ) -> Result<(), DiskError> {
        let new = TimerCheckpoint {
            read_time: progress.read_time,
            log_end,
            queue_offset: progress.queue_offset,
            master_queue_offset: progress.queue_offset,
            state_version: self.current.state_version,
            version_timestamp: now,
            version_counter: self.current.version_counter + 1,
        };
        let mut sector = [0; SECTOR_BYTES];
        sector[..SHARED_BYTES].copy_from_slice(&new.encode());
        sector[MAGIC_AT..][..8].copy_from_slice(MAGIC);
        let log_offset = progress.log_offset.map_or(-1, |offset| offset.0.cast_signed());
        let ours = [progress.fired.cast_signed(), log_offset, precision_ms, progress.seen.0.cast_signed()];
        for (index, number) in ours.into_iter().enumerate() {
            sector[MAGIC_AT + 8 + 8 * index..][..8].copy_from_slice(&number.to_be_bytes());
        }
        let crc = crc32fast::hash(&sector[..CRC_AT]);
        sector[CRC_AT..][..4].copy_from_slice(&crc.to_be_bytes());
        self.put(&sector).at_path(&*self.backend, PATH)?;
        self.current = new;
        Ok(())
    }

    fn put(&mut self, sector: &[u8; SECTOR_BYTES]) -> std::io::Result<()> {
        if let Some(file) = &self.file {
            file.write_at(0, sector)?;
            return file.sync();
        }
        let file = match backend::open_if_there(&*self.backend, PATH)? {
            Some(file) => file,
            None => self.backend.create(PATH, FILE_BYTES, Space::Reserved)?,
        };
        file.write_at(0, sector)?;
        file.sync()?;
        backend::sync_parents(&*self.backend, PATH)?;
        self.file = Some(file);
        Ok(())
    }
}

fn left(sector: &[u8; SECTOR_BYTES], shared: &TimerCheckpoint) -> Left {
    let progress = TimerProgress {
        read_time: shared.read_time,
        queue_offset: shared.queue_offset,
        seen: shared.queue_offset,
        fired: 0,
        log_offset: None,
    };
    let crc = crc32fast::hash(&sector[..CRC_AT]).to_be_bytes();
    if &sector[MAGIC_AT..][..8] != MAGIC || sector[CRC_AT..][..4] != crc {
        return Left::Apaches(progress);
    }
    let fired = number(sector, MAGIC_AT + 8).cast_unsigned();
    let log_offset = u64::try_from(number(sector, MAGIC_AT + 16)).ok().map(LogOffset);
    let seen = QueueOffset(number(sector, MAGIC_AT + 32).cast_unsigned());
    Left::Ours(TimerProgress { fired, log_offset, seen, ..progress }, number(sector, MAGIC_AT + 24))
}
