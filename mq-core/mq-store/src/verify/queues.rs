//! The queues' files beside the log: every entry has to be that of the record of its offset.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use mq_protocol::ids::{LogOffset, QueueId};

use super::log::LogWalk;
use super::{Affected, Finding, Severity, VerifyReport};
use crate::backend::{self, Backend};
use crate::checkpoint::LastRun;
use crate::error::{AtPath, DiskError};
use crate::options::QUEUE_ENTRY_BYTES;
use crate::queue::{self, QueueEntry};

const ADVICE: &str = "derived from the log: run `mq store rebuild`, and the next start of the broker writes it again";
const NOTHING: &str = "an entry points to no record of its queue";
/// Entries that are read at once.
const CHUNK_ENTRIES: u64 = 512;

/// An offset whose record was not found, and what its queue has there.
pub(super) struct Entry {
    pub(super) offset: u64,
    pub(super) entry: Option<QueueEntry>,
    /// Before the first record of its queue that the log has.
    pub(super) in_front: bool,
}

impl Entry {
    pub(super) fn bytes(&self) -> u64 {
        self.entry.map_or(0, |entry| u64::from(entry.size))
    }
}

pub(super) struct QueueWalks {
    backend: Arc<dyn Backend>,
    entries_per_file: u64,
    topics: BTreeMap<String, BTreeMap<QueueId, QueueWalk>>,
    /// Entries of records below have to be on disk.
    settled: Option<LogOffset>,
    log_min: LogOffset,
}

impl QueueWalks {
    pub(super) fn list(
        backend: Arc<dyn Backend>,
        entries_per_file: u64,
        last_run: &LastRun,
        log_min: LogOffset,
        report: &mut VerifyReport,
    ) -> Result<Self, DiskError> {
        let mut topics: BTreeMap<String, BTreeMap<QueueId, QueueWalk>> = BTreeMap::new();
        let list = |directory: &str| backend.list(directory).at_path(&*backend, directory);
        for topic in list(queue::DIRECTORY)?.into_iter().filter(|entry| entry.is_directory) {
            for found in list(&format!("{}/{}", queue::DIRECTORY, topic.name))? {
                let Ok(id) = found.name.parse() else { continue };
                let walk = QueueWalk::list(&*backend, &topic.name, id, entries_per_file, report)?;
                report.queues += 1;
                topics.entry(topic.name.clone()).or_default().insert(id, walk);
            }
        }
        // After a clean end all entries are on disk, whoever it was that ended.
        let everything = last_run.clean.then_some(LogOffset(u64::MAX));
        let settled = last_run.marks.map(|(_, settled)| settled).or(everything);
        Ok(Self { backend, entries_per_file, topics, settled, log_min })
    }

    /// Whether this is the entry at that offset.
    pub(super) fn has(
        &mut self,
        topic: &str,
        queue_id: QueueId,
        offset: u64,
        expected: QueueEntry,
    ) -> Result<bool, DiskError> {
        let walk = self.topics.get_mut(topic).and_then(|queues| queues.get_mut(&queue_id));
        Ok(walk.map(|walk| walk.entry(&*self.backend, offset)).transpose()?.flatten() == Some(expected))
    }

    /// The entry at that offset points to nothing.
    pub(super) fn bad(&mut self, topic: &str, queue_id: QueueId, offset: u64) {
        if let Some(walk) = self.topics.get_mut(topic).and_then(|queues| queues.get_mut(&queue_id)) {
            walk.bad(offset, NOTHING);
        }
    }

    /// A record was found. Gives the offsets before it that were not; `None` if the offset itself was seen before.
    pub(super) fn visit(
        &mut self,
        topic: &str,
        queue_id: QueueId,
        offset: u64,
        expected: QueueEntry,
        report: &mut VerifyReport,
    ) -> Result<Option<Vec<Entry>>, DiskError> {
        let Some(queues) = self.topics.get_mut(topic) else {
            report.records_without_queue += 1;
            return Ok(Some(Vec::new()));
        };
        let (backend, log_min) = (&*self.backend, self.log_min);
        let walk = queues.entry(queue_id).or_insert_with(|| QueueWalk::new(topic, queue_id, self.entries_per_file));
        let Some(missing) = walk.move_to(backend, offset, log_min)? else { return Ok(None) };
        if super::is_below(expected.log_offset, self.settled) {
            report.queue_entries += 1;
            walk.compare(backend, offset, expected)?;
        }
        Ok(Some(missing))
    }

    /// Looks at what stands behind the last record of each queue, and tells what is wrong.
    pub(super) fn finish(mut self, log: &mut LogWalk<'_>, report: &mut VerifyReport) -> Result<(), DiskError> {
        for (topic, queues) in &mut self.topics {
            for (id, walk) in queues {
                for stray in walk.rest(&*self.backend, self.log_min)? {
                    let points_to = stray.entry.map(|entry| entry.log_offset);
                    let unsettled = points_to.is_some_and(|at| !super::is_below(at, self.settled));
                    if !log.blame(topic, *id, &stray) && !unsettled {
                        walk.bad(stray.offset, NOTHING);
                    }
                }
                walk.tell(&*self.backend, report);
            }
        }
        Ok(())
    }
}

struct QueueWalk {
    topic: String,
    id: QueueId,
    directory: String,
    entries_per_file: u64,
    /// Whole entries that each file has, by the index of its first.
    files: BTreeMap<u64, u64>,
    chunk: (u64, Vec<[u8; QUEUE_ENTRY_BYTES as usize]>),
    /// The offset behind the last record that was seen.
    next: Option<u64>,
    /// Up to here stand fillers, or nothing: a deleted topic.
    only_fillers: bool,
    bad: Vec<(Range<u64>, &'static str)>,
}

impl QueueWalk {
    fn new(topic: &str, id: QueueId, entries_per_file: u64) -> Self {
        Self {
            topic: topic.to_owned(),
            id,
            directory: format!("{}/{topic}/{id}", queue::DIRECTORY),
            entries_per_file,
            files: BTreeMap::new(),
            chunk: (0, Vec::new()),
            next: None,
            only_fillers: true,
            bad: Vec::new(),
        }
    }

    fn list(
        backend: &dyn Backend,
        topic: &str,
        id: QueueId,
        entries_per_file: u64,
        report: &mut VerifyReport,
    ) -> Result<Self, DiskError> {
        let mut walk = Self::new(topic, id, entries_per_file);
        for base in backend::list_bases(backend, &walk.directory).at_path(backend, &walk.directory)? {
            let path = format!("{}/{}", walk.directory, backend::offset_name(base));
            let bytes = backend.open(&path).and_then(|file| file.bytes()).at_path(backend, &path)?;
            let whole = entries_per_file * QUEUE_ENTRY_BYTES;
            if bytes != whole || base % whole != 0 {
                report.add(Finding {
                    severity: Severity::Derived,
                    path: backend.locate(&path),
                    bytes: Some(0..bytes),
                    what: format!("it has {bytes} bytes instead of {whole} (mappedFileSizeConsumeQueue)"),
                    affects: Vec::new(),
                    advice: ADVICE,
                });
            }
            walk.files.insert(base / QUEUE_ENTRY_BYTES, bytes.min(whole) / QUEUE_ENTRY_BYTES);
        }
        Ok(walk)
    }

    fn path(&self, index: u64) -> String {
        let first = index - index % self.entries_per_file;
        format!("{}/{}", self.directory, backend::offset_name(first * QUEUE_ENTRY_BYTES))
    }

    fn first(&self) -> u64 {
        self.files.keys().next().copied().unwrap_or(0)
    }

    /// Behind the last entry that the files have room for.
    fn limit(&self) -> u64 {
        self.files.last_key_value().map_or(0, |(first, entries)| first + entries)
    }

    fn entry(&mut self, backend: &dyn Backend, index: u64) -> Result<Option<QueueEntry>, DiskError> {
        let (start, entries) = &self.chunk;
        if index < *start || index >= start + entries.len() as u64 {
            let first = index - index % self.entries_per_file;
            let there = self.files.get(&first).map_or(0, |entries| (first + entries).saturating_sub(index));
            if there == 0 {
                return Ok(None);
            }
            let path = self.path(index);
            let mut chunk = vec![[0; QUEUE_ENTRY_BYTES as usize]; there.min(CHUNK_ENTRIES) as usize];
            let read = backend
                .open(&path)
                .and_then(|file| file.read_at((index - first) * QUEUE_ENTRY_BYTES, chunk.as_flattened_mut()));
            read.at_path(backend, &path)?;
            self.chunk = (index, chunk);
        }
        let (start, entries) = &self.chunk;
        Ok(QueueEntry::decode(&entries[(index - start) as usize]))
    }

    fn bad(&mut self, offset: u64, what: &'static str) {
        match self.bad.last_mut().filter(|(run, why)| run.end == offset && *why == what) {
            Some((run, _)) => run.end += 1,
            None => self.bad.push((offset..offset + 1, what)),
        }
    }

    /// The next record has this offset. Entries before the first one belong to files that the log no longer has.
    fn move_to(
        &mut self,
        backend: &dyn Backend,
        offset: u64,
        log_min: LogOffset,
    ) -> Result<Option<Vec<Entry>>, DiskError> {
        let mut missing = Vec::new();
        match self.next {
            None => {
                // A number that is itself the damage may be far beyond all files.
                for offset in self.first()..offset.min(self.limit() + super::MAX_FINDINGS as u64) {
                    let entry = self.entry(backend, offset)?;
                    let gone = entry.is_some_and(|entry| entry.is_filler() || entry.log_offset < log_min);
                    self.only_fillers &= entry.is_some_and(|entry| entry.is_filler());
                    if !gone && missing.len() < super::MAX_FINDINGS {
                        missing.push(Entry { offset, entry, in_front: true });
                    }
                }
            }
            Some(next) if offset < next => return Ok(None),
            Some(next) => {
                for offset in next..offset.min(next + super::MAX_FINDINGS as u64) {
                    let entry = self.entry(backend, offset)?;
                    // Counted, and lost before they were durable, when their topic was deleted.
                    let deleted = entry.map_or(offset < self.first(), |entry| entry.is_filler());
                    if self.only_fillers && deleted {
                        continue;
                    }
                    missing.push(Entry { offset, entry, in_front: false });
                }
            }
        }
        self.next = Some(offset + 1);
        Ok(Some(missing))
    }

    fn compare(&mut self, backend: &dyn Backend, offset: u64, expected: QueueEntry) -> Result<(), DiskError> {
        match self.entry(backend, offset)? {
            Some(entry) if entry == expected => self.only_fillers = false,
            // A topic that was deleted goes on counting behind fillers.
            Some(entry) if entry.is_filler() && self.only_fillers => {}
            None if self.only_fillers && !self.files.is_empty() && offset < self.first() => {}
            Some(entry) if entry.log_offset == expected.log_offset && entry.size == expected.size => {
                self.bad(offset, "a tags code (of a delayed message: its time) is not that of its record");
            }
            Some(_) => self.bad(offset, "an entry does not point to the record of its offset"),
            None => self.bad(offset, "the entry of a record is missing"),
        }
        Ok(())
    }

    /// Entries behind the last record.
    fn rest(&mut self, backend: &dyn Backend, log_min: LogOffset) -> Result<Vec<Entry>, DiskError> {
        let mut strays = Vec::new();
        let mut in_front = self.next.is_none() || self.only_fillers;
        for offset in self.next.unwrap_or_else(|| self.first())..self.limit() {
            let entry = self.entry(backend, offset)?;
            let gone = entry.is_some_and(|entry| entry.is_filler() || entry.log_offset < log_min);
            in_front &= gone;
            // Fillers count messages that were lost before they were durable, when their topic was deleted.
            if entry.is_some_and(|entry| !entry.is_filler()) && !in_front && strays.len() < super::MAX_FINDINGS {
                strays.push(Entry { offset, entry, in_front: false });
            }
        }
        Ok(strays)
    }

    fn tell(&self, backend: &dyn Backend, report: &mut VerifyReport) {
        for (run, what) in &self.bad {
            let within = run.start % self.entries_per_file * QUEUE_ENTRY_BYTES;
            report.add(Finding {
                severity: Severity::Derived,
                path: backend.locate(&self.path(run.start)),
                bytes: Some(within..within + (run.end - run.start) * QUEUE_ENTRY_BYTES),
                what: (*what).to_owned(),
                affects: vec![Affected { topic: self.topic.clone(), queue_id: self.id, offsets: run.clone() }],
                advice: ADVICE,
            });
        }
    }
}
