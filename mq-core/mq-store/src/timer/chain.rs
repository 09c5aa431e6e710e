//! The entries of one slot in the order in which they came, without all of them in memory: the chain leads backwards,
//! so a first walk leaves marks, and the pieces between them are turned round one by one.

use mq_protocol::ids::UnixMillis;

use super::TimerError;
use super::entry::TimerEntry;
use super::log::{TimerLog, Window};

/// Entries between two marks.
const PIECE: u64 = 1024;

/// A slot's entries as they were at one time.
#[derive(Clone, Debug)]
pub struct Chain {
    slot: UnixMillis,
    /// Positions of every so-manieth entry, the newest first.
    marks: Vec<u64>,
}

impl Chain {
    pub(super) fn walk(
        log: &TimerLog,
        slot: UnixMillis,
        last: u64,
        mut each: impl FnMut(&TimerEntry),
    ) -> Result<Self, TimerError> {
        let mut chain = Self { slot, marks: Vec::new() };
        let (mut window, mut at, mut count) = (Window::default(), Some(last), 0u64);
        while let Some(here) = at {
            if count.is_multiple_of(PIECE) {
                chain.marks.push(here);
            }
            let linked = log.read_of_slot(here, slot, &mut window)?;
            each(&linked.entry);
            at = linked.previous;
            count += 1;
        }
        Ok(chain)
    }

    #[must_use]
    pub fn pieces(&self) -> usize {
        self.marks.len()
    }

    /// The `index`-th oldest piece, its oldest entry first.
    pub(super) fn piece(&self, log: &TimerLog, index: usize) -> Result<Vec<TimerEntry>, TimerError> {
        let newest = self.marks.len() - 1 - index;
        let older = self.marks.get(newest + 1).copied();
        let (mut window, mut at, mut entries) = (Window::default(), Some(self.marks[newest]), Vec::new());
        while let Some(here) = at.filter(|at| Some(*at) != older) {
            let linked = log.read_of_slot(here, self.slot, &mut window)?;
            entries.push(linked.entry);
            at = linked.previous;
        }
        entries.reverse();
        Ok(entries)
    }
}
