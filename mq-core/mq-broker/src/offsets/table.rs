//! The offsets in memory, and what has changed of them. Knows no file.

use std::collections::{BTreeMap, HashMap};

use mq_protocol::body::{ConsumerOffsetTable, DataVersion};
use mq_protocol::ids::{QueueId, QueueOffset};

use super::changes::{Change, Waiting};

pub(super) type Queues = BTreeMap<QueueId, QueueOffset>;

#[derive(Default)]
pub(super) struct Table {
    pub(super) version: DataVersion,
    /// By group, then topic.
    pub(super) offsets: HashMap<String, HashMap<String, Queues>>,
    /// Reset by an operator, their consumers have not heard of it.
    pub(super) resets: HashMap<String, HashMap<String, Queues>>,
    /// For the journal.
    pub(super) waiting: Waiting,
    pub(super) dirty: bool,
}

impl Table {
    pub(super) fn queues(&mut self, group: &str, topic: &str) -> &mut Queues {
        self.offsets.entry(group.to_owned()).or_default().entry(topic.to_owned()).or_default()
    }

    pub(super) fn apply(&mut self, change: Change<'_>) {
        match change {
            Change::Offset { group, topic, queue, offset } => {
                self.queues(group, topic).insert(queue, offset);
            }
            Change::TopicGone(topic) => self.offsets.retain(|_, topics| {
                topics.remove(topic);
                !topics.is_empty()
            }),
            Change::GroupGone(group) => drop(self.offsets.remove(group)),
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

    pub(super) fn as_body(&self) -> ConsumerOffsetTable {
        let entries = self.offsets.iter().flat_map(|(group, topics)| {
            topics.iter().map(move |(topic, queues)| {
                (format!("{topic}@{group}"), queues.iter().map(|(queue, offset)| (queue.0, offset.0)).collect())
            })
        });
        ConsumerOffsetTable { data_version: self.version, offset_table: entries.collect() }
    }
}
