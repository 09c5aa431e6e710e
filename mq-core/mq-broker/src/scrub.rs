//! Looks after the directory of a broker that is stopped: the store's scrub, and the broker's own files beside it.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use mq_protocol::body;
use mq_store::{FileBackend, Finding, OpenError, Options, Severity, VerifyReport};

use crate::config::BrokerConfig;
use crate::delay_levels::{DelayLevels, DelayLevelsError};
use crate::settings::store_options;

const CONFIG_ADVICE: &str =
    "the next start sets it aside and takes the .bak beside it, if there is one: restore it from a copy before";

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
    let mut report = mq_store::verify(Arc::new(backend), &options)?;
    check_tables(&config.config_directory(), &mut report)
        .map_err(|error| ScrubError::Config { path: config.config_directory().display().to_string(), error })?;
    Ok(report)
}

/// Lets the next start derive all queues from the log again.
pub fn rebuild_queues(config: &BrokerConfig) -> Result<(), ScrubError> {
    let (backend, _) = stopped_store(config)?;
    Ok(mq_store::rebuild_queues(Arc::new(backend))?)
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

/// The tables have to be readable; what they say is the broker's.
fn check_tables(directory: &Path, report: &mut VerifyReport) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let mut paths: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    paths.sort();
    for path in paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "json")) {
        let bytes = fs::read(&path)?;
        if let Err(error) = body::from_json::<serde_json::Value>("configuration file", &bytes) {
            report.add(Finding {
                severity: Severity::Lost,
                path: path.display().to_string(),
                bytes: Some(0..bytes.len() as u64),
                what: error.to_string(),
                affects: Vec::new(),
                advice: CONFIG_ADVICE,
            });
        }
    }
    Ok(())
}
