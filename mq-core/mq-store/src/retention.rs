//! Giving up the oldest part of the log, and of everything that points into it. When it is time for that is not known
//! here.

use mq_protocol::ids::{LogOffset, UnixMillis};

use crate::core::Core;
use crate::error::DiskError;
use crate::record_reader::{Step, step};

/// The oldest file of the commit log. It is not the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OldestSegment {
    pub base: LogOffset,
    pub end: LogOffset,
    /// When the first message behind it was stored; nothing in it is younger.
    pub closed_at: UnixMillis,
}

impl Core {
    /// `None` while the log needs all its files, or the last one is still empty.
    pub(crate) fn oldest_segment(&self) -> Result<Option<OldestSegment>, DiskError> {
        let Some((base, end)) = self.segments.oldest() else { return Ok(None) };
        let visible = self.marks.visible();
        if visible <= LogOffset(end) {
            return Ok(None);
        }
        Ok(match step(&*self.segments, LogOffset(end), visible.0)? {
            Step::Record(next) => {
                Some(OldestSegment { base: LogOffset(base), end: LogOffset(end), closed_at: next.store_timestamp })
            }
            Step::Blank(_) | Step::Nothing(_) => None,
        })
    }

    pub(crate) fn remove_segment(&self, segment: OldestSegment) -> Result<(), DiskError> {
        // Asynchronous flushing may still want to sync it.
        if self.marks.durable() < segment.end && self.flush().is_err() {
            return Ok(());
        }
        self.segments.remove_oldest(segment.base.0)
    }

    /// Queue entries, index files and checksums of what the log no longer has.
    pub(crate) fn sweep(&self) -> Result<(), DiskError> {
        // Nobody syncs a queue file meanwhile that is about to go.
        let _settling = self.settling.lock();
        let min = self.segments.min();
        self.queues.all().iter().try_for_each(|queue| queue.forget_below(min))?;
        if let Some(index) = &self.index {
            index.remove_below(min)?;
        }
        self.checksums.forget_gone()
    }
}
