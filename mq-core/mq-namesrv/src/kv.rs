//! Key-value configuration by namespace, kept in one JSON file when a path is given (`kvConfig.json`, Apache's shape).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use mq_protocol::body;
use serde::{Deserialize, Serialize};

/// Entries that one name server keeps: configuration, not a database.
const MAX_ENTRIES: usize = 10_000;

#[derive(Debug, thiserror::Error)]
pub(crate) enum KvError {
    #[error("the name server keeps at most {MAX_ENTRIES} configuration entries")]
    Full,
    #[error("{path}: {error}", path = path.display())]
    Write { path: PathBuf, error: io::Error },
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Stored {
    config_table: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Debug)]
pub(crate) struct KvTable {
    path: Option<PathBuf>,
    stored: Stored,
}

impl KvTable {
    /// An absent file is an empty table; an unreadable one is set aside and said so.
    pub(crate) fn open(path: Option<PathBuf>) -> io::Result<Self> {
        let stored = path.as_deref().map(read).transpose()?.unwrap_or_default();
        Ok(Self { path, stored })
    }

    pub(crate) fn get(&self, namespace: &str, key: &str) -> Option<&str> {
        self.stored.config_table.get(namespace)?.get(key).map(String::as_str)
    }

    pub(crate) fn namespace(&self, namespace: &str) -> Option<&BTreeMap<String, String>> {
        self.stored.config_table.get(namespace)
    }

    pub(crate) fn put(&mut self, namespace: &str, key: &str, value: &str) -> Result<(), KvError> {
        let entries = self.stored.config_table.values().map(BTreeMap::len).sum::<usize>();
        if entries >= MAX_ENTRIES && self.get(namespace, key).is_none() {
            return Err(KvError::Full);
        }
        self.stored.config_table.entry(namespace.to_owned()).or_default().insert(key.to_owned(), value.to_owned());
        self.save()
    }

    pub(crate) fn delete(&mut self, namespace: &str, key: &str) -> Result<(), KvError> {
        if let Some(entries) = self.stored.config_table.get_mut(namespace) {
            entries.remove(key);
        }
        self.save()
    }

    fn save(&self) -> Result<(), KvError> {
        let Some(path) = &self.path else { return Ok(()) };
        write_atomically(path, &body::to_json(&self.stored))
            .map_err(|error| KvError::Write { path: path.clone(), error })
    }
}

fn read(path: &Path) -> io::Result<Stored> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Stored::default()),
        Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
    };
    body::from_json("key-value configuration", &bytes).or_else(|error| {
        let aside = path.with_extension("json.unreadable");
        tracing::error!(path = %path.display(), aside = %aside.display(), %error, "set aside; starting without it");
        fs::rename(path, aside)?;
        Ok(Stored::default())
    })
}

pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}
