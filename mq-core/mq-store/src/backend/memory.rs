//! Files in memory. Clones share them, so that a store can be closed and opened again.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::image::{Change, Image, Inode, MemoryLock, Naming};
use super::{Backend, Entry, File, LockGuard, Space, Usage};

#[derive(Clone, Default)]
pub struct MemoryBackend(Arc<Shared>);

#[derive(Default)]
struct Shared {
    image: Mutex<Image>,
    lock: MemoryLock,
}

impl MemoryBackend {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Backend for MemoryBackend {
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let inode = self.0.image.lock().inode(path)?;
        Ok(Arc::new(MemoryFile { shared: self.0.clone(), inode }))
    }

    fn create(&self, path: &str, bytes: u64, _space: Space) -> io::Result<Arc<dyn File>> {
        let mut image = self.0.image.lock();
        let (inode, namings) = image.creation(path)?;
        namings.iter().for_each(|naming| image.name(naming));
        image.change(inode, &Change::Resize(bytes));
        Ok(Arc::new(MemoryFile { shared: self.0.clone(), inode }))
    }

    fn list(&self, directory: &str) -> io::Result<Vec<Entry>> {
        Ok(self.0.image.lock().list(directory))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut image = self.0.image.lock();
        image.inode(from)?;
        image.name(&Naming::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut image = self.0.image.lock();
        image.inode(path)?;
        image.name(&Naming::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_directory(&self, directory: &str) -> io::Result<()> {
        self.0.image.lock().directory(directory)
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _path: &str) -> io::Result<LockGuard> {
        self.0.lock.take()
    }

    fn usage(&self) -> io::Result<Usage> {
        Ok(self.0.image.lock().usage(u64::MAX))
    }

    fn locate(&self, path: &str) -> String {
        format!("memory:{path}")
    }
}

struct MemoryFile {
    shared: Arc<Shared>,
    inode: Inode,
}

impl MemoryFile {
    fn change(&self, change: &Change) -> io::Result<()> {
        self.shared.image.lock().change(self.inode, change);
        Ok(())
    }
}

impl File for MemoryFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.shared.image.lock().content(self.inode)?.len)
    }

    fn resize(&self, bytes: u64, _space: Space) -> io::Result<()> {
        self.change(&Change::Resize(bytes))
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let image = self.shared.image.lock();
        if image.content(self.inode)?.read(at, into) { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut image = self.shared.image.lock();
        image.contents.entry(self.inode).or_default().write(at, bytes);
        Ok(())
    }

    fn zero(&self, at: u64, bytes: u64, _space: Space) -> io::Result<()> {
        self.change(&Change::Zero { at, bytes })
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn map(&self) -> io::Result<Option<Bytes>> {
        Ok(None)
    }
}
