//! All consume queues by topic and number, and which of them wait to be written.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytestring::ByteString;
use foldhash::quality::RandomState;
use mq_protocol::ids::{QueueId, QueueOffset};
use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;

use super::consume_queue::ConsumeQueue;
use super::entry::QueueEntry;
use super::files::QueueFiles;
use crate::backend::Backend;
use crate::error::{AtPath, DiskError, OpenError};

/// More queues than this are cheaper to sync with their whole file system.
const SYNCED_ONE_BY_ONE: usize = 64;

pub(crate) struct Queues {
    files: Arc<QueueFiles>,
    /// The hasher has random keys: clients choose the names.
    by_topic: RwLock<HashMap<ByteString, TopicQueues, RandomState>>,
    /// Queues with entries that are in memory only.
    waiting: Mutex<Vec<Arc<ConsumeQueue>>>,
    waiting_entries: AtomicUsize,
    /// Queues with files that were written since the last sync.
    unsynced: Mutex<Vec<Arc<ConsumeQueue>>>,
}

/// The queues of one topic, by number. Most topics have all numbers from 0 on, so a number is its own place.
#[derive(Default)]
struct TopicQueues(SmallVec<[Arc<ConsumeQueue>; 1]>);

impl TopicQueues {
    fn place(&self, id: QueueId) -> Result<usize, usize> {
        let guess = id.0 as usize;
        if self.0.get(guess).is_some_and(|queue| queue.id == id) {
            return Ok(guess);
        }
        self.0.binary_search_by_key(&id, |queue| queue.id)
    }

    fn get(&self, id: QueueId) -> Option<&Arc<ConsumeQueue>> {
        self.place(id).ok().map(|place| &self.0[place])
    }

    fn get_or_insert_with(&mut self, id: QueueId, make: impl FnOnce() -> Arc<ConsumeQueue>) -> &Arc<ConsumeQueue> {
        let place = self.place(id).unwrap_or_else(|free| {
            self.0.insert(free, make());
            free
        });
        &self.0[place]
    }
}

impl Queues {
    pub(crate) fn new(files: QueueFiles) -> Self {
        Self {
            files: Arc::new(files),
            by_topic: RwLock::default(),
            waiting: Mutex::default(),
            waiting_entries: AtomicUsize::new(0),
            unsynced: Mutex::default(),
        }
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        self.files.backend()
    }

    /// Finds the queues on disk. See [`ConsumeQueue::load`].
    pub(crate) fn load(&self, settled: u64, log_min: u64) -> Result<(), OpenError> {
        let backend = self.backend();
        let list = |directory: &str| backend.list(directory).at_path(backend, directory);
        for topic in list(super::DIRECTORY)?.into_iter().filter(|entry| entry.is_directory) {
            for queue in list(&format!("{}/{}", super::DIRECTORY, topic.name))? {
                let Ok(id) = queue.name.parse() else { continue };
                self.get_or_create(&topic.name.as_str().into(), id).load(settled, log_min)?;
            }
        }
        Ok(())
    }

    /// What [`Queues::load`] found to be damaged.
    pub(crate) fn damage(&self) -> Option<String> {
        self.files.damage()
    }

    pub(crate) fn get(&self, topic: &str, id: QueueId) -> Option<Arc<ConsumeQueue>> {
        self.by_topic.read().get(topic)?.get(id).cloned()
    }

    pub(crate) fn get_or_create(&self, topic: &ByteString, id: QueueId) -> Arc<ConsumeQueue> {
        if let Some(queue) = self.get(topic, id) {
            return queue;
        }
        // A topic that was cut from a frame would keep the whole frame alive.
        let own_topic = ByteString::from(topic.to_string());
        let mut by_topic = self.by_topic.write();
        let queues = by_topic.entry(own_topic.clone()).or_default();
        let make = || Arc::new(ConsumeQueue::new(own_topic, id, self.files.clone()));
        queues.get_or_insert_with(id, make).clone()
    }

    pub(crate) fn of_topic(&self, topic: &str) -> Vec<Arc<ConsumeQueue>> {
        self.by_topic.read().get(topic).map(|queues| queues.0.to_vec()).unwrap_or_default()
    }

    pub(crate) fn topics(&self) -> Vec<ByteString> {
        self.by_topic.read().keys().cloned().collect()
    }

    pub(crate) fn all(&self) -> Vec<Arc<ConsumeQueue>> {
        self.by_topic.read().values().flat_map(|queues| queues.0.iter().cloned()).collect()
    }

    pub(crate) fn publish(&self, queue: &Arc<ConsumeQueue>, offset: QueueOffset, entry: QueueEntry) {
        // Counted first: who writes it out meanwhile takes it off again.
        self.waiting_entries.fetch_add(1, Ordering::Relaxed);
        if queue.publish(offset, entry) {
            self.waiting.lock().push(queue.clone());
        }
    }

    pub(crate) fn restore(
        &self,
        queue: &Arc<ConsumeQueue>,
        offset: QueueOffset,
        entry: QueueEntry,
    ) -> Result<(), DiskError> {
        let next = queue.next();
        let first = queue.restore(offset, entry)?;
        self.waiting_entries.fetch_add(usize::from(queue.next() != next), Ordering::Relaxed);
        if first {
            self.waiting.lock().push(queue.clone());
        }
        Ok(())
    }

    /// See [`ConsumeQueue::number_from`].
    pub(crate) fn number_from(&self, queue: Arc<ConsumeQueue>, offset: QueueOffset) -> Result<(), DiskError> {
        queue.number_from(offset)?;
        self.unsynced.lock().push(queue);
        Ok(())
    }

    /// Entries that are in memory only.
    pub(crate) fn waiting_entries(&self) -> usize {
        self.waiting_entries.load(Ordering::Relaxed)
    }

    /// Writes the waiting entries of all queues to their files. What cannot be written goes on waiting.
    pub(crate) fn write_out(&self) -> Result<(), DiskError> {
        let mut waiting = std::mem::take(&mut *self.waiting.lock());
        while let Some(queue) = waiting.pop() {
            match queue.write_out() {
                Ok(written) => {
                    self.waiting_entries.fetch_sub(written, Ordering::Relaxed);
                    self.unsynced.lock().push(queue);
                }
                Err(error) => {
                    waiting.push(queue);
                    self.waiting.lock().append(&mut waiting);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Syncs every file that was written. After an error the files are of unknown worth until the next start.
    pub(crate) fn sync(&self) -> Result<(), DiskError> {
        let unsynced = std::mem::take(&mut *self.unsynced.lock());
        if unsynced.len() > SYNCED_ONE_BY_ONE {
            // Forgotten first: what is written meanwhile waits for the next time.
            unsynced.iter().for_each(|queue| queue.forget_unsynced());
            let backend = self.files.backend();
            return backend.sync_all().at_path(backend, super::DIRECTORY);
        }
        unsynced.iter().try_for_each(|queue| queue.sync())
    }

    pub(crate) fn cut_all(&self) -> Result<(), DiskError> {
        for queue in self.all() {
            queue.cut()?;
            self.unsynced.lock().push(queue);
        }
        Ok(())
    }

    pub(crate) fn clear(&self, queue: &ConsumeQueue) -> Result<(), DiskError> {
        let dropped = queue.clear()?;
        self.waiting_entries.fetch_sub(dropped, Ordering::Relaxed);
        Ok(())
    }

    /// Drops the entries of all records from `settled` on, which may not have been synced.
    #[cfg(feature = "failpoints")]
    pub(crate) fn drop_from(&self, settled: u64, log_min: u64) {
        for queue in self.all() {
            queue.load(settled, log_min).expect("the failpoint can read the queues");
            queue.cut().expect("the failpoint can cut the queues");
        }
    }
}
