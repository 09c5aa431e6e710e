//! What can go wrong, one struct per fact and one enum per operation.

use std::io;
use std::sync::Arc;

use mq_protocol::ids::{LogOffset, QueueOffset};
use mq_protocol::record::{EncodeError, RecordError};

use crate::backend::Backend;

/// Not the end: writes resume when space is freed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the disk is full at {path}: {used_bytes} of {limit_bytes} bytes are used")]
pub struct DiskFull {
    pub path: String,
    pub used_bytes: u64,
    pub limit_bytes: u64,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum DiskError {
    #[error(transparent)]
    Full(#[from] DiskFull),
    #[error("{path}: {error}")]
    Io { path: String, error: Arc<io::Error> },
}

impl DiskError {
    pub(crate) fn new(backend: &dyn Backend, path: &str, error: io::Error) -> Self {
        let path = backend.locate(path);
        match (error.kind(), backend.usage()) {
            (io::ErrorKind::StorageFull, Ok(usage)) => {
                DiskFull { path, used_bytes: usage.used_bytes, limit_bytes: usage.limit_bytes }.into()
            }
            _ => Self::Io { path, error: Arc::new(error) },
        }
    }
}

/// Puts the path beside what the system said.
pub(crate) trait AtPath<T> {
    fn at_path(self, backend: &dyn Backend, path: &str) -> Result<T, DiskError>;
}

impl<T> AtPath<T> for io::Result<T> {
    fn at_path(self, backend: &dyn Backend, path: &str) -> Result<T, DiskError> {
        self.map_err(|error| DiskError::new(backend, path, error))
    }
}

/// The first failed sync. What the kernel did with the unsynced pages is unknown, so nothing is acknowledged after it
/// and the same file is never synced again: the process has to end and recover.
#[derive(Clone, Debug, thiserror::Error)]
#[error("a sync of the commit log failed, nothing more is acknowledged: {0}")]
pub struct Poisoned(pub DiskError);

/// A part of the commit log, as bytes of its file, is not as it was written.
#[derive(Clone, Debug, thiserror::Error)]
#[error("bytes {from}..{to} of {path}, at log offset {at}, do not match their checksum")]
pub struct Mismatch {
    pub path: String,
    pub at: LogOffset,
    pub from: u64,
    pub to: u64,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("{path}: another process has this store open")]
    Locked { path: String },
    #[error("{path} has {found} bytes, the configured file size is {configured}")]
    FileSize { path: String, found: u64, configured: u64 },
    #[error("{path} is missing: the files of the commit log are not contiguous")]
    Gap { path: String },
    #[error(
        "{path} is damaged at log offset {at} ({reason}), below offset {durable} that was durable; \
         nothing was cut: restore the file or repair it from a replica"
    )]
    Damaged { path: String, at: LogOffset, durable: LogOffset, reason: String },
    #[error("{path}: {reason}")]
    Unsupported { path: String, reason: &'static str },
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
    #[error("record {record} of group {group}: {source}")]
    Encode { group: usize, record: usize, source: EncodeError },
    #[error("group {group} takes {bytes} bytes, a segment has room for {limit}")]
    GroupTooLarge { group: usize, bytes: u64, limit: u64 },
    #[error("group {group}: {topic:?} cannot name a directory")]
    TopicName { group: usize, topic: String },
    #[error("the store is closed")]
    Closed,
}

impl AppendError {
    /// The group that was refused for its own sake, now and whenever it comes again; `None` when it is the store's state.
    #[must_use]
    pub fn culprit(&self) -> Option<usize> {
        match self {
            Self::Encode { group, .. } | Self::GroupTooLarge { group, .. } | Self::TopicName { group, .. } => {
                Some(*group)
            }
            Self::Disk(_) | Self::Poisoned(_) | Self::Closed => None,
        }
    }
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("no readable record at log offset {at}: {reason}")]
    NotARecord { at: LogOffset, reason: RecordError },
    #[error("the record at log offset {at} says that it stands at {stated}")]
    Misplaced { at: LogOffset, stated: LogOffset },
    #[error("the record at log offset {at} says that it stands at offset {stated} of its queue, which no queue has")]
    QueueOffset { at: LogOffset, stated: QueueOffset },
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
}

impl ReadError {
    /// Where no readable record stands and none ever will; `None` for what may be otherwise another time.
    #[must_use]
    pub fn damaged_at(&self) -> Option<LogOffset> {
        match self {
            Self::NotARecord { at, .. } | Self::Misplaced { at, .. } | Self::QueueOffset { at, .. } => Some(*at),
            Self::Disk(_) | Self::Mismatch(_) => None,
        }
    }
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum WaitError {
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
    #[error("log offset {0} is not durable yet")]
    TimedOut(LogOffset),
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum TruncateError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
    #[error("log offset {at} is not between the visible mark {visible} and the end {end}")]
    OutOfRange { at: LogOffset, visible: LogOffset, end: LogOffset },
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum CloseError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
}
