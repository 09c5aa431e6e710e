//! The few file operations that the store is built on, and the places they can go to: real files, memory, and a memory
//! that forgets what was not synced. Knows nothing of logs, queues or records.
//!
//! Paths are relative to the store's root and use `/`.

mod crash;
mod file;
mod image;
mod memory;
mod mmap;
mod sparse;
mod transfer;

use std::any::Any;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

pub use crash::{CrashBackend, CrashMode, Fault};
pub use file::FileBackend;
pub use memory::MemoryBackend;
pub(crate) use mmap::is_resident;

/// Whether a file owns the blocks of its whole length from the start, or only those that were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    Reserved,
    Sparse,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub is_directory: bool,
}

/// How full the device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub used_bytes: u64,
    pub limit_bytes: u64,
}

/// Holds the store's lock until it is dropped.
pub type LockGuard = Box<dyn Any + Send + Sync>;

static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

pub trait Backend: Send + Sync {
    /// An existing file, for reading and writing.
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>>;
    /// A new file of `bytes` zeros and its missing directories. An existing file is an error.
    fn create(&self, path: &str, bytes: u64, space: Space) -> io::Result<Arc<dyn File>>;
    /// Sorted by name. A directory that does not exist is empty.
    fn list(&self, directory: &str) -> io::Result<Vec<Entry>>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Makes creations, renames and removals in the directory outlive a power cut.
    fn sync_directory(&self, directory: &str) -> io::Result<()>;
    /// Makes everything outlive a power cut, in one go: for when single syncs would be too many.
    fn sync_all(&self) -> io::Result<()>;
    /// Excludes other processes. An error of kind `WouldBlock` if one is there already.
    fn lock(&self, path: &str) -> io::Result<LockGuard>;
    fn usage(&self) -> io::Result<Usage>;
    /// The path as a person would look it up.
    fn locate(&self, path: &str) -> String;
}

pub trait File: Send + Sync {
    fn bytes(&self) -> io::Result<u64>;
    /// New bytes are zeros.
    fn resize(&self, bytes: u64, space: Space) -> io::Result<()>;
    /// Fills `into` or fails.
    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()>;
    /// The same if no disk has to be waited for; false: it has, and what is in `into` says nothing.
    fn read_now(&self, at: u64, into: &mut [u8]) -> io::Result<bool> {
        self.read_at(at, into).map(|()| true)
    }
    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Overwrites with zeros: reserved space stays reserved, sparse space is given back.
    fn zero(&self, at: u64, bytes: u64, space: Space) -> io::Result<()>;
    /// Writes zeros to blocks that may only be reserved: what is written there later changes no map of blocks, and its sync
    /// takes half the time.
    fn write_zeros(&self, mut range: Range<u64>) -> io::Result<()> {
        while !range.is_empty() {
            let bytes = (range.end - range.start).min(ZEROS.len() as u64);
            self.write_at(range.start, &ZEROS[..bytes as usize])?;
            range.start += bytes;
        }
        Ok(())
    }
    /// Returns when the contents and the length would outlive a power cut.
    fn sync(&self) -> io::Result<()>;
    /// A view of the whole file for reading without a copy, where there is one.
    fn map(&self) -> io::Result<Option<Bytes>>;
}

/// Syncs the directories above `path`, the innermost first.
pub(crate) fn sync_parents(backend: &dyn Backend, path: &str) -> io::Result<()> {
    let mut rest = path;
    while let Some((parent, _)) = rest.rsplit_once('/') {
        backend.sync_directory(parent)?;
        rest = parent;
    }
    backend.sync_directory("")
}

/// A file with these bytes, durable, in the place of another one or of none: a crash leaves the old one or the new one.
pub fn replace_file(backend: &dyn Backend, path: &str, bytes: &[u8]) -> io::Result<Arc<dyn File>> {
    let new = format!("{path}.new");
    match backend.remove(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = backend.create(&new, bytes.len() as u64, Space::Sparse)?;
    file.write_at(0, bytes)?;
    file.sync()?;
    backend.rename(&new, path)?;
    sync_parents(backend, path)?;
    Ok(file)
}

pub fn open_if_there(backend: &dyn Backend, path: &str) -> io::Result<Option<Arc<dyn File>>> {
    match backend.open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The name of a file that starts at byte `base` of its log or queue.
pub(crate) fn offset_name(base: u64) -> String {
    format!("{base:020}")
}

/// The bases of the data files in a directory, ascending. Other names are not ours and are left alone.
pub(crate) fn list_bases(backend: &dyn Backend, directory: &str) -> io::Result<Vec<u64>> {
    let is_base = |entry: &Entry| {
        !entry.is_directory && entry.name.len() == 20 && entry.name.bytes().all(|byte| byte.is_ascii_digit())
    };
    let names = backend.list(directory)?;
    Ok(names.iter().filter(|entry| is_base(entry)).filter_map(|entry| entry.name.parse().ok()).collect())
}
