//! A transaction without an outcome in the log: 64 bytes and its id. A million of them is what a broker may have to hold.

use mq_protocol::ids::UnixMillis;

use super::facts::Count;
use super::names::Name;
use crate::types::{HalfOffset, Halves, Outcome, Part};

/// Numbers of parts, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PartSet(u32);

impl PartSet {
    pub(super) fn with(self, part: Part) -> Self {
        Self(self.0 | 1 << (part.number - 1))
    }

    pub(super) fn has(self, number: u8) -> bool {
        self.0 & 1 << (number - 1) != 0
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn count(self) -> u8 {
        self.0.count_ones() as u8
    }
}

#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) group: Name,
    pub(super) client: Option<Name>,
    pub(super) id: Box<str>,
    /// The oldest half stands for all.
    first: HalfOffset,
    pub(super) due: UnixMillis,
    /// If there is anything but one half that is the whole transaction.
    more: Option<Box<More>>,
    /// Where the schedule has it.
    pub(super) place: u32,
    /// Fruitless attempts since the last delivered check.
    pub(super) unasked: u32,
    pub(super) checks: u16,
    /// 0: as the rules say.
    pub(super) check_max: u16,
    /// A check is out and its result was not told yet.
    pub(super) asking: bool,
    /// The outcome is in the log, but not every half has its OP record.
    pub(super) decided: Option<Outcome>,
}

#[derive(Clone, Debug)]
struct More {
    /// Ascending.
    members: Vec<(HalfOffset, Part)>,
    /// Of how many messages the transaction consists.
    parts: u8,
    /// Parts whose real messages (or parked copies) the log has.
    done: PartSet,
}

/// Some messages of the transaction are not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Incomplete {
    pub(super) here: u8,
    pub(super) of: u8,
}

impl Open {
    pub(super) fn new(group: Name, id: Box<str>, half: HalfOffset, part: Part, due: UnixMillis) -> Self {
        let more = (part.of > 1)
            .then(|| Box::new(More { members: vec![(half, part)], parts: part.of, done: PartSet::default() }));
        Self {
            group,
            client: None,
            id,
            first: half,
            due,
            more,
            place: 0,
            unasked: 0,
            checks: 0,
            check_max: 0,
            asking: false,
            decided: None,
        }
    }

    pub(super) fn count_of_checks(&self) -> Count {
        Count { checks: self.checks, unasked: self.unasked }
    }

    pub(super) fn first(&self) -> HalfOffset {
        self.first
    }

    pub(super) fn halves(&self) -> Halves {
        match &self.more {
            None => Halves::from_slice(&[self.first]),
            Some(more) => more.members.iter().map(|(half, _)| *half).collect(),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.more.as_ref().map_or(1, |more| more.members.len())
    }

    pub(super) fn parts(&self) -> u8 {
        self.more.as_ref().map_or(1, |more| more.parts)
    }

    pub(super) fn part_of(&self, half: HalfOffset) -> Part {
        let member = self.more.iter().flat_map(|more| &more.members).find(|(known, _)| *known == half);
        member.map_or(Part::WHOLE, |(_, part)| *part)
    }

    pub(super) fn done(&self) -> PartSet {
        match &self.more {
            None => self.decided.map_or_else(PartSet::default, |_| PartSet::default().with(Part::WHOLE)),
            Some(more) => more.done,
        }
    }

    /// The log has the messages of these parts.
    pub(super) fn add_done(&mut self, done: PartSet) {
        if let Some(more) = &mut self.more {
            more.done = more.done.and(done);
        }
    }

    pub(super) fn join(&mut self, half: HalfOffset, part: Part) {
        let (first, done) = (self.first, self.done());
        let more =
            self.more.get_or_insert_with(|| Box::new(More { members: vec![(first, Part::WHOLE)], parts: 1, done }));
        let at = more.members.partition_point(|(known, _)| *known < half);
        more.members.insert(at, (half, part));
        more.parts = more.parts.max(part.of);
        self.first = more.members[0].0;
    }

    /// One half less. False: it was the last one.
    pub(super) fn leave(&mut self, half: HalfOffset) -> bool {
        let Some(more) = &mut self.more else { return false };
        more.members.retain(|(known, _)| *known != half);
        if let Some((first, _)) = more.members.first() {
            self.first = *first;
        }
        !more.members.is_empty()
    }

    /// For each part the copy to take, but for those that the log has: what a commit publishes.
    pub(super) fn to_publish(&self) -> Result<Halves, Incomplete> {
        let Some(more) = &self.more else { return Ok(Halves::from_slice(&[self.first])) };
        let here = more.members.iter().fold(more.done, |here, (_, part)| here.with(*part));
        if here.count() < more.parts {
            return Err(Incomplete { here: here.count(), of: more.parts });
        }
        Ok(self.copies())
    }

    /// The same for as many parts as there are.
    pub(super) fn copies(&self) -> Halves {
        let Some(more) = &self.more else { return Halves::from_slice(&[self.first]) };
        let missing = (1..=more.parts).filter(|number| !more.done.has(*number));
        missing
            .filter_map(|number| more.members.iter().find(|(_, part)| part.number == number).map(|(half, _)| *half))
            .collect()
    }

    /// What is still to be written of an outcome that is decided.
    pub(super) fn unfinished(&self) -> Halves {
        match (&self.more, self.decided) {
            (Some(_), Some(Outcome::Committed | Outcome::Parked)) => self.copies(),
            _ => Halves::new(),
        }
    }

    /// A parked transaction begins anew.
    pub(super) fn reopen(&mut self) {
        self.decided = None;
        if let Some(more) = &mut self.more {
            more.done = PartSet::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_transaction_takes_64_bytes_beside_its_id() {
        assert!(size_of::<Option<Open>>() <= 64, "{}", size_of::<Option<Open>>());
    }
}
