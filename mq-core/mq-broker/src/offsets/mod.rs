//! How far each group has consumed each queue, in `config/consumerOffset.json` and a journal of what changed since.
//!
//! Offsets only grow, so that a late commit of a queue's former owner cannot take the new owner back; an explicit reset
//! may set them anywhere, and then no commit counts until the consumer heard of it. One beyond its queue's end (a power cut
//! took messages that were consumed but not on disk) may go back: else the group would pass over the messages that come to
//! stand there.

mod changes;
mod table;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mq_protocol::body::{ConsumerOffsetTable, DataVersion};
use mq_protocol::ids::{QueueId, QueueOffset, UnixMillis};
use mq_protocol::topic;
use mq_store::Backend;
use parking_lot::Mutex;
use serde::Deserialize;
use tracing::info;

use crate::config::BrokerConfig;
use crate::config_file::{ConfigFile, Origin, SaveError};
use crate::journal::Journal;
use crate::topics::next_version;
use changes::Change;
use table::Table;

pub(crate) struct OffsetTable {
    file: ConfigFile,
    limit: usize,
    table: Mutex<Table>,
    /// How many queues an operator reset whose consumers have not heard of it: mostly none, and then no pull looks.
    unheard: AtomicUsize,
    /// Held through a write to disk, so that an older table never replaces a newer one.
    saving: Mutex<Saving>,
}

/// Offsets of one broker. All of them are written every few seconds.
const MAX_OFFSETS: usize = 2_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the broker keeps {limit} consumer offsets, its limit; delete groups or topics that are no longer used")]
pub(crate) struct TooManyOffsets {
    limit: usize,
}

struct Saving {
    journal: Journal,
    /// Room for what waits.
    changes: Vec<u8>,
    /// The last save, so that the next one comes in its time.
    failed: bool,
}

/// The file as it may be: negative offsets and keys of other shapes are passed over.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Stored {
    data_version: DataVersion,
    offset_table: BTreeMap<String, BTreeMap<String, i64>>,
}

impl OffsetTable {
    pub(crate) fn open(config: &BrokerConfig, backend: Arc<dyn Backend>, now: UnixMillis) -> io::Result<Self> {
        let file = ConfigFile::new(&config.config_directory(), "consumerOffset.json");
        let (stored, origin): (Stored, Origin) = file.load_stamped()?.unwrap_or_default();
        let first = DataVersion { timestamp: now.0, ..DataVersion::default() };
        let version = if stored.data_version == DataVersion::default() { first } else { stored.data_version };
        let mut table = Table { version, ..Table::default() };
        for (key, queues) in stored.offset_table {
            let Some((topic, group)) = key.split_once('@') else { continue };
            let read = |(queue, offset): (String, i64)| Some((queue.parse().ok()?, u64::try_from(offset).ok()?));
            for (queue, offset) in queues.into_iter().filter_map(read) {
                table.insert(group, topic, QueueId(queue), QueueOffset(offset));
            }
        }
        let mut changes = 0;
        let journal = Journal::open(backend, &changes::JOURNAL, origin, |frame| {
            changes += changes::read(frame).map(|change| table.apply(change)).count();
        });
        if changes > 0 {
            info!(changes, "offsets that were committed since the last save are taken from their journal");
        }
        table.dirty = changes > 0;
        let saving = Mutex::new(Saving { journal, changes: Vec::new(), failed: false });
        Ok(Self { file, limit: MAX_OFFSETS, table: Mutex::new(table), unheard: AtomicUsize::new(0), saving })
    }

    pub(crate) fn get(&self, group: &str, topic: &str, queue: QueueId) -> Option<QueueOffset> {
        self.table.lock().get(group, topic, queue)
    }

    /// Whether there is room for this offset. Those that are held may always be changed.
    pub(crate) fn admit(&self, group: &str, topic: &str, queue: QueueId) -> Result<(), TooManyOffsets> {
        let table = self.table.lock();
        if table.count < self.limit || table.get(group, topic, queue).is_some() {
            return Ok(());
        }
        Err(TooManyOffsets { limit: self.limit })
    }

    /// A consumer's progress in a queue that ends at `end`. An offset below the one that is held changes nothing, nor does
    /// one for which there is no room (see [`Self::admit`]).
    pub(crate) fn commit(&self, group: &str, topic: &str, queue: QueueId, offset: QueueOffset, end: QueueOffset) {
        let mut table = self.table.lock();
        if table.reset_of(group, topic, queue).is_some() {
            return;
        }
        let has_room = table.count < self.limit || !topic::is_writable_by_clients(topic);
        match table.get_mut(group, topic, queue) {
            Some(held) if (offset..=end.max(offset)).contains(held) => return,
            Some(held) => *held = offset,
            None if has_room => table.insert(group, topic, queue, offset),
            None => return,
        }
        table.note(Change::Offset { group, topic, queue, offset });
    }

    /// Where the group is in this queue: at `start` for good, if it was nowhere.
    pub(crate) fn begin(&self, group: &str, topic: &str, queue: QueueId, start: QueueOffset) -> QueueOffset {
        let mut table = self.table.lock();
        table.get(group, topic, queue).unwrap_or_else(|| {
            table.change(Change::Offset { group, topic, queue, offset: start });
            start
        })
    }

    /// Sets an offset wherever an operator wants it. Consumers that are still to hear of an older wish hear of this one.
    pub(crate) fn reset(&self, group: &str, topic: &str, queue: QueueId, offset: QueueOffset) {
        let mut table = self.table.lock();
        if let Some(unheard) = table.resets.get_mut(group).and_then(|topics| topics.get_mut(topic)?.get_mut(&queue)) {
            *unheard = offset;
        }
        table.change(Change::Offset { group, topic, queue, offset });
    }

    /// Sets an offset that the group's consumers are to go to: their next pull of the queue hears of it.
    pub(crate) fn redirect(&self, group: &str, topic: &str, queue: QueueId, offset: QueueOffset) {
        let mut table = self.table.lock();
        table.change(Change::Offset { group, topic, queue, offset });
        let resets = table.resets.entry(group.to_owned()).or_default().entry(topic.to_owned()).or_default();
        if resets.insert(queue, offset).is_none() {
            self.unheard.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Where an operator wants the group in this queue, asked once: from then on it is as if they were told.
    pub(crate) fn take_redirection(&self, group: &str, topic: &str, queue: QueueId) -> Option<QueueOffset> {
        if self.unheard.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut table = self.table.lock();
        let topics = table.resets.get_mut(group)?;
        let queues = topics.get_mut(topic)?;
        let offset = queues.remove(&queue)?;
        if queues.is_empty() {
            topics.remove(topic);
        }
        if topics.is_empty() {
            table.resets.remove(group);
        }
        self.unheard.fetch_sub(1, Ordering::Relaxed);
        Some(offset)
    }

    /// After a crash: takes back to its queue's end what stands beyond it. Says how many offsets that were.
    pub(crate) fn take_back(&self, end_of: impl Fn(&str, QueueId) -> QueueOffset) -> usize {
        let mut table = self.table.lock();
        let Table { offsets, waiting, dirty, .. } = &mut *table;
        let mut taken_back = 0;
        for (group, topics) in offsets {
            for (topic, queues) in Arc::make_mut(topics) {
                for (queue, offset) in queues {
                    let end = end_of(topic, *queue);
                    if *offset > end {
                        *offset = end;
                        waiting.add(Change::Offset { group, topic, queue: *queue, offset: end });
                        taken_back += 1;
                    }
                }
            }
        }
        *dirty |= taken_back > 0;
        taken_back
    }

    pub(crate) fn topics_of(&self, group: &str) -> Vec<String> {
        self.table.lock().offsets.get(group).map(|topics| topics.keys().cloned().collect()).unwrap_or_default()
    }

    pub(crate) fn groups_of(&self, topic: &str) -> Vec<String> {
        let table = self.table.lock();
        table.offsets.iter().filter(|(_, topics)| topics.contains_key(topic)).map(|(group, _)| group.clone()).collect()
    }

    /// All offsets of a group in a topic.
    pub(crate) fn of(&self, group: &str, topic: &str) -> BTreeMap<QueueId, QueueOffset> {
        self.table.lock().offsets.get(group).and_then(|topics| topics.get(topic)).cloned().unwrap_or_default()
    }

    /// Sets the target's offsets in a topic to those of the source.
    pub(crate) fn copy(&self, source: &str, target: &str, topic: &str) -> Result<(), TooManyOffsets> {
        let mut table = self.table.lock();
        let queues = table.offsets.get(source).and_then(|topics| topics.get(topic)).cloned().unwrap_or_default();
        if table.count + queues.len() > self.limit {
            return Err(TooManyOffsets { limit: self.limit });
        }
        for (queue, offset) in queues {
            table.change(Change::Offset { group: target, topic, queue, offset });
        }
        Ok(())
    }

    pub(crate) fn forget_topic(&self, topic: &str) {
        let mut table = self.table.lock();
        table.change(Change::TopicGone(topic));
        table.resets.values_mut().for_each(|topics| drop(topics.remove(topic)));
        self.recount(&table);
    }

    pub(crate) fn forget_group(&self, group: &str) {
        let mut table = self.table.lock();
        table.change(Change::GroupGone(group));
        table.resets.remove(group);
        self.recount(&table);
    }

    fn recount(&self, table: &Table) {
        let count = table.resets.values().flat_map(HashMap::values).map(BTreeMap::len).sum();
        self.unheard.store(count, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> ConsumerOffsetTable {
        let snapshot = self.table.lock().as_it_is();
        snapshot.into_body()
    }

    /// Whether something waits for the journal.
    pub(crate) fn has_news(&self) -> bool {
        !self.table.lock().waiting.is_empty()
    }

    /// Writes what changed since the last time to the journal, without waiting for the disk. A table that is being saved
    /// has it, or the next call. True: the table should be saved before its time, because the journal is too long or lacks
    /// something; not when that failed the last time.
    pub(crate) fn write_journal(&self) -> bool {
        let Some(mut saving) = self.saving.try_lock() else { return false };
        let Saving { journal, changes, failed } = &mut *saving;
        {
            let mut table = self.table.lock();
            if table.waiting.overflowed() {
                return !*failed;
            }
            table.waiting.swap(changes);
        }
        journal.add(changes);
        journal.is_very_long() && !*failed
    }

    /// Writes the table if it changed since the last time. A journal that has to do without it is at least synced.
    pub(crate) fn save(&self, now: UnixMillis) -> Result<(), SaveError> {
        let mut saving = self.saving.lock();
        let Saving { journal, changes, failed } = &mut *saving;
        let (snapshot, overflowed) = {
            let mut table = self.table.lock();
            if !table.dirty {
                return Ok(());
            }
            table.dirty = false;
            table.version = next_version(table.version, now);
            let overflowed = table.waiting.overflowed();
            table.waiting.swap(changes);
            (table.as_it_is(), overflowed)
        };
        // In the table as well; but should it not be written, only the journal has them.
        journal.add(changes);
        let saved = self.file.render(&snapshot.into_body()).and_then(|rendered| {
            journal.note_table(rendered.stamp());
            self.file.write(&rendered)?;
            journal.table_is_written(rendered.stamp());
            Ok(())
        });
        *failed = saved.is_err();
        saved.inspect_err(|_| {
            journal.sync();
            let mut table = self.table.lock();
            table.dirty = true;
            if overflowed {
                table.waiting.overflow();
            }
        })
    }
}

#[cfg(test)]
mod tests;
