//! The store as its users see it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::Thread;
use std::time::Duration;

use bytestring::ByteString;
use mq_protocol::ids::{LogOffset, QueueId, QueueOffset, UnixMillis};
use mq_protocol::record::{Message, StoredMessage};
use mq_protocol::record_view::RecordView;
use parking_lot::Mutex;

use crate::append::{Appended, Appender};
use crate::backend::{Backend, LockGuard, Usage};
use crate::clock::Clock;
use crate::core::{Core, Listener};
use crate::error::{AppendError, CloseError, DiskError, OpenError, Poisoned, ReadError, TruncateError, WaitError};
use crate::failpoints;
use crate::index::{Found, Index, TimeWindow};
use crate::options::{FlushMode, Options};
use crate::pull::{Boundary, Bounds, PullLimits, Pulled, Wanted};
use crate::query::{KeyKind, Queried};
use crate::queue::{QueueEntry, Roll};
use crate::record_reader::{Step, passed, step};
use crate::recovery::{self, RecoveryReport};
use crate::retention::OldestSegment;
use crate::threads::Threads;

/// A store of messages in one directory. Clones are handles to the same store.
///
/// Dropping the last handle stops the threads and leaves the files as a crash would; [`Store::close`] ends it clean.
#[derive(Clone)]
pub struct Store(Arc<Running>);

struct Running {
    core: Arc<Core>,
    /// Woken by each append, unless flushing is asynchronous.
    flusher: Option<Thread>,
    threads: Mutex<Threads>,
    lock: Mutex<Option<LockGuard>>,
}

impl Store {
    /// Locks, recovers and starts. Everything that recovery found is durable and visible when this returns.
    pub fn open(
        backend: Arc<dyn Backend>,
        options: Options,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, RecoveryReport), OpenError> {
        let lock = backend.lock("lock").map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => OpenError::Locked { path: backend.locate("lock") },
            _ => DiskError::new(&*backend, "lock", error).into(),
        })?;
        let recovered = recovery::recover(&backend, &options)?;
        let (end, until) = (recovered.report.end, recovered.last_timestamp);
        let found = Found {
            clean: recovered.report.clean,
            own: recovered.report.durable_mark.is_some(),
            whole_until: recovered.indexed_until,
            log_end: end,
        };
        let open_index = |shape| Index::open(backend.clone(), recovered.segments.clone(), clock.clone(), shape, &found);
        let index = options.index.map(open_index).transpose()?;
        let appender = Appender::new(recovered.segments.clone(), &options, clock, end, until);
        let report = recovered.report.clone();
        let core = Arc::new(Core::new(options.flush, recovered, appender, index));
        let (threads, flusher) = Threads::start(&core);
        let running = Running { core, flusher, threads: Mutex::new(threads), lock: Mutex::new(Some(lock)) };
        Ok((Self(Arc::new(running)), report))
    }

    /// One lock and one contiguous write for all groups (one more when the segment ends). All or none are written; a
    /// group is contiguous in the log. They are acknowledged by [`Store::durable`] reaching [`Appended::end`].
    pub fn append<G: AsRef<[Message]>>(&self, groups: &[G]) -> Result<Vec<Appended>, AppendError> {
        let core = &self.0.core;
        core.check_open()?;
        let appended = core.appender.append(groups, &core.queues, |end| core.marks.set_written(end))?;
        failpoints::hit("store-after-append", core);
        match core.flush_mode {
            FlushMode::Sync => self.0.wake_flusher(),
            // On this thread: whoever waits for the message learns of it without a detour over another thread.
            FlushMode::Async { .. } => core.publish_written(),
            FlushMode::Manual => {}
        }
        Ok(appended)
    }

    /// Everything below is durable.
    #[must_use]
    pub fn durable(&self) -> LogOffset {
        self.0.core.marks.durable()
    }

    /// Everything below may be read: what is durable and committed, or with asynchronous flushing what is written.
    #[must_use]
    pub fn visible(&self) -> LogOffset {
        self.0.core.marks.visible()
    }

    /// The first byte behind the last record.
    #[must_use]
    pub fn end(&self) -> LogOffset {
        self.0.core.marks.written()
    }

    /// The first offset that the log still has.
    #[must_use]
    pub fn min(&self) -> LogOffset {
        self.0.core.segments.min()
    }

    pub fn wait_durable(&self, up_to: LogOffset, timeout: Duration) -> Result<(), WaitError> {
        let core = &self.0.core;
        let reached = || core.marks.durable() >= up_to && core.marks.visible() >= up_to.min(core.marks.committed());
        core.marks.wait_until(timeout, || reached() || core.poison.get().is_some());
        match core.poison.get() {
            _ if core.marks.durable() >= up_to => Ok(()),
            Some(poisoned) => Err(poisoned.clone().into()),
            None => Err(WaitError::TimedOut(up_to)),
        }
    }

    /// Called after each move of the marks from now on.
    pub fn subscribe(&self, listener: Arc<dyn Listener>) {
        self.0.core.listeners.write().push(listener);
    }

    /// Why nothing is acknowledged any more, if a sync failed.
    #[must_use]
    pub fn poisoned(&self) -> Option<Poisoned> {
        self.0.core.poison.get().cloned()
    }

    /// Messages of a queue from `from` on, as far as they are visible and `accepts` their tags code.
    pub fn pull(
        &self,
        topic: &str,
        queue_id: QueueId,
        from: QueueOffset,
        limits: PullLimits,
        accepts: &dyn Fn(i64) -> bool,
    ) -> Result<Pulled, ReadError> {
        self.pull_wanted(topic, queue_id, from, limits, Wanted { entry: accepts, record: None })
    }

    /// The same for readers whose filter may need the records themselves.
    pub fn pull_wanted(
        &self,
        topic: &str,
        queue_id: QueueId,
        from: QueueOffset,
        limits: PullLimits,
        wanted: Wanted<'_>,
    ) -> Result<Pulled, ReadError> {
        self.0.core.pull(topic, queue_id, from, limits, wanted)
    }

    /// Compares what was pulled with the log's checksums, where it has them. For messages that come from the disk: it
    /// reads their pages, and of those that were written just now it would find what memory did to them at most.
    pub fn check(&self, pulled: &Pulled) -> Result<(), ReadError> {
        self.0.core.check(pulled)
    }

    /// Whether what was pulled is in memory and compares well: then [`Store::check`] would have nothing to wait for, and
    /// nothing to say. Itself it waits for no disk.
    #[must_use]
    pub fn is_at_hand(&self, pulled: &Pulled) -> bool {
        self.0.core.is_at_hand(pulled)
    }

    /// The visible record at `at`; `None` outside of the visible log. An error if no record starts there.
    pub fn read(&self, at: LogOffset) -> Result<Option<StoredMessage>, ReadError> {
        self.0.core.read(at)
    }

    /// All visible records from `from` on, in log order.
    #[must_use]
    pub fn scan(&self, from: LogOffset) -> Records {
        self.scan_for(from, |_| true)
    }

    /// Of these, the ones that are `wanted`; the others are passed over quickly.
    #[must_use]
    pub fn scan_for(&self, from: LogOffset, wanted: fn(&RecordView<'_>) -> bool) -> Records {
        Records { core: self.0.core.clone(), at: Some(from.max(self.min())), wanted }
    }

    /// The visible entry of one message.
    pub fn entry(&self, topic: &str, queue_id: QueueId, offset: QueueOffset) -> Result<Option<QueueEntry>, ReadError> {
        let core = &self.0.core;
        let Some(queue) = core.queues.get(topic, queue_id) else { return Ok(None) };
        // A queue has its entries a moment before the mark passes their messages.
        Ok(queue.entry(offset)?.filter(|entry| entry.end() <= core.marks.visible()))
    }

    /// Offsets of the first and behind the last visible message; both 0 for an unknown queue.
    #[must_use]
    pub fn queue_bounds(&self, topic: &str, queue_id: QueueId) -> Bounds {
        self.0.core.bounds(topic, queue_id)
    }

    /// The message around `time` in store order, within the queue's bounds.
    pub fn offset_by_time(
        &self,
        topic: &str,
        queue_id: QueueId,
        time: UnixMillis,
        boundary: Boundary,
    ) -> Result<QueueOffset, ReadError> {
        self.0.core.offset_by_time(topic, queue_id, time, boundary)
    }

    /// The newest messages of a key, `max` at most, of all that are visible now. Nothing without [`Options::index`].
    pub fn query(
        &self,
        topic: &str,
        key: &str,
        kind: KeyKind,
        window: TimeWindow,
        max: usize,
    ) -> Result<Queried, ReadError> {
        self.0.core.query(topic, key, kind, window, max)
    }

    /// Forgets the topic's messages. The numbering of its queues goes on if the topic is used again.
    pub fn delete_topic(&self, topic: &str) -> Result<(), DiskError> {
        self.0.core.delete_topic(topic)
    }

    /// The topics that have queues here, whether or not they have messages.
    #[must_use]
    pub fn topics(&self) -> Vec<ByteString> {
        self.0.core.queues.topics()
    }

    /// The file of the commit log that may go next; `None` while all are needed.
    pub fn oldest_segment(&self) -> Result<Option<OldestSegment>, DiskError> {
        self.0.core.oldest_segment()
    }

    /// Removes the oldest file of the commit log for good. [`Store::sweep`] follows when enough are gone.
    pub fn remove_segment(&self, segment: OldestSegment) -> Result<(), DiskError> {
        self.0.core.remove_segment(segment)
    }

    /// Lets queues, index and checksums follow the begin of the log, and removes the files that nobody needs any more.
    pub fn sweep(&self) -> Result<(), DiskError> {
        self.0.core.sweep()
    }

    /// How full the disk is.
    pub fn disk_usage(&self) -> Result<Usage, DiskError> {
        self.0.core.segments.disk_usage()
    }

    /// Replication: nothing at or above `up_to` is visible. Without a call the whole log is committed.
    pub fn set_committed(&self, up_to: LogOffset) {
        self.0.core.marks.set_committed(up_to);
        self.0.core.publish();
    }

    /// Replication: takes back records that were never visible. `at` is the start of a group.
    pub fn truncate_to(&self, at: LogOffset) -> Result<(), TruncateError> {
        self.0.core.truncate_to(at)
    }

    /// Makes everything that was appended durable, on the caller's thread.
    pub fn flush(&self) -> Result<(), Poisoned> {
        self.0.core.flush()
    }

    /// Makes the queue files durable and moves the checkpoint: a start reads only what was appended later, from the
    /// start of its segment.
    pub fn settle(&self) -> Result<(), DiskError> {
        let core = &self.0.core;
        while core.advance_index()? {}
        core.flush_index()?;
        core.settle()?;
        // Otherwise a thread does.
        if core.flush_mode == FlushMode::Manual { core.seal().map(drop) } else { Ok(()) }
    }

    /// Flushes everything, ends the threads and removes `abort`. Later appends are refused; reads go on.
    pub fn close(&self) -> Result<(), CloseError> {
        let core = &self.0.core;
        if core.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.0.threads.lock().stop();
        // Appends that were on their way have ended when the append lock is free.
        core.appender.while_stopped(|_| ());
        core.flush()?;
        let indexed = core.finish_index();
        let settled = core.settle()?;
        // A missing checksum only protects less.
        if let Err(error) = core.seal().and_then(|_| core.checksums.sync()) {
            tracing::warn!(%error, "the newest messages are without checksums");
        }
        core.segments.drop_spare()?;
        if settled && indexed && core.marks.visible() == core.marks.written() {
            Roll::save(&core.queues);
            let tail = core.segments.tail(core.marks.written().0)?;
            core.checkpoints.lock().finish(tail)?;
        }
        self.0.lock.lock().take();
        Ok(())
    }
}

/// See [`Store::scan`].
pub struct Records {
    core: Arc<Core>,
    at: Option<LogOffset>,
    wanted: fn(&RecordView<'_>) -> bool,
}

impl Iterator for Records {
    type Item = Result<StoredMessage, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let at = self.at?;
            let visible = self.core.marks.visible();
            if at >= visible {
                return None;
            }
            if let Some(next) = passed(&*self.core.segments, at, visible.0, self.wanted) {
                self.at = Some(next);
                continue;
            }
            // After an error there is no telling where the next record starts.
            self.at = None;
            match step(&*self.core.segments, at, visible.0) {
                Ok(Step::Blank(next)) => self.at = Some(next),
                Ok(Step::Nothing(error)) => return Some(Err(error)),
                Err(error) => return Some(Err(error.into())),
                Ok(Step::Record(record)) => {
                    self.at = Some(at.plus(u64::from(record.size)));
                    return Some(Ok(record));
                }
            }
        }
    }
}

impl Running {
    fn wake_flusher(&self) {
        if let Some(thread) = &self.flusher {
            thread.unpark();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.threads.lock().stop();
    }
}
