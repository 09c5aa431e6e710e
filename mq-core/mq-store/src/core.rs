//! What the store's handle and its threads share, and the three motions of the marks: flush, publish, settle.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytestring::ByteString;
use mq_protocol::ids::{LogOffset, QueueId, QueueOffset, UnixMillis};
use parking_lot::{Mutex, RwLock};

use crate::append::{Appender, Pending};
use crate::checkpoint::Checkpoints;
use crate::checksums::Checksums;
use crate::error::{AppendError, DiskError, Poisoned, TruncateError};
use crate::failpoints;
use crate::index::Index;
use crate::marks::Marks;
use crate::options::{FlushMode, MAX_WAITING_ENTRIES};
use crate::queue::Queues;
use crate::recovery::Recovered;
use crate::segments::Segments;

/// A message that became visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub topic: ByteString,
    pub queue_id: QueueId,
    /// The offset behind this message.
    pub next: QueueOffset,
    pub tags_code: i64,
    pub log_offset: LogOffset,
    /// Bytes of the record.
    pub size: u32,
    pub store_timestamp: UnixMillis,
}

/// Told after the marks moved, on the thread that moved them (the store's own, or one that appends): has to be quick
/// and must not append.
pub trait Listener: Send + Sync {
    /// Everything below is durable and, unless it waits to be committed, already visible.
    fn durable(&self, up_to: LogOffset) {
        let _ = up_to;
    }
    fn visible(&self, arrivals: &[Arrival]) {
        let _ = arrivals;
    }
    /// A sync of the log took so long.
    fn synced(&self, took: Duration) {
        let _ = took;
    }
    /// A sync failed. Nothing is acknowledged any more.
    fn failed(&self, error: &Poisoned) {
        let _ = error;
    }
}

pub(crate) struct Core {
    pub(crate) flush_mode: FlushMode,
    pub(crate) segments: Arc<Segments>,
    pub(crate) queues: Queues,
    pub(crate) appender: Appender,
    pub(crate) index: Option<Index>,
    pub(crate) marks: Marks,
    /// Its lock is the sync lock: one sync of the log at a time.
    pub(crate) checkpoints: Mutex<Checkpoints>,
    pub(crate) checksums: Checksums,
    pub(crate) poison: OnceLock<Poisoned>,
    pub(crate) closed: AtomicBool,
    pub(crate) listeners: RwLock<Vec<Arc<dyn Listener>>>,
    publishing: Mutex<Publishing>,
    /// Store time of the last visible message.
    visible_until: AtomicI64,
    /// Its lock lets one thread settle at a time.
    pub(crate) settling: Mutex<Settling>,
}

/// Buffers of [`Core::publish`], kept from one time to the next.
#[derive(Default)]
struct Publishing {
    told_durable: LogOffset,
    pending: Vec<Pending>,
    arrivals: Vec<Arrival>,
}

#[derive(Default)]
pub(crate) struct Settling {
    /// A queue file could not be synced: what it holds is unknown, so the next start derives it from the log again.
    queues_suspect: bool,
    /// Why queue entries wait in memory.
    write_error: Option<DiskError>,
}

impl Core {
    pub(crate) fn new(flush_mode: FlushMode, recovered: Recovered, appender: Appender, index: Option<Index>) -> Self {
        let Recovered { segments, queues, checkpoints, checksums, last_timestamp: until, report, .. } = recovered;
        let end = report.end;
        Self {
            flush_mode,
            segments,
            queues,
            appender,
            index,
            marks: Marks::at(end),
            checkpoints: Mutex::new(checkpoints),
            checksums,
            poison: OnceLock::new(),
            closed: AtomicBool::new(false),
            listeners: RwLock::default(),
            publishing: Mutex::new(Publishing { told_durable: report.end, ..Publishing::default() }),
            visible_until: AtomicI64::new(until.0),
            settling: Mutex::default(),
        }
    }

    pub(crate) fn check_open(&self) -> Result<(), AppendError> {
        if let Some(poisoned) = self.poison.get() {
            return Err(poisoned.clone().into());
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(AppendError::Closed);
        }
        if self.queues.waiting_entries() > MAX_WAITING_ENTRIES
            && let Some(error) = &self.settling.lock().write_error
        {
            return Err(error.clone().into());
        }
        Ok(())
    }

    /// Group commit: one sync covers everything written before it.
    pub(crate) fn flush(&self) -> Result<(), Poisoned> {
        if self.marks.written() != self.marks.durable() {
            failpoints::hit("store-before-flush", self);
        }
        let moved = self.sync_log()?;
        if moved {
            failpoints::hit("store-after-flush", self);
        }
        self.publish();
        if moved {
            self.marks.announce();
        }
        Ok(())
    }

    fn sync_log(&self) -> Result<bool, Poisoned> {
        let mut checkpoints = self.checkpoints.lock();
        if let Some(poisoned) = self.poison.get() {
            return Err(poisoned.clone());
        }
        let (from, to) = (self.marks.durable(), self.marks.written());
        if from == to {
            return Ok(false);
        }
        let start = Instant::now();
        if let Err(error) = self.segments.sync(from.0, to.0) {
            let poisoned = self.poison.get_or_init(|| Poisoned(error)).clone();
            drop(checkpoints);
            self.tell_poisoned(&poisoned);
            return Err(poisoned);
        }
        self.marks.set_durable(to);
        checkpoints.durable(to);
        drop(checkpoints);
        let took = start.elapsed();
        self.listeners.read().iter().for_each(|listener| listener.synced(took));
        Ok(true)
    }

    fn tell_poisoned(&self, poisoned: &Poisoned) {
        tracing::error!(%poisoned, "the store is fenced");
        self.marks.announce();
        self.listeners.read().iter().for_each(|listener| listener.failed(poisoned));
    }

    /// Gives the queues what may be seen, and tells the listeners.
    pub(crate) fn publish(&self) {
        self.steadily(|publishing| self.publish_as(publishing));
    }

    /// Runs `work` while nothing becomes visible.
    fn steadily<R>(&self, work: impl FnOnce(&mut Publishing) -> R) -> R {
        let result = work(&mut self.publishing.lock());
        self.publish_written();
        result
    }

    /// With asynchronous flushing, shows what was just written. Does not wait: a thread that publishes already takes it
    /// along.
    pub(crate) fn publish_written(&self) {
        if !matches!(self.flush_mode, FlushMode::Async { .. }) {
            return;
        }
        loop {
            // A writer looks for a publisher behind this fence, and a publisher that is done looks for written messages
            // behind it: one of the two sees the other.
            fence(Ordering::SeqCst);
            if self.marks.written().min(self.marks.committed()) <= self.marks.visible() {
                return;
            }
            let Some(mut publishing) = self.publishing.try_lock() else { return };
            self.publish_as(&mut publishing);
        }
    }

    fn publish_as(&self, publishing: &mut Publishing) {
        let Publishing { told_durable, pending, arrivals } = publishing;
        let durable = self.marks.durable();
        let reached = if matches!(self.flush_mode, FlushMode::Async { .. }) { self.marks.written() } else { durable };
        let visible = reached.min(self.marks.committed()).max(self.marks.visible());
        {
            let mut waiting = self.appender.pending.lock();
            let count = waiting.partition_point(|pending| pending.entry.end() <= visible);
            pending.extend(waiting.drain(..count));
        }
        let listeners = self.listeners.read();
        if let Some(last) = pending.last() {
            self.visible_until.store(last.store_timestamp.0, Ordering::Release);
        }
        for Pending { queue, offset, entry, store_timestamp } in pending.drain(..) {
            self.queues.publish(&queue, offset, entry);
            if !listeners.is_empty() {
                arrivals.push(Arrival {
                    topic: queue.topic.clone(),
                    queue_id: queue.id,
                    next: offset.plus(1),
                    tags_code: entry.tags_code,
                    log_offset: entry.log_offset,
                    size: entry.size,
                    store_timestamp,
                });
            }
        }
        self.marks.set_visible(visible);
        if *told_durable != durable {
            *told_durable = durable;
            listeners.iter().for_each(|listener| listener.durable(durable));
        }
        if !arrivals.is_empty() {
            listeners.iter().for_each(|listener| listener.visible(arrivals));
            arrivals.clear();
        }
    }

    /// Queue entries go from memory to their files.
    pub(crate) fn write_out(&self) -> Result<(), DiskError> {
        let mut settling = self.settling.lock();
        let written = self.queues.write_out();
        settling.write_error = written.as_ref().err().cloned();
        written
    }

    /// Makes the queue files durable and moves the checkpoint. False when a queue file is suspect.
    pub(crate) fn settle(&self) -> Result<bool, DiskError> {
        if self.flush().is_err() {
            return Ok(false);
        }
        let (visible, until) =
            self.steadily(|_| (self.marks.visible(), UnixMillis(self.visible_until.load(Ordering::Acquire))));
        // Asynchronous flushing may have shown more in between.
        if visible > self.marks.durable() && self.flush().is_err() {
            return Ok(false);
        }
        self.write_out()?;
        let mut settling = self.settling.lock();
        if let Err(error) = self.queues.sync() {
            tracing::error!(%error, "a queue file could not be synced; the next start derives the queues again");
            settling.queues_suspect = true;
        }
        if settling.queues_suspect {
            return Ok(false);
        }
        self.checkpoints.lock().settle(visible, until)?;
        Ok(true)
    }

    /// One round of checksums behind the durable mark. True if there is more to do.
    pub(crate) fn seal(&self) -> Result<bool, DiskError> {
        // What is not visible may still be taken back.
        self.checksums.seal(self.marks.durable().min(self.marks.visible()))
    }

    pub(crate) fn delete_topic(&self, topic: &str) -> Result<(), DiskError> {
        self.appender.while_stopped(|_| {
            self.steadily(|_| {
                self.appender.pending.lock().retain(|pending| pending.queue.topic != topic);
                self.queues.of_topic(topic).iter().try_for_each(|queue| self.queues.clear(queue))
            })
        })
    }

    /// The mark goes down before the bytes do, so that a crash in between does not look like damage.
    pub(crate) fn truncate_to(&self, at: LogOffset) -> Result<(), TruncateError> {
        let truncated = self.appender.while_stopped(|end| {
            let mut checkpoints = self.checkpoints.lock();
            let _steady = self.publishing.lock();
            if let Some(poisoned) = self.poison.get() {
                return Err(poisoned.clone().into());
            }
            let (visible, old_end) = (self.marks.visible(), LogOffset(*end));
            if at < visible || at > old_end {
                return Err(TruncateError::OutOfRange { at, visible, end: old_end });
            }
            checkpoints.lower(at)?;
            self.appender.take_back(at);
            *end = at.0;
            self.marks.set_written(at);
            self.marks.set_durable(self.marks.durable().min(at));
            // What is kept of the file may have been waiting for the sync that failed.
            let cut = self.segments.cut(at.0);
            cut.map_err(|error| self.poison.get_or_init(|| Poisoned(error)).clone().into())
        });
        if let Err(TruncateError::Poisoned(poisoned)) = &truncated {
            self.tell_poisoned(poisoned);
        }
        self.publish_written();
        truncated
    }

    /// The next segment is made ahead once this one is half full.
    pub(crate) fn wants_spare(&self) -> bool {
        let used = self.marks.written().0 % self.segments.segment_bytes;
        used > self.segments.segment_bytes / 2 && !self.segments.has_spare()
    }

    /// Undoes, on disk, everything that a power cut could undo, and lets nothing happen after it.
    #[cfg(feature = "failpoints")]
    pub(crate) fn cut_power(&self) -> ! {
        self.appender.while_stopped(|_| {
            let checkpoints = self.checkpoints.lock();
            let _no_publish = self.publishing.lock();
            let settled = checkpoints.settled().0;
            self.queues.drop_from(settled, self.segments.min().0);
            self.segments.cut(self.marks.durable().0).expect("the failpoint can cut the log");
            std::process::abort()
        })
    }
}
