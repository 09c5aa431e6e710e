//! The open transactions: found by key, by half, and by the time at which they are due.

use std::hash::BuildHasher;

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use mq_protocol::ids::UnixMillis;

use super::half_map::HalfMap;
use super::names::Name;
use super::open::Open;
use crate::types::HalfOffset;

/// Transactions of one allocation: the table grows without moving what it holds.
const CHUNK: usize = 1024;

/// Where a transaction stands, for as long as it is open.
pub(super) type Slot = u32;

#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    chunks: Vec<Vec<Option<Open>>>,
    free: Vec<Slot>,
    by_key: HashTable<Slot>,
    by_half: HalfMap,
    /// A binary heap by due time, then by oldest half; each transaction knows its place in it.
    schedule: Vec<Slot>,
    hashing: RandomState,
}

impl Table {
    pub(super) fn halves(&self) -> usize {
        self.by_half.len()
    }

    pub(super) fn first_half(&self) -> Option<HalfOffset> {
        self.by_half.from(HalfOffset(0)).next()
    }

    /// Open halves from `from` on.
    pub(super) fn halves_from(&self, from: HalfOffset) -> impl Iterator<Item = HalfOffset> {
        self.by_half.from(from)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Open> {
        self.chunks.iter().flatten().flatten()
    }

    pub(super) fn find(&self, group: Name, id: &str) -> Option<Slot> {
        let same = |slot: &Slot| {
            let open = self.get(*slot);
            open.group == group && *open.id == *id
        };
        self.by_key.find(self.hashing.hash_one((group, id)), same).copied()
    }

    pub(super) fn slot_of(&self, half: HalfOffset) -> Option<Slot> {
        self.by_half.get(half)
    }

    pub(super) fn get(&self, slot: Slot) -> &Open {
        self.chunks[slot as usize / CHUNK][slot as usize % CHUNK].as_ref().expect("a known slot is taken")
    }

    /// Its key, halves and due time are changed by the table only.
    pub(super) fn get_mut(&mut self, slot: Slot) -> &mut Open {
        self.chunks[slot as usize / CHUNK][slot as usize % CHUNK].as_mut().expect("a known slot is taken")
    }

    pub(super) fn insert(&mut self, open: Open) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| self.grow());
        let (first, key) = (open.first(), self.hashing.hash_one((open.group, &*open.id)));
        self.chunks[slot as usize / CHUNK][slot as usize % CHUNK] = Some(open);
        let Self { chunks, by_key, hashing, .. } = self;
        by_key.insert_unique(key, slot, |slot| {
            let open = chunks[*slot as usize / CHUNK][*slot as usize % CHUNK].as_ref();
            let open = open.expect("a known slot is taken");
            hashing.hash_one((open.group, &*open.id))
        });
        self.by_half.insert(first, slot);
        self.schedule.push(slot);
        self.rise(self.schedule.len() - 1);
        slot
    }

    /// A new slot at the end.
    fn grow(&mut self) -> Slot {
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let chunk = self.chunks.len() - 1;
        let last = self.chunks.last_mut().expect("pushed above if there was none");
        last.push(None);
        Slot::try_from(chunk * CHUNK + last.len() - 1).expect("the limit of pending halves is below 2^32")
    }

    fn remove(&mut self, slot: Slot) -> Open {
        let place = self.get(slot).place as usize;
        self.schedule.swap_remove(place);
        if place < self.schedule.len() {
            self.settle(place);
        }
        let open = self.chunks[slot as usize / CHUNK][slot as usize % CHUNK].take().expect("a known slot is taken");
        let entry = self.by_key.find_entry(self.hashing.hash_one((open.group, &*open.id)), |known| *known == slot);
        entry.expect("an open transaction is found by its key").remove();
        self.free.push(slot);
        open
    }

    /// One more half of an open transaction: `change` lets it join.
    pub(super) fn add_half(&mut self, slot: Slot, half: HalfOffset, change: impl FnOnce(&mut Open)) {
        self.by_half.insert(half, slot);
        change(self.get_mut(slot));
        self.settle(self.get(slot).place as usize);
    }

    /// One half less. The transaction goes with its last one.
    pub(super) fn take_half(&mut self, slot: Slot, half: HalfOffset) -> Option<Open> {
        self.by_half.remove(half);
        if self.get_mut(slot).leave(half) {
            self.settle(self.get(slot).place as usize);
            return None;
        }
        Some(self.remove(slot))
    }

    /// The transaction that is due first.
    pub(super) fn next(&self) -> Option<(Slot, UnixMillis)> {
        self.schedule.first().map(|slot| (*slot, self.get(*slot).due))
    }

    pub(super) fn set_due(&mut self, slot: Slot, due: UnixMillis) {
        self.get_mut(slot).due = due;
        self.settle(self.get(slot).place as usize);
    }

    fn key(&self, place: usize) -> (UnixMillis, HalfOffset) {
        let open = self.get(self.schedule[place]);
        (open.due, open.first())
    }

    /// What stands at `place` moves to where it belongs.
    fn settle(&mut self, place: usize) {
        let risen = self.rise(place);
        if risen == place {
            self.sink(place);
        }
    }

    fn rise(&mut self, mut place: usize) -> usize {
        while place > 0 && self.key(place) < self.key((place - 1) / 2) {
            self.swap(place, (place - 1) / 2);
            place = (place - 1) / 2;
        }
        self.note(place);
        place
    }

    fn sink(&mut self, mut place: usize) {
        loop {
            let children = [2 * place + 1, 2 * place + 2].into_iter().filter(|child| *child < self.schedule.len());
            let Some(least) = children.min_by_key(|child| self.key(*child)) else { break };
            if self.key(place) <= self.key(least) {
                break;
            }
            self.swap(place, least);
            place = least;
        }
        self.note(place);
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.schedule.swap(one, other);
        self.note(one);
        self.note(other);
    }

    fn note(&mut self, place: usize) {
        let slot = self.schedule[place];
        self.get_mut(slot).place = place as u32;
    }
}

#[cfg(test)]
impl Table {
    /// All that is open, and that the ways to find it agree.
    pub(super) fn audit(&self) -> Vec<&Open> {
        let open: Vec<&Open> = self.all().collect();
        assert_eq!(open.len(), self.schedule.len(), "one schedule for each transaction");
        assert_eq!(open.len(), self.by_key.len());
        assert_eq!(self.by_half.len(), open.iter().map(|open| open.count()).sum::<usize>());
        for open in &open {
            let slot = self.find(open.group, &open.id).expect("found by its key");
            assert!(open.halves().is_sorted() && open.halves().iter().all(|half| self.slot_of(*half) == Some(slot)));
            assert_eq!(self.schedule[open.place as usize], slot);
            assert!(open.place == 0 || self.key((open.place as usize - 1) / 2) <= self.key(open.place as usize));
        }
        open
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::rngs::StdRng;
    use rand::seq::IteratorRandom;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::engine::names::Names;
    use crate::types::Part;

    /// Against a plain set of (due, half), for which the standard library is believed.
    #[test]
    fn what_is_due_comes_in_its_order_whatever_was_changed() {
        let (mut table, mut names, mut dice) = (Table::default(), Names::default(), StdRng::seed_from_u64(5));
        let mut expected: BTreeMap<HalfOffset, UnixMillis> = BTreeMap::new();
        for step in 0..6_000_u64 {
            let due = UnixMillis(dice.random_range(0..500));
            let known = expected.keys().copied().choose(&mut dice);
            match (dice.random_range(0..10), known) {
                (0..5, _) | (_, None) => {
                    let open = Open::new(names.take("g"), step.to_string().into(), HalfOffset(step), Part::WHOLE, due);
                    table.insert(open);
                    expected.insert(HalfOffset(step), due);
                }
                (5..7, Some(half)) => {
                    table.set_due(table.slot_of(half).unwrap(), due);
                    expected.insert(half, due);
                }
                (_, Some(half)) => {
                    assert!(table.take_half(table.slot_of(half).unwrap(), half).is_some());
                    expected.remove(&half);
                }
            }
            let first = expected.iter().map(|(half, due)| (*due, *half)).min();
            assert_eq!(table.next().map(|(slot, due)| (due, table.get(slot).first())), first);
            if step % 100 == 0 {
                table.audit();
            }
        }
    }
}
