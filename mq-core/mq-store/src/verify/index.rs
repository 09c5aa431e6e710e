//! The index files beside the log: in the order of the log, an entry for each key of each record, chained by slots.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use mq_protocol::ids::{LogOffset, UnixMillis};
use mq_protocol::record::StoredMessage;
use mq_protocol::record_view::{RecordView, TopicHash};

use super::{Affected, Finding, MAX_FINDINGS, Severity, VerifyReport, add_affected};
use crate::backend::Backend;
use crate::checkpoint::LastRun;
use crate::error::DiskError;
use crate::index::{self, Found, HEADER_BYTES, Header, IndexEntry, IndexFile, IndexOptions, Slots};

const ADVICE: &str = "derived from the log: run `mq store rebuild`, and the next start of the broker writes it again";
const STRAY: &str = "an entry points to no record of the log";
const WRONG: &str = "an entry is not that of a key of its record";
const UNCHAINED: &str = "an entry does not lead to the one before it in its slot";

/// Reads the files once, beside a walk through the log.
pub(super) struct IndexWalk {
    backend: Arc<dyn Backend>,
    /// Those with entries that were not read yet, by age.
    files: VecDeque<OneFile>,
    clean: bool,
    log_min: LogOffset,
    /// Records whose keys no file has, one behind the other.
    missing: Vec<(Range<u64>, Vec<Affected>)>,
    /// The last record with keys had none of them here.
    misses: bool,
    topic: (String, TopicHash),
    findings: Vec<Finding>,
    entries: u64,
}

struct OneFile {
    file: IndexFile,
    header: Header,
    number: u32,
    /// From `number` on.
    chunk: VecDeque<IndexEntry>,
    slots: Slots,
    used_slots: u32,
    first: Option<Seen>,
    last: Option<Seen>,
    bad: Vec<(Range<u32>, &'static str)>,
}

/// An entry, and the time of its record if that was found.
#[derive(Clone, Copy)]
struct Seen {
    entry: IndexEntry,
    stored: Option<UnixMillis>,
}

impl IndexWalk {
    pub(super) fn list(
        backend: Arc<dyn Backend>,
        shape: Option<IndexOptions>,
        last_run: &LastRun,
        log_min: LogOffset,
    ) -> Result<Self, DiskError> {
        let found = Found {
            clean: last_run.clean,
            own: last_run.marks.is_some(),
            whole_until: last_run.checkpoint.indexed_until(),
            log_end: LogOffset(u64::MAX),
        };
        let mut walk = Self {
            backend,
            files: VecDeque::new(),
            clean: last_run.clean,
            log_min,
            missing: Vec::new(),
            misses: false,
            topic: (String::new(), TopicHash::new("")),
            findings: Vec::new(),
            entries: 0,
        };
        let mut listed = shape.map_or(Ok(Vec::new()), |shape| index::files_of(&*walk.backend, shape))?.into_iter();
        while let Some(file) = listed.next() {
            match index::usable(&*walk.backend, &file, &found)? {
                Some(header) if header.next > 1 => walk.files.push_back(OneFile::new(file, header)),
                Some(_) => {}
                None => {
                    // A crash may leave the last one unfinished, and Apache's some more. A start makes them again.
                    if found.clean || found.own && listed.len() > 0 {
                        let what = "its length or its header is not that of an index file";
                        walk.findings.push(finding(&*walk.backend, &file.path, None, what.into(), Vec::new()));
                    }
                    break;
                }
            }
        }
        Ok(walk)
    }

    /// A record of the log. What it says of itself may be damaged (`tainted`); no record stands where `broken` says.
    pub(super) fn visit(
        &mut self,
        record: &StoredMessage,
        tainted: bool,
        broken: impl Fn(LogOffset) -> bool,
    ) -> Result<(), DiskError> {
        let (at, keys) = (record.log_offset, self.keys_of(record));
        let (mut told, mut found) = (false, Vec::new());
        while let Some(entry) = self.front()? {
            if entry.log_offset == at {
                let fits = tainted || keys.contains(&entry.key_hash);
                told |= self.take(Some(record.store_timestamp), if fits { None } else { Some(WRONG) })?;
                found.push(entry.key_hash);
            } else {
                match self.take_stray(&entry, at, &broken)? {
                    Some(damaged) => told |= damaged,
                    None => break,
                }
            }
        }
        if found.is_empty() && self.front()?.is_none() {
            // A start goes on from here.
            return Ok(());
        }
        // A file that was full within a record may be followed by one that has all of its keys.
        let repeated = found.len().saturating_sub(keys.len());
        let whole = found[repeated..] == keys && keys.starts_with(&found[..repeated]);
        let ends_full = self.files.front().is_some_and(|file| file.is_full() && file.number == file.header.next);
        let cut_short = self.files.len() == 1 && ends_full && keys.starts_with(&found);
        let missed = !(whole || cut_short || tainted || told);
        if missed {
            self.miss(record);
        }
        self.misses = missed || self.misses && keys.is_empty();
        Ok(())
    }

    fn keys_of(&mut self, record: &StoredMessage) -> Vec<u32> {
        let message = &record.message;
        if self.topic.0 != *message.topic {
            self.topic = (message.topic.to_string(), TopicHash::new(&message.topic));
        }
        let view = RecordView {
            size: record.size,
            sys_flag: message.sys_flag,
            log_offset: record.log_offset,
            store_timestamp: record.store_timestamp,
            topic: &message.topic,
            properties: &message.properties,
        };
        let mut keys = Vec::new();
        view.each_key(|key| keys.push(self.topic.1.with_key(key)));
        keys
    }

    /// Passes the entry at the front if it stands before those of the record at `at`. True if it is damaged.
    fn take_stray(
        &mut self,
        entry: &IndexEntry,
        at: LogOffset,
        broken: impl Fn(LogOffset) -> bool,
    ) -> Result<Option<bool>, DiskError> {
        let displaced = entry.log_offset > at && self.second()?.is_some_and(|second| second.log_offset <= at);
        if entry.log_offset > at && !displaced {
            return Ok(None);
        }
        let gone = entry.log_offset < self.log_min || broken(entry.log_offset);
        self.take(None, if gone && !displaced { None } else { Some(STRAY) }).map(Some)
    }

    fn miss(&mut self, record: &StoredMessage) {
        let log = record.log_offset.0..record.log_offset.0 + u64::from(record.size);
        if !self.misses {
            self.missing.push((log.clone(), Vec::new()));
        }
        if let Some((run, affects)) = self.missing.last_mut() {
            run.end = log.end;
            let message = &record.message;
            add_affected(affects, &message.topic, message.queue_id, record.queue_offset.0);
        }
    }

    fn front(&mut self) -> Result<Option<IndexEntry>, DiskError> {
        while let Some(file) = self.files.front_mut() {
            if file.number < file.header.next {
                return file.front(&*self.backend).map(Some);
            }
            if self.files.len() == 1 {
                return Ok(None);
            }
            self.leave()?;
        }
        Ok(None)
    }

    /// The entry behind the one at the front, in the same file.
    fn second(&self) -> Result<Option<IndexEntry>, DiskError> {
        let there = self.files.front().filter(|file| file.number + 1 < file.header.next);
        there.map(|file| file.file.entry(&*self.backend, file.number + 1)).transpose()
    }

    /// Passes the entry at the front. True if it is damaged.
    fn take(&mut self, stored: Option<UnixMillis>, what: Option<&'static str>) -> Result<bool, DiskError> {
        self.entries += 1;
        self.files.front_mut().map_or(Ok(false), |file| file.take(&*self.backend, stored, what))
    }

    /// The file at the front is read.
    fn leave(&mut self) -> Result<(), DiskError> {
        let Some(file) = self.files.pop_front() else { return Ok(()) };
        let derives_slots = !self.clean && self.files.is_empty() && !file.is_full();
        file.tell(&*self.backend, !derives_slots, &mut self.findings)
    }

    /// Looks at what stands behind the last record, and tells what is wrong. The log ends at `end`.
    pub(super) fn finish(
        mut self,
        end: LogOffset,
        broken: impl Fn(LogOffset) -> bool,
        report: &mut VerifyReport,
    ) -> Result<(), DiskError> {
        // A start forgets the records that a crash took.
        let clean = self.clean;
        let forgotten = |at: LogOffset| !clean && at >= end || broken(at);
        while let Some(entry) = self.front()? {
            self.take_stray(&entry, LogOffset(u64::MAX), forgotten)?;
        }
        self.leave()?;
        report.index_entries = self.entries;
        for (log, affects) in self.missing {
            let what = format!("the keys of the messages at log offsets {}..{} are not all there", log.start, log.end);
            self.findings.push(finding(&*self.backend, index::DIRECTORY, None, what, affects));
        }
        self.findings.into_iter().for_each(|finding| report.add(finding));
        Ok(())
    }
}

impl OneFile {
    fn new(file: IndexFile, header: Header) -> Self {
        let slots = Slots::new(file.shape.slots);
        let (chunk, bad) = (VecDeque::new(), Vec::new());
        Self { file, header, number: 1, chunk, slots, used_slots: 0, first: None, last: None, bad }
    }

    fn is_full(&self) -> bool {
        self.header.next >= self.file.shape.entries
    }

    fn front(&mut self, backend: &dyn Backend) -> Result<IndexEntry, DiskError> {
        if self.chunk.is_empty() {
            self.chunk.extend(self.file.entries(backend, self.number, self.header.next)?);
        }
        Ok(self.chunk[0])
    }

    fn take(
        &mut self,
        backend: &dyn Backend,
        stored: Option<UnixMillis>,
        what: Option<&'static str>,
    ) -> Result<bool, DiskError> {
        let entry = self.front(backend)?;
        self.chunk.pop_front();
        let older = self.slots.replace(entry.key_hash, self.number);
        self.used_slots += u32::from(older == 0);
        let seconds = stored.map(|stored| self.header.seconds_to(stored));
        let wrong_time = seconds.is_some_and(|seconds| seconds != entry.seconds).then_some(WRONG);
        let what = what.or(wrong_time).or((entry.older != older).then_some(UNCHAINED));
        if let Some(what) = what {
            match self.bad.last_mut().filter(|(run, why)| run.end == self.number && *why == what) {
                Some((run, _)) => run.end += 1,
                None => self.bad.push((self.number..self.number + 1, what)),
            }
        }
        let seen = Seen { entry, stored };
        self.first.get_or_insert(seen);
        self.last = Some(seen);
        self.number += 1;
        Ok(what.is_some())
    }

    fn tell(&self, backend: &dyn Backend, with_slots: bool, findings: &mut Vec<Finding>) -> Result<(), DiskError> {
        let mut add = |bytes, what: String| {
            findings.push(finding(backend, &self.file.path, Some(bytes), what, Vec::new()));
        };
        if !self.header_fits(with_slots) {
            add(0..HEADER_BYTES, "the header is not that of its entries".into());
        }
        for (run, what) in &self.bad {
            let bytes = self.file.shape.entry_at(run.start)..self.file.shape.entry_at(run.end);
            add(bytes, format!("{what} (entries {} to {})", run.start, run.end - 1));
        }
        if with_slots {
            let mut wrong = 0;
            self.file.each_slot(backend, |slot, newest| {
                let expected = self.slots.newest_of(slot);
                // Where no key belongs, nothing is found whatever stands there.
                if expected == 0 || newest == expected {
                    return;
                }
                wrong += 1;
                let at = HEADER_BYTES + 4 * u64::from(slot);
                match wrong {
                    ..MAX_FINDINGS => {
                        add(at..at + 4, format!("slot {slot} names entry {newest}, its newest is {expected}"))
                    }
                    MAX_FINDINGS => {
                        add(at..at + 4, format!("slot {slot} and perhaps more after it name other entries"))
                    }
                    _ => {}
                }
            })?;
        }
        Ok(())
    }

    fn header_fits(&self, with_slots: bool) -> bool {
        let (Some(first), Some(last), header) = (self.first, self.last, &self.header) else { return true };
        let places = (first.entry.log_offset, last.entry.log_offset) == (header.begin_offset, header.end_offset);
        let begin = first.stored.is_none_or(|stored| stored == header.begin);
        // The second: entries behind it were forgotten after a crash.
        let second = UnixMillis(header.begin.0.saturating_add(1000 * i64::from(last.entry.seconds)));
        let end = last.stored.is_none_or(|stored| header.end == stored || header.end == second);
        places && begin && end && (!with_slots || self.used_slots == header.used_slots)
    }
}

fn finding(
    backend: &dyn Backend,
    path: &str,
    bytes: Option<Range<u64>>,
    what: String,
    affects: Vec<Affected>,
) -> Finding {
    Finding { severity: Severity::Derived, path: backend.locate(path), bytes, what, affects, advice: ADVICE }
}
