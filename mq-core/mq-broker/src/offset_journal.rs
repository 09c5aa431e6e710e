//! The journal of consumer offsets, `checkback/offset-journal`: what changed since `config/consumerOffset.json` was
//! written, so that a killed process takes hardly anything back. Knows names and numbers, not what they mean.
//!
//! ```text
//! 0 magic "CBOFFS01"      frames: 0 length u32    4 CRC-32 of what follows, u32    8 records
//!
//! 1 table     stamp u32                                        all before it stands in the file with this stamp
//! 2 offset    offset u64, queue u32, lengths u16 u16, group, topic
//! 3 topic     length u16, topic                                all its offsets are gone
//! 4 group     length u16, group
//! ```
//!
//! A start goes on from the last `table` that names the file as it is. There is none if Apache wrote the file, or if the
//! journal is lost: then the file counts alone. No sync: a power cut may take back what the file lacks.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use bytes::{Buf, BufMut};
use mq_protocol::ids::{QueueId, QueueOffset};
use mq_store::Backend;
use mq_store::backend::{File, Space};
use tracing::warn;

const PATH: &str = "checkback/offset-journal";
const NEW_PATH: &str = "checkback/offset-journal.new";
const MAGIC: &[u8; 8] = b"CBOFFS01";
const FRAME_HEAD_BYTES: usize = 8;
/// Begun anew with the next table that is written.
const LONG_BYTES: u64 = 1 << 20;
/// A table is written before its time.
const VERY_LONG_BYTES: u64 = 16 << 20;
/// Nothing is added any more, should tables not be written. A start reads so much at most.
const MAX_BYTES: u64 = 64 << 20;
/// Changes that wait in memory; of more, only the table file will know.
const MAX_WAITING_BYTES: usize = 4 << 20;

const TABLE: u8 = 1;
const OFFSET: u8 = 2;
const TOPIC: u8 = 3;
const GROUP: u8 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change<'c> {
    Offset { group: &'c str, topic: &'c str, queue: QueueId, offset: QueueOffset },
    TopicGone(&'c str),
    GroupGone(&'c str),
}

/// Changes on their way to the journal. Reuses its room.
#[derive(Default)]
pub(crate) struct Waiting(Vec<u8>);

impl Waiting {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn add(&mut self, change: Change<'_>) {
        let buffer = &mut self.0;
        if buffer.len() >= MAX_WAITING_BYTES {
            return;
        }
        match change {
            Change::Offset { group, topic, queue, offset } => {
                let (Some(group_bytes), Some(topic_bytes)) = (length(group), length(topic)) else { return };
                buffer.put_u8(OFFSET);
                buffer.put_u64(offset.0);
                buffer.put_u32(queue.0);
                buffer.put_u16(group_bytes);
                buffer.put_u16(topic_bytes);
                buffer.put_slice(group.as_bytes());
                buffer.put_slice(topic.as_bytes());
            }
            Change::TopicGone(name) => put_name(buffer, TOPIC, name),
            Change::GroupGone(name) => put_name(buffer, GROUP, name),
        }
    }

    /// Gives what waits in exchange for room that is used again.
    pub(crate) fn swap(&mut self, empty: &mut Vec<u8>) {
        std::mem::swap(&mut self.0, empty);
    }
}

fn length(name: &str) -> Option<u16> {
    u16::try_from(name.len()).ok()
}

fn put_name(buffer: &mut Vec<u8>, kind: u8, name: &str) {
    if let Some(bytes) = length(name) {
        buffer.put_u8(kind);
        buffer.put_u16(bytes);
        buffer.put_slice(name.as_bytes());
    }
}

pub(crate) struct Journal {
    backend: Arc<dyn Backend>,
    /// `None`: it could not be begun; the next table tries again.
    file: Option<Arc<dyn File>>,
    end: u64,
    frame: Vec<u8>,
    failed: bool,
}

impl Journal {
    /// Calls `apply` with the changes since the table file of this stamp, oldest first. Says how many there were.
    pub(crate) fn open(
        backend: Arc<dyn Backend>,
        stamp: u32,
        mut apply: impl FnMut(Change<'_>),
    ) -> io::Result<(Self, usize)> {
        let found = read(&*backend)?;
        let (records, end) = whole_frames(&found);
        let mut journal = Self { backend, file: None, end, frame: Vec::new(), failed: false };
        let Some(since) = since_table(&records, stamp) else {
            journal.begin(stamp);
            return Ok((journal, 0));
        };
        let mut changes = 0;
        let mut rest = since;
        while let Some(record) = next(&mut rest) {
            if let Record::Change(change) = record {
                apply(change);
                changes += 1;
            }
        }
        let file = journal.backend.open(PATH)?;
        // What stands behind a torn frame must not follow the next one.
        file.resize(end, Space::Sparse)?;
        journal.file = Some(file);
        Ok((journal, changes))
    }

    /// Whether a table should be written, so that this may begin anew.
    pub(crate) fn is_very_long(&self) -> bool {
        self.end >= VERY_LONG_BYTES
    }

    /// Adds what waited; `changes` is empty afterwards. What cannot be written is in the next table.
    pub(crate) fn add(&mut self, changes: &mut Vec<u8>) {
        if !changes.is_empty() {
            self.write(changes);
            changes.clear();
        }
    }

    /// The table with this stamp, which is about to be written, has all that was added.
    pub(crate) fn note_table(&mut self, stamp: u32) {
        self.write(&table_record(stamp));
    }

    /// The table with this stamp is on disk.
    pub(crate) fn table_is_written(&mut self, stamp: u32) {
        if self.end >= LONG_BYTES || self.failed || self.file.is_none() {
            self.begin(stamp);
        }
    }

    /// One frame at the end. After a failure no more until it begins anew: what stands behind a gap would not be read.
    fn write(&mut self, records: &[u8]) {
        let Some(file) = &self.file else { return };
        if self.failed || self.end >= MAX_BYTES {
            return;
        }
        put_frame(&mut self.frame, records);
        match file.write_at(self.end, &self.frame) {
            Ok(()) => self.end += self.frame.len() as u64,
            Err(error) => {
                self.failed = true;
                warn!(%error, path = PATH, "offsets are not journalled until their table is saved: a crash takes them back");
            }
        }
    }

    fn begin(&mut self, stamp: u32) {
        let mut bytes = MAGIC.to_vec();
        put_frame(&mut self.frame, &table_record(stamp));
        bytes.extend_from_slice(&self.frame);
        match replace(&*self.backend, &bytes) {
            Ok(file) => (self.file, self.end, self.failed) = (Some(file), bytes.len() as u64, false),
            Err(error) => {
                self.file = None;
                warn!(%error, path = PATH, "the journal of offsets cannot be made: a crash takes back what is not saved");
            }
        }
    }
}

fn table_record(stamp: u32) -> Vec<u8> {
    let mut record = vec![TABLE];
    record.put_u32(stamp);
    record
}

fn put_frame(frame: &mut Vec<u8>, records: &[u8]) {
    frame.clear();
    frame.put_u32(records.len() as u32);
    frame.put_u32(crc32fast::hash(records));
    frame.put_slice(records);
}

fn replace(backend: &dyn Backend, bytes: &[u8]) -> io::Result<Arc<dyn File>> {
    match backend.remove(NEW_PATH) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = backend.create(NEW_PATH, bytes.len() as u64, Space::Sparse)?;
    file.write_at(0, bytes)?;
    file.sync()?;
    backend.rename(NEW_PATH, PATH)?;
    backend.sync_directory("checkback")?;
    Ok(file)
}

fn read(backend: &dyn Backend) -> io::Result<Vec<u8>> {
    let file = match backend.open(PATH) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?,
    };
    // A frame begins below the limit and ends behind it.
    let most = MAX_BYTES + (MAX_WAITING_BYTES as u64) * 2;
    let mut bytes = vec![0; file.bytes()?.min(most) as usize];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// The records of all frames up to the first that is not whole, and where that one stands.
fn whole_frames(bytes: &[u8]) -> (Vec<u8>, u64) {
    let mut records = Vec::new();
    let Some(mut rest) = bytes.strip_prefix(MAGIC) else { return (records, 0) };
    while let Some((head, behind)) = rest.split_first_chunk::<FRAME_HEAD_BYTES>() {
        let mut head = &head[..];
        let (length, crc) = (head.get_u32() as usize, head.get_u32());
        let Some((frame, behind)) = behind.split_at_checked(length).filter(|_| length > 0) else { break };
        if crc32fast::hash(frame) != crc {
            break;
        }
        records.extend_from_slice(frame);
        rest = behind;
    }
    (records, (bytes.len() - rest.len()) as u64)
}

enum Record<'r> {
    Table(u32),
    Change(Change<'r>),
}

/// What stands behind the last record of the table with this stamp.
fn since_table(records: &[u8], stamp: u32) -> Option<&[u8]> {
    let (mut rest, mut since) = (records, None);
    while let Some(record) = next(&mut rest) {
        if matches!(record, Record::Table(found) if found == stamp) {
            since = Some(rest);
        }
    }
    since
}

fn next<'r>(rest: &mut &'r [u8]) -> Option<Record<'r>> {
    match rest.try_get_u8().ok()? {
        TABLE => rest.try_get_u32().ok().map(Record::Table),
        OFFSET => {
            let (offset, queue) = (rest.try_get_u64().ok()?, rest.try_get_u32().ok()?);
            let (group_bytes, topic_bytes) = (rest.try_get_u16().ok()?, rest.try_get_u16().ok()?);
            let (group, topic) = (name(rest, group_bytes)?, name(rest, topic_bytes)?);
            Some(Record::Change(Change::Offset { group, topic, queue: QueueId(queue), offset: QueueOffset(offset) }))
        }
        TOPIC => {
            let bytes = rest.try_get_u16().ok()?;
            Some(Record::Change(Change::TopicGone(name(rest, bytes)?)))
        }
        GROUP => {
            let bytes = rest.try_get_u16().ok()?;
            Some(Record::Change(Change::GroupGone(name(rest, bytes)?)))
        }
        _ => None,
    }
}

fn name<'r>(rest: &mut &'r [u8], bytes: u16) -> Option<&'r str> {
    let (name, behind) = rest.split_at_checked(bytes.into())?;
    *rest = behind;
    str::from_utf8(name).ok()
}
