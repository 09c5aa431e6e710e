//! Reading: single records, and queues as slices of the log, up to the visible mark.

use std::ops::Range;

use bytes::Bytes;
use mq_protocol::ids::{LogOffset, QueueId, QueueOffset, UnixMillis};
use mq_protocol::record::{RecordError, StoredMessage};
use smallvec::SmallVec;

use crate::checksums::RANGE_BYTES;
use crate::core::Core;
use crate::error::ReadError;
use crate::queue::{ConsumeQueue, QueueEntry, partition_point};
use crate::record_reader::{Step, step};

/// Entries that one pull looks at, at most, when the filter accepts few: Apache's 16,000 bytes.
const SCAN_ENTRIES: u64 = 800;
/// Parts of the log that are looked at without leaving the thread. Each takes two calls of the kernel.
const PARTS_AT_HAND: usize = 16;

#[derive(Clone, Copy, Debug)]
pub struct PullLimits {
    pub messages: usize,
    /// The first message is answered even if it is longer.
    pub bytes: usize,
}

/// What a reader wants of a queue.
#[derive(Clone, Copy)]
pub struct Wanted<'w> {
    /// Whether an entry with this tags code stays in play.
    pub entry: &'w dyn Fn(i64) -> bool,
    /// Whether its record is wanted; `None`: the entry decides alone, and no record is read.
    pub record: Option<RecordFilter<'w>>,
}

pub type RecordFilter<'w> = &'w dyn Fn(&[u8]) -> bool;

/// Apache's `GetMessageStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullStatus {
    Found,
    /// There are messages, the filter accepts none of those looked at.
    NoMatchedMessage,
    /// The entries point to a part of the log that was deleted.
    MessageWasRemoving,
    OffsetOverflowOne,
    OffsetOverflowBadly,
    OffsetTooSmall,
    NoMatchedLogicQueue,
    NoMessageInQueue,
}

#[derive(Clone, Debug)]
pub struct Pulled {
    pub status: PullStatus,
    /// Where to go on.
    pub next: QueueOffset,
    pub min: QueueOffset,
    pub max: QueueOffset,
    /// The records, in queue order. Neighbours in the log share a slice. No bytes are copied where the log is mapped.
    pub slices: Vec<Bytes>,
    /// Where each slice lies: far behind the end of the log its bytes may have to come from the disk.
    pub starts: SmallVec<[LogOffset; 2]>,
    pub messages: usize,
    pub bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub min: QueueOffset,
    pub max: QueueOffset,
}

/// Which of the messages around a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// The first at or after it.
    Lower,
    /// The last at or before it.
    Upper,
}

impl Core {
    pub(crate) fn read(&self, at: LogOffset) -> Result<Option<StoredMessage>, ReadError> {
        let visible = self.marks.visible();
        if at >= visible || at < self.segments.min() {
            return Ok(None);
        }
        match step(&*self.segments, at, visible.0)? {
            Step::Record(record) => Ok(Some(record)),
            Step::Blank(_) => Ok(None),
            Step::Nothing(error) => Err(error),
        }
    }

    /// Where old files go meanwhile, what is left of the queue decides.
    pub(crate) fn pull(
        &self,
        topic: &str,
        queue_id: QueueId,
        from: QueueOffset,
        limits: PullLimits,
        wanted: Wanted<'_>,
    ) -> Result<Pulled, ReadError> {
        loop {
            let log_min = self.segments.min();
            match self.pull_once(topic, queue_id, from, limits, wanted) {
                Err(_) if self.segments.min() > log_min || self.bounds(topic, queue_id).min > from => {}
                pulled => return pulled,
            }
        }
    }

    fn pull_once(
        &self,
        topic: &str,
        queue_id: QueueId,
        from: QueueOffset,
        limits: PullLimits,
        wanted: Wanted<'_>,
    ) -> Result<Pulled, ReadError> {
        let Some(queue) = self.queues.get(topic, queue_id) else {
            return Ok(Pulled::empty(PullStatus::NoMatchedLogicQueue, QueueOffset::ZERO, Bounds::NONE));
        };
        let (min, max) = queue.bounds();
        let bounds = Bounds { min, max };
        let refused = match from {
            _ if max == QueueOffset::ZERO => Some((PullStatus::NoMessageInQueue, QueueOffset::ZERO)),
            _ if from < min => Some((PullStatus::OffsetTooSmall, min)),
            _ if from == max => Some((PullStatus::OffsetOverflowOne, from)),
            _ if from > max => Some((PullStatus::OffsetOverflowBadly, max)),
            _ => None,
        };
        match refused {
            Some((status, next)) => Ok(Pulled::empty(status, next, bounds)),
            None => self.collect(&queue, from, bounds, limits, wanted),
        }
    }

    fn collect(
        &self,
        queue: &ConsumeQueue,
        from: QueueOffset,
        bounds: Bounds,
        limits: PullLimits,
        wanted: Wanted<'_>,
    ) -> Result<Pulled, ReadError> {
        let log_min = self.segments.min();
        let last = QueueOffset(from.0.saturating_add(SCAN_ENTRIES.max(limits.messages as u64))).min(bounds.max);
        let mut taken = Taken { limits, messages: 0, bytes: 0, runs: Vec::new() };
        let mut status = PullStatus::NoMatchedMessage;
        let (mut next, mut full) = (from, false);
        let mut failure = None;
        while next < last && !full {
            let mut looked_at = 0;
            let count = (last.0 - next.0) as usize;
            let scanned = queue.scan(next, count.min(limits.messages.max(16)), |entry| {
                if full {
                    return;
                }
                if entry.log_offset < log_min || entry.is_filler() {
                    status = PullStatus::MessageWasRemoving;
                } else if (wanted.entry)(entry.tags_code) {
                    match self.is_wanted(&entry, wanted) {
                        Ok(true) => full = !taken.take(entry),
                        Ok(false) => {}
                        Err(error) => (failure, full) = (Some(error), true),
                    }
                }
                looked_at += u64::from(!full);
            })?;
            next = next.plus(looked_at);
            full |= scanned == 0 || taken.messages == limits.messages;
        }
        if let Some(error) = failure {
            return Err(error);
        }
        if taken.messages > 0 {
            status = PullStatus::Found;
        }
        let mut pulled = Pulled::empty(status, next, bounds);
        (pulled.messages, pulled.bytes) = (taken.messages, taken.bytes);
        for (at, bytes) in taken.runs {
            pulled.slices.push(self.slice(at, bytes)?);
            pulled.starts.push(at);
        }
        Ok(pulled)
    }

    fn is_wanted(&self, entry: &QueueEntry, wanted: Wanted<'_>) -> Result<bool, ReadError> {
        let Some(record) = wanted.record else { return Ok(true) };
        Ok(record(&self.slice(entry.log_offset, entry.size as usize)?))
    }

    fn slice(&self, at: LogOffset, bytes: usize) -> Result<Bytes, ReadError> {
        let gone = ReadError::NotARecord { at, reason: RecordError::Short { have: 0, need: bytes } };
        self.segments.bytes(at.0, bytes)?.ok_or(gone)
    }

    pub(crate) fn check(&self, pulled: &Pulled) -> Result<(), ReadError> {
        for part in pulled.parts() {
            if let Some(mismatch) = self.checksums.check(part)? {
                return Err(mismatch.into());
            }
        }
        Ok(())
    }

    pub(crate) fn is_at_hand(&self, pulled: &Pulled) -> bool {
        let parts = pulled.parts();
        parts.len() <= PARTS_AT_HAND && parts.into_iter().all(|part| self.checksums.is_at_hand(part).unwrap_or(false))
    }

    pub(crate) fn bounds(&self, topic: &str, queue_id: QueueId) -> Bounds {
        self.queues.get(topic, queue_id).map_or(Bounds::NONE, |queue| {
            let (min, max) = queue.bounds();
            Bounds { min, max }
        })
    }

    pub(crate) fn offset_by_time(
        &self,
        topic: &str,
        queue_id: QueueId,
        time: UnixMillis,
        boundary: Boundary,
    ) -> Result<QueueOffset, ReadError> {
        let Some(queue) = self.queues.get(topic, queue_id) else { return Ok(QueueOffset::ZERO) };
        let (min, max) = queue.bounds();
        let before = |index: u64| {
            let Some(entry) = queue.entry(QueueOffset(index))? else { return Ok(true) };
            let stored = self.read(entry.log_offset)?.map(|record| record.store_timestamp);
            Ok::<_, ReadError>(stored.is_none_or(|stored| match boundary {
                Boundary::Lower => stored < time,
                Boundary::Upper => stored <= time,
            }))
        };
        let found = partition_point(min.0, max.0, before)?;
        Ok(QueueOffset(match boundary {
            Boundary::Lower => found,
            Boundary::Upper => found.saturating_sub(1).max(min.0),
        }))
    }
}

/// Accepted entries, merged where they are neighbours in the log.
struct Taken {
    limits: PullLimits,
    messages: usize,
    bytes: usize,
    runs: Vec<(LogOffset, usize)>,
}

impl Taken {
    /// False if the entry does not fit any more.
    fn take(&mut self, entry: QueueEntry) -> bool {
        let size = entry.size as usize;
        let full = self.messages >= self.limits.messages || self.bytes + size > self.limits.bytes;
        if full && self.messages > 0 {
            return false;
        }
        self.messages += 1;
        self.bytes += size;
        match self.runs.last_mut() {
            Some((at, bytes)) if at.plus(*bytes as u64) == entry.log_offset => *bytes += size,
            _ => self.runs.push((entry.log_offset, size)),
        }
        true
    }
}

impl Pulled {
    fn empty(status: PullStatus, next: QueueOffset, bounds: Bounds) -> Self {
        let (Bounds { min, max }, slices, starts) = (bounds, Vec::new(), SmallVec::new());
        Self { status, next, min, max, slices, starts, messages: 0, bytes: 0 }
    }

    /// The parts of the log that hold the records. Those that are so near that no range of the checksums lies between
    /// them are one.
    fn parts(&self) -> SmallVec<[Range<u64>; 2]> {
        let mut parts: SmallVec<[Range<u64>; 2]> = SmallVec::new();
        for (at, slice) in self.starts.iter().zip(&self.slices) {
            let end = at.0 + slice.len() as u64;
            match parts.last_mut() {
                Some(last) if (last.end..last.end + RANGE_BYTES).contains(&at.0) => last.end = end,
                _ => parts.push(at.0..end),
            }
        }
        parts
    }
}

impl Bounds {
    const NONE: Self = Self { min: QueueOffset::ZERO, max: QueueOffset::ZERO };
}
