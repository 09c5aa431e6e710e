//! Looks after the directory of a broker that is stopped: the store's scrub, and the broker's own files beside it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use mq_store::{Backend, FileBackend, Finding, OpenError, Options, Severity, VerifyReport};

use crate::config::BrokerConfig;
use crate::config_file::damaged_tables;
use crate::delay_levels::{DelayLevels, DelayLevelsError};
use crate::settings::{store_options, timer_options};
use crate::timers;

const CONFIG_ADVICE: &str = "the next start sets it aside and takes the .bak beside it, which lacks its last change, or \
     refuses to start: restore it from a copy before";
const BACKUP_ADVICE: &str = "the next change of its table writes it again";

#[derive(Debug, thiserror::Error)]
pub enum ScrubError {
    #[error("there is no store at {}", .0.display())]
    NoStore(std::path::PathBuf),
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error(transparent)]
    DelayLevels(#[from] DelayLevelsError),
    #[error("{path}: {error}")]
    Config { path: String, error: io::Error },
}

/// Reads everything in the directory that `config` names and says what is damaged. Writes nothing.
pub fn verify_store(config: &BrokerConfig) -> Result<VerifyReport, ScrubError> {
    let (backend, options) = stopped_store(config)?;
    let backend: Arc<dyn Backend> = Arc::new(backend);
    let mut report = mq_store::verify(backend.clone(), &options)?;
    let timers = timer_options(config);
    let fits = |entry: &_, stored: &_| timers::fits(entry, stored, timers.precision_ms);
    mq_store::verify_timers(backend, &options, &timers, fits, &mut report)?;
    check_tables(&config.config_directory(), &mut report)
        .map_err(|error| ScrubError::Config { path: config.config_directory().display().to_string(), error })?;
    Ok(report)
}

/// Lets the next start derive all queues, the index and the timers from the log again.
pub fn rebuild_store(config: &BrokerConfig) -> Result<(), ScrubError> {
    let (backend, _) = stopped_store(config)?;
    Ok(mq_store::rebuild(Arc::new(backend))?)
}

fn stopped_store(config: &BrokerConfig) -> Result<(FileBackend, Options), ScrubError> {
    let levels: DelayLevels = config.delay_levels.parse()?;
    if !config.store_root.is_dir() {
        return Err(ScrubError::NoStore(config.store_root.clone()));
    }
    let path = config.store_root.display().to_string();
    let backend = FileBackend::new(&config.store_root).map_err(|error| ScrubError::Config { path, error })?;
    Ok((backend, store_options(config, &levels)))
}

/// The tables have to be as they were written, as far as that can be seen; what they say is the broker's.
fn check_tables(directory: &Path, report: &mut VerifyReport) -> io::Result<()> {
    for (path, what) in damaged_tables(directory)? {
        let is_backup = path.extension().is_some_and(|extension| extension == "bak");
        let (severity, advice) =
            if is_backup { (Severity::Derived, BACKUP_ADVICE) } else { (Severity::Lost, CONFIG_ADVICE) };
        let path = path.display().to_string();
        report.add(Finding { severity, path, bytes: None, what, affects: Vec::new(), advice });
    }
    Ok(())
}
