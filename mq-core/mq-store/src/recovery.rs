//! Starting: find where the log really ends, refuse damage, derive the queues again, and make all of it durable before
//! anyone may see it.

use std::sync::Arc;

use mq_protocol::ids::{LogOffset, QueueOffset, UnixMillis};
use mq_protocol::record::StoredMessage;

use crate::append::{has_entry, names_a_directory};
use crate::backend::Backend;
use crate::checkpoint::{Checkpoints, LastRun};
use crate::checksums::Checksums;
use crate::error::{AtPath, DiskError, Mismatch, OpenError};
use crate::options::{Options, RECOVERY_WAITING_ENTRIES, RecordRules};
use crate::queue::{self, QueueEntry, QueueFiles, Queues, Roll};
use crate::record_reader::{Step, lost_a_sector, step};
use crate::segments::{self, Segments};

/// What a start found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The last run ended with [`crate::Store::close`] (or Apache's clean shutdown).
    pub clean: bool,
    /// Where reading began: at the start of a segment, so that it covers the last one; at the end after a clean end.
    pub scanned_from: LogOffset,
    pub scanned_records: u64,
    pub end: LogOffset,
    /// How far the log was known to be durable; `None` if the mark is missing or Apache ran in between.
    pub durable_mark: Option<LogOffset>,
    /// First byte of a group of records that was not whole and was cut.
    pub torn_group: Option<LogOffset>,
}

pub(crate) struct Recovered {
    pub(crate) segments: Arc<Segments>,
    pub(crate) queues: Queues,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) checksums: Checksums,
    pub(crate) last_timestamp: UnixMillis,
    /// Index files that end before are whole.
    pub(crate) indexed_until: UnixMillis,
    pub(crate) report: RecoveryReport,
}

pub(crate) fn recover(backend: &Arc<dyn Backend>, options: &Options) -> Result<Recovered, OpenError> {
    refuse_unsupported(&**backend)?;
    let segments = Arc::new(Segments::load(backend.clone(), options.segment_bytes, options.min_free_bytes)?);
    let (mut checkpoints, last_run) = Checkpoints::load(backend.clone())?;
    let checksums = Checksums::load(backend.clone(), segments.clone(), options.checksums, last_run.marks.is_some())?;
    let mut from = match clean_end(&segments, &last_run)? {
        // Somebody removed the queues, so that they are made again.
        _ if no_queues(&**backend)? => segments.min(),
        Some(end) => end,
        None => first_to_scan(&segments, &last_run)?,
    };
    let durable_mark = last_run.marks.map(|(durable, _)| durable);
    // The mark is written without a sync, and sums only of what is durable.
    let durable = durable_mark.map(|durable| durable.max(checksums.durable_before()));
    if let Some(mismatch) = checksums.check(from.min(checksums.unsure_from()).0..checksums.durable_before().0)? {
        let (at, reason) = pin(&segments, from, &mismatch)?;
        return Err(damaged(&**backend, &segments, at, checksums.durable_before(), reason));
    }
    let roll = if last_run.marks.is_some() { Roll::found(&**backend) } else { Roll::Missing };
    let (queues, scan) = loop {
        let queues = Queues::new(QueueFiles::new(backend.clone(), options.queue_file_entries, !last_run.clean));
        queues.load(from.0, segments.min().0)?;
        let missing = roll.missing(&queues);
        if let Some(queue) = missing.first().filter(|_| from > segments.min()) {
            let count = missing.len();
            tracing::warn!(%queue, count, "queues have no files any more and are derived again from the whole log");
            from = segments.min();
            continue;
        }
        missing.iter().try_for_each(|queue| queue.begin(&queues))?;
        let scan = Scan::run(&segments, &queues, &*options.rules, from, durable)?;
        let Some(damage) = queues.damage().or(scan.gap).filter(|_| from > segments.min()) else {
            missing.iter().try_for_each(|queue| queue.finish(&queues))?;
            break (queues, Scan { gap: None, ..scan });
        };
        tracing::warn!(%damage, "queues are derived again from the whole log");
        from = segments.min();
    };
    if let Some(durable) = durable.filter(|durable| scan.end < *durable) {
        return Err(damaged(&**backend, &segments, scan.end, durable, scan.stopped_by));
    }
    let intact = last_run.clean && last_run.marks == Some((scan.end, scan.end));
    if !intact {
        segments.cut(scan.end.0)?;
    }
    // A killed process leaves bytes that only the page cache has; they become visible below.
    segments.sync(from.0, scan.end.0)?;
    queues.write_out()?;
    if !intact {
        queues.cut_all()?;
    }
    queues.sync()?;
    Roll::save(&queues);
    let last_timestamp = scan.last_timestamp.max(last_run.checkpoint.flushed_until());
    checkpoints.start(scan.end, last_timestamp)?;
    let report = RecoveryReport {
        clean: last_run.clean,
        scanned_from: from,
        scanned_records: scan.records,
        end: scan.end,
        durable_mark,
        torn_group: scan.torn_group,
    };
    let indexed_until = last_run.checkpoint.indexed_until();
    Ok(Recovered { segments, queues, checkpoints, checksums, last_timestamp, indexed_until, report })
}

fn damaged(backend: &dyn Backend, segments: &Segments, at: LogOffset, durable: LogOffset, reason: String) -> OpenError {
    OpenError::Damaged { path: backend.locate(&segments::path_of(segments.base_of(at.0))), at, durable, reason }
}

/// The record that is damaged where a checksum does not match, if reading tells which.
fn pin(segments: &Segments, from: LogOffset, mismatch: &Mismatch) -> Result<(LogOffset, String), DiskError> {
    let mut at = from;
    while at < mismatch.at.plus(mismatch.to - mismatch.from) {
        match step(segments, at, u64::MAX)? {
            Step::Record(record) => at = at.plus(u64::from(record.size)),
            Step::Blank(next) => at = next,
            Step::Nothing(reason) => return Ok((at, reason.to_string())),
        }
    }
    Ok((mismatch.at, mismatch.to_string()))
}

/// Forms of the directory that Apache can write and this store cannot continue.
fn refuse_unsupported(backend: &dyn Backend) -> Result<(), OpenError> {
    let list = |directory: &str| backend.list(directory).at_path(backend, directory);
    let unsupported = |path: &str, reason| Err(OpenError::Unsupported { path: backend.locate(path), reason });
    if let Some(entry) = list("")?.iter().find(|entry| entry.name.starts_with("dledger-")) {
        return unsupported(&entry.name, "a DLedger log cannot be continued");
    }
    if list(queue::DIRECTORY)?.iter().any(|entry| entry.name == "CURRENT") {
        return unsupported(queue::DIRECTORY, "consume queues in RocksDB cannot be read");
    }
    Ok(())
}

fn no_queues(backend: &dyn Backend) -> Result<bool, DiskError> {
    let found = backend.list(queue::DIRECTORY).at_path(backend, queue::DIRECTORY)?;
    Ok(!found.iter().any(|entry| entry.is_directory))
}

/// Where the last run ended whole, if the log still ends there with the same bytes: nothing of it has to be read.
fn clean_end(segments: &Segments, last_run: &LastRun) -> Result<Option<LogOffset>, DiskError> {
    let (Some((durable, settled)), Some(tail), true) = (last_run.marks, last_run.tail, last_run.clean) else {
        return Ok(None);
    };
    let whole = durable == settled && durable >= segments.min() && durable.0 <= segments.limit();
    if !whole || segments.tail(durable.0)? != tail {
        return Ok(None);
    }
    let ends = matches!(step(segments, durable, u64::MAX)?, Step::Nothing(_));
    Ok(ends.then_some(durable))
}

/// The start of a segment such that the queue files hold the entries of all records before it.
fn first_to_scan(segments: &Segments, last_run: &LastRun) -> Result<LogOffset, OpenError> {
    if let Some((_, settled)) = last_run.marks {
        let from = segments.base_of(settled.0.min(segments.limit()));
        return Ok(LogOffset(from).max(segments.min()));
    }
    for base in segments.bases().into_iter().rev() {
        if let Step::Record(first) = step(segments, LogOffset(base), u64::MAX)?
            && first.store_timestamp <= last_run.checkpoint.settled_until()
        {
            return Ok(LogOffset(base));
        }
    }
    Ok(segments.min())
}

struct Scan {
    end: LogOffset,
    records: u64,
    last_timestamp: UnixMillis,
    stopped_by: String,
    torn_group: Option<LogOffset>,
    /// A queue that lacks entries of records before the scan; it ended there.
    gap: Option<String>,
}

impl Scan {
    /// Reads records until one is not whole, and gives the queues their entries, group by group.
    fn run(
        segments: &Segments,
        queues: &Queues,
        rules: &dyn RecordRules,
        from: LogOffset,
        durable: Option<LogOffset>,
    ) -> Result<Self, DiskError> {
        let mut scan = Self {
            end: from,
            records: 0,
            last_timestamp: UnixMillis(0),
            stopped_by: String::new(),
            torn_group: None,
            gap: None,
        };
        let from_start = from == segments.min();
        // The records of the group that is being read, and how many more it needs.
        let (mut group, mut missing) = (Vec::new(), 0);
        let give = |record: &StoredMessage| {
            if !from_start && let Some(gap) = gap(queues, record) {
                return Ok(Some(gap));
            }
            restore(queues, rules, record).map(|()| None)
        };
        loop {
            match step(segments, scan.end, u64::MAX)? {
                Step::Blank(next) => scan.end = next,
                Step::Nothing(reason) => {
                    scan.stopped_by = reason.to_string();
                    break;
                }
                Step::Record(record)
                    if durable.is_some_and(|durable| scan.end >= durable) && lost_a_sector(segments, &record)? =>
                {
                    scan.stopped_by = "a sector of the record was not written".into();
                    break;
                }
                Step::Record(record) => {
                    missing = if group.is_empty() { rules.followers(&record) } else { missing - 1 };
                    scan.end = record.log_offset.plus(u64::from(record.size));
                    scan.records += 1;
                    scan.last_timestamp = scan.last_timestamp.max(record.store_timestamp);
                    if missing > 0 {
                        group.push(record);
                        continue;
                    }
                    for record in group.drain(..) {
                        scan.gap = give(&record)?;
                        if scan.gap.is_some() {
                            return Ok(scan);
                        }
                    }
                    scan.gap = give(&record)?;
                    if scan.gap.is_some() {
                        return Ok(scan);
                    }
                }
            }
        }
        // Below the mark every group was written whole: there, a group that seems torn is another record's claim.
        match group.first().map(|record| record.log_offset) {
            Some(start) if durable.is_none_or(|durable| start >= durable) => {
                scan.records -= group.len() as u64;
                scan.end = start;
                scan.torn_group = Some(start);
            }
            _ => group.iter().try_for_each(|record| restore(queues, rules, record))?,
        }
        Ok(scan)
    }
}

/// Says that the queue of this record has no entry for the one before it.
fn gap(queues: &Queues, record: &StoredMessage) -> Option<String> {
    let StoredMessage { message, queue_offset, .. } = record;
    let queue = has_entry(message.sys_flag).then(|| queues.get(&message.topic, message.queue_id))?;
    let next = queue.map_or(QueueOffset::ZERO, |queue| queue.next());
    let text =
        || format!("topic {} queue {} ends at {next} instead of {queue_offset}", message.topic, message.queue_id);
    (*queue_offset > next).then(text)
}

fn restore(queues: &Queues, rules: &dyn RecordRules, record: &StoredMessage) -> Result<(), DiskError> {
    let message = &record.message;
    if !has_entry(message.sys_flag) || !names_a_directory(&message.topic) {
        return Ok(());
    }
    let tags_code = rules.tags_code(message, record.store_timestamp);
    let entry = QueueEntry { log_offset: record.log_offset, size: record.size, tags_code };
    let queue = queues.get_or_create(&message.topic, message.queue_id);
    queues.restore(&queue, record.queue_offset, entry)?;
    if queues.waiting_entries() > RECOVERY_WAITING_ENTRIES { queues.write_out() } else { Ok(()) }
}
