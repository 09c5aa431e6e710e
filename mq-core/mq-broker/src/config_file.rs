//! One JSON file of `config/`: read leniently, written atomically. Knows nothing of what it holds.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mq_protocol::body;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::{error, warn};

/// A change that could not be written, and so was not made.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}: {error}", path = path.display())]
pub struct SaveError {
    path: PathBuf,
    error: io::Error,
}

#[derive(Debug)]
pub(crate) struct ConfigFile {
    path: PathBuf,
}

impl ConfigFile {
    pub(crate) fn new(directory: &Path, name: &str) -> Self {
        Self { path: directory.join(name) }
    }

    /// The file, or the `.bak` that Apache leaves beside it. Absent is `None`. Unreadable is set aside, said loudly, and
    /// `None` too: a torn file must not keep the broker from serving the log.
    pub(crate) fn load<T: DeserializeOwned>(&self) -> io::Result<Option<T>> {
        for path in [self.path.clone(), with_suffix(&self.path, ".bak")] {
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
            };
            match body::from_json("configuration file", &bytes) {
                Ok(value) => return Ok(Some(value)),
                Err(error) => set_aside(&path, &error)?,
            }
        }
        Ok(None)
    }

    pub(crate) fn save(&self, value: &impl Serialize) -> Result<(), SaveError> {
        let written = pretty(value).and_then(|bytes| mq_store::write_file_atomically(&self.path, &bytes));
        written.map_err(|error| SaveError { path: self.path.clone(), error })
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn set_aside(path: &Path, reason: &body::BodyError) -> io::Result<()> {
    let aside = with_suffix(path, ".unreadable");
    error!(file = %path.display(), aside = %aside.display(), %reason, "unreadable, set aside");
    fs::rename(path, &aside).inspect_err(|error| warn!(%error, "cannot set it aside"))
}

/// Indented by tabs, as Apache writes these files.
fn pretty(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))?;
    Ok(out)
}
