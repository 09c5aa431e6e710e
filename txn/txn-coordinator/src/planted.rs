//! Bugs that a test plants to see whether the suite finds them. Without the feature `planted`, which no binary is shipped
//! with, every question is a constant "no".

/// What would be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "planted"), allow(unreachable_pub, reason = "public with the feature only"))]
pub enum Bug {
    /// A verdict is answered before it is on disk.
    AcknowledgeEarly,
    /// A commit is appended without its OP record.
    DropOpRecord,
    /// A commit is appended without its message.
    DropMessage,
    /// The engine is told of a verdict that the log refused.
    ToldUnwritten,
    /// A check that nobody was there to get is counted.
    CountUnsentCheck,
    /// A delivered check is not counted.
    ForgetCheck,
    /// What was looked at once is not looked at again.
    ForgetHalf,
    /// A contrary verdict is acknowledged.
    SecondVerdictWins,
    /// The verdict of another transaction is taken for a half's own.
    AnyTransaction,
    /// A verdict ends one half of its transaction only.
    SiblingLeft,
    /// Of several messages under one verdict the first is published.
    PartsLeftOut,
    /// A message without an OP record, torn off by a crash, is forgotten.
    TornForgotten,
    /// Another producer group is asked.
    OtherGroup,
    /// A half is parked without the operator's copy.
    ParkWithoutCopy,
    /// The verdict file is saved before the log that it covers is durable.
    FileAhead,
    /// A delay from the commit begins when the half was stored.
    DelayFromHalf,
    /// What one append commits stands in the order of the halves.
    OrderOfHalves,
    /// The copy of a half that was given up is used again.
    CopyUsedTwice,
}

#[cfg(feature = "planted")]
impl Bug {
    pub const ALL: [Self; 18] = [
        Self::AcknowledgeEarly,
        Self::DropOpRecord,
        Self::DropMessage,
        Self::ToldUnwritten,
        Self::CountUnsentCheck,
        Self::ForgetCheck,
        Self::ForgetHalf,
        Self::SecondVerdictWins,
        Self::AnyTransaction,
        Self::SiblingLeft,
        Self::PartsLeftOut,
        Self::TornForgotten,
        Self::OtherGroup,
        Self::ParkWithoutCopy,
        Self::FileAhead,
        Self::DelayFromHalf,
        Self::OrderOfHalves,
        Self::CopyUsedTwice,
    ];
}

#[cfg(not(feature = "planted"))]
#[inline]
pub(crate) const fn planted(_: Bug) -> bool {
    false
}

#[cfg(feature = "planted")]
mod switch {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants a bug in the coordinators of this thread, or pulls it out.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    pub(crate) fn planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(feature = "planted")]
pub use switch::plant;
#[cfg(feature = "planted")]
pub(crate) use switch::planted;
