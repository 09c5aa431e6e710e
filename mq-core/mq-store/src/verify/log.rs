//! The log, record by record, and its checksums. Behind damage it goes on at the next record that says where it stands.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use mq_protocol::ids::LogOffset;
use mq_protocol::record::{MAGIC_V1, MAGIC_V2, StoredMessage};

use super::index::IndexWalk;
use super::queues::{Entry, QueueWalks};
use super::{Affected, Finding, Severity, VerifyReport, add_affected, is_below};
use crate::append::{has_entry, names_a_directory};
use crate::backend::{self, Backend, File};
use crate::checkpoint::{LastRun, MarkState};
use crate::checksums::{Known, SumFile};
use crate::error::{AtPath, DiskError};
use crate::options::RecordRules;
use crate::queue::QueueEntry;
use crate::record_reader::{LogBytes, Step, lost_a_sector, step};
use crate::segments::{self, path_of};

const LOG_ADVICE: &str =
    "restore this part from a replica or a copy of the store; where there is none, what is affected is lost";
const SUMS_ADVICE: &str = "remove this file while the broker is stopped: the next start makes it again";

/// The log's files as they are, of the right length or not.
pub(super) struct LogFiles {
    segment_bytes: u64,
    files: BTreeMap<u64, OneFile>,
}

struct OneFile {
    file: Arc<dyn File>,
    map: Option<Bytes>,
    bytes: u64,
}

impl LogFiles {
    pub(super) fn list(
        backend: &dyn Backend,
        segment_bytes: u64,
        clean: bool,
        report: &mut VerifyReport,
    ) -> Result<Self, DiskError> {
        let bases = backend::list_bases(backend, segments::DIRECTORY).at_path(backend, segments::DIRECTORY)?;
        let mut files = BTreeMap::new();
        for (index, base) in bases.iter().copied().enumerate() {
            let path = path_of(base);
            let file = backend.open(&path).at_path(backend, &path)?;
            let bytes = file.bytes().at_path(backend, &path)?;
            let unfinished = !clean && index + 1 == bases.len() && bytes < segment_bytes;
            if bytes != segment_bytes && !unfinished || base % segment_bytes != 0 {
                let what = format!("it has {bytes} bytes instead of {segment_bytes} (mappedFileSizeCommitLog)");
                report.add(lost(backend.locate(&path), Some(0..bytes), what, Vec::new()));
            }
            // A file that may be cut under a map is not mapped.
            let map = if bytes == segment_bytes { file.map().at_path(backend, &path)? } else { None };
            files.insert(base, OneFile { file, map, bytes });
        }
        Ok(Self { segment_bytes, files })
    }

    pub(super) fn min(&self) -> LogOffset {
        LogOffset(self.files.keys().next().copied().unwrap_or(0))
    }

    /// The first record at or behind `from` that says that it stands there.
    fn next_record(&self, from: u64) -> Result<Option<u64>, DiskError> {
        for (base, file) in self.files.range(from - from % self.segment_bytes..) {
            let first = from.max(*base);
            let Some(bytes) =
                self.bytes(first, (base + file.bytes.min(self.segment_bytes)).saturating_sub(first) as usize)?
            else {
                continue;
            };
            for (index, window) in bytes.windows(8).enumerate() {
                // The high byte first: most windows end here.
                if window[4] == 0xDA
                    && matches!(u32::from_be_bytes([window[4], window[5], window[6], window[7]]), MAGIC_V1 | MAGIC_V2)
                    && let Step::Record(_) = step(self, LogOffset(first + index as u64), u64::MAX)?
                {
                    return Ok(Some(first + index as u64));
                }
            }
        }
        Ok(None)
    }
}

impl LogBytes for LogFiles {
    fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    fn bytes(&self, at: u64, bytes: usize) -> Result<Option<Bytes>, DiskError> {
        let base = at - at % self.segment_bytes;
        let Some(one) = self.files.get(&base) else { return Ok(None) };
        let within = at - base;
        if within + bytes as u64 > one.bytes.min(self.segment_bytes) {
            return Ok(None);
        }
        if let Some(map) = &one.map {
            return Ok(Some(map.slice(within as usize..within as usize + bytes)));
        }
        let mut copy = vec![0; bytes];
        match one.file.read_at(within, &mut copy) {
            Ok(()) => Ok(Some(copy.into())),
            Err(error) => Err(DiskError::Io { path: path_of(base), error: Arc::new(error) }),
        }
    }
}

fn lost(path: String, bytes: Option<Range<u64>>, what: String, affects: Vec<Affected>) -> Finding {
    Finding { severity: Severity::Lost, path, bytes, what, affects, advice: LOG_ADVICE }
}

/// A part of the log, by offsets, that is not as it was.
struct Broken {
    log: Range<u64>,
    what: String,
    affects: Vec<Affected>,
}

pub(super) struct LogWalk<'l> {
    backend: Arc<dyn Backend>,
    log: &'l LogFiles,
    /// What was durable, if that is known.
    durable: Option<LogOffset>,
    clean: bool,
    believed: bool,
    /// Where no record stands.
    broken: Vec<Broken>,
    /// Ranges whose checksum does not match, neighbours in one.
    mismatches: Vec<Broken>,
    covered_bytes: u64,
    pub(super) end: LogOffset,
}

impl<'l> LogWalk<'l> {
    pub(super) fn new(backend: Arc<dyn Backend>, log: &'l LogFiles, last_run: &LastRun) -> Self {
        Self {
            backend,
            log,
            durable: last_run.marks.map(|(durable, _)| durable),
            clean: last_run.clean,
            believed: last_run.mark == MarkState::Believed,
            broken: Vec::new(),
            mismatches: Vec::new(),
            covered_bytes: 0,
            end: LogOffset::ZERO,
        }
    }

    pub(super) fn run(
        &mut self,
        rules: &dyn RecordRules,
        queues: &mut QueueWalks,
        index: &mut IndexWalk,
        report: &mut VerifyReport,
    ) -> Result<(), DiskError> {
        for base in self.log.files.keys().copied().collect::<Vec<_>>() {
            self.check_sums(base, report)?;
        }
        let mut at = self.log.min();
        report.log.start = at.0;
        while !(self.clean && self.believed && Some(at) == self.durable) {
            match step(self.log, at, u64::MAX)? {
                Step::Blank(next) => at = next,
                Step::Record(record) if !is_below(at, self.durable) && lost_a_sector(self.log, &record)? => break,
                Step::Record(record) => {
                    report.records += 1;
                    self.visit(&record, rules, queues, report)?;
                    let next = at.plus(u64::from(record.size));
                    let tainted = touching(&mut self.mismatches, &(at.0..next.0)).next().is_some();
                    index.visit(&record, tainted, |at| self.is_broken(at))?;
                    at = next;
                }
                // An unclean end may be torn, and what a crash left behind it is cut.
                Step::Nothing(_) if !self.clean && self.durable.is_some() && !is_below(at, self.durable) => break,
                Step::Nothing(reason) => match self.log.next_record(at.0 + 1)? {
                    Some(next) => {
                        self.broken.push(Broken { log: at.0..next, what: reason.to_string(), affects: Vec::new() });
                        at = LogOffset(next);
                    }
                    None => {
                        if let Some(durable) = self.durable.filter(|durable| at < *durable) {
                            let what = format!("{reason}; it was durable up to log offset {durable}");
                            self.broken.push(Broken { log: at.0..durable.0, what, affects: Vec::new() });
                        }
                        break;
                    }
                },
            }
        }
        self.end = at;
        report.log.end = at.0;
        report.unprotected_bytes = (at.0 - report.log.start).saturating_sub(self.covered_bytes);
        Ok(())
    }

    fn visit(
        &mut self,
        record: &StoredMessage,
        rules: &dyn RecordRules,
        queues: &mut QueueWalks,
        report: &mut VerifyReport,
    ) -> Result<(), DiskError> {
        let message = &record.message;
        let log = record.log_offset.0..record.log_offset.0 + u64::from(record.size);
        let (topic, queue_id, offset) = (&*message.topic, message.queue_id, record.queue_offset.0);
        if !has_entry(message.sys_flag) || !names_a_directory(&message.topic) {
            return Ok(());
        }
        let tags_code = rules.tags_code(message, record.store_timestamp);
        let expected = QueueEntry { log_offset: record.log_offset, size: record.size, tags_code };
        if let Some(mismatch) = touching(&mut self.mismatches, &log).next() {
            // What it says of itself may be the damage. If so, its queue will miss it.
            if !queues.has(topic, queue_id, offset, expected)? {
                return Ok(());
            }
            add_affected(&mut mismatch.affects, topic, queue_id, offset);
        }
        let Some(lost_before) = queues.visit(topic, queue_id, offset, expected, report)? else {
            let what = format!("the record has offset {offset} of topic {topic} queue {queue_id} a second time");
            report.add(self.finding(&log, what, Vec::new()));
            return Ok(());
        };
        for missing in lost_before {
            if self.blame(topic, queue_id, &missing) {
                continue;
            }
            if missing.in_front {
                queues.bad(topic, queue_id, missing.offset);
            } else {
                let what = format!("offset {} of topic {topic} queue {queue_id} is not in the log", missing.offset);
                report.add(self.finding(&log, what, Vec::new()));
            }
        }
        Ok(())
    }

    /// Counts a message that has no record as lost by the damage that it lay in. False if there was none.
    pub(super) fn blame(&mut self, topic: &str, queue_id: mq_protocol::ids::QueueId, missing: &Entry) -> bool {
        let at = missing.entry.map(|entry| entry.log_offset.0);
        let culprit = match at {
            Some(at) => self.broken.iter_mut().chain(&mut self.mismatches).find(|part| {
                // A record whose bytes do not match may start before them.
                part.log.start < at + missing.bytes() && at < part.log.end
            }),
            None => self.broken.last_mut(),
        };
        culprit.is_some_and(|broken| add_affected(&mut broken.affects, topic, queue_id, missing.offset))
    }

    /// Whether damage took the record that stood here.
    pub(super) fn is_broken(&self, at: LogOffset) -> bool {
        self.broken.iter().any(|part| part.log.contains(&at.0))
    }

    fn finding(&self, log: &Range<u64>, what: String, mut affects: Vec<Affected>) -> Finding {
        join_runs(&mut affects);
        let base = log.start - log.start % self.log.segment_bytes;
        let within = log.start - base..log.end.min(base + self.log.segment_bytes) - base;
        lost(self.backend.locate(&path_of(base)), Some(within), what, affects)
    }

    /// The findings of the log, once the queues have said what is missing.
    pub(super) fn tell(mut self, report: &mut VerifyReport) {
        let mismatches = std::mem::take(&mut self.mismatches);
        for mismatch in mismatches {
            // Told already, and better.
            if touching(&mut self.broken, &mismatch.log).next().is_none() {
                report.add(self.finding(&mismatch.log, mismatch.what, mismatch.affects));
            }
        }
        for broken in std::mem::take(&mut self.broken) {
            report.add(self.finding(&broken.log, broken.what, broken.affects));
        }
    }

    /// Compares a segment with its sums, and looks at the sums themselves.
    fn check_sums(&mut self, base: u64, report: &mut VerifyReport) -> Result<(), DiskError> {
        let path = SumFile::path(base);
        // They are removed by the next start.
        if !self.believed {
            return Ok(());
        }
        let mut damaged = |bytes, what: &str| {
            let (path, what) = (self.backend.locate(&path), what.to_owned());
            report.add(Finding {
                severity: Severity::Derived,
                path,
                bytes,
                what,
                affects: Vec::new(),
                advice: SUMS_ADVICE,
            });
        };
        let segment_bytes = self.log.segment_bytes;
        let sums = match SumFile::open(&*self.backend, base, segment_bytes).at_path(&*self.backend, &path)? {
            Some(sums) => sums,
            None => {
                // A crash may leave it unfinished.
                if self.clean && backend::open_if_there(&*self.backend, &path).at_path(&*self.backend, &path)?.is_some()
                {
                    damaged(None, "its length or its header is not that of the checksums of this segment");
                }
                return Ok(());
            }
        };
        let on_disk = sums.on_disk_up_to().at_path(&*self.backend, &path)?.unwrap_or(base);
        for (at, known) in sums.read(base..base + segment_bytes).at_path(&*self.backend, &path)? {
            let place = sums.place_of(at);
            match known {
                Known::Nothing if at < on_disk => damaged(Some(place..place + 16), "a checksum is missing"),
                Known::Nothing => {}
                Known::Unreadable => damaged(Some(place..place + 16), "a checksum is damaged itself"),
                Known::Sum { covered, crc } => {
                    self.durable = self.durable.max(Some(LogOffset(at + u64::from(covered))));
                    self.covered_bytes += u64::from(covered);
                    let bytes = self.log.bytes(at, covered as usize)?;
                    if bytes.is_none_or(|bytes| crc32fast::hash(&bytes) != crc) {
                        add_mismatch(&mut self.mismatches, at..at + u64::from(covered));
                    }
                }
            }
        }
        Ok(())
    }
}

fn join_runs(affects: &mut Vec<Affected>) {
    affects.sort_by(|a, b| (&a.topic, a.queue_id, a.offsets.start).cmp(&(&b.topic, b.queue_id, b.offsets.start)));
    affects.dedup_by(|next, run| {
        let joins = (&run.topic, run.queue_id, run.offsets.end) == (&next.topic, next.queue_id, next.offsets.start);
        if joins {
            run.offsets.end = next.offsets.end;
        }
        joins
    });
}

fn add_mismatch(mismatches: &mut Vec<Broken>, log: Range<u64>) {
    match mismatches.last_mut().filter(|last| last.log.end == log.start) {
        Some(last) => last.log.end = log.end,
        None => {
            let what = "the bytes do not match their checksum".to_owned();
            mismatches.push(Broken { log, what, affects: Vec::new() });
        }
    }
}

/// Those of ascending, disjoint parts that have bytes in a range.
fn touching<'b>(parts: &'b mut [Broken], log: &Range<u64>) -> impl Iterator<Item = &'b mut Broken> {
    let (start, end) = (log.start, log.end);
    let first = parts.partition_point(|part| part.log.end <= start);
    parts[first..].iter_mut().take_while(move |part| part.log.start < end)
}
