//! What a store can be told, and the limits it keeps by itself.

use std::sync::Arc;
use std::time::Duration;

use mq_protocol::ids::UnixMillis;
use mq_protocol::record::{Message, StoredMessage};

use crate::index::IndexOptions;

/// One entry of a consume-queue file: log offset u64, record size u32, tags code i64.
pub const QUEUE_ENTRY_BYTES: u64 = 20;
/// Descriptors of queue files that stay open, at most: enough for the busy ones.
pub(crate) const OPEN_QUEUE_FILES: u64 = 1280;
/// The part of the process's descriptors that they may take: one in so many.
pub(crate) const OPEN_QUEUE_FILES_SHARE: u64 = 4;
/// Queue entries that recovery keeps in memory before it writes them: a few MiB.
pub(crate) const RECOVERY_WAITING_ENTRIES: usize = 64 * 1024;
/// Queue entries in memory beyond which appends are refused when their files cannot be written.
pub(crate) const MAX_WAITING_ENTRIES: usize = 1024 * 1024;
/// How often waiting queue entries go to their files.
pub(crate) const WRITE_OUT_EVERY: Duration = Duration::from_secs(1);
/// How often queue files are synced and the checkpoint moves; bounds what an unclean start reads again.
pub(crate) const SETTLE_EVERY: Duration = Duration::from_secs(30);
/// How often the checksums follow the durable mark; bounds how much of the log is without.
pub(crate) const SEAL_EVERY: Duration = Duration::from_secs(1);
/// Rest between two rounds of a thread that has to catch up: it takes a part of the disk, not all of it.
pub(crate) const SEAL_REST: Duration = Duration::from_millis(100);
/// How far the index may lag behind when messages come; a query catches up by itself.
pub(crate) const INDEX_EVERY: Duration = Duration::from_millis(100);
/// The same when none came for a while.
pub(crate) const INDEX_IDLE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushMode {
    /// The durable mark moves after fdatasync; messages are visible once durable. One sync covers all that arrived
    /// during the one before.
    Sync,
    /// Synced at this interval; messages are visible once appended, and lost when power fails in between.
    Async { every: Duration },
    /// No threads: nothing moves but in [`crate::Store::flush`] and [`crate::Store::settle`]. For simulations, which
    /// need the same calls in the same order each time.
    Manual,
}

#[derive(Clone)]
pub struct Options {
    pub segment_bytes: u64,
    pub queue_file_entries: u64,
    /// Disk space that a new segment leaves to everything else; without it the log takes no more.
    pub min_free_bytes: u64,
    pub flush: FlushMode,
    /// Keeps checksums of the whole log beside it. Those that there are, are checked in any case.
    pub checksums: bool,
    pub rules: Arc<dyn RecordRules>,
    /// How messages are found by key; `None`: they are not.
    pub index: Option<IndexOptions>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 30,
            queue_file_entries: 300_000,
            min_free_bytes: 0,
            flush: FlushMode::Sync,
            checksums: true,
            rules: Arc::new(PlainRules),
            index: None,
        }
    }
}

/// What a record's meaning decides and the store does not know. Pure: recovery asks again and must get the same answers.
pub trait RecordRules: Send + Sync {
    /// The tags code of the record's queue entry (for delayed messages the time of delivery).
    fn tags_code(&self, message: &Message, store_timestamp: UnixMillis) -> i64 {
        let _ = store_timestamp;
        message.tags_code()
    }

    /// How many records directly behind this one belong to the same append. Recovery cuts a group that is not whole at
    /// its first byte.
    fn followers(&self, record: &StoredMessage) -> usize {
        let _ = record;
        0
    }
}

/// The hash of the tags; no groups.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainRules;

impl RecordRules for PlainRules {}
