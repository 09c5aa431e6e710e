//! What the clients of a crash test know: what they tried, what was acknowledged, what they read.

use std::collections::{BTreeMap, BTreeSet};

use mq_protocol::ids::{LogOffset, QueueOffset};

use super::plan::MessageId;

/// A place in the topic: (queue, offset).
pub type Place = (u32, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HalfReceipt {
    pub half_offset: QueueOffset,
    pub log_offset: LogOffset,
}

#[derive(Clone, Debug, Default)]
pub struct History {
    /// Handed to a socket: may or may not be stored.
    pub tried: BTreeSet<MessageId>,
    /// Plain messages that were acknowledged, and where.
    pub stored: BTreeMap<MessageId, Place>,
    /// Half messages that were acknowledged.
    pub halves: BTreeMap<MessageId, HalfReceipt>,
    /// Verdicts that were acknowledged; true: commit.
    pub ended: BTreeMap<MessageId, bool>,
    /// Verdicts on their way when the connection broke: sent again on the next one.
    pub unanswered: BTreeMap<MessageId, HalfReceipt>,
    /// Requests that were answered with an error: how often, by response code.
    pub refused: BTreeMap<i32, u64>,
    /// Checks that arrived.
    pub checks: u64,
    /// What consumers read while the load ran.
    pub read: BTreeMap<Place, MessageId>,
    /// What must not happen at all: answers that nobody can read, bodies that nobody sent.
    pub surprises: Vec<String>,
}

impl History {
    pub fn merge(&mut self, other: Self) {
        self.tried.extend(other.tried);
        self.stored.extend(other.stored);
        self.halves.extend(other.halves);
        self.ended.extend(other.ended);
        self.unanswered.extend(other.unanswered);
        for (code, count) in other.refused {
            *self.refused.entry(code).or_default() += count;
        }
        self.checks += other.checks;
        for (place, id) in other.read {
            if let Some(before) = self.read.insert(place, id)
                && before != id
            {
                self.surprises.push(format!("{place:?} was read as {before} and then as {id}"));
            }
        }
        self.surprises.extend(other.surprises);
    }
}
