//! The files of all consume queues behind one small cache of open descriptors. Sparse, of full length, not mapped.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::process::{Resource, getrlimit};

use super::entry::{self, QueueEntry};
use crate::backend::{self, Backend, File, Space};
use crate::error::{AtPath, DiskError, OpenError};
use crate::options::{OPEN_QUEUE_FILES, OPEN_QUEUE_FILES_SHARE, QUEUE_ENTRY_BYTES};

pub(crate) struct QueueFiles {
    backend: Arc<dyn Backend>,
    pub(crate) entries_per_file: u64,
    /// A crash may have left files whose length was not durable yet.
    pub(crate) after_crash: bool,
    /// A file that no configuration makes.
    damaged: Mutex<Option<String>>,
    open: Mutex<OpenFiles>,
}

/// Least recently used first out; keyed by path.
struct OpenFiles {
    files: HashMap<String, (Arc<dyn File>, u64)>,
    uses: u64,
    limit: usize,
}

impl QueueFiles {
    pub(crate) fn new(backend: Arc<dyn Backend>, entries_per_file: u64, after_crash: bool) -> Self {
        Self { backend, entries_per_file, after_crash, damaged: Mutex::default(), open: Mutex::new(OpenFiles::new()) }
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    fn file_bytes(&self) -> u64 {
        self.entries_per_file * QUEUE_ENTRY_BYTES
    }

    /// The index of the first entry of the file that holds entry `index`.
    pub(crate) fn first_of(&self, index: u64) -> u64 {
        index - index % self.entries_per_file
    }

    fn path(&self, directory: &str, index: u64) -> String {
        format!("{directory}/{}", backend::offset_name(self.first_of(index) * QUEUE_ENTRY_BYTES))
    }

    /// The first indexes of a queue's files, ascending. Files that a crash left short, or something cut, are made whole.
    pub(crate) fn list(&self, directory: &str) -> Result<Vec<u64>, OpenError> {
        let bases = backend::list_bases(&*self.backend, directory).at_path(&*self.backend, directory)?;
        for base in &bases {
            let path = format!("{directory}/{}", backend::offset_name(*base));
            let file = self.open(&path)?;
            let found = file.bytes().at_path(&*self.backend, &path)?;
            let whole = self.file_bytes();
            let short = found < whole && self.after_crash;
            let torn = !found.is_multiple_of(QUEUE_ENTRY_BYTES) && base.is_multiple_of(whole);
            if torn && !short {
                *self.damaged.lock() =
                    Some(format!("{} has {found} bytes instead of {whole}", self.backend.locate(&path)));
            } else if base % whole != 0 || (found != whole && !short) {
                let path = self.backend.locate(&path);
                return Err(OpenError::FileSize { path, found, configured: whole });
            }
            if short || torn {
                file.resize(whole, Space::Sparse).at_path(&*self.backend, &path)?;
            }
        }
        Ok(bases.into_iter().map(|base| base / QUEUE_ENTRY_BYTES).collect())
    }

    pub(crate) fn damage(&self) -> Option<String> {
        self.damaged.lock().clone()
    }

    fn open(&self, path: &str) -> Result<Arc<dyn File>, DiskError> {
        let mut open = self.open.lock();
        open.uses += 1;
        let now = open.uses;
        if let Some((file, used)) = open.files.get_mut(path) {
            *used = now;
            return Ok(file.clone());
        }
        let file = self.backend.open(path).at_path(&*self.backend, path)?;
        open.insert(path, file.clone());
        Ok(file)
    }

    fn open_or_create(&self, path: &str) -> Result<Arc<dyn File>, DiskError> {
        match self.open(path) {
            Err(DiskError::Io { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => {
                let made = self.backend.create(path, self.file_bytes(), Space::Sparse);
                let file = made.at_path(&*self.backend, path)?;
                self.open.lock().insert(path, file.clone());
                Ok(file)
            }
            other => other,
        }
    }

    /// Fills `into` with whole entries from `index` on, as far as the file goes; says how many.
    pub(crate) fn read(
        &self,
        directory: &str,
        index: u64,
        into: &mut [[u8; entry::BYTES]],
    ) -> Result<usize, DiskError> {
        let path = self.path(directory, index);
        let within = index - self.first_of(index);
        let count = (into.len() as u64).min(self.entries_per_file - within) as usize;
        let file = self.open(&path)?;
        let read = file.read_at(within * QUEUE_ENTRY_BYTES, into[..count].as_flattened_mut());
        read.at_path(&*self.backend, &path)?;
        Ok(count)
    }

    pub(crate) fn read_one(&self, directory: &str, index: u64) -> Result<Option<QueueEntry>, DiskError> {
        let mut one = [[0; entry::BYTES]];
        self.read(directory, index, &mut one)?;
        Ok(QueueEntry::decode(&one[0]))
    }

    /// Writes consecutive entries, one write per file. Says which files were touched, by their first index.
    pub(crate) fn write(&self, directory: &str, index: u64, entries: &[u8]) -> Result<Vec<u64>, DiskError> {
        let (mut at, mut rest, mut touched) = (index, entries, Vec::with_capacity(1));
        while !rest.is_empty() {
            let path = self.path(directory, at);
            let within = at - self.first_of(at);
            let room = ((self.entries_per_file - within) * QUEUE_ENTRY_BYTES) as usize;
            let (now, later) = rest.split_at(room.min(rest.len()));
            let written = self.open_or_create(&path)?.write_at(within * QUEUE_ENTRY_BYTES, now);
            written.at_path(&*self.backend, &path)?;
            touched.push(self.first_of(at));
            at += now.len() as u64 / QUEUE_ENTRY_BYTES;
            rest = later;
        }
        Ok(touched)
    }

    pub(crate) fn sync(&self, directory: &str, index: u64) -> Result<(), DiskError> {
        let path = self.path(directory, index);
        let synced = self.open(&path)?;
        synced.sync().and_then(|()| backend::sync_parents(&*self.backend, &path)).at_path(&*self.backend, &path)
    }

    /// Makes sure that the file of entry `index` is there: its name tells a restart where the queue begins.
    pub(crate) fn make(&self, directory: &str, index: u64) -> Result<(), DiskError> {
        self.open_or_create(&self.path(directory, index)).map(drop)
    }

    /// Forgets all entries from `index` on: zeros in its file, later files removed. Says which file has to be synced.
    pub(crate) fn cut(&self, directory: &str, index: u64) -> Result<Option<u64>, DiskError> {
        let mut bases = backend::list_bases(&*self.backend, directory).at_path(&*self.backend, directory)?;
        while let Some(last) = bases.pop() {
            let first = last / QUEUE_ENTRY_BYTES;
            let path = self.path(directory, first);
            if first >= index && !bases.is_empty() {
                self.remove(&path)?;
                continue;
            }
            let from = index.saturating_sub(first) * QUEUE_ENTRY_BYTES;
            if from < self.file_bytes() {
                let zeroed = self.open(&path)?.zero(from, self.file_bytes() - from, Space::Sparse);
                zeroed.at_path(&*self.backend, &path)?;
            }
            return Ok(Some(first));
        }
        Ok(None)
    }

    /// Removes the files that hold nothing from `index` on.
    pub(crate) fn remove_below(&self, directory: &str, index: u64) -> Result<(), DiskError> {
        for base in backend::list_bases(&*self.backend, directory).at_path(&*self.backend, directory)? {
            if base / QUEUE_ENTRY_BYTES < self.first_of(index) {
                self.remove(&format!("{directory}/{}", backend::offset_name(base)))?;
            }
        }
        Ok(())
    }

    fn remove(&self, path: &str) -> Result<(), DiskError> {
        self.open.lock().files.remove(path);
        self.backend.remove(path).at_path(&*self.backend, path)
    }
}

impl OpenFiles {
    fn new() -> Self {
        let share = getrlimit(Resource::Nofile).current.map_or(OPEN_QUEUE_FILES, |all| all / OPEN_QUEUE_FILES_SHARE);
        Self { files: HashMap::new(), uses: 0, limit: share.clamp(1, OPEN_QUEUE_FILES) as usize }
    }

    fn insert(&mut self, path: &str, file: Arc<dyn File>) {
        if self.files.len() >= self.limit {
            // The older half goes at once, so that the search costs little per file.
            let mut ages: Vec<u64> = self.files.values().map(|(_, used)| *used).collect();
            let middle = ages.len() / 2;
            let (_, median, _) = ages.select_nth_unstable(middle);
            let median = *median;
            self.files.retain(|_, (_, used)| *used >= median);
        }
        self.uses += 1;
        self.files.insert(path.to_owned(), (file, self.uses));
    }
}
