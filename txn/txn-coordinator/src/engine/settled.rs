//! The last transactions that ended, for halves that their clients sent again.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use foldhash::quality::RandomState;
use hashbrown::HashTable;

use super::names::{Name, Names};
use super::open::PartSet;
use crate::types::Outcome;

#[derive(Clone, Debug, Default)]
pub(super) struct Settled {
    max: usize,
    /// Sequence numbers; they wrap.
    index: HashTable<u32>,
    /// Oldest first.
    order: VecDeque<EndedTransaction>,
    /// Sequence number of the first in `order`.
    first: u32,
    hashing: RandomState,
}

/// A transaction that ended. It uses its group's name.
#[derive(Clone, Debug)]
pub(super) struct EndedTransaction {
    pub(super) group: Name,
    pub(super) id: Box<str>,
    pub(super) outcome: Outcome,
    /// The parts whose messages the log has.
    pub(super) done: PartSet,
}

impl Settled {
    pub(super) fn new(max: usize) -> Self {
        Self { max, ..Self::default() }
    }

    pub(super) fn get(&self, group: Name, id: &str) -> Option<&EndedTransaction> {
        let found = self.index.find(hash(&self.hashing, group, id), |number| {
            let ended = &self.order[self.place(*number)];
            ended.group == group && *ended.id == *id
        });
        found.map(|number| &self.order[self.place(*number)])
    }

    /// A parked transaction may be resumed and then end otherwise: the later outcome counts.
    pub(super) fn remember(&mut self, ended: EndedTransaction, names: &mut Names) {
        let key = hash(&self.hashing, ended.group, &ended.id);
        let same = |number: &u32| {
            let known = &self.order[number.wrapping_sub(self.first) as usize];
            known.group == ended.group && known.id == ended.id
        };
        if let Some(number) = self.index.find(key, same) {
            let place = self.place(*number);
            names.give_back(ended.group);
            let known = &mut self.order[place];
            (known.outcome, known.done) = (ended.outcome, known.done.and(ended.done));
        } else {
            let number = self.first.wrapping_add(self.order.len() as u32);
            self.order.push_back(ended);
            let Self { index, order, first, hashing, .. } = self;
            index.insert_unique(key, number, |number| {
                let ended = &order[number.wrapping_sub(*first) as usize];
                hash(hashing, ended.group, &ended.id)
            });
        }
        self.forget(names);
    }

    /// More are kept for a while, or fewer again.
    pub(super) fn set_max(&mut self, max: usize, names: &mut Names) {
        self.max = max;
        self.forget(names);
    }

    fn forget(&mut self, names: &mut Names) {
        while self.order.len() > self.max {
            let oldest = self.order.pop_front().expect("longer than the limit");
            let number = self.first;
            let key = hash(&self.hashing, oldest.group, &oldest.id);
            let entry = self.index.find_entry(key, |known| *known == number);
            entry.expect("every remembered transaction is in the index").remove();
            self.first = number.wrapping_add(1);
            names.give_back(oldest.group);
        }
    }

    fn place(&self, number: u32) -> usize {
        number.wrapping_sub(self.first) as usize
    }
}

fn hash(hashing: &RandomState, group: Name, id: &str) -> u64 {
    hashing.hash_one((group, id))
}
