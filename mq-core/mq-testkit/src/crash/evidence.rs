//! The invariants of a crash test: what clients were told, held against what a reader sees and what the log holds.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{History, Place};
use super::log_scan::LogFacts;
use super::plan::{Fate, MessageId, Plan};

/// One message as the broker gives it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub id: Option<MessageId>,
    /// Its bytes are those that were sent under this id.
    pub intact: bool,
}

/// The whole topic, read from the start.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub messages: BTreeMap<Place, Seen>,
    /// By queue: the offset behind its last message.
    pub ends: BTreeMap<u32, u64>,
}

/// Everything there is to judge, after the last restart and when every transaction had time to end.
#[derive(Clone, Debug)]
pub struct Evidence {
    pub plan: Plan,
    pub history: History,
    pub view: View,
    pub log: LogFacts,
}

impl Evidence {
    /// Every broken promise, in words. Empty: all hold.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        let mut found = self.history.surprises.clone();
        found.extend(self.offsets_are_dense());
        found.extend(self.acknowledged_messages_are_where_they_were_said_to_be());
        found.extend(self.what_was_read_stays());
        found.extend(self.only_what_may_be_seen_is_seen_and_once());
        found.extend(self.each_producers_order_holds());
        found.extend(self.every_half_ends_as_its_producer_decided());
        found
    }

    fn offsets_are_dense(&self) -> Vec<String> {
        let missing = |(queue, end): (&u32, &u64)| {
            let (queue, end) = (*queue, *end);
            (0..end).filter(move |offset| !self.view.messages.contains_key(&(queue, *offset))).map(move |o| (queue, o))
        };
        let holes: Vec<Place> = self.view.ends.iter().flat_map(missing).collect();
        if holes.is_empty() { vec![] } else { vec![format!("{} offsets are empty: {:?}", holes.len(), first(&holes))] }
    }

    fn acknowledged_messages_are_where_they_were_said_to_be(&self) -> Vec<String> {
        let lost = self.history.stored.iter().filter(|(id, place)| {
            self.view.messages.get(place).is_none_or(|seen| seen.id != Some(**id) || !seen.intact)
        });
        lost.map(|(id, place)| {
            format!("{id} was acknowledged at {place:?}; there is {:?}", self.view.messages.get(place))
        })
        .collect()
    }

    fn what_was_read_stays(&self) -> Vec<String> {
        let changed = self
            .history
            .read
            .iter()
            .filter(|(place, id)| self.view.messages.get(place).is_none_or(|seen| seen.id != Some(**id)));
        changed
            .map(|(place, id)| {
                format!("{place:?} was read as {id} before a crash; there is {:?}", self.view.messages.get(place))
            })
            .collect()
    }

    fn only_what_may_be_seen_is_seen_and_once(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut times: BTreeMap<MessageId, u32> = BTreeMap::new();
        for (place, seen) in &self.view.messages {
            let Some(id) = seen.id.filter(|id| self.history.tried.contains(id)) else {
                found.push(format!("{place:?} holds what nobody sent"));
                continue;
            };
            if !seen.intact {
                found.push(format!("{id} at {place:?} has other bytes than were sent"));
            }
            let fate = self.plan.fate(id);
            if !fate.is_visible() {
                found.push(format!("{id} at {place:?} is seen, but its fate is {fate:?}"));
            }
            *times.entry(id).or_default() += 1;
        }
        found.extend(
            times
                .iter()
                .filter(|(_, count)| **count > 1)
                .map(|(id, count)| format!("{id} ({:?}) is there {count} times", self.plan.fate(*id))),
        );
        found
    }

    /// Plain messages of one producer in one queue were sent one behind the other on one connection.
    fn each_producers_order_holds(&self) -> Vec<String> {
        let mut last: BTreeMap<(u32, u16), u32> = BTreeMap::new();
        let mut found = Vec::new();
        for ((queue, offset), seen) in &self.view.messages {
            let Some(id) = seen.id.filter(|id| self.plan.fate(*id) == Fate::Plain) else { continue };
            let before = last.insert((*queue, id.producer), id.sequence);
            if before.is_some_and(|before| before > id.sequence) {
                found.push(format!("{id} at {:?} stands behind {}/{before:?}", (queue, offset), id.producer));
            }
        }
        found
    }

    fn every_half_ends_as_its_producer_decided(&self) -> Vec<String> {
        let mut found: Vec<String> =
            self.log.open_halves().iter().map(|id| format!("{id} ({:?}) never ended", self.plan.fate(*id))).collect();
        let halves: BTreeMap<MessageId, usize> = self.log.halves.values().fold(BTreeMap::new(), |mut count, id| {
            *count.entry(*id).or_default() += 1;
            count
        });
        for (id, copies) in &halves {
            let fate = self.plan.fate(*id);
            let expected = match fate {
                Fate::Commit | Fate::CommitWhenAsked => (1, 0),
                Fate::NeverDecided => (0, 1),
                Fate::Plain | Fate::Rollback | Fate::RollbackWhenAsked => (0, 0),
            };
            let count = |table: &BTreeMap<MessageId, u32>| table.get(id).copied().unwrap_or(0);
            let outcome = (count(&self.log.committed), count(&self.log.parked));
            if *copies != 1 || outcome != expected {
                found.push(format!("{id} ({fate:?}): {copies} halves, (committed, parked) {outcome:?}"));
            }
        }
        let lost = self.history.halves.keys().filter(|id| !halves.contains_key(id));
        found.extend(lost.map(|id| format!("the acknowledged half {id} is not in the log")));
        let seen: BTreeSet<MessageId> = self.view.messages.values().filter_map(|seen| seen.id).collect();
        let commits = self.history.ended.iter().filter(|(_, commit)| **commit).map(|(id, _)| id);
        let invisible = commits.chain(self.log.committed.keys()).filter(|id| !seen.contains(id));
        found.extend(invisible.map(|id| format!("{id} is committed and not to be seen")));
        found
    }
}

/// Enough of a list to look into it.
fn first<T>(items: &[T]) -> &[T] {
    &items[..items.len().min(5)]
}

#[cfg(test)]
#[path = "evidence_tests.rs"]
mod tests;
