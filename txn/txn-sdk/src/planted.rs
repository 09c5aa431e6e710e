//! Bugs that a test plants to see whether the suite finds them. Without the feature `simulation`, which no binary is
//! shipped with, every question is a constant "no".

/// What would be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "simulation"), allow(unreachable_pub, reason = "public with the feature only"))]
pub enum Bug {
    /// END COMMIT goes out before the database has committed.
    EndBeforeCommit,
    /// A marker that is missing from a young transaction is answered ROLLBACK.
    YoungIsRollback,
    /// ROLLBACK is answered without a tombstone.
    SkipFence,
    /// A transaction goes on where a tombstone stands.
    TombstoneIgnored,
    /// Nobody looks, before the commit, whether the transaction is still the one that was begun.
    SignIgnored,
    /// Nobody asks whether a row that is missing was cleaned.
    HorizonIgnored,
    /// Rows are cleaned, and nobody is told from where on they are gone.
    HorizonLeft,
    /// A commit whose answer was lost is reported as refused.
    UnknownIsRefused,
    /// A check that met a broken database is answered ROLLBACK.
    ErrorIsRollback,
    /// The inbox row is committed before the effect.
    InboxRowOutside,
    /// A delivery is acknowledged before its effect is committed.
    AckBeforeEffect,
    /// The effect of a message that is known happens again.
    DuplicateIsNew,
    /// What a handler emits is published before its delivery has committed.
    EmitBeforeCommit,
    /// A half whose message went to the outbox is answered COMMIT.
    OutboxedIsCommitted,
    /// A message in commit order waits in the outbox.
    OrderedWaits,
    /// The relay publishes and leaves the row where it is.
    RelayKeepsRow,
    /// The relay takes the row out without a marker for its half.
    RelayWithoutMarker,
    /// The relay ends its half before it has committed.
    RelayEndsEarly,
    /// The relay goes on behind a message that found no broker.
    RelayUnordered,
}

#[cfg(feature = "simulation")]
impl Bug {
    pub const ALL: [Self; 19] = [
        Self::EndBeforeCommit,
        Self::YoungIsRollback,
        Self::SkipFence,
        Self::TombstoneIgnored,
        Self::SignIgnored,
        Self::HorizonIgnored,
        Self::HorizonLeft,
        Self::UnknownIsRefused,
        Self::ErrorIsRollback,
        Self::InboxRowOutside,
        Self::AckBeforeEffect,
        Self::DuplicateIsNew,
        Self::EmitBeforeCommit,
        Self::OutboxedIsCommitted,
        Self::OrderedWaits,
        Self::RelayKeepsRow,
        Self::RelayWithoutMarker,
        Self::RelayEndsEarly,
        Self::RelayUnordered,
    ];
}

#[cfg(not(feature = "simulation"))]
#[inline]
pub(crate) const fn planted(_: Bug) -> bool {
    false
}

#[cfg(feature = "simulation")]
mod switch {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants a bug in the transactions of this thread, or pulls it out.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    pub(crate) fn planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(feature = "simulation")]
pub use switch::plant;
#[cfg(feature = "simulation")]
pub(crate) use switch::planted;
