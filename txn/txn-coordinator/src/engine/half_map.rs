//! From a half to its transaction, in the order of the halves. Most that are open lie side by side, so they are kept by the
//! page: some six bytes each instead of a search tree's two dozen, and ninety for one that stands alone.

use std::collections::BTreeMap;

use super::table::Slot;
use crate::types::HalfOffset;

const PAGE: usize = 16;
const NONE: Slot = Slot::MAX;

#[derive(Clone, Debug, Default)]
pub(super) struct HalfMap {
    /// By page number; none is empty.
    pages: BTreeMap<u64, Box<[Slot; PAGE]>>,
    len: usize,
}

impl HalfMap {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, half: HalfOffset) -> Option<Slot> {
        let (page, place) = place(half);
        self.pages.get(&page).map(|slots| slots[place]).filter(|slot| *slot != NONE)
    }

    pub(super) fn insert(&mut self, half: HalfOffset, slot: Slot) {
        assert!(slot != NONE, "the limit of pending halves is below 2^32");
        let (page, place) = place(half);
        let slots = self.pages.entry(page).or_insert_with(|| Box::new([NONE; PAGE]));
        let before = std::mem::replace(&mut slots[place], slot);
        self.len += usize::from(before == NONE);
    }

    pub(super) fn remove(&mut self, half: HalfOffset) {
        let (page, place) = place(half);
        let Some(slots) = self.pages.get_mut(&page) else { return };
        self.len -= usize::from(std::mem::replace(&mut slots[place], NONE) != NONE);
        if slots.iter().all(|slot| *slot == NONE) {
            self.pages.remove(&page);
        }
    }

    /// In their order, from `from` on.
    pub(super) fn from(&self, from: HalfOffset) -> impl Iterator<Item = HalfOffset> {
        let halves = self.pages.range(place(from).0..).flat_map(|(page, slots)| {
            let taken = (0..PAGE).filter(|place| slots[*place] != NONE);
            taken.map(move |place| HalfOffset(page * PAGE as u64 + place as u64))
        });
        halves.skip_while(move |half| *half < from)
    }
}

fn place(half: HalfOffset) -> (u64, usize) {
    (half.0 / PAGE as u64, (half.0 % PAGE as u64) as usize)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// Against the standard library's map.
    #[test]
    fn halves_are_found_in_their_order_whatever_was_changed() {
        let (mut map, mut expected, mut dice) = (HalfMap::default(), BTreeMap::new(), StdRng::seed_from_u64(9));
        for step in 0..20_000 {
            let half = HalfOffset(dice.random_range(0..200) + if dice.random() { 0 } else { 1 << 40 });
            if dice.random() {
                map.insert(half, step);
                expected.insert(half, step);
            } else {
                map.remove(half);
                expected.remove(&half);
            }
            let from = HalfOffset(dice.random_range(0..220));
            assert_eq!(map.get(half), expected.get(&half).copied());
            assert_eq!(map.len(), expected.len());
            assert!(map.from(from).eq(expected.range(from..).map(|(half, _)| *half)));
        }
        expected.keys().for_each(|half| map.remove(*half));
        assert!(map.pages.is_empty());
    }
}
