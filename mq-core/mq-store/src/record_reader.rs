//! Steps through the records of the commit log. Knows segments and records; not which of them anyone may see.

use bytes::Bytes;
use mq_protocol::ids::LogOffset;
use mq_protocol::record::{self, RecordError, StoredMessage};
use mq_protocol::record_view::RecordView;

use crate::error::{DiskError, ReadError};
use crate::options::QUEUE_ENTRY_BYTES;
use crate::segments::Segments;

/// Where an entry could still stand in a file of its queue.
const MAX_QUEUE_OFFSET: u64 = i64::MAX as u64 / QUEUE_ENTRY_BYTES;
/// Size and magic.
pub(crate) const HEAD_BYTES: u64 = 8;

/// Where the bytes of the log come from.
pub(crate) trait LogBytes {
    fn segment_bytes(&self) -> u64;
    /// Bytes of one segment; `None` outside of the log or across a segment's end.
    fn bytes(&self, at: u64, bytes: usize) -> Result<Option<Bytes>, DiskError>;
}

impl LogBytes for Segments {
    fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }
    fn bytes(&self, at: u64, bytes: usize) -> Result<Option<Bytes>, DiskError> {
        self.bytes(at, bytes)
    }
}

pub(crate) enum Step {
    Record(StoredMessage),
    /// The rest of the segment is empty on purpose; the log goes on here.
    Blank(LogOffset),
    /// No record stands here, and why it could not be one.
    Nothing(ReadError),
}

/// What stands at `at`, of which `limit` is the first byte that does not count any more.
pub(crate) fn step(log: &impl LogBytes, at: LogOffset, limit: u64) -> Result<Step, DiskError> {
    let not_a_record = |reason| Ok(Step::Nothing(ReadError::NotARecord { at, reason }));
    let segment_end = (at.0 / log.segment_bytes() + 1) * log.segment_bytes();
    let room = segment_end.min(limit).saturating_sub(at.0);
    let short = |need| RecordError::Short { have: room as usize, need };
    if room < HEAD_BYTES {
        return not_a_record(short(HEAD_BYTES as usize));
    }
    let Some(head) = log.bytes(at.0, HEAD_BYTES as usize)? else {
        return not_a_record(short(HEAD_BYTES as usize));
    };
    let word = |from: usize| u32::from_be_bytes([head[from], head[from + 1], head[from + 2], head[from + 3]]);
    let (size, magic) = (u64::from(word(0)), word(4));
    if magic == record::MAGIC_BLANK && size == segment_end - at.0 {
        return Ok(Step::Blank(LogOffset(segment_end)));
    }
    if magic != record::MAGIC_V1 && magic != record::MAGIC_V2 {
        return not_a_record(RecordError::Magic(magic));
    }
    if size > room {
        return not_a_record(short(size as usize));
    }
    let Some(bytes) = log.bytes(at.0, size as usize)? else { return not_a_record(short(size as usize)) };
    Ok(match StoredMessage::decode(&bytes) {
        Err(reason) => Step::Nothing(ReadError::NotARecord { at, reason }),
        Ok(message) if message.log_offset != at => {
            Step::Nothing(ReadError::Misplaced { at, stated: message.log_offset })
        }
        Ok(message) if message.queue_offset.0 > MAX_QUEUE_OFFSET => {
            Step::Nothing(ReadError::QueueOffset { at, stated: message.queue_offset })
        }
        Ok(message) => Step::Record(message),
    })
}

/// Where the record behind this one starts, if this one is not `wanted`: its body is not looked at. `None` when it is, or
/// when it may not be a record.
pub(crate) fn passed(
    log: &impl LogBytes,
    at: LogOffset,
    limit: u64,
    wanted: fn(&RecordView<'_>) -> bool,
) -> Option<LogOffset> {
    let head = log.bytes(at.0, HEAD_BYTES as usize).ok()??;
    let size = u32::from_be_bytes(*head.first_chunk()?);
    let next = at.plus(u64::from(size));
    let bytes = log.bytes(at.0, size as usize).ok()?.filter(|_| next.0 <= limit)?;
    let view = RecordView::read(&bytes).ok()?;
    (view.log_offset == at && !wanted(&view)).then_some(next)
}

/// What a disk writes whole.
const SECTOR_BYTES: u64 = 512;

/// Whether a sector of this record never reached the disk. For records that may not have been synced: unwritten space
/// is zeros, and the record's own checksum covers nothing but the body.
pub(crate) fn lost_a_sector(log: &impl LogBytes, record: &StoredMessage) -> Result<bool, DiskError> {
    let (at, size) = (record.log_offset.0, record.size as usize);
    let Some(bytes) = log.bytes(at, size)? else { return Ok(true) };
    // A sector may be zeros as it was written if it only holds the end of a record without properties: their length.
    let significant = if record.message.properties.is_empty() { size - 2 } else { size };
    let first = (SECTOR_BYTES - at % log.segment_bytes() % SECTOR_BYTES) as usize;
    let message = &record.message;
    let topic_length_bytes = if message.topic.len() > record::V1_TOPIC_LIMIT { 2 } else { 1 };
    let body_end = size - 2 - message.properties.len() - message.topic.len() - topic_length_bytes;
    // The high byte of a wide length is zero and belongs to nothing that a sector without it would miss.
    let body = body_end - message.body.len()..body_end + topic_length_bytes - 1;
    // So is a sector that holds only the high bytes of the size.
    let mut start = if first < 4 { first } else { 0 };
    let mut end = if first < 4 { first + SECTOR_BYTES as usize } else { first };
    while start < significant {
        let sector = start..end.min(significant);
        let inside_body = body.start <= sector.start && sector.end <= body.end;
        if !inside_body && bytes[sector].iter().all(|byte| *byte == 0) {
            return Ok(true);
        }
        (start, end) = (end, end + SECTOR_BYTES as usize);
    }
    Ok(false)
}
