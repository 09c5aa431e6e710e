//! How each half ended, dense: two bits per half, by half queue offset. Knows no files; `verdict_file` keeps its blocks.
//!
//! A block holds 16,368 halves in 4,092 bytes, so that block and checksum fill one page of the file.

use std::collections::VecDeque;

use crate::types::{HalfOffset, Outcome};

pub(crate) const BLOCK_BYTES: usize = 4092;
pub(crate) const HALVES_PER_BLOCK: u64 = BLOCK_BYTES as u64 * 4;

#[derive(Clone, Debug)]
struct Block {
    bytes: Box<[u8; BLOCK_BYTES]>,
    changed: bool,
}

/// The outcomes of the halves from `first` on; a half without an outcome is open or unknown.
#[derive(Clone, Debug, Default)]
pub struct Verdicts {
    /// Number of the front block.
    front: u64,
    blocks: VecDeque<Block>,
}

impl Verdicts {
    /// An empty table for halves at and above `first`.
    #[must_use]
    pub fn starting_at(first: HalfOffset) -> Self {
        Self { front: first.0 / HALVES_PER_BLOCK, blocks: VecDeque::new() }
    }

    #[must_use]
    pub fn get(&self, half: HalfOffset) -> Option<Outcome> {
        let (block, byte, shift) = place(half);
        let index = usize::try_from(block.checked_sub(self.front)?).ok()?;
        match self.blocks.get(index)?.bytes[byte] >> shift & 0b11 {
            0 => None,
            1 => Some(Outcome::Committed),
            2 => Some(Outcome::RolledBack),
            _ => Some(Outcome::Parked),
        }
    }

    /// The first half without an outcome from `from` on, or `end` when there is none below it.
    pub(crate) fn next_without(&self, from: HalfOffset, end: HalfOffset) -> HalfOffset {
        let mut half = from;
        while half < end {
            let (block, byte, _) = place(half);
            let index = block.checked_sub(self.front).and_then(|index| usize::try_from(index).ok());
            let bits = index.and_then(|index| self.blocks.get(index)).map_or(0, |block| block.bytes[byte]);
            // Four halves at a time: a full byte has none without.
            if half.0.is_multiple_of(4) && (bits | bits >> 1) & 0x55 == 0x55 {
                half.0 += 4;
            } else if self.get(half).is_some() {
                half.0 += 1;
            } else {
                break;
            }
        }
        half.min(end)
    }

    /// How many halves of this range have no outcome.
    pub(crate) fn count_without(&self, from: HalfOffset, end: HalfOffset) -> usize {
        let (mut count, mut next) = (0, self.next_without(from, end));
        while next < end {
            count += 1;
            next = self.next_without(HalfOffset(next.0 + 1), end);
        }
        count
    }

    /// Blocks that are kept, of 4 KiB.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Records the first outcome of a half. The caller knows that the half is (or was) in the queue: the table grows up
    /// to it.
    pub fn set(&mut self, half: HalfOffset, outcome: Outcome) {
        assert!(self.get(half).is_none(), "half {half} has ended before: the first outcome stands");
        let (block, byte, shift) = place(half);
        let Some(index) = block.checked_sub(self.front) else { return };
        while self.blocks.len() as u64 <= index {
            self.blocks.push_back(Block { bytes: Box::new([0; BLOCK_BYTES]), changed: true });
        }
        let bits = match outcome {
            Outcome::Committed => 1,
            Outcome::RolledBack => 2,
            Outcome::Parked => 3,
        };
        let block = &mut self.blocks[index as usize];
        block.bytes[byte] |= bits << shift;
        block.changed = true;
    }

    /// Forgets halves that are no longer on disk, a whole block at a time.
    pub fn forget_below(&mut self, half: HalfOffset) {
        while self.front < half.0 / HALVES_PER_BLOCK {
            self.front += 1;
            self.blocks.pop_front();
        }
    }

    /// Blocks changed since the last call, with their numbers.
    pub(crate) fn take_changed(&mut self) -> Vec<(u64, Box<[u8; BLOCK_BYTES]>)> {
        let numbered = (self.front..).zip(&mut self.blocks);
        numbered
            .filter_map(|(number, block)| std::mem::take(&mut block.changed).then(|| (number, block.bytes.clone())))
            .collect()
    }

    /// These blocks could not be saved: they count as changed again.
    pub(crate) fn put_back(&mut self, unsaved: &[(u64, Box<[u8; BLOCK_BYTES]>)]) {
        for (number, _) in unsaved {
            let index = number.checked_sub(self.front).and_then(|index| usize::try_from(index).ok());
            if let Some(block) = index.and_then(|index| self.blocks.get_mut(index)) {
                block.changed = true;
            }
        }
    }

    /// Adds the next block as it was read back.
    pub(crate) fn restore(&mut self, bytes: Box<[u8; BLOCK_BYTES]>) {
        self.blocks.push_back(Block { bytes, changed: false });
    }
}

fn place(half: HalfOffset) -> (u64, usize, u32) {
    let within = half.0 % HALVES_PER_BLOCK;
    (half.0 / HALVES_PER_BLOCK, (within / 4) as usize, (within % 4) as u32 * 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_without_an_outcome_are_found_one_after_the_other() {
        let mut table = Verdicts::starting_at(HalfOffset(0));
        let end = 2 * HALVES_PER_BLOCK + 11;
        let without = |half: u64| half % 37 == 5 || (100..110).contains(&half) || half == end - 1;
        for half in (0..end).filter(|half| !without(*half)) {
            table.set(HalfOffset(half), Outcome::Committed);
        }
        let expected: Vec<u64> = (7..end).filter(|half| without(*half)).collect();
        let (mut found, mut next) = (Vec::new(), HalfOffset(7));
        while {
            next = table.next_without(next, HalfOffset(end));
            next.0 < end
        } {
            found.push(next.0);
            next.0 += 1;
        }
        assert_eq!((table.count_without(HalfOffset(7), HalfOffset(end)), found), (expected.len(), expected));
    }

    #[test]
    fn outcomes_are_kept_apart_across_blocks_and_forgotten_by_the_block() {
        let outcomes = [Outcome::Committed, Outcome::RolledBack, Outcome::Parked];
        let first = 5 * HALVES_PER_BLOCK + 7;
        let mut table = Verdicts::starting_at(HalfOffset(first));
        let halves: Vec<_> = (0..3 * HALVES_PER_BLOCK).step_by(997).map(|n| HalfOffset(first + n)).collect();
        for (half, outcome) in halves.iter().zip(outcomes.iter().cycle()) {
            assert_eq!(table.get(*half), None);
            table.set(*half, *outcome);
            assert_eq!(table.get(HalfOffset(half.0 + 1)), None);
        }
        table.forget_below(HalfOffset(7 * HALVES_PER_BLOCK + 3));
        for (half, outcome) in halves.iter().zip(outcomes.iter().cycle()) {
            let kept = half.0 >= 7 * HALVES_PER_BLOCK;
            assert_eq!(table.get(*half), kept.then_some(*outcome), "half {half}");
        }
        table.set(HalfOffset(3), Outcome::Committed);
        assert_eq!(table.get(HalfOffset(3)), None, "below the table: not kept, and not an error");
    }
}
