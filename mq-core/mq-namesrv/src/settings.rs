//! What a tool may change while the name server runs (318), and what it reads (319), under Apache's names.
//!
//! Changed settings are kept in `namesrv.properties` beside the key-value configuration, when that has a file.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mq_protocol::java_properties;
use parking_lot::Mutex;

/// Bytes of one update and of the file.
const MAX_BYTES: usize = 64 << 10;
/// Refused with a permission error, as Apache does: they say where this server keeps what it is told.
const FORBIDDEN: [&str; 5] = ["configBlackList", "configStorePath", "kvConfigPath", "rocketmqHome", "listenPort"];
/// Settings of Apache's name server that tune what this one does not have.
const WITHOUT_EFFECT: [&str; 11] = [
    "clientRequestThreadPoolNums",
    "clusterTest",
    "deleteTopicWithBrokerRegistration",
    "defaultThreadPoolNums",
    "needWaitForService",
    "notifyMinBrokerIdChanged",
    "serverSelectorThreads",
    "serverWorkerThreads",
    "supportActingMaster",
    "useEpollNativeSelector",
    "waitSecondsForService",
];

#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error("{0} cannot be changed while the name server runs")]
    Forbidden(String),
    #[error("{0} is not a setting of this name server; nothing was changed")]
    Unknown(String),
    #[error("{key}={value}: true or false is expected")]
    Value { key: String, value: String },
    #[error("the settings take {0} bytes, the limit is {MAX_BYTES}")]
    TooLarge(usize),
    #[error("the settings are not UTF-8")]
    NotText,
    #[error("{path}: {error}", path = path.display())]
    Write { path: PathBuf, error: io::Error },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flags {
    /// Whether 206 is answered.
    pub(crate) list_all_topics: bool,
    /// Whether the other lists of topics are answered.
    pub(crate) list_topics: bool,
    /// Whether routes carry the order configuration of their topic.
    pub(crate) order_messages: bool,
    /// Whether a broker that registers is told the order configuration of all topics.
    pub(crate) order_to_brokers: bool,
}

impl Default for Flags {
    fn default() -> Self {
        Self { list_all_topics: true, list_topics: true, order_messages: false, order_to_brokers: true }
    }
}

impl Flags {
    /// False: not a setting that has an effect.
    fn set(&mut self, key: &str, value: &str) -> Result<bool, SettingsError> {
        let place = match key {
            "enableAllTopicList" => &mut self.list_all_topics,
            "enableTopicList" => &mut self.list_topics,
            "orderMessageEnable" => &mut self.order_messages,
            "returnOrderTopicConfigToBroker" => &mut self.order_to_brokers,
            _ => return Ok(false),
        };
        let wrong = || SettingsError::Value { key: key.into(), value: value.into() };
        *place = value.to_ascii_lowercase().parse().map_err(|_| wrong())?;
        Ok(true)
    }
}

#[derive(Debug)]
pub(crate) struct Settings {
    /// Readers never wait for the disk.
    flags: Mutex<Flags>,
    /// What cannot be changed, for showing.
    fixed: BTreeMap<&'static str, String>,
    /// As its file has it; held through a change and its write.
    changed: Mutex<BTreeMap<String, String>>,
    path: Option<PathBuf>,
}

impl Settings {
    /// `kv_config_path` is where the key-value configuration lies.
    pub(crate) fn open(kv_config_path: Option<&Path>, fixed: BTreeMap<&'static str, String>) -> io::Result<Self> {
        let path = kv_config_path.map(|path| path.with_file_name("namesrv.properties"));
        let (mut flags, mut fixed, mut changed) = (Flags::default(), fixed, BTreeMap::new());
        if let Some(path) = &path {
            fixed.insert("configStorePath", path.display().to_string());
            let on_file =
                |error: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()));
            match fs::read_to_string(path) {
                Ok(text) => {
                    for (key, value) in java_properties::parse(&text) {
                        flags.set(&key, &value).map_err(|error| on_file(error.to_string()))?;
                        changed.insert(key, value);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(on_file(error.to_string())),
            }
        }
        Ok(Self { flags: Mutex::new(flags), fixed, changed: Mutex::new(changed), path })
    }

    pub(crate) fn flags(&self) -> Flags {
        self.flags.lock().clone()
    }

    /// All of the update, or nothing. Says what has no effect.
    pub(crate) fn update(&self, body: &[u8]) -> Result<Option<String>, SettingsError> {
        if body.len() > MAX_BYTES {
            return Err(SettingsError::TooLarge(body.len()));
        }
        let text = std::str::from_utf8(body).map_err(|_| SettingsError::NotText)?;
        let mut held = self.changed.lock();
        let (mut flags, mut changed, mut said) = (self.flags(), held.clone(), Vec::new());
        for (key, value) in java_properties::parse(text) {
            if FORBIDDEN.contains(&&*key) {
                return Err(SettingsError::Forbidden(key));
            }
            if flags.set(&key, &value)? {
                changed.insert(key, value);
            } else if WITHOUT_EFFECT.contains(&&*key) {
                said.push(format!("{key} has no effect on this name server"));
            } else {
                return Err(SettingsError::Unknown(key));
            }
        }
        if let Some(path) = &self.path {
            let written = mq_files::replace(path, java_properties::print(&changed).as_bytes());
            written.map_err(|error| SettingsError::Write { path: path.clone(), error })?;
        }
        *held = changed;
        *self.flags.lock() = flags;
        Ok((!said.is_empty()).then(|| said.join("; ")))
    }

    /// All settings as properties text.
    pub(crate) fn print(&self) -> String {
        let Flags { list_all_topics, list_topics, order_messages, order_to_brokers } = self.flags();
        let mut all = self.fixed.clone();
        all.insert("configBlackList", FORBIDDEN.join(";"));
        all.insert("enableAllTopicList", list_all_topics.to_string());
        all.insert("enableTopicList", list_topics.to_string());
        all.insert("orderMessageEnable", order_messages.to_string());
        all.insert("returnOrderTopicConfigToBroker", order_to_brokers.to_string());
        java_properties::print(all)
    }
}
