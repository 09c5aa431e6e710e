//! Settings that a tool changes while the broker runs (25): checked as a whole, kept in `config/broker.properties`, and in
//! effect at once where they can be.
//!
//! The file holds the changed settings only. At a start they stand over `broker.conf`, and below the command line.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::keys::{Change, change_of};
use crate::config::{BrokerConfig, ConfigError, ConfigWarning, java_properties};
use crate::topics::TopicError;

/// Bytes of one update and of the file.
const MAX_BYTES: usize = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub(crate) enum UpdateError {
    #[error("{0} can only be set in broker.conf or on the command line; restart the broker with it")]
    Forbidden(String),
    #[error(transparent)]
    Value(#[from] ConfigError),
    #[error("{0}; nothing was changed")]
    Unknown(ConfigWarning),
    #[error("the settings take {0} bytes, the limit is {MAX_BYTES}")]
    TooLarge(usize),
    #[error("cannot write {path}: {error}")]
    Save { path: String, error: io::Error },
    #[error(transparent)]
    Topics(#[from] TopicError),
}

/// What an update comes to.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) config: BrokerConfig,
    pub(crate) pairs: Vec<(String, String)>,
    /// What the tool's user should know: which of them wait for a restart, and which do nothing here.
    pub(crate) remark: Option<String>,
}

/// Decides about an update; nothing happens yet.
pub(crate) fn plan(current: &BrokerConfig, text: &str) -> Result<Planned, UpdateError> {
    if text.len() > MAX_BYTES {
        return Err(UpdateError::TooLarge(text.len()));
    }
    let pairs = java_properties::parse(text);
    if let Some((key, _)) = pairs.iter().find(|(key, _)| change_of(key) == Change::Never) {
        return Err(UpdateError::Forbidden(key.clone()));
    }
    let mut config = current.clone();
    let warnings = config.apply_pairs(pairs.clone())?;
    let mut said = Vec::new();
    for warning in warnings {
        match warning {
            ConfigWarning::Unknown { .. } => return Err(UpdateError::Unknown(warning)),
            ConfigWarning::NoEffect { .. } => said.push(warning.to_string()),
        }
    }
    let without_effect = |key: &str| said.iter().any(|text| text.split(' ').next() == Some(key));
    let later: Vec<_> = pairs
        .iter()
        .map(|(key, _)| &**key)
        .filter(|key| change_of(key) == Change::Restart && !without_effect(key))
        .collect();
    if !later.is_empty() {
        said.insert(0, format!("saved; takes effect at the next start: {}", later.join(", ")));
    }
    Ok(Planned { config, pairs, remark: (!said.is_empty()).then(|| said.join("; ")) })
}

/// `config/broker.properties`.
#[derive(Debug)]
pub(crate) struct ChangedSettings {
    path: PathBuf,
}

impl ChangedSettings {
    pub(crate) fn in_directory(config_directory: &Path) -> Self {
        Self { path: config_directory.join("broker.properties") }
    }

    pub(crate) fn load(&self) -> io::Result<BTreeMap<String, String>> {
        match fs::read_to_string(&self.path) {
            Ok(text) => Ok(java_properties::parse(&text).into_iter().collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", self.path.display()))),
        }
    }

    /// Adds to what is there.
    pub(crate) fn add(&self, pairs: &[(String, String)]) -> Result<(), UpdateError> {
        let failed = |error| UpdateError::Save { path: self.path.display().to_string(), error };
        let mut all = self.load().map_err(failed)?;
        all.extend(pairs.iter().cloned());
        let text = java_properties::print(all);
        if text.len() > MAX_BYTES {
            return Err(UpdateError::TooLarge(text.len()));
        }
        mq_files::replace(&self.path, text.as_bytes()).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_is_taken_as_a_whole_and_says_what_waits() {
        let waits = "saved; takes effect at the next start: ";
        for (text, expected) in [
            ("transactionCheckInterval=31000", Ok(None)),
            ("", Ok(None)),
            ("flushDiskType=ASYNC_FLUSH\nbrokerPermission=4", Ok(Some(format!("{waits}flushDiskType")))),
            (
                "sendMessageThreadPoolNums=4",
                Ok(Some(
                    "sendMessageThreadPoolNums has no effect on this broker: a connection's requests run on its task, on \
                     a thread for each core"
                        .to_owned(),
                )),
            ),
            ("brokerPermission=9", Err("brokerPermission=9: 2 (write), 4 (read) or 6 (both) is expected".to_owned())),
            (
                "brokerPermision=4",
                Err("unknown key brokerPermision; did you mean brokerPermission?; nothing was changed".to_owned()),
            ),
            (
                "brokerPermission=4\nstorePathRootDir=/tmp",
                Err("storePathRootDir can only be set in broker.conf or on the command line; restart the broker with it"
                    .to_owned()),
            ),
        ] {
            let planned = plan(&BrokerConfig::default(), text);
            assert_eq!(planned.map(|planned| planned.remark).map_err(|error| error.to_string()), expected, "{text}");
        }
        let planned = plan(&BrokerConfig::default(), "brokerPermission=4").expect("valid");
        assert_eq!(planned.config.permission, 4);
    }
}
