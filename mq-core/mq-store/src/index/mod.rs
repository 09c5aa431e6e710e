//! Index files: where in the log the messages of a key are. Derived from the log behind the visible mark; what is
//! missing is built again. Knows neither who asks nor which of the found messages are meant.

mod file;
mod writer;

use std::sync::Arc;

use mq_protocol::ids::{LogOffset, UnixMillis};
use mq_protocol::record::{MAGIC_BLANK, RecordError};
use mq_protocol::record_view::{RecordView, TopicHash};
use parking_lot::Mutex;

pub use file::IndexOptions;
pub(crate) use file::{HEADER_BYTES, Header, IndexEntry, IndexFile};
pub(crate) use writer::Slots;
use writer::Writer;

use crate::backend::{Backend, Space, sync_parents};
use crate::clock::Clock;
use crate::error::{AtPath, DiskError};
use crate::segments::Segments;

pub(crate) const DIRECTORY: &str = "index";
/// Digits of a file's name: the local time of its creation, to the millisecond.
const NAME_DIGITS: usize = 17;
/// Bytes of the log that are looked at under one hold of the lock: a millisecond's work.
const BATCH_BYTES: u64 = 1 << 20;
/// Entries of one slot that one query looks at, at most.
const MAX_WALK: u32 = 1 << 20;

/// What the last run left and recovery found.
pub(crate) struct Found {
    pub(crate) clean: bool,
    /// It was this store, whatever its end.
    pub(crate) own: bool,
    /// Apache's checkpoint: files that end earlier are whole in any case.
    pub(crate) whole_until: UnixMillis,
    pub(crate) log_end: LogOffset,
}

pub(crate) struct Index {
    backend: Arc<dyn Backend>,
    segments: Arc<Segments>,
    clock: Arc<dyn Clock>,
    shape: IndexOptions,
    state: Mutex<State>,
}

struct State {
    /// By age. The last one may have room.
    files: Vec<(IndexFile, Header)>,
    /// Writes the last file. Made when the first key comes.
    writer: Option<Writer>,
    /// Records below are indexed.
    next: LogOffset,
    /// The slots of the last file may not be in the file.
    slots_missing: bool,
    /// End time of the last file that is whole and durable.
    whole_until: UnixMillis,
    last_topic: (String, TopicHash),
}

/// How far the index speaks of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct IndexedTo {
    pub(crate) time: UnixMillis,
    pub(crate) offset: LogOffset,
}

/// The time between these, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeWindow {
    pub from: UnixMillis,
    pub to: UnixMillis,
}

impl Index {
    pub(crate) fn open(
        backend: Arc<dyn Backend>,
        segments: Arc<Segments>,
        clock: Arc<dyn Clock>,
        shape: IndexOptions,
        found: &Found,
    ) -> Result<Self, DiskError> {
        assert!(shape.slots > 0 && shape.entries > 1, "an index file has room for a key");
        let (mut files, mut trusted) = (Vec::new(), true);
        for file in files_of(&*backend, shape)? {
            // What follows a file that is made again could not stand behind it.
            match usable(&*backend, &file, found)?.filter(|_| trusted) {
                Some(header) => files.push((file, header)),
                None => {
                    trusted = false;
                    let path = &file.path;
                    tracing::warn!(%path, "an index file that cannot be trusted is derived from the log again");
                    backend.remove(path).at_path(&*backend, path)?;
                }
            }
        }
        let mut state = State {
            files,
            writer: None,
            slots_missing: !found.clean,
            next: segments.min(),
            whole_until: found.whole_until,
            last_topic: (String::new(), TopicHash::new("")),
        };
        state.forget_from(&*backend, found.log_end)?;
        if let Some((_, last)) = state.files.iter().rev().find(|(_, header)| header.next > 1) {
            // A full file may have the first keys of its last record, and no next file the others.
            let full = last.next >= shape.entries;
            state.next = if full { last.end_offset } else { behind(&segments, last.end_offset)? };
        }
        Ok(Self { backend, segments, clock, shape, state: Mutex::new(state) })
    }

    /// Indexes some more of the log below `visible`. True if there is more to do at once.
    pub(crate) fn advance(&self, visible: LogOffset) -> Result<bool, DiskError> {
        let state = &mut *self.state.lock();
        state.next = state.next.max(self.segments.min());
        if state.next >= visible {
            return Ok(false);
        }
        if let Some(writer) = &mut state.writer {
            // Of the last time, if the disk took no writes then.
            writer.write_out(&*self.backend)?;
        }
        let segment_end = LogOffset(self.segments.base_of(state.next.0) + self.segments.segment_bytes);
        let end = visible.min(segment_end).min(state.next.plus(BATCH_BYTES));
        let (mut at, mut end, mut first) = (state.next, end, true);
        let Some(mut bytes) = self.segments.bytes(at.0, (end.0 - at.0) as usize)? else {
            // The segment was removed meanwhile.
            return Ok(true);
        };
        while at < end {
            let here = &bytes[(bytes.len() as u64 - (end.0 - at.0)) as usize..];
            match RecordView::read(here) {
                Ok(record) => {
                    self.put(state, &record)?;
                    at = at.plus(u64::from(record.size));
                    state.next = at;
                    first = false;
                }
                // Its end lies behind this batch.
                Err(_) if !first => break,
                Err(error) => {
                    // Longer than a batch, or no record: a blank, or damage.
                    let size = here.first_chunk::<4>().map_or(0, |size| u64::from(u32::from_be_bytes(*size)));
                    let whole = visible.min(segment_end).min(at.plus(size));
                    if whole <= end {
                        if error != RecordError::Magic(MAGIC_BLANK) {
                            tracing::error!(%at, %error, "the rest of this log file is not indexed");
                        }
                        state.next = segment_end;
                        break;
                    }
                    end = whole;
                    let Some(more) = self.segments.bytes(at.0, (end.0 - at.0) as usize)? else { return Ok(true) };
                    bytes = more;
                }
            }
        }
        if let Some(writer) = &mut state.writer {
            writer.write_out(&*self.backend)?;
        }
        Ok(state.next < visible)
    }

    fn put(&self, state: &mut State, record: &RecordView<'_>) -> Result<(), DiskError> {
        if state.last_topic.0 != record.topic {
            let (name, hash) = &mut state.last_topic;
            name.clear();
            name.push_str(record.topic);
            *hash = TopicHash::new(name);
        }
        let (topic, mut put) = (state.last_topic.1, Ok(()));
        record.each_key(|key| {
            if put.is_ok() {
                put = self.writer(state).map(|writer| {
                    writer.put(topic.with_key(key), record.log_offset, record.store_timestamp);
                });
            }
        });
        put
    }

    /// What takes the next key: the last file, or a new one behind it.
    fn writer<'s>(&self, state: &'s mut State) -> Result<&'s mut Writer, DiskError> {
        if let Some(full) = state.writer.as_mut().filter(|writer| writer.is_full()) {
            full.finish(&*self.backend)?;
            state.whole_until = full.header.end;
            *state.files.last_mut().expect("the writer has a file") = (full.file.clone(), full.header);
            state.writer = None;
        }
        self.resume(state)?;
        if state.writer.is_none() {
            let writer = Writer::create(self.create(state)?);
            state.files.push((writer.file.clone(), writer.header));
            state.writer = Some(writer);
        }
        Ok(state.writer.as_mut().expect("just made"))
    }

    /// Goes on with the last file, if there is one with room.
    fn resume(&self, state: &mut State) -> Result<(), DiskError> {
        if let (None, Some((file, header))) = (&state.writer, state.files.last())
            && header.next < self.shape.entries
        {
            state.writer = Some(Writer::resume(file.clone(), &*self.backend, *header)?);
        }
        state.slots_missing = false;
        Ok(())
    }

    fn create(&self, state: &State) -> Result<IndexFile, DiskError> {
        let last = state.files.last().and_then(|(file, _)| file.path.rsplit('/').next()?.parse().ok()).unwrap_or(0);
        let name: u64 = local_time_name(self.clock.now()).max(last + 1);
        let path = format!("{DIRECTORY}/{name:0width$}", width = NAME_DIGITS);
        let make = || {
            let file = self.backend.create(&path, self.shape.file_bytes(), Space::Sparse)?;
            sync_parents(&*self.backend, &path)?;
            Ok(file)
        };
        let file = IndexFile::new(path.clone(), self.shape, make().at_path(&*self.backend, &path)?);
        file.write_header(&*self.backend, &Header::empty())?;
        Ok(file)
    }

    /// Makes durable what was indexed. Says up to when all files are whole.
    pub(crate) fn flush(&self) -> Result<UnixMillis, DiskError> {
        let mut state = self.state.lock();
        if let Some(writer) = &mut state.writer {
            writer.flush(&*self.backend)?;
        }
        Ok(state.whole_until)
    }

    /// The same, and the last file is whole too: for a clean end.
    pub(crate) fn finish(&self) -> Result<UnixMillis, DiskError> {
        let state = &mut *self.state.lock();
        if state.slots_missing {
            self.resume(state)?;
        }
        if let Some(writer) = &mut state.writer {
            writer.finish(&*self.backend)?;
            state.whole_until = writer.header.end;
        }
        Ok(state.whole_until)
    }

    /// Calls `each` with the places of records that may have the key, newest first, until it is satisfied. Some may be
    /// of other keys with the same hash.
    pub(crate) fn find<E: From<DiskError>>(
        &self,
        topic: &str,
        key: &str,
        window: TimeWindow,
        mut each: impl FnMut(LogOffset) -> Result<bool, E>,
    ) -> Result<IndexedTo, E> {
        let key_hash = TopicHash::new(topic).with_key(key);
        let (files, indexed_to) = self.look(key_hash)?;
        let mut steps = MAX_WALK;
        for (file, header, newest) in files.into_iter().rev() {
            if header.next == 1 || header.begin > window.to || header.end < window.from {
                continue;
            }
            let mut number = match newest {
                Some(newest) => newest,
                None => file.slot(&*self.backend, key_hash % self.shape.slots)?,
            };
            while number > 0 && number < header.next && steps > 0 {
                steps -= 1;
                let entry = file.entry(&*self.backend, number)?;
                let stored = header.begin.0 + 1000 * i64::from(entry.seconds);
                // The entry's time is cut to the second.
                if stored + 1000 < window.from.0 {
                    return Ok(indexed_to);
                }
                if entry.key_hash == key_hash && stored <= window.to.0 && each(entry.log_offset)? {
                    return Ok(indexed_to);
                }
                // Links lead to older entries, so a damaged one cannot lead in a circle.
                number = if entry.older < number { entry.older } else { 0 };
            }
        }
        Ok(indexed_to)
    }

    /// The files by age, and of the one that grows the newest entry of this key's slot.
    #[expect(clippy::type_complexity, reason = "a list of what the caller takes apart at once")]
    fn look(&self, key_hash: u32) -> Result<(Vec<(IndexFile, Header, Option<u32>)>, IndexedTo), DiskError> {
        let state = &mut *self.state.lock();
        if state.slots_missing {
            self.resume(state)?;
        }
        let mut files: Vec<_> = state.files.iter().map(|(file, header)| (file.clone(), *header, None)).collect();
        if let (Some(writer), Some(last)) = (&mut state.writer, files.last_mut()) {
            writer.write_out(&*self.backend)?;
            (last.1, last.2) = (writer.header, Some(writer.newest(key_hash)));
        }
        Ok((files, state.indexed_to()))
    }

    /// Removes the files that speak only of records below `min`, but never the last one.
    pub(crate) fn remove_below(&self, min: LogOffset) -> Result<(), DiskError> {
        let mut state = self.state.lock();
        while state.files.len() > 1 && state.files[0].1.end_offset < min {
            let path = state.files[0].0.path.clone();
            self.backend.remove(&path).at_path(&*self.backend, &path)?;
            state.files.remove(0);
        }
        Ok(())
    }
}

impl State {
    /// The log ends at `end`: what the files say of later records is of records that a crash took.
    fn forget_from(&mut self, backend: &dyn Backend, end: LogOffset) -> Result<(), DiskError> {
        while let Some((file, header)) = self.files.last_mut() {
            if header.next == 1 || header.end_offset < end {
                return Ok(());
            }
            while header.next > 1 && file.entry(backend, header.next - 1)?.log_offset >= end {
                header.next -= 1;
            }
            if header.next > 1 {
                let last = file.entry(backend, header.next - 1)?;
                header.end_offset = last.log_offset;
                header.end = UnixMillis(header.begin.0 + 1000 * i64::from(last.seconds));
                return file.write_header(backend, header);
            }
            backend.remove(&file.path).at_path(backend, &file.path)?;
            self.files.pop();
        }
        Ok(())
    }

    fn indexed_to(&self) -> IndexedTo {
        let header = self.writer.as_ref().map(|writer| writer.header).or(self.files.last().map(|(_, header)| *header));
        header.map_or_else(IndexedTo::default, |header| IndexedTo { time: header.end, offset: header.end_offset })
    }
}

/// The record behind the one at `at`; where the log begins, if that one is gone.
fn behind(segments: &Segments, at: LogOffset) -> Result<LogOffset, DiskError> {
    let size = if at < segments.min() { None } else { segments.bytes(at.0, 4)? };
    Ok(size.map_or(segments.min(), |size| at.plus(u64::from(u32::from_be_bytes([size[0], size[1], size[2], size[3]])))))
}

/// The index files by age.
pub(crate) fn files_of(backend: &dyn Backend, shape: IndexOptions) -> Result<Vec<IndexFile>, DiskError> {
    let mut files = Vec::new();
    for entry in backend.list(DIRECTORY).at_path(backend, DIRECTORY)? {
        let is_ours = entry.name.len() == NAME_DIGITS && entry.name.bytes().all(|byte| byte.is_ascii_digit());
        if is_ours && !entry.is_directory {
            let path = format!("{DIRECTORY}/{}", entry.name);
            let file = backend.open(&path).at_path(backend, &path)?;
            files.push(IndexFile::new(path, shape, file));
        }
    }
    Ok(files)
}

/// The next start derives all of it from the log.
pub(crate) fn remove_all(backend: &dyn Backend) -> Result<(), DiskError> {
    for file in files_of(backend, IndexOptions::default())? {
        backend.remove(&file.path).at_path(backend, &file.path)?;
    }
    Ok(())
}

/// The file's header, if its contents can be built upon.
pub(crate) fn usable(backend: &dyn Backend, file: &IndexFile, found: &Found) -> Result<Option<Header>, DiskError> {
    if !file.has_its_length(backend)? {
        return Ok(None);
    }
    let header = file.header(backend)?;
    let plausible = (1..=file.shape.entries).contains(&header.next);
    Ok((plausible && (found.clean || found.own || header.end <= found.whole_until)).then_some(header))
}

/// `yyyyMMddHHmmssSSS`.
fn local_time_name(now: UnixMillis) -> u64 {
    let time = jiff::Timestamp::from_millisecond(now.0).unwrap_or_default().to_zoned(jiff::tz::TimeZone::system());
    let digits = [
        (time.year().unsigned_abs().into(), 10_000),
        (time.month().unsigned_abs().into(), 100),
        (time.day().unsigned_abs().into(), 100),
        (time.hour().unsigned_abs().into(), 100),
        (time.minute().unsigned_abs().into(), 100),
        (time.second().unsigned_abs().into(), 100),
        (time.millisecond().unsigned_abs().into(), 1000),
    ];
    digits.into_iter().fold(0, |name: u64, (part, size): (u64, u64)| name * size + part)
}
