//! The files of the commit log: contiguous, of equal length, preallocated. Knows positions, not records.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use mq_protocol::ids::LogOffset;
use parking_lot::{Mutex, RwLock};

use crate::backend::{self, Backend, File, Space, Usage};
use crate::error::{AtPath, DiskError, DiskFull, OpenError};

pub(crate) const DIRECTORY: &str = "commitlog";
/// Enough to tell one log's end from another's.
const TAIL_BYTES: u64 = 64 << 10;

pub(crate) struct Segment {
    pub(crate) base: u64,
    pub(crate) path: String,
    pub(crate) file: Arc<dyn File>,
    map: Option<Bytes>,
}

impl Segment {
    fn new(base: u64, path: String, file: Arc<dyn File>) -> std::io::Result<Self> {
        let map = file.map()?;
        Ok(Self { base, path, file, map })
    }

    /// Bytes of this segment, without a copy where the file is mapped. The caller knows that they were written.
    fn bytes(&self, at: u64, bytes: usize) -> std::io::Result<Bytes> {
        let within = (at - self.base) as usize;
        if let Some(map) = &self.map {
            return Ok(map.slice(within..within + bytes));
        }
        let mut copy = vec![0; bytes];
        self.file.read_at(within as u64, &mut copy)?;
        Ok(copy.into())
    }
}

pub(crate) struct Segments {
    backend: Arc<dyn Backend>,
    pub(crate) segment_bytes: u64,
    /// Left to everybody else when a segment is made.
    min_free_bytes: u64,
    /// Ascending; not empty once the store has an end.
    list: RwLock<Vec<Arc<Segment>>>,
    /// Created ahead of its use, so that an append does not wait for the allocation.
    spare: Mutex<Option<Arc<Segment>>>,
}

impl Segments {
    pub(crate) fn load(backend: Arc<dyn Backend>, segment_bytes: u64, min_free_bytes: u64) -> Result<Self, OpenError> {
        let bases = backend::list_bases(&*backend, DIRECTORY).at_path(&*backend, DIRECTORY)?;
        let mut list: Vec<Arc<Segment>> = Vec::with_capacity(bases.len());
        for (index, base) in bases.iter().copied().enumerate() {
            let path = path_of(base);
            let file = backend.open(&path).at_path(&*backend, &path)?;
            let found = file.bytes().at_path(&*backend, &path)?;
            if found != segment_bytes {
                if index + 1 == bases.len() && holds_nothing(&*file, found).at_path(&*backend, &path)? {
                    // The power failed while this file was being made.
                    backend.remove(&path).at_path(&*backend, &path)?;
                    break;
                }
                let path = backend.locate(&path);
                return Err(OpenError::FileSize { path, found, configured: segment_bytes });
            }
            if let Some(last) = list.last()
                && last.base + segment_bytes != base
            {
                return Err(OpenError::Gap { path: backend.locate(&path_of(last.base + segment_bytes)) });
            }
            let segment = Segment::new(base, path.clone(), file).at_path(&*backend, &path)?;
            list.push(Arc::new(segment));
        }
        Ok(Self { backend, segment_bytes, min_free_bytes, list: RwLock::new(list), spare: Mutex::new(None) })
    }

    pub(crate) fn base_of(&self, at: u64) -> u64 {
        at - at % self.segment_bytes
    }

    /// The first offset that the log still has.
    pub(crate) fn min(&self) -> LogOffset {
        LogOffset(self.list.read().first().map_or(0, |segment| segment.base))
    }

    /// The first offset behind the last file.
    pub(crate) fn limit(&self) -> u64 {
        self.list.read().last().map_or(0, |segment| segment.base + self.segment_bytes)
    }

    pub(crate) fn bases(&self) -> Vec<u64> {
        self.list.read().iter().map(|segment| segment.base).collect()
    }

    pub(crate) fn get(&self, at: u64) -> Option<Arc<Segment>> {
        let list = self.list.read();
        let first = list.first()?.base;
        let index = at.checked_sub(first)? / self.segment_bytes;
        list.get(index as usize).cloned()
    }

    /// Bytes of one segment; `None` outside of the log or across a segment's end.
    pub(crate) fn bytes(&self, at: u64, bytes: usize) -> Result<Option<Bytes>, DiskError> {
        let Some(segment) = self.get(at) else { return Ok(None) };
        if at + bytes as u64 > segment.base + self.segment_bytes {
            return Ok(None);
        }
        segment.bytes(at, bytes).map(Some).at_path(&*self.backend, &segment.path)
    }

    /// The checksum of the last bytes before `end`, of one segment.
    pub(crate) fn tail(&self, end: u64) -> Result<u32, DiskError> {
        let from = self.base_of(end.saturating_sub(1)).max(end.saturating_sub(TAIL_BYTES));
        let bytes = self.bytes(from, (end - from) as usize)?;
        Ok(bytes.map_or(0, |bytes| crc32fast::hash(&bytes)))
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let segment = self.get(at).expect("appends prepare the segment that they write to");
        assert!(at + bytes.len() as u64 <= segment.base + self.segment_bytes, "a write stays in its segment");
        segment.file.write_at(at - segment.base, bytes).at_path(&*self.backend, &segment.path)
    }

    /// Writes zeros, as far as the segment at the range's start reaches; tells where they end.
    pub(crate) fn write_zeros(&self, range: Range<u64>) -> Result<u64, DiskError> {
        let Some(segment) = self.get(range.start).filter(|_| !range.is_empty()) else { return Ok(range.start) };
        let end = range.end.min(segment.base + self.segment_bytes);
        let written = segment.file.write_zeros(range.start - segment.base..end - segment.base);
        written.map(|()| end).at_path(&*self.backend, &segment.path)
    }

    /// Makes sure that the segment at `at`, which is in the log or follows its last byte, is there.
    pub(crate) fn prepare(&self, at: u64) -> Result<(), DiskError> {
        if self.get(at).is_some() {
            return Ok(());
        }
        let mut spare = self.spare.lock();
        let base = self.base_of(at);
        let segment = match spare.take().filter(|segment| segment.base == base) {
            Some(segment) => segment,
            None => self.create(base)?,
        };
        let mut list = self.list.write();
        assert!(list.last().is_none_or(|last| last.base + self.segment_bytes == base), "segments are contiguous");
        list.push(segment);
        Ok(())
    }

    /// Creates the segment behind the last one before it is needed.
    pub(crate) fn prepare_spare(&self) -> Result<(), DiskError> {
        let mut spare = self.spare.lock();
        let base = self.limit();
        if spare.is_none() {
            *spare = Some(self.create(base)?);
        }
        Ok(())
    }

    pub(crate) fn has_spare(&self) -> bool {
        self.spare.lock().is_some()
    }

    /// Durable, with all its blocks, before it is used.
    fn create(&self, base: u64) -> Result<Arc<Segment>, DiskError> {
        let path = path_of(base);
        // Asked first: an allocation that fails halfway takes long, and takes what others need meanwhile.
        let Usage { used_bytes, limit_bytes } = self.disk_usage()?;
        let needed = self.segment_bytes.saturating_add(self.min_free_bytes);
        if limit_bytes.saturating_sub(used_bytes) < needed {
            return Err(DiskFull { path: self.backend.locate(&path), used_bytes, limit_bytes }.into());
        }
        let make = || {
            let file = self.backend.create(&path, self.segment_bytes, Space::Reserved)?;
            let ready = file.sync().and_then(|()| backend::sync_parents(&*self.backend, &path));
            match ready.and_then(|()| Segment::new(base, path.clone(), file)) {
                Ok(segment) => Ok(Arc::new(segment)),
                Err(error) => {
                    self.backend.remove(&path).ok();
                    Err(error)
                }
            }
        };
        make().at_path(&*self.backend, &path)
    }

    /// Syncs every file that has bytes in the range.
    pub(crate) fn sync(&self, from: u64, to: u64) -> Result<(), DiskError> {
        let mut at = from;
        while at < to {
            let segment = self.get(at).expect("written bytes lie in a segment");
            segment.file.sync().at_path(&*self.backend, &segment.path)?;
            at = segment.base + self.segment_bytes;
        }
        Ok(())
    }

    /// Overwrites a range with zeros.
    pub(crate) fn zero(&self, from: u64, to: u64) -> Result<(), DiskError> {
        let mut at = from;
        while at < to {
            let segment = self.get(at).expect("written bytes lie in a segment");
            let end = to.min(segment.base + self.segment_bytes);
            let zeroed = segment.file.zero(at - segment.base, end - at, Space::Reserved);
            zeroed.at_path(&*self.backend, &segment.path)?;
            at = end;
        }
        Ok(())
    }

    /// Makes `end` the end: zeros behind it, no further files. The last file goes first, so that a crash in between
    /// leaves a contiguous log.
    pub(crate) fn cut(&self, end: u64) -> Result<(), DiskError> {
        let mut spare = self.spare.lock();
        if let Some(spare) = spare.take() {
            self.remove(&spare)?;
        }
        loop {
            let Some(last) = self.list.read().last().cloned() else { return Ok(()) };
            if last.base < end || last.base == self.min().0 {
                break;
            }
            self.list.write().pop();
            self.remove(&last)?;
        }
        self.zero(end, self.limit())?;
        self.sync(end, self.limit())
    }

    pub(crate) fn disk_usage(&self) -> Result<Usage, DiskError> {
        self.backend.usage().at_path(&*self.backend, DIRECTORY)
    }

    /// Where the first segment begins and the second one does. `None`: there is only one, which the log needs.
    pub(crate) fn oldest(&self) -> Option<(u64, u64)> {
        match self.list.read()[..] {
            [ref first, ref second, ..] => Some((first.base, second.base)),
            _ => None,
        }
    }

    /// Gives up the first segment. Slices of it that readers hold stay valid. A file that cannot be removed stays the
    /// first one: if a later one went before it, the log would have a gap.
    pub(crate) fn remove_oldest(&self, base: u64) -> Result<(), DiskError> {
        let first = self.get(base).expect("the oldest segment is there");
        self.remove(&first)?;
        let mut list = self.list.write();
        assert!(list.len() > 1, "the last segment stays");
        assert_eq!(list[0].base, base, "the oldest segment goes first");
        list.remove(0);
        Ok(())
    }

    /// Removes the file that was made ahead, as Apache does before a clean end.
    pub(crate) fn drop_spare(&self) -> Result<(), DiskError> {
        self.spare.lock().take().map_or(Ok(()), |spare| self.remove(&spare))
    }

    fn remove(&self, segment: &Segment) -> Result<(), DiskError> {
        let removed = match self.backend.remove(&segment.path) {
            // By an earlier attempt, of which the rest failed.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        let removed = removed.and_then(|()| self.backend.sync_directory(DIRECTORY));
        removed.at_path(&*self.backend, &segment.path)
    }
}

pub(crate) fn path_of(base: u64) -> String {
    format!("{DIRECTORY}/{}", backend::offset_name(base))
}

fn holds_nothing(file: &dyn File, bytes: u64) -> std::io::Result<bool> {
    let mut head = vec![0; bytes.min(8) as usize];
    file.read_at(0, &mut head)?;
    Ok(head.iter().all(|byte| *byte == 0))
}
