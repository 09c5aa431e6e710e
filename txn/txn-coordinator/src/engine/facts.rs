//! What the engine is told, what it wants done, and what it says of an open transaction.

use std::time::Duration;

use mq_protocol::ids::{QueueOffset, UnixMillis};

use crate::types::{
    CheckResult, ClientId, CopyEnd, HalfOffset, Halves, Outcome, ParkReason, Part, Refusal, TransactionKey, Verdict,
};

/// A half message that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Half {
    pub offset: HalfOffset,
    pub transaction: TransactionKey,
    pub part: Part,
    /// By the engine's time; the client's clock decides nothing.
    pub stored_at: UnixMillis,
    /// `CHECK_IMMUNITY_TIME_IN_SECONDS`; zero when the client did not ask for any.
    pub immunity: Duration,
    /// `CHECKBACK_MAX_CHECKS`, instead of the rules' limit.
    pub check_max: Option<u16>,
    /// Checks that an Apache broker counted in the record.
    pub checks: u32,
    /// Stored by an operator to open a parked transaction again.
    pub resumes: bool,
    pub client: Option<ClientId>,
}

/// How often a transaction was asked about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Checks that were delivered.
    pub checks: u16,
    /// Attempts since the last of them that found nobody to ask.
    pub unasked: u32,
}

/// END_TRANSACTION, beside what the half queue holds at the place that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub half: HalfOffset,
    pub verdict: Verdict,
    /// Whether the request fits the half on disk.
    pub on_disk: Result<(), Refusal>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The half is durable.
    Stored(Half),
    End(End),
    /// Time has passed.
    Due,
    CheckSent(HalfOffset, CheckResult),
    /// An operator wants it checked now.
    CheckNow(HalfOffset),
    /// What was counted before the restart. Recovery only.
    Counted(HalfOffset, Count),
    /// A real message (or a parked copy) of this half is in the log; an OP record may still be missing. Recovery only.
    Decided(HalfOffset, Outcome),
    /// An OP record that ends these halves is in the log. Without an outcome (recovery): what was decided for the
    /// transaction, else rolled back.
    Written(Halves, Option<Outcome>),
    /// The half is no longer on disk, or cannot be read.
    Gone(HalfOffset),
    /// What an operator did about the copy at this place of the topic of given-up halves is in the log.
    CopyEnded(QueueOffset, CopyEnd),
}

/// What the driver has to do. `ends` are the halves for the OP record, in order, `copies` those to take, one of each
/// part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Append the real messages and the OP record as one group.
    Commit {
        copies: Halves,
        ends: Halves,
    },
    /// Append the OP record.
    Rollback {
        ends: Halves,
    },
    /// Append what is missing of an outcome that is in the log: the OP record, and (where another broker has ended some
    /// parts of a transaction) the messages of the others.
    Close {
        copies: Halves,
        ends: Halves,
        outcome: Outcome,
    },
    /// Append the copies for the operator and the OP record as one group.
    Park {
        copies: Halves,
        ends: Halves,
        reason: ParkReason,
        checks: u32,
    },
    /// Ask the client, or whoever else is of its group.
    Check {
        half: HalfOffset,
        client: Option<ClientId>,
        attempt: u32,
    },
    /// Answer that it is so: the same verdict was given before.
    Acknowledge(Outcome),
    Refuse(Refusal),
}

/// What became of the copy of a given-up half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParkedNow {
    /// It waits for an operator.
    Parked,
    /// It was resumed, and its transaction is open: this is its oldest half.
    OpenAgain(HalfOffset),
    /// It was resumed, and its transaction has ended; how is not remembered.
    Resumed,
    Ended(Outcome),
}

/// An open transaction as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    pub client: Option<ClientId>,
    pub checks: u32,
    pub check_max: u32,
    /// Fruitless attempts since the last delivered check.
    pub unasked: u32,
    /// By the engine's time.
    pub due: UnixMillis,
    pub halves: Halves,
    pub decided: Option<Outcome>,
}
