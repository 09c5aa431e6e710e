//! What happened to transactions that did not end at once: questions, answers, who gave them and when. The last ones of
//! the whole broker, in memory: a transaction that its producer ends unasked leaves no trace here, and needs none. What is
//! remembered of a half that is given up goes with its copy.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::iter;
use std::net::SocketAddr;

use mq_protocol::body::TxnEvent;
use mq_protocol::ids::UnixMillis;

use crate::types::{ClientId, HalfOffset, ParkReason, Refusal, Verdict};

/// Events that are kept: some 6 MiB, and the whole story of 3,000 transactions that are asked about 15 times.
const MAX_EVENTS: usize = 100_000;

/// Something that an operator may want to know of a transaction, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub at: UnixMillis,
    pub half: HalfOffset,
    pub by: String,
    pub what: String,
}

#[derive(Debug)]
struct Event {
    at: UnixMillis,
    half: HalfOffset,
    what: EventKind,
    by: Who,
    /// Number of the event of the same half before this one.
    before: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EventKind {
    Asked {
        attempt: u32,
    },
    NobodyToAsk,
    /// It ended the transaction, or is "unknown".
    Said(Verdict),
    /// The same verdict once more.
    Repeated(Verdict),
    Refused(Verdict, Refusal),
    Parked(ParkReason),
    Resumed,
    CheckOrdered,
}

/// Who was asked, or has answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Who {
    #[default]
    Broker,
    Client(ClientId),
    Peer(SocketAddr),
    Operator(ClientId),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broker => f.write_str(TxnEvent::THE_BROKER),
            Self::Client(id) => f.write_str(id),
            Self::Peer(address) => address.fmt(f),
            Self::Operator(name) => write!(f, "{}{name}", TxnEvent::OPERATOR),
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked { attempt } => write!(f, "was asked (check {attempt})"),
            Self::NobodyToAsk => f.write_str("nobody of the producer group is connected"),
            Self::Said(verdict) => write!(f, "{}{verdict}", TxnEvent::SAID),
            Self::Repeated(verdict) => write!(f, "{}{verdict} again", TxnEvent::SAID),
            Self::Refused(verdict, why) => write!(f, "{}{verdict}{}{why}", TxnEvent::SAID, TxnEvent::REFUSED),
            Self::Parked(reason) => write!(f, "{}{reason}", TxnEvent::PARKED),
            Self::Resumed => f.write_str("resumed"),
            Self::CheckOrdered => f.write_str("a check was ordered"),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct History {
    /// Oldest first, numbered on from `first`.
    events: VecDeque<Event>,
    first: u64,
    /// Number of the last event of each half.
    last: HashMap<HalfOffset, u64>,
}

impl History {
    pub(crate) fn note(&mut self, at: UnixMillis, half: HalfOffset, what: EventKind, by: Who) {
        if self.events.len() == MAX_EVENTS
            && let Some(oldest) = self.events.pop_front()
        {
            if self.last.get(&oldest.half) == Some(&self.first) {
                self.last.remove(&oldest.half);
            }
            self.first += 1;
        }
        let before = self.last.insert(half, self.first + self.events.len() as u64);
        self.events.push_back(Event { at, half, what, by, before });
    }

    /// Of these halves, oldest first.
    pub(crate) fn of(&self, halves: &[HalfOffset]) -> Vec<Told> {
        let mut found = BTreeMap::new();
        for half in halves {
            for (number, Event { at, half, what, by, .. }) in self.events_of(*half) {
                found.insert(number, Told { at: *at, half: *half, by: by.to_string(), what: what.to_string() });
            }
        }
        found.into_values().collect()
    }

    /// How often somebody was asked about them; `None`: that is not remembered.
    pub(crate) fn checks(&self, halves: &[HalfOffset]) -> Option<u32> {
        let attempt = |event: &Event| match event.what {
            EventKind::Asked { attempt } => Some(attempt),
            _ => None,
        };
        halves.iter().flat_map(|half| self.events_of(*half)).filter_map(|(_, event)| attempt(event)).max()
    }

    /// Newest first, with their numbers.
    fn events_of(&self, half: HalfOffset) -> impl Iterator<Item = (u64, &Event)> {
        let event = |number: Option<u64>| {
            let number = number.filter(|number| *number >= self.first)?;
            Some((number, &self.events[(number - self.first) as usize]))
        };
        iter::successors(event(self.last.get(&half).copied()), move |(_, newer)| event(newer.before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_events_are_kept_and_no_more() {
        let mut history = History::default();
        for half in 0..MAX_EVENTS as u64 + 5 {
            history.note(UnixMillis(0), HalfOffset(half), EventKind::NobodyToAsk, Who::Broker);
        }
        assert_eq!((history.events.len(), history.last.len()), (MAX_EVENTS, MAX_EVENTS));
        assert_eq!((history.of(&[HalfOffset(4)]).len(), history.of(&[HalfOffset(5)]).len()), (0, 1));
    }
}
