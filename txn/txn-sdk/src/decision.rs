//! What the SDK decides, as pure functions: what a checkback is answered, what the broker is told when a transaction has
//! ended, and what goes to the outbox. Reads no clock and no database.
//!
//! ```text
//! row                          age                        answer
//! committed                    any                        COMMIT
//! committed, mode outbox       any                        ROLLBACK   the relay delivers its own copy
//! tombstone                    any                        ROLLBACK
//! written by a newer version   any                        UNKNOWN
//! none                         born before the horizon    UNKNOWN    the row may have been cleaned
//! none                         younger than the deadline  UNKNOWN    the transaction may still be running
//! none                         older                      insert the tombstone: inserted => ROLLBACK, else look again
//! none, on the second look     any                        UNKNOWN
//! (a transaction of another database: only a committed row says something here; else UNKNOWN)
//! (its age: how long ago it was born by the clocks, or how long it is known here, whichever is longer)
//!
//! the transaction              the broker is told
//! committed                    COMMIT
//! surely not committed         ROLLBACK
//! commit unknown               nothing       the checkback reads what happened
//! fenced                       nothing       the checkback that fenced it has told
//! ended by somebody else       nothing       as unknown
//!
//! the half message             with an outbox             without
//! stored safely                half                       half
//! the message is at fault      refused                    refused
//! the broker is at fault       outbox, under the same id  refused
//! not tried: broker was down   outbox                     (always tried)
//! ```

use std::time::Duration;

use mq_client::Verdict;
use mq_protocol::ids::UnixMillis;

use crate::planted::{Bug, planted};

/// A row of the marker table, as its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub state: i64,
    pub mode: i64,
}

impl Row {
    /// The transaction's own row: it exists if and only if the transaction committed.
    pub const COMMITTED: Self = Self { state: 1, mode: MODE_HALF };
    /// The same of a transaction whose message lies in the outbox: a half that did reach the broker is not wanted.
    pub const OUTBOXED: Self = Self { state: 1, mode: MODE_OUTBOX };
    /// Written by a checkback: the transaction can no longer commit.
    pub const TOMBSTONE: Self = Self { state: 2, mode: MODE_HALF };
}

const MODE_HALF: i64 = 0;
const MODE_OUTBOX: i64 = 1;

/// What one look at the database showed, and who asks when.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    pub row: Option<Row>,
    /// Rows born before this may have been cleaned.
    pub horizon: UnixMillis,
    pub born: UnixMillis,
    pub now: UnixMillis,
    /// How long this process has known of it, by a monotonic clock. Needed only of one that is not born yet.
    pub known_for: Duration,
    /// The age from which a transaction without a row is fenced off.
    pub deadline: Duration,
    /// Of the database that was looked at. A row of another one's is here if it was copied; that none is says nothing, and a
    /// tombstone here fences nothing off there.
    pub is_ours: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Answer(Verdict),
    /// Insert the tombstone; if another row is faster, look again.
    Fence,
}

pub fn first_look(sight: &Sight) -> Step {
    match sight.row {
        Some(row) if !sight.is_ours && row.state != Row::COMMITTED.state => Step::Answer(Verdict::Unknown),
        Some(row) => Step::Answer(settled(row)),
        None if !sight.is_ours => Step::Answer(Verdict::Unknown),
        None if sight.born < sight.horizon => Step::Answer(Verdict::Unknown),
        None if planted(Bug::YoungIsRollback) => Step::Answer(Verdict::Rollback),
        None if age(sight) < sight.deadline => Step::Answer(Verdict::Unknown),
        None => Step::Fence,
    }
}

/// `born` and `now` may be read off two clocks, and either may have been set since. Where they say that the transaction is
/// not born yet, what was seen of it here still counts: it is a lower bound, whatever the clocks say.
fn age(sight: &Sight) -> Duration {
    sight.now.since(sight.born).max(sight.known_for)
}

/// After the tombstone met another row: whatever stands there now decides.
pub fn second_look(row: Option<Row>) -> Verdict {
    row.map_or(Verdict::Unknown, settled)
}

/// How a transaction ended, as far as its own process can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending<E = ()> {
    Committed,
    /// No commit was asked for, or the database said no: there are no rows.
    Refused(E),
    /// A commit was asked for, and its answer is lost.
    Unknown(E),
    /// A tombstone stands in the marker's place, or may have.
    Fenced,
    /// The marker is no longer in the transaction: something else has ended it, one way or the other.
    Ended,
}

impl<E> Ending<E> {
    /// What the broker is told; `None`: nothing, it will ask.
    pub fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::Committed => Some(Verdict::Commit),
            Self::Refused(_) => Some(Verdict::Rollback),
            Self::Unknown(_) | Self::Fenced | Self::Ended => None,
        }
    }
}

/// Why a half message was not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No broker would take this message.
    Message,
    /// Not reached, busy, or not sure: the half may be stored all the same.
    Broker,
}

/// Without a half: whether the transaction may go on and leave its message in the outbox.
pub fn goes_to_outbox(has_outbox: bool, fault: Fault) -> bool {
    has_outbox && fault == Fault::Broker
}

/// What the relay does with a batch, oldest first, once its halves were tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relayed {
    /// Its half is stored: row out and marker in, in one transaction, then COMMIT.
    Publish,
    /// No broker takes it: later, and the ones behind it go on.
    Postpone,
    /// One before it found no broker: nothing overtakes that.
    Wait,
}

pub fn relay_batch(halves: impl IntoIterator<Item = Result<(), Fault>>) -> Vec<Relayed> {
    let mut stopped = false;
    let decide = |half| match half {
        _ if stopped && !planted(Bug::RelayUnordered) => Relayed::Wait,
        Ok(()) => Relayed::Publish,
        Err(Fault::Message) => Relayed::Postpone,
        Err(Fault::Broker) => {
            stopped = true;
            Relayed::Wait
        }
    };
    halves.into_iter().map(decide).collect()
}

/// The time that rows are cleaned by. Of a clock that is ahead only what a monotonic one has seen counts, from the last round
/// on, else from the newest row: a leap takes no row that may still be asked for, and raises no horizon into the future.
pub fn believed(now: UnixMillis, last_round: Option<(UnixMillis, Duration)>, newest_row: UnixMillis) -> UnixMillis {
    match last_round {
        Some((time, ago)) => now.min(time.plus(ago)),
        None => now.min(newest_row),
    }
}

/// How long a row that no broker takes is left alone: doubled each time, an hour at most. It is never given up.
pub fn postponed(attempts: u32) -> Duration {
    const LONGEST: Duration = Duration::from_secs(3600);
    Duration::from_secs(1).saturating_mul(2_u32.saturating_pow(attempts)).min(LONGEST)
}

fn settled(row: Row) -> Verdict {
    const COMMITTED: i64 = Row::COMMITTED.state;
    const TOMBSTONE: i64 = Row::TOMBSTONE.state;
    match (row.state, row.mode) {
        (COMMITTED, MODE_HALF) => Verdict::Commit,
        (COMMITTED, MODE_OUTBOX) if planted(Bug::OutboxedIsCommitted) => Verdict::Commit,
        (COMMITTED, MODE_OUTBOX) | (TOMBSTONE, _) => Verdict::Rollback,
        _ => Verdict::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HORIZON: i64 = 1_000_000;
    const DEADLINE: i64 = 30_000;

    fn step(row: Option<(i64, i64)>, born: i64, now: i64, known_for: i64) -> Step {
        first_look(&Sight {
            row: row.map(|(state, mode)| Row { state, mode }),
            horizon: UnixMillis(HORIZON),
            born: UnixMillis(born),
            now: UnixMillis(now),
            known_for: Duration::from_millis(known_for.unsigned_abs()),
            deadline: Duration::from_millis(DEADLINE.unsigned_abs()),
            is_ours: true,
        })
    }

    #[test]
    fn of_another_databases_transaction_only_a_committed_row_says_something() {
        for (row, expected) in [
            (Some(Row::COMMITTED), Verdict::Commit),
            (Some(Row::OUTBOXED), Verdict::Rollback),
            (Some(Row::TOMBSTONE), Verdict::Unknown),
            (Some(Row { state: 3, mode: 0 }), Verdict::Unknown),
            (None, Verdict::Unknown),
        ] {
            for born in [HORIZON - 1, HORIZON] {
                let (horizon, born, now) = (UnixMillis(HORIZON), UnixMillis(born), UnixMillis(born + 100 * DEADLINE));
                let deadline = Duration::from_millis(DEADLINE.unsigned_abs());
                let sight = Sight { row, horizon, born, now, known_for: deadline, deadline, is_ours: false };
                assert_eq!(first_look(&sight), Step::Answer(expected), "{row:?} born {born:?}");
            }
        }
    }

    #[test]
    fn every_row_of_the_table_is_answered_as_written() {
        use Step::{Answer, Fence};
        use Verdict::{Commit, Rollback, Unknown};
        let cases = [
            // a row decides, whatever its age
            (Some((1, 0)), Answer(Commit)),
            (Some((1, 1)), Answer(Rollback)),
            (Some((2, 0)), Answer(Rollback)),
            (Some((2, 1)), Answer(Rollback)),
            (Some((1, 2)), Answer(Unknown)),
            (Some((3, 0)), Answer(Unknown)),
            (Some((0, 0)), Answer(Unknown)),
        ];
        for (row, expected) in cases {
            for born in [0, HORIZON - 1, HORIZON, HORIZON + 1] {
                for age in [-DEADLINE, 0, DEADLINE - 1, DEADLINE, 100 * DEADLINE] {
                    for known in [0, DEADLINE] {
                        let step = step(row, born, born + age, known);
                        assert_eq!(step, expected, "{row:?} born {born} age {age} known {known}");
                    }
                }
            }
        }
        // no row: first the horizon, then the age
        let year = 365 * 24 * 3_600_000;
        for (born, age, known, expected) in [
            (HORIZON - 1, 0, 0, Answer(Unknown)),
            (HORIZON - 1, 100 * DEADLINE, 100 * DEADLINE, Answer(Unknown)),
            (HORIZON, 0, 0, Answer(Unknown)),
            (HORIZON, DEADLINE - 1, DEADLINE - 1, Answer(Unknown)),
            (HORIZON, DEADLINE, 0, Fence),
            (HORIZON, 100 * DEADLINE, 0, Fence),
            // born in the future: asked about first, still young, old enough
            (HORIZON, -1, 0, Answer(Unknown)),
            (HORIZON, -year, 0, Answer(Unknown)),
            (HORIZON, -year, DEADLINE - 1, Answer(Unknown)),
            (HORIZON, -year, DEADLINE, Fence),
            (HORIZON, 0, DEADLINE, Fence),
        ] {
            let step = step(None, born, born + age, known);
            assert_eq!(step, expected, "no row, born {born} age {age} known {known}");
        }
        for (row, expected) in [
            (None, Unknown),
            (Some(Row::COMMITTED), Commit),
            (Some(Row::OUTBOXED), Rollback),
            (Some(Row::TOMBSTONE), Rollback),
        ] {
            assert_eq!(second_look(row), expected, "second look at {row:?}");
        }
    }

    #[test]
    fn the_broker_is_told_only_what_is_sure() {
        for (ending, told) in [
            (Ending::Committed, Some(Verdict::Commit)),
            (Ending::Refused(()), Some(Verdict::Rollback)),
            (Ending::Unknown(()), None),
            (Ending::Fenced, None),
            (Ending::Ended, None),
        ] {
            assert_eq!(ending.verdict(), told, "{ending:?}");
        }
        for (has_outbox, fault, goes) in [
            (true, Fault::Broker, true),
            (true, Fault::Message, false),
            (false, Fault::Broker, false),
            (false, Fault::Message, false),
        ] {
            assert_eq!(goes_to_outbox(has_outbox, fault), goes, "{has_outbox} {fault:?}");
        }
    }

    #[test]
    fn a_clock_that_leaps_ahead_is_not_believed() {
        const LEAP: i64 = 73 * 3_600_000;
        let minutes = |count: u64| Duration::from_secs(60 * count);
        for (what, now, last_round, newest_row, expected) in [
            ("a start, right", 1_000, None, 900, 900),
            ("a start after a leap", 1_000 + LEAP, None, 900, 900),
            ("a start, behind the rows of others", 800, None, 900, 800),
            ("right", 601_000, Some((1_000, minutes(10))), 0, 601_000),
            ("a leap since the last round", 601_000 + LEAP, Some((1_000, minutes(10))), LEAP, 601_000),
            ("set back since", 500, Some((1_000, minutes(10))), 0, 500),
            ("right again after that", 1_201_000, Some((500, minutes(10))), 0, 600_500),
        ] {
            let last_round = last_round.map(|(time, ago)| (UnixMillis(time), ago));
            let believed = believed(UnixMillis(now), last_round, UnixMillis(newest_row));
            assert_eq!(believed, UnixMillis(expected), "{what}");
        }
    }

    #[test]
    fn nothing_in_the_outbox_overtakes_what_found_no_broker() {
        use Relayed::{Postpone, Publish, Wait};
        let (stored, illegal, down) = (Ok(()), Err(Fault::Message), Err(Fault::Broker));
        for (halves, expected) in [
            (vec![], vec![]),
            (vec![stored, stored], vec![Publish, Publish]),
            (vec![illegal, stored], vec![Postpone, Publish]),
            (vec![stored, down, stored, illegal], vec![Publish, Wait, Wait, Wait]),
            (vec![down, down], vec![Wait, Wait]),
        ] {
            assert_eq!(relay_batch(halves.clone()), expected, "{halves:?}");
        }
        assert_eq!([0, 1, 4, 12, u32::MAX].map(|it| postponed(it).as_secs()), [1, 2, 16, 3600, 3600]);
    }
}
