//! A small file system in memory: names, directories and contents. What the memory and the crash backend keep.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::sparse::SparseBytes;
use super::{Entry, LockGuard, Space, Usage};

pub(super) type Inode = u64;

/// A change to the contents of a file.
#[derive(Clone)]
pub(super) enum Change {
    Write { at: u64, bytes: Vec<u8> },
    Zero { at: u64, bytes: u64 },
    Resize(u64),
}

/// A change to the names in a directory.
#[derive(Clone)]
pub(super) enum Naming {
    Create { path: String, inode: Inode },
    Directory(String),
    Rename { from: String, to: String },
    Remove(String),
}

impl Naming {
    /// The directory whose sync makes it last.
    pub(super) fn directory(&self) -> &str {
        match self {
            Self::Create { path, .. } | Self::Directory(path) | Self::Rename { to: path, .. } | Self::Remove(path) => {
                parent(path)
            }
        }
    }
}

#[derive(Clone, Default)]
pub(super) struct Image {
    pub(super) files: BTreeMap<String, Inode>,
    pub(super) directories: BTreeSet<String>,
    pub(super) contents: BTreeMap<Inode, SparseBytes>,
    pub(super) reserved: BTreeMap<Inode, u64>,
    next_inode: Inode,
}

impl Image {
    pub(super) fn new_inode(&mut self) -> Inode {
        self.next_inode += 1;
        self.next_inode
    }

    pub(super) fn inode(&self, path: &str) -> io::Result<Inode> {
        self.files.get(path).copied().ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// An error if there is no such directory.
    pub(super) fn directory(&self, path: &str) -> io::Result<()> {
        let there = path.is_empty() || self.directories.contains(path);
        if there { Ok(()) } else { Err(ErrorKind::NotFound.into()) }
    }

    pub(super) fn content(&self, inode: Inode) -> io::Result<&SparseBytes> {
        self.contents.get(&inode).ok_or_else(|| ErrorKind::NotFound.into())
    }

    pub(super) fn change(&mut self, inode: Inode, change: &Change) {
        let content = self.contents.entry(inode).or_default();
        match change {
            Change::Write { at, bytes } => content.write(*at, bytes),
            Change::Zero { at, bytes } => content.zero(*at, *bytes),
            Change::Resize(bytes) => content.resize(*bytes),
        }
    }

    pub(super) fn name(&mut self, naming: &Naming) {
        match naming {
            Naming::Create { path, inode } => {
                self.files.insert(path.clone(), *inode);
                self.contents.entry(*inode).or_default();
                self.next_inode = self.next_inode.max(*inode);
            }
            Naming::Directory(path) => {
                self.directories.insert(path.clone());
            }
            Naming::Rename { from, to } => {
                if let Some(inode) = self.files.remove(from) {
                    self.files.insert(to.clone(), inode);
                }
            }
            Naming::Remove(path) => {
                self.files.remove(path);
            }
        }
    }

    /// The namings that a new file needs, its missing directories first.
    pub(super) fn creation(&mut self, path: &str) -> io::Result<(Inode, Vec<Naming>)> {
        if self.files.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let mut namings = Vec::new();
        let mut directory = parent(path);
        while !directory.is_empty() && !self.directories.contains(directory) {
            namings.push(Naming::Directory(directory.to_owned()));
            directory = parent(directory);
        }
        namings.reverse();
        let inode = self.new_inode();
        namings.push(Naming::Create { path: path.to_owned(), inode });
        Ok((inode, namings))
    }

    pub(super) fn list(&self, directory: &str) -> Vec<Entry> {
        let inside = |path: &String| parent(path) == directory && !path.is_empty();
        let name = |path: &String| path.rsplit('/').next().unwrap_or_default().to_owned();
        let files = self.files.keys().filter(|path| inside(path));
        let directories = self.directories.iter().filter(|path| inside(path));
        let mut entries: Vec<Entry> = files
            .map(|path| Entry { name: name(path), is_directory: false })
            .chain(directories.map(|path| Entry { name: name(path), is_directory: true }))
            .collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries
    }

    pub(super) fn reserve(&mut self, inode: Inode, bytes: u64, space: Space) {
        let reserved = if space == Space::Reserved { bytes } else { 0 };
        self.reserved.insert(inode, reserved);
    }

    pub(super) fn used_bytes(&self) -> u64 {
        let taken = |inode: &Inode| {
            let written = self.contents.get(inode).map_or(0, SparseBytes::used_bytes);
            written.max(self.reserved.get(inode).copied().unwrap_or(0))
        };
        self.files.values().map(taken).sum()
    }

    /// Bytes that a write takes beyond what the file has.
    pub(super) fn missing_bytes(&self, inode: Inode, at: u64, bytes: u64) -> u64 {
        let reserved = self.reserved.get(&inode).copied().unwrap_or(0);
        if at + bytes <= reserved {
            0
        } else {
            self.contents.get(&inode).map_or(bytes, |file| file.missing_bytes(at, bytes))
        }
    }

    /// Forgets files whose directory, and contents whose name did not outlive the crash.
    pub(super) fn drop_orphans(&mut self) {
        let directories = &self.directories;
        let reachable = |path: &str| {
            let mut directory = parent(path);
            while !directory.is_empty() && directories.contains(directory) {
                directory = parent(directory);
            }
            directory.is_empty()
        };
        self.files.retain(|path, _| reachable(path));
        let kept = self.directories.iter().filter(|path| reachable(path)).cloned().collect();
        self.directories = kept;
        let named: BTreeSet<Inode> = self.files.values().copied().collect();
        self.contents.retain(|inode, _| named.contains(inode));
    }

    pub(super) fn usage(&self, limit_bytes: u64) -> Usage {
        Usage { used_bytes: self.used_bytes(), limit_bytes }
    }
}

pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// The store's lock where there are no processes.
#[derive(Clone, Default)]
pub(super) struct MemoryLock(Arc<AtomicBool>);

impl MemoryLock {
    pub(super) fn take(&self) -> io::Result<LockGuard> {
        if self.0.swap(true, Ordering::AcqRel) {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(HeldLock(self.0.clone())))
    }
}

struct HeldLock(Arc<AtomicBool>);

impl Drop for HeldLock {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
