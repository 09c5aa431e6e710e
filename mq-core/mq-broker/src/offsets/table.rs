//! The offsets in memory, and what has changed of them. Knows no file.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mq_protocol::body::{ConsumerOffsetTable, DataVersion};
use mq_protocol::ids::{QueueId, QueueOffset};

use super::changes::{Change, Waiting};

pub(super) type Queues = BTreeMap<QueueId, QueueOffset>;
pub(super) type Topics = HashMap<String, Queues>;

#[derive(Default)]
pub(super) struct Table {
    pub(super) version: DataVersion,
    /// By group, then topic. Whoever writes all of them down shares the groups, and nobody waits for that.
    pub(super) offsets: HashMap<String, Arc<Topics>>,
    /// Queues of all groups.
    pub(super) count: usize,
    /// Reset by an operator, their consumers have not heard of it.
    pub(super) resets: HashMap<String, Topics>,
    /// For the journal.
    pub(super) waiting: Waiting,
    pub(super) dirty: bool,
}

impl Table {
    pub(super) fn get(&self, group: &str, topic: &str, queue: QueueId) -> Option<QueueOffset> {
        self.offsets.get(group)?.get(topic)?.get(&queue).copied()
    }

    pub(super) fn get_mut(&mut self, group: &str, topic: &str, queue: QueueId) -> Option<&mut QueueOffset> {
        Arc::make_mut(self.offsets.get_mut(group)?).get_mut(topic)?.get_mut(&queue)
    }

    pub(super) fn insert(&mut self, group: &str, topic: &str, queue: QueueId, offset: QueueOffset) {
        let topics = Arc::make_mut(self.offsets.entry(group.to_owned()).or_default());
        let held = topics.entry(topic.to_owned()).or_default().insert(queue, offset);
        self.count += usize::from(held.is_none());
    }

    pub(super) fn apply(&mut self, change: Change<'_>) {
        match change {
            Change::Offset { group, topic, queue, offset } => self.insert(group, topic, queue, offset),
            Change::TopicGone(topic) => {
                let Self { offsets, count, .. } = self;
                for topics in offsets.values_mut().filter(|topics| topics.contains_key(topic)) {
                    *count -= Arc::make_mut(topics).remove(topic).map_or(0, |queues| queues.len());
                }
                offsets.retain(|_, topics| !topics.is_empty());
            }
            Change::GroupGone(group) => {
                let topics = self.offsets.remove(group).unwrap_or_default();
                self.count -= topics.values().map(BTreeMap::len).sum::<usize>();
            }
        }
    }

    /// Is to be saved.
    pub(super) fn note(&mut self, change: Change<'_>) {
        self.waiting.add(change);
        self.dirty = true;
    }

    pub(super) fn change(&mut self, change: Change<'_>) {
        self.apply(change);
        self.note(change);
    }

    pub(super) fn reset_of(&self, group: &str, topic: &str, queue: QueueId) -> Option<QueueOffset> {
        self.resets.get(group)?.get(topic)?.get(&queue).copied()
    }

    pub(super) fn as_it_is(&self) -> Snapshot {
        Snapshot { version: self.version, offsets: self.offsets.clone() }
    }
}

/// The offsets of one moment.
pub(super) struct Snapshot {
    version: DataVersion,
    offsets: HashMap<String, Arc<Topics>>,
}

impl Snapshot {
    pub(super) fn into_body(self) -> ConsumerOffsetTable {
        let entries = self.offsets.iter().flat_map(|(group, topics)| {
            topics.iter().map(move |(topic, queues)| {
                (format!("{topic}@{group}"), queues.iter().map(|(queue, offset)| (queue.0, offset.0)).collect())
            })
        });
        ConsumerOffsetTable { data_version: self.version, offset_table: entries.collect() }
    }
}
