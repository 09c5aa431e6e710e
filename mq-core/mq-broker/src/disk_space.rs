//! How full a directory's file system is.

use std::io;
use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DiskSpace {
    /// Used and free: without what is kept for root, of which nobody else can write a byte.
    pub(crate) total_bytes: u64,
    pub(crate) free_bytes: u64,
}

impl DiskSpace {
    pub(crate) fn of(directory: &Path) -> io::Result<Self> {
        let found = rustix::fs::statvfs(directory)?;
        let (used, free) = (found.f_blocks.saturating_sub(found.f_bfree), found.f_bavail);
        Ok(Self { total_bytes: (used + free) * found.f_frsize, free_bytes: free * found.f_frsize })
    }

    pub(crate) fn used_ratio(self) -> f64 {
        if self.total_bytes == 0 { 0.0 } else { 1.0 - self.free_bytes as f64 / self.total_bytes as f64 }
    }
}
