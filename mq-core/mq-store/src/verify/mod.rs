//! The scrub: reads every file of a stopped store and says what is damaged, where, and what to do. Never writes.
//!
//! It shares the readers of single records, entries and checksums with the store, and nothing of how a start repairs:
//! a store that would start may still have damage in old files, which only this finds.

mod index;
mod log;
mod queues;
mod small;
mod timers;

use std::ops::Range;
use std::sync::Arc;

use mq_protocol::ids::{LogOffset, QueueId};

use self::index::IndexWalk;
use self::log::{LogFiles, LogWalk};
use self::queues::QueueWalks;
pub use self::timers::verify_timers;
use crate::backend::Backend;
use crate::checkpoint::Checkpoints;
use crate::checksums;
use crate::error::{AtPath, DiskError, OpenError};
use crate::options::Options;

/// Findings that are kept; the rest is counted.
const MAX_FINDINGS: usize = 1000;
/// Runs of messages that one finding names.
const MAX_AFFECTED: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Not as this store left it: another program wrote it, or it is damaged and the next start does without it.
    Doubt,
    /// Damaged and derived from the log: can be made again.
    Derived,
    /// Damaged, and nothing else in the store has it.
    Lost,
}

/// Messages of a queue, by their offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affected {
    pub topic: String,
    pub queue_id: QueueId,
    pub offsets: Range<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    pub path: String,
    /// Of the file.
    pub bytes: Option<Range<u64>>,
    pub what: String,
    pub affects: Vec<Affected>,
    pub advice: &'static str,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    pub findings: Vec<Finding>,
    /// Findings beyond those that are listed.
    pub more_findings: usize,
    pub records: u64,
    /// From the first to behind the last record.
    pub log: Range<u64>,
    /// Of these, how many no checksum covers but Apache's of the bodies.
    pub unprotected_bytes: u64,
    pub queues: u64,
    pub queue_entries: u64,
    pub index_entries: u64,
    /// Records of topics without any queue on disk: deleted topics.
    pub records_without_queue: u64,
}

impl VerifyReport {
    pub fn add(&mut self, finding: Finding) {
        if self.findings.len() < MAX_FINDINGS { self.findings.push(finding) } else { self.more_findings += 1 }
    }

    /// Something is lost or has to be made again.
    #[must_use]
    pub fn has_damage(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity > Severity::Doubt)
    }
}

/// Reads the store whole. It must be stopped.
pub fn verify(backend: Arc<dyn Backend>, options: &Options) -> Result<VerifyReport, OpenError> {
    let _lock = lock_if_there(&*backend)?;
    let mut report = VerifyReport::default();
    let (_, last_run) = Checkpoints::load(backend.clone())?;
    small::check(&*backend, &last_run, &mut report)?;
    let log = LogFiles::list(&*backend, options.segment_bytes, last_run.clean, &mut report)?;
    let mut queues = QueueWalks::list(backend.clone(), options.queue_file_entries, &last_run, log.min(), &mut report)?;
    let mut walk = LogWalk::new(backend.clone(), &log, &last_run);
    let mut index = IndexWalk::list(backend, options.index, &last_run, log.min())?;
    walk.run(&*options.rules, &mut queues, &mut index, &mut report)?;
    index.finish(walk.end, |at| walk.is_broken(at), &mut report)?;
    queues.finish(&mut walk, &mut report)?;
    walk.tell(&mut report);
    Ok(report)
}

/// What a running store holds. A store that never ran has no such file, and gets none.
fn lock_if_there(backend: &dyn Backend) -> Result<Option<crate::backend::LockGuard>, OpenError> {
    let there = backend.list("").at_path(backend, "")?.iter().any(|entry| entry.name == "lock");
    let lock = if there { backend.lock("lock").map(Some) } else { Ok(None) };
    lock.map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => OpenError::Locked { path: backend.locate("lock") },
        _ => DiskError::new(backend, "lock", error).into(),
    })
}

/// Lets the next start read the whole log and derive every queue, the index and the timers again.
pub fn rebuild(backend: Arc<dyn Backend>) -> Result<(), OpenError> {
    let _lock = lock_if_there(&*backend)?;
    let (mut checkpoints, last_run) = Checkpoints::load(backend.clone())?;
    if last_run.marks.is_none() {
        // The mark that is written below would have them believed.
        checksums::remove_all(&*backend)?;
    }
    crate::index::remove_all(&*backend)?;
    crate::timer::remove_all(&backend)?;
    Ok(checkpoints.unsettle(&last_run)?)
}

/// Adds one message to a list of runs. False when the list is full.
fn add_affected(affected: &mut Vec<Affected>, topic: &str, queue_id: QueueId, offset: u64) -> bool {
    let full = affected.len() >= MAX_AFFECTED;
    let mut runs = affected.iter_mut();
    let known = runs.find(|run| run.topic == topic && run.queue_id == queue_id && run.offsets.end == offset);
    match known {
        Some(run) => run.offsets.end += 1,
        None if full => return false,
        None => affected.push(Affected { topic: topic.into(), queue_id, offsets: offset..offset + 1 }),
    }
    true
}

/// Whether the log is known to be whole up to here.
fn is_below(at: LogOffset, mark: Option<LogOffset>) -> bool {
    mark.is_some_and(|mark| at < mark)
}
