//! How each half ended, and each copy of a given-up one, dense: two bits by queue offset. Knows no files; `verdict_file`
//! keeps the blocks.
//!
//! A block holds 16,368 ends in 4,092 bytes, so that block and checksum fill one page of the file.

use std::collections::VecDeque;
use std::marker::PhantomData;

use mq_protocol::ids::QueueOffset;

use crate::types::{CopyEnd, HalfOffset, Outcome};

pub(crate) const BLOCK_BYTES: usize = 4092;
pub(crate) const HALVES_PER_BLOCK: u64 = BLOCK_BYTES as u64 * 4;

#[derive(Clone, Debug)]
struct Block {
    bytes: Box<[u8; BLOCK_BYTES]>,
    changed: bool,
}

/// What two bits can say of a place of a queue, beside "nothing yet".
pub trait Mark: Copy {
    /// Of which queue.
    type At: Copy + Into<QueueOffset> + From<QueueOffset>;

    /// 1, 2 or 3.
    fn bits(self) -> u8;
    fn of_bits(bits: u8) -> Option<Self>;
}

impl Mark for Outcome {
    type At = HalfOffset;

    fn bits(self) -> u8 {
        match self {
            Self::Committed => 1,
            Self::RolledBack => 2,
            Self::Parked => 3,
        }
    }

    fn of_bits(bits: u8) -> Option<Self> {
        [None, Some(Self::Committed), Some(Self::RolledBack), Some(Self::Parked)][usize::from(bits)]
    }
}

impl Mark for CopyEnd {
    type At = QueueOffset;

    fn bits(self) -> u8 {
        match self {
            Self::Committed => 1,
            Self::RolledBack => 2,
            Self::Resumed => 3,
        }
    }

    fn of_bits(bits: u8) -> Option<Self> {
        [None, Some(Self::Committed), Some(Self::RolledBack), Some(Self::Resumed)][usize::from(bits)]
    }
}

/// The outcomes of the halves from `first` on; a half without an outcome is open or unknown.
pub type Verdicts = Dense<Outcome>;
/// What operators did about copies of given-up halves; one without an entry waits.
pub(crate) type CopyEnds = Dense<CopyEnd>;

/// The ends of a queue's records, from a first one on.
#[derive(Clone, Debug)]
pub struct Dense<E> {
    /// Number of the front block.
    front: u64,
    blocks: VecDeque<Block>,
    of: PhantomData<E>,
}

impl<E> Default for Dense<E> {
    fn default() -> Self {
        Self { front: 0, blocks: VecDeque::new(), of: PhantomData }
    }
}

impl<E: Mark> Dense<E> {
    /// An empty table for records at and above `first`.
    #[must_use]
    pub fn starting_at(first: E::At) -> Self {
        Self { front: first.into().0 / HALVES_PER_BLOCK, ..Self::default() }
    }

    #[must_use]
    pub fn get(&self, at: E::At) -> Option<E> {
        let (block, byte, shift) = place(at.into());
        E::of_bits(self.four(block, byte) >> shift & 0b11)
    }

    /// A byte of a block.
    fn four(&self, block: u64, byte: usize) -> u8 {
        let index = block.checked_sub(self.front).and_then(|index| usize::try_from(index).ok());
        index.and_then(|index| self.blocks.get(index)).map_or(0, |block| block.bytes[byte])
    }

    /// The first record without an end from `from` on, or `end` when there is none below it.
    pub(crate) fn next_without(&self, from: E::At, end: E::At) -> E::At {
        let (mut at, end) = (from.into(), end.into());
        while at < end {
            let (block, byte, shift) = place(at);
            let bits = self.four(block, byte);
            // Four records at a time: a full byte has none without.
            if at.0.is_multiple_of(4) && (bits | bits >> 1) & 0x55 == 0x55 {
                at.0 += 4;
            } else if bits >> shift & 0b11 != 0 {
                at.0 += 1;
            } else {
                break;
            }
        }
        at.min(end).into()
    }

    /// How many records of this range have no end.
    pub(crate) fn count_without(&self, from: E::At, end: E::At) -> usize {
        let (mut at, end) = (from.into(), end.into());
        let mut count = 0;
        while at < end {
            let (block, byte, shift) = place(at);
            let bits = self.four(block, byte);
            if at.0.is_multiple_of(4) && end.0 - at.0 >= 4 {
                count += 4 - ((bits | bits >> 1) & 0x55).count_ones() as usize;
                at.0 += 4;
            } else {
                count += usize::from(bits >> shift & 0b11 == 0);
                at.0 += 1;
            }
        }
        count
    }

    /// Blocks that are kept, of 4 KiB.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Notes the first end of a record. The caller knows that it is (or was) in the queue: the table grows up to it.
    pub fn set(&mut self, at: E::At, end: E) {
        let at = at.into();
        assert!(self.get(at.into()).is_none(), "record {at} has ended before: the first end stands");
        let (block, byte, shift) = place(at);
        let Some(index) = block.checked_sub(self.front) else { return };
        while self.blocks.len() as u64 <= index {
            self.blocks.push_back(Block { bytes: Box::new([0; BLOCK_BYTES]), changed: true });
        }
        let block = &mut self.blocks[index as usize];
        block.bytes[byte] |= end.bits() << shift;
        block.changed = true;
    }

    /// Forgets records that are no longer on disk, a whole block at a time.
    pub fn forget_below(&mut self, at: E::At) {
        while self.front < at.into().0 / HALVES_PER_BLOCK {
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

fn place(at: QueueOffset) -> (u64, usize, u32) {
    let within = at.0 % HALVES_PER_BLOCK;
    (at.0 / HALVES_PER_BLOCK, (within / 4) as usize, (within % 4) as u32 * 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_without_an_outcome_are_found_one_after_the_other() {
        let mut table: Verdicts = Dense::starting_at(HalfOffset(0));
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
        let mut table: Verdicts = Dense::starting_at(HalfOffset(first));
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
