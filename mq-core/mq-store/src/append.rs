//! Appending: encode outside of the lock, then under it assign offsets, stamp, and write once per segment.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytestring::ByteString;
use mq_protocol::ids::{LogOffset, QueueOffset, UnixMillis};
use mq_protocol::record::{self, Message};
use mq_protocol::sys_flag;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::clock::Clock;
use crate::error::{AppendError, DiskError};
use crate::options::{Options, RecordRules};
use crate::queue::{ConsumeQueue, QueueEntry, Queues};
use crate::record_reader::HEAD_BYTES;
use crate::segments::Segments;

/// Where a group went. `end` is the first byte behind it: what the durable mark has to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    pub start: LogOffset,
    pub end: LogOffset,
    pub records: SmallVec<[(LogOffset, QueueOffset); 2]>,
    pub store_timestamp: UnixMillis,
}

/// A queue's message that is in the log and not visible yet.
pub(crate) struct Pending {
    pub(crate) queue: Arc<ConsumeQueue>,
    pub(crate) offset: QueueOffset,
    pub(crate) entry: QueueEntry,
    pub(crate) store_timestamp: UnixMillis,
}

/// The end of the log. Its lock is the append lock.
pub(crate) struct Appender {
    segments: Arc<Segments>,
    rules: Arc<dyn RecordRules>,
    clock: Arc<dyn Clock>,
    end: Mutex<End>,
    /// Filled under the append lock, in log order.
    pub(crate) pending: Mutex<VecDeque<Pending>>,
}

struct End {
    at: u64,
    last_timestamp: UnixMillis,
    /// A failed write may have left bytes up to here; they are zeroed before the next one.
    dirty: u64,
}

impl Appender {
    pub(crate) fn new(
        segments: Arc<Segments>,
        options: &Options,
        clock: Arc<dyn Clock>,
        end: LogOffset,
        last_timestamp: UnixMillis,
    ) -> Self {
        Self {
            segments,
            rules: options.rules.clone(),
            clock,
            end: Mutex::new(End { at: end.0, last_timestamp, dirty: end.0 }),
            pending: Mutex::default(),
        }
    }

    /// Writes all groups or none. `written` learns the new end under the lock.
    pub(crate) fn append<G: AsRef<[Message]>>(
        &self,
        groups: &[G],
        queues: &Queues,
        written: impl FnOnce(LogOffset),
    ) -> Result<Vec<Appended>, AppendError> {
        let mut batch = self.encode(groups, queues)?;
        let mut end = self.end.lock();
        batch.not_before(end.last_timestamp, groups, &*self.rules);
        self.clean(&mut end)?;
        let layout = self.lay_out(&batch, end.at);
        self.prepare(&layout)?;
        let appended = batch.assign(&layout);
        if let Err(error) = self.write(&batch.bytes, &layout) {
            batch.unassign();
            end.dirty = layout.end;
            return Err(error.into());
        }
        crate::failpoints::torn_group(&self.segments, end.at, layout.end, &appended);
        end.at = layout.end;
        end.dirty = layout.end;
        end.last_timestamp = batch.timestamp;
        self.pending.lock().extend(batch.pending());
        written(LogOffset(layout.end));
        Ok(appended)
    }

    fn encode<G: AsRef<[Message]>>(&self, groups: &[G], queues: &Queues) -> Result<Batch, AppendError> {
        let records = groups.iter().map(|group| group.as_ref().len()).sum();
        let bytes = groups.iter().flat_map(|group| group.as_ref()).map(Message::record_bytes).sum();
        let mut batch = Batch {
            bytes: Vec::with_capacity(bytes),
            records: Vec::with_capacity(records),
            groups: Vec::with_capacity(groups.len()),
            timestamp: self.clock.now(),
        };
        let mut last_queue: Option<Arc<ConsumeQueue>> = None;
        for (group, messages) in groups.iter().enumerate() {
            let (first_byte, first_record) = (batch.bytes.len(), batch.records.len());
            assert!(!messages.as_ref().is_empty(), "a group has a record");
            for (record, message) in messages.as_ref().iter().enumerate() {
                let size = message.record_bytes();
                if !names_a_directory(&message.topic) {
                    return Err(AppendError::TopicName { group, topic: message.topic.to_string() });
                }
                let encoded = message.encode(&mut batch.bytes);
                encoded.map_err(|source| AppendError::Encode { group, record, source })?;
                let queue = has_entry(message.sys_flag).then(|| {
                    let known =
                        last_queue.take().filter(|last| last.id == message.queue_id && last.topic == message.topic);
                    known.unwrap_or_else(|| queues.get_or_create(&message.topic, message.queue_id))
                });
                last_queue.clone_from(&queue);
                let tags_code = self.rules.tags_code(message, batch.timestamp);
                let entry = QueueEntry { log_offset: LogOffset::ZERO, size: size as u32, tags_code };
                batch.records.push(Placed { queue, offset: QueueOffset::ZERO, entry });
            }
            let bytes = (batch.bytes.len() - first_byte) as u64;
            let limit = self.segments.segment_bytes - HEAD_BYTES;
            if bytes > limit {
                return Err(AppendError::GroupTooLarge { group, bytes, limit });
            }
            batch
                .groups
                .push(Group { bytes: first_byte..batch.bytes.len(), records: first_record..batch.records.len() });
        }
        Ok(batch)
    }

    /// Zeros what a failed write left, so that no crash can bring it back as records.
    fn clean(&self, end: &mut End) -> Result<(), DiskError> {
        if end.dirty > end.at {
            self.segments.zero(end.at, end.dirty)?;
            end.dirty = end.at;
        }
        Ok(())
    }

    /// A group that does not fit, with room for a blank record behind it, goes whole to the next segment.
    fn lay_out(&self, batch: &Batch, end: u64) -> Layout {
        let mut layout = Layout { runs: SmallVec::new(), blanks: SmallVec::new(), starts: Vec::new(), end };
        layout.starts.reserve(batch.groups.len());
        for group in &batch.groups {
            let room = self.segments.segment_bytes - layout.end % self.segments.segment_bytes;
            let fits = group.bytes.len() as u64 + HEAD_BYTES <= room;
            if !fits {
                layout.blanks.push((layout.end, room as u32));
                layout.end += room;
            }
            match layout.runs.last_mut().filter(|_| fits) {
                Some((_, run)) => run.end = group.bytes.end,
                None => layout.runs.push((layout.end, group.bytes.clone())),
            }
            layout.starts.push(layout.end);
            layout.end += group.bytes.len() as u64;
        }
        layout
    }

    /// All segments exist before the first byte is written, so that a full disk refuses the batch whole.
    fn prepare(&self, layout: &Layout) -> Result<(), DiskError> {
        layout.runs.iter().try_for_each(|(at, _)| self.segments.prepare(*at))
    }

    fn write(&self, bytes: &[u8], layout: &Layout) -> Result<(), DiskError> {
        for (at, run) in &layout.runs {
            self.segments.write(*at, &bytes[run.clone()])?;
        }
        for (at, room) in &layout.blanks {
            let mut blank = [0; HEAD_BYTES as usize];
            blank[..4].copy_from_slice(&room.to_be_bytes());
            blank[4..].copy_from_slice(&record::MAGIC_BLANK.to_be_bytes());
            self.segments.write(*at, &blank)?;
        }
        Ok(())
    }

    /// Messages that are not visible yet.
    pub(crate) fn waiting(&self) -> usize {
        self.pending.lock().len()
    }

    /// Writes zeros where the log will go; tells where they end.
    pub(crate) fn write_zeros(&self, range: Range<u64>) -> Result<u64, DiskError> {
        let end = self.end.lock();
        self.segments.write_zeros(range.start.max(end.at)..range.end)
    }

    /// Takes back the messages from `end` on, which are not visible. Under the append lock.
    pub(crate) fn take_back(&self, end: LogOffset) {
        let mut pending = self.pending.lock();
        while let Some(last) = pending.pop_back_if(|last| last.entry.log_offset >= end) {
            last.queue.unassign(last.offset);
        }
    }

    /// Stops appends while `work` runs on the end of the log. `work` may move it back, over zeros.
    pub(crate) fn while_stopped<R>(&self, work: impl FnOnce(&mut u64) -> R) -> R {
        let mut end = self.end.lock();
        let before = end.at;
        let result = work(&mut end.at);
        if end.at < before {
            end.dirty = end.at;
        }
        result
    }
}

struct Batch {
    bytes: Vec<u8>,
    records: Vec<Placed>,
    groups: Vec<Group>,
    timestamp: UnixMillis,
}

struct Group {
    bytes: Range<usize>,
    records: Range<usize>,
}

struct Placed {
    queue: Option<Arc<ConsumeQueue>>,
    offset: QueueOffset,
    entry: QueueEntry,
}

struct Layout {
    /// Log position and bytes of the batch, one per segment.
    runs: SmallVec<[(u64, Range<usize>); 1]>,
    blanks: SmallVec<[(u64, u32); 1]>,
    starts: Vec<u64>,
    end: u64,
}

impl Batch {
    /// Store timestamps never go back in the log; a batch that was stamped before another one overtook it is restamped.
    fn not_before<G: AsRef<[Message]>>(&mut self, last: UnixMillis, groups: &[G], rules: &dyn RecordRules) {
        if self.timestamp < last {
            self.timestamp = last;
            let messages = groups.iter().flat_map(|group| group.as_ref());
            for (record, message) in self.records.iter_mut().zip(messages) {
                record.entry.tags_code = rules.tags_code(message, last);
            }
        }
    }

    fn assign(&mut self, layout: &Layout) -> Vec<Appended> {
        let mut appended = Vec::with_capacity(self.groups.len());
        for (group, start) in self.groups.iter().zip(&layout.starts) {
            let mut bytes = &mut self.bytes[group.bytes.clone()];
            let mut at = LogOffset(*start);
            let mut records = SmallVec::with_capacity(group.records.len());
            for placed in &mut self.records[group.records.clone()] {
                placed.entry.log_offset = at;
                placed.offset = placed.queue.as_ref().map_or(QueueOffset::ZERO, |queue| queue.assign());
                let (this, rest) = bytes.split_at_mut(placed.entry.size as usize);
                record::stamp(this, placed.offset, at, self.timestamp);
                bytes = rest;
                records.push((at, placed.offset));
                at = placed.entry.end();
            }
            appended.push(Appended { start: LogOffset(*start), end: at, records, store_timestamp: self.timestamp });
        }
        appended
    }

    fn unassign(&self) {
        for placed in self.records.iter().rev() {
            if let Some(queue) = &placed.queue {
                queue.unassign(placed.offset);
            }
        }
    }

    fn pending(self) -> impl Iterator<Item = Pending> {
        let store_timestamp = self.timestamp;
        self.records.into_iter().filter_map(move |Placed { queue, offset, entry }| {
            queue.map(|queue| Pending { queue, offset, entry, store_timestamp })
        })
    }
}

/// Prepared and rolled-back records (which 5.x brokers never write) are in the log only.
pub(crate) fn has_entry(flags: i32) -> bool {
    matches!(sys_flag::transaction_bits(flags), sys_flag::TRANSACTION_NONE | sys_flag::TRANSACTION_COMMIT)
}

/// The queue's files lie in a directory of this name. Everything else about topics is the broker's business.
pub(crate) fn names_a_directory(topic: &ByteString) -> bool {
    !topic.is_empty() && topic != "." && topic != ".." && !topic.contains(['/', '\0'])
}
