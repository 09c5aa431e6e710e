//! What is read of the engine: by the driver, by metrics, by operators.

use mq_protocol::ids::{QueueOffset, UnixMillis};

use super::names::Name;
use super::{Count, Counters, Engine, ParkedNow, Pending, Rules};
use crate::types::{CopyEnd, HalfOffset, Halves, Outcome, Part, TransactionKey};
use crate::verdicts::{CopyEnds, Verdicts};

impl Engine {
    /// When the next [`Input::Due`] has something to do.
    #[must_use]
    pub fn next_due(&self) -> Option<UnixMillis> {
        self.table.next().map(|(_, due)| due)
    }

    /// Halves without an outcome.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.table.halves()
    }

    /// Of these, the ones below `end`.
    #[must_use]
    pub fn pending_below(&self, end: HalfOffset) -> usize {
        self.table.halves_from(HalfOffset(0)).take_while(|half| *half < end).count()
    }

    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Recovery is over: counts begin here.
    pub fn reset_counters(&mut self) {
        self.counters = Counters::default();
    }

    /// Keeps the keys of this many ended transactions from now on.
    pub fn remember(&mut self, settled_max: usize) {
        self.settled.set_max(settled_max, &mut self.names);
    }

    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    #[must_use]
    pub fn outcome(&self, half: HalfOffset) -> Option<Outcome> {
        self.verdicts.get(half)
    }

    #[must_use]
    pub fn is_open(&self, half: HalfOffset) -> bool {
        self.table.slot_of(half).is_some()
    }

    /// The open halves of a transaction, oldest first.
    #[must_use]
    pub fn halves_of(&self, transaction: &TransactionKey) -> Halves {
        self.slot_by_key(transaction).map_or_else(Halves::new, |slot| self.table.get(slot).halves())
    }

    /// How many there are.
    #[must_use]
    pub fn count_of(&self, transaction: &TransactionKey) -> usize {
        self.slot_by_key(transaction).map_or(0, |slot| self.table.get(slot).count())
    }

    /// How the transaction ended, as far as that is remembered.
    #[must_use]
    pub fn settled(&self, transaction: &TransactionKey) -> Option<Outcome> {
        Some(self.settled.get(self.names.known(transaction.group())?, transaction.id())?.outcome)
    }

    /// What became of the copy at this place of the topic of given-up halves, which is of this transaction. Only one that
    /// waits may be resumed or resolved: else its message could be published twice.
    #[must_use]
    pub fn parked_now(&self, copy: QueueOffset, of: &TransactionKey) -> ParkedNow {
        let ended = self.settled(of).filter(|outcome| *outcome != Outcome::Parked);
        match self.copies.get(copy) {
            None => ended.map_or(ParkedNow::Parked, ParkedNow::Ended),
            Some(CopyEnd::Committed) => ParkedNow::Ended(Outcome::Committed),
            Some(CopyEnd::RolledBack) => ParkedNow::Ended(Outcome::RolledBack),
            Some(CopyEnd::Resumed) => match (self.halves_of(of).first(), ended) {
                (Some(half), _) => ParkedNow::OpenAgain(*half),
                (None, Some(outcome)) => ParkedNow::Ended(outcome),
                (None, None) => ParkedNow::Resumed,
            },
        }
    }

    /// Whether an open half has been asked about, or was tried to be: its story is worth telling.
    #[must_use]
    pub fn was_asked(&self, half: HalfOffset) -> bool {
        let open = self.table.slot_of(half).map(|slot| self.table.get(slot));
        open.is_some_and(|open| open.checks > 0 || open.unasked > 0)
    }

    /// How often an open half's transaction was asked about.
    #[must_use]
    pub fn count(&self, half: HalfOffset) -> Option<Count> {
        self.table.slot_of(half).map(|slot| self.table.get(slot).count_of_checks())
    }

    /// The same of all that somebody was, or should have been, asked about, each under its oldest half.
    #[must_use]
    pub fn counts(&self) -> Vec<(HalfOffset, Count)> {
        let counts = self.table.all().map(|open| (open.first(), open.count_of_checks()));
        counts.filter(|(_, count)| *count != Count::default()).collect()
    }

    /// The part of its transaction that an open half is.
    #[must_use]
    pub fn part_of(&self, half: HalfOffset) -> Part {
        self.table.slot_of(half).map_or(Part::WHOLE, |slot| self.table.get(slot).part_of(half))
    }

    /// The transaction of an open half.
    #[must_use]
    pub fn pending_of(&self, half: HalfOffset) -> Option<Pending> {
        let slot = self.table.slot_of(half)?;
        let open = self.table.get(slot);
        Some(Pending {
            client: open.client.map(|client| self.names.text(client).clone()),
            checks: u32::from(open.checks),
            check_max: self.check_max(slot),
            unasked: open.unasked,
            due: open.due,
            halves: open.halves(),
            decided: open.decided,
        })
    }

    /// Open halves from `from` on whose producer group is `group`, if that is given: up to `limit` of the next `look`
    /// ones. And where to go on.
    #[must_use]
    pub fn pending_from(
        &self,
        from: HalfOffset,
        group: Option<&str>,
        limit: usize,
        look: usize,
    ) -> (Vec<HalfOffset>, Option<HalfOffset>) {
        let name = group.map(|group| self.names.known(group));
        let wanted = |half: HalfOffset| {
            let slot = self.table.slot_of(half).expect("an open half has its transaction");
            name.is_none_or(|name: Option<Name>| name == Some(self.table.get(slot).group))
        };
        let mut found = Vec::new();
        for (looked, half) in self.table.halves_from(from).enumerate() {
            if looked >= look || found.len() >= limit {
                return (found, Some(half));
            }
            if wanted(half) {
                found.push(half);
            }
        }
        (found, None)
    }

    /// The oldest half without an outcome: everything below it is finished.
    #[must_use]
    pub fn first_open(&self) -> Option<HalfOffset> {
        self.table.first_half()
    }

    pub fn verdicts_mut(&mut self) -> &mut Verdicts {
        &mut self.verdicts
    }

    pub(crate) fn copies_mut(&mut self) -> &mut CopyEnds {
        &mut self.copies
    }

    pub(crate) fn copies(&self) -> &CopyEnds {
        &self.copies
    }

    #[must_use]
    pub fn verdicts(&self) -> &Verdicts {
        &self.verdicts
    }
}
