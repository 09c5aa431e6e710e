//! The small files beside the log: the durable mark, Apache's checkpoint, and the sums of files that are replaced whole.

use super::{Finding, Severity, VerifyReport};
use crate::backend::Backend;
use crate::checkpoint::{CHECKPOINT, CHECKPOINT_BYTES, LastRun, MARK, MarkState};
use crate::error::{AtPath, DiskError};
use crate::queue::{ROLL, Roll};

const MARK_ADVICE: &str = "start the broker: it reads the log without the mark, and writes it again";
const ROLL_ADVICE: &str = "start the broker: it does without, and writes it again";
const CHECKPOINT_ADVICE: &str =
    "if Apache RocketMQ or a person wrote it, start the broker; otherwise `mq store rebuild`, then start the broker";

pub(super) fn check(backend: &dyn Backend, last_run: &LastRun, report: &mut VerifyReport) -> Result<(), DiskError> {
    let finding = |severity, path: &str, bytes, what: &str, advice| Finding {
        severity,
        path: backend.locate(path),
        bytes: Some(bytes),
        what: what.to_owned(),
        affects: Vec::new(),
        advice,
    };
    if let Some(file) = crate::backend::open_if_there(backend, CHECKPOINT).at_path(backend, CHECKPOINT)? {
        let bytes = file.bytes().at_path(backend, CHECKPOINT)?;
        if bytes != CHECKPOINT_BYTES {
            let what = format!("it has {bytes} bytes instead of {CHECKPOINT_BYTES}");
            report.add(finding(Severity::Derived, CHECKPOINT, 0..bytes, &what, CHECKPOINT_ADVICE));
        }
    }
    if Roll::load(backend)? == Roll::Unreadable {
        let what = "its checksum does not match";
        report.add(Finding { bytes: None, ..finding(Severity::Derived, ROLL, 0..0, what, ROLL_ADVICE) });
    }
    match last_run.mark {
        MarkState::Missing | MarkState::Believed => {}
        MarkState::Unreadable => {
            report.add(finding(Severity::Derived, MARK, 0..68, "its checksum does not match", MARK_ADVICE));
        }
        MarkState::OtherCheckpoint => {
            let what = "it is not what this store wrote last";
            report.add(finding(Severity::Doubt, CHECKPOINT, 0..40, what, CHECKPOINT_ADVICE));
        }
        MarkState::OtherAbort => {
            let what = "another process than this store's last one used this directory";
            report.add(finding(Severity::Doubt, "abort", 0..20, what, "start the broker: it reads the log again"));
        }
    }
    Ok(())
}
