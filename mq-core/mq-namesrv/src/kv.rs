//! Key-value configuration by namespace, kept in one JSON file when a path is given (`kvConfig.json`, Apache's shape).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mq_protocol::body;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Entries of one name server, and bytes of all of them: configuration, not a database.
const MAX_ENTRIES: usize = 10_000;
const MAX_BYTES: usize = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum KvError {
    #[error("the name server keeps at most {MAX_ENTRIES} configuration entries; delete what nobody uses")]
    Full,
    #[error("with this entry the configuration takes {bytes} bytes, the limit is {MAX_BYTES}; delete what nobody uses")]
    TooLarge { bytes: usize },
    #[error("{path}: {error}", path = path.display())]
    Write { path: PathBuf, error: io::Error },
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Stored {
    config_table: BTreeMap<String, BTreeMap<String, String>>,
}

impl Stored {
    fn entries(&self) -> usize {
        self.config_table.values().map(BTreeMap::len).sum()
    }

    fn bytes(&self) -> usize {
        let of_entries = |entries: &BTreeMap<String, String>| -> usize {
            entries.iter().map(|(key, value)| key.len() + value.len()).sum()
        };
        self.config_table.iter().map(|(namespace, entries)| namespace.len() + of_entries(entries)).sum()
    }
}

/// A change is on disk before it is seen. Readers never wait for the disk.
#[derive(Debug)]
pub(crate) struct KvTable {
    path: Option<PathBuf>,
    stored: Mutex<Arc<Stored>>,
    /// Held through a change and its write.
    changing: Mutex<()>,
}

impl KvTable {
    /// An absent file is an empty table; with an unreadable one there is no start, for the next change would replace it.
    pub(crate) fn open(path: Option<PathBuf>) -> io::Result<Self> {
        let stored = path.as_deref().map(read).transpose()?.unwrap_or_default();
        Ok(Self { path, stored: Mutex::new(Arc::new(stored)), changing: Mutex::default() })
    }

    fn stored(&self) -> Arc<Stored> {
        self.stored.lock().clone()
    }

    pub(crate) fn get(&self, namespace: &str, key: &str) -> Option<String> {
        self.stored().config_table.get(namespace)?.get(key).cloned()
    }

    pub(crate) fn namespace(&self, namespace: &str) -> Option<BTreeMap<String, String>> {
        self.stored().config_table.get(namespace).cloned()
    }

    pub(crate) fn put(&self, namespace: &str, key: &str, value: &str) -> Result<(), KvError> {
        self.change(|stored| {
            let before = stored.bytes();
            let entries = stored.config_table.entry(namespace.to_owned()).or_default();
            entries.insert(key.to_owned(), value.to_owned());
            // A file that is over a limit already may still shrink.
            match stored.bytes() {
                _ if stored.entries() > MAX_ENTRIES => Err(KvError::Full),
                bytes if bytes > MAX_BYTES && bytes > before => Err(KvError::TooLarge { bytes }),
                _ => Ok(true),
            }
        })
    }

    pub(crate) fn delete(&self, namespace: &str, key: &str) -> Result<(), KvError> {
        self.change(|stored| {
            let Some(entries) = stored.config_table.get_mut(namespace) else { return Ok(false) };
            let is_removed = entries.remove(key).is_some();
            if entries.is_empty() {
                stored.config_table.remove(namespace);
            }
            Ok(is_removed)
        })
    }

    /// `edit` says whether it changed something.
    fn change(&self, edit: impl FnOnce(&mut Stored) -> Result<bool, KvError>) -> Result<(), KvError> {
        let _changing = self.changing.lock();
        let mut next = Stored::clone(&self.stored());
        if edit(&mut next)? {
            if let Some(path) = &self.path {
                mq_files::replace(path, &body::to_json(&next))
                    .map_err(|error| KvError::Write { path: path.clone(), error })?;
            }
            *self.stored.lock() = Arc::new(next);
        }
        Ok(())
    }
}

fn read(path: &Path) -> io::Result<Stored> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Stored::default()),
        Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
    };
    body::from_json("key-value configuration", &bytes).map_err(|error| {
        let advice = "repair it, or move it away to start without its entries";
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}; {advice}", path.display()))
    })
}
