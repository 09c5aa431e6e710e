//! Real files, with `pwrite`, `fdatasync` and `fallocate`.

use std::collections::HashSet;
use std::fs;
use std::io::{self, ErrorKind, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::ReadWriteFlags;

use super::transfer::{read_exact, uninterrupted, write_all};
use super::{Backend, Entry, File, LockGuard, Space, Usage, mmap};

/// A directory of the real file system.
#[derive(Clone, Debug)]
pub struct FileBackend {
    root: PathBuf,
}

impl FileBackend {
    /// Creates the directory when it is missing.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        fs::create_dir_all(&root)?;
        Ok(Self { root: root.canonicalize()? })
    }

    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }
}

impl Backend for FileBackend {
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let file = fs::File::options().read(true).write(true).open(self.root.join(path))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn create(&self, path: &str, bytes: u64, space: Space) -> io::Result<Arc<dyn File>> {
        let path = self.root.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = RealFile(fs::File::options().read(true).write(true).create_new(true).open(&path)?);
        if let Err(error) = file.resize(bytes, space) {
            fs::remove_file(&path).ok();
            return Err(error);
        }
        Ok(Arc::new(file))
    }

    fn list(&self, directory: &str) -> io::Result<Vec<Entry>> {
        let entries = match fs::read_dir(self.root.join(directory)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            names.push(Entry { name, is_directory: entry.file_type()?.is_dir() });
        }
        names.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.root.join(from), self.root.join(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.root.join(path))
    }

    fn sync_directory(&self, directory: &str) -> io::Result<()> {
        fs::File::open(self.root.join(directory))?.sync_all()
    }

    fn sync_all(&self) -> io::Result<()> {
        let root = fs::File::open(&self.root)?;
        uninterrupted(|| Ok(rustix::fs::syncfs(&root)?))
    }

    fn lock(&self, path: &str) -> io::Result<LockGuard> {
        ProcessLock::take(self.root.join(path)).map(|lock| Box::new(lock) as LockGuard)
    }

    fn usage(&self) -> io::Result<Usage> {
        let stat = uninterrupted(|| Ok(rustix::fs::statvfs(&self.root)?))?;
        let limit_bytes = stat.f_blocks * stat.f_frsize;
        Ok(Usage { used_bytes: limit_bytes.saturating_sub(stat.f_bavail * stat.f_frsize), limit_bytes })
    }

    fn locate(&self, path: &str) -> String {
        self.root.join(path).display().to_string()
    }
}

struct RealFile(fs::File);

impl File for RealFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn resize(&self, bytes: u64, space: Space) -> io::Result<()> {
        if space == Space::Sparse || bytes == 0 {
            return self.0.set_len(bytes);
        }
        match self.allocate(FallocateFlags::empty(), 0, bytes) {
            Err(error) if error.kind() == ErrorKind::Unsupported => self.write_zeros(self.bytes()?..bytes),
            done => done,
        }
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        read_exact(at, into, |at, into| self.0.read_at(into, at))
    }

    fn read_now(&self, at: u64, into: &mut [u8]) -> io::Result<bool> {
        let wanted = into.len();
        // Any error means that it was not read now: `read_at` knows the reason better.
        let read = rustix::io::preadv2(&self.0, &mut [IoSliceMut::new(into)], at, ReadWriteFlags::NOWAIT);
        Ok(read == Ok(wanted))
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        write_all(at, bytes, |at, bytes| self.0.write_at(bytes, at))
    }

    fn zero(&self, at: u64, bytes: u64, space: Space) -> io::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let how = match space {
            Space::Reserved => FallocateFlags::ZERO_RANGE,
            Space::Sparse => FallocateFlags::PUNCH_HOLE,
        };
        match self.allocate(how | FallocateFlags::KEEP_SIZE, at, bytes) {
            Err(error) if error.kind() == ErrorKind::Unsupported => self.write_zeros(at..at + bytes),
            done => done,
        }
    }

    fn sync(&self) -> io::Result<()> {
        uninterrupted(|| self.0.sync_data())
    }

    fn map(&self) -> io::Result<Option<Bytes>> {
        mmap::map(&self.0).map(Some)
    }
}

impl RealFile {
    fn allocate(&self, how: FallocateFlags, at: u64, bytes: u64) -> io::Result<()> {
        uninterrupted(|| Ok(rustix::fs::fallocate(&self.0, how, at, bytes)?))
    }
}

/// Apache's `lock` file: an fcntl lock, which Java's `FileLock` takes as well. The kernel gives it to a process, not to
/// a descriptor, so a table of this process's own locks stands beside it.
struct ProcessLock {
    path: PathBuf,
    _file: fs::File,
}

static HELD: Mutex<Option<HashSet<PathBuf>>> = Mutex::new(None);

impl ProcessLock {
    fn take(path: PathBuf) -> io::Result<Self> {
        let mut held = HELD.lock();
        let held = held.get_or_insert_default();
        if held.contains(&path) {
            return Err(ErrorKind::WouldBlock.into());
        }
        let file = fs::File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
        rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            let taken = matches!(error, rustix::io::Errno::ACCESS | rustix::io::Errno::AGAIN);
            if taken { ErrorKind::WouldBlock.into() } else { io::Error::from(error) }
        })?;
        file.write_all_at(b"lock", 0)?;
        held.insert(path.clone());
        Ok(Self { path, _file: file })
    }
}

impl Drop for ProcessLock {
    fn drop(&mut self) {
        HELD.lock().get_or_insert_default().remove(&self.path);
    }
}
