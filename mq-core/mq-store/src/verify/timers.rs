//! The timer wheel and its log beside the commit log.

use std::sync::Arc;

use mq_protocol::record::StoredMessage;

use super::log::LogFiles;
use super::{Finding, Severity, VerifyReport, lock_if_there};
use crate::backend::Backend;
use crate::checkpoint::Checkpoints;
use crate::error::OpenError;
use crate::options::Options;
use crate::record_reader::{Step, step};
use crate::timer::{self, Fault, TimerEntry, TimerOptions};

const ADVICE: &str = "derived from the messages that wait: run `mq store rebuild`, and the next start writes it again";
const DOUBT_ADVICE: &str =
    "if Apache RocketMQ wrote it, start the broker; otherwise `mq store rebuild`, then start the broker";

/// Compares wheel and timer log with each other and with the messages that wait. `fits` says whether a record waits as
/// the entry says. The store must be stopped.
pub fn verify_timers(
    backend: Arc<dyn Backend>,
    options: &Options,
    timers: &TimerOptions,
    fits: impl Fn(&TimerEntry, &StoredMessage) -> bool,
    report: &mut VerifyReport,
) -> Result<(), OpenError> {
    let _lock = lock_if_there(&*backend)?;
    let (_, last_run) = Checkpoints::load(backend.clone())?;
    // What is wrong with the log itself is told elsewhere.
    let log = LogFiles::list(&*backend, options.segment_bytes, last_run.clean, &mut VerifyReport::default())?;
    let waits = |entry: &TimerEntry| {
        Ok(match step(&log, entry.log_offset, u64::MAX)? {
            _ if entry.log_offset < log.min() => true,
            Step::Record(record) => record.size == entry.size && fits(entry, &record),
            Step::Blank(_) | Step::Nothing(_) => false,
        })
    };
    let tell = |Fault { path, bytes, what, doubt }| {
        let (severity, advice) = if doubt { (Severity::Doubt, DOUBT_ADVICE) } else { (Severity::Derived, ADVICE) };
        report.add(Finding { severity, path: backend.locate(&path), bytes, what, affects: Vec::new(), advice });
    };
    Ok(timer::check(&backend, timers, last_run.clean, waits, tell)?)
}
