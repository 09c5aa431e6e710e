//! What a checkback is answered, as a pure function of what the database showed. Reads no clock and no database.
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
//! ```

use std::time::Duration;

use mq_client::Verdict;
use mq_protocol::ids::UnixMillis;

use crate::planted::{Bug, planted};

/// A row of the marker table, as its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) state: i64,
    pub(crate) mode: i64,
}

impl Row {
    /// The transaction's own row: it exists if and only if the transaction committed.
    pub(crate) const COMMITTED: Self = Self { state: 1, mode: MODE_HALF };
    /// Written by a checkback: the transaction can no longer commit.
    pub(crate) const TOMBSTONE: Self = Self { state: 2, mode: MODE_HALF };
}

const MODE_HALF: i64 = 0;
const MODE_OUTBOX: i64 = 1;

/// What one look at the database showed, and who asks when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sight {
    pub(crate) row: Option<Row>,
    /// Rows born before this may have been cleaned.
    pub(crate) horizon: UnixMillis,
    pub(crate) born: UnixMillis,
    pub(crate) now: UnixMillis,
    /// The age from which a transaction without a row is fenced off.
    pub(crate) deadline: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Answer(Verdict),
    /// Insert the tombstone; if another row is faster, look again.
    Fence,
}

pub(crate) fn first_look(sight: &Sight) -> Step {
    match sight.row {
        Some(row) => Step::Answer(settled(row)),
        None if sight.born < sight.horizon => Step::Answer(Verdict::Unknown),
        None if planted(Bug::YoungIsRollback) => Step::Answer(Verdict::Rollback),
        None if sight.now.since(sight.born) < sight.deadline => Step::Answer(Verdict::Unknown),
        None => Step::Fence,
    }
}

/// After the tombstone met another row: whatever stands there now decides.
pub(crate) fn second_look(row: Option<Row>) -> Verdict {
    row.map_or(Verdict::Unknown, settled)
}

fn settled(row: Row) -> Verdict {
    const COMMITTED: i64 = Row::COMMITTED.state;
    const TOMBSTONE: i64 = Row::TOMBSTONE.state;
    match (row.state, row.mode) {
        (COMMITTED, MODE_HALF) => Verdict::Commit,
        (COMMITTED, MODE_OUTBOX) | (TOMBSTONE, _) => Verdict::Rollback,
        _ => Verdict::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HORIZON: i64 = 1_000_000;
    const DEADLINE: i64 = 30_000;

    fn step(row: Option<(i64, i64)>, born: i64, now: i64) -> Step {
        first_look(&Sight {
            row: row.map(|(state, mode)| Row { state, mode }),
            horizon: UnixMillis(HORIZON),
            born: UnixMillis(born),
            now: UnixMillis(now),
            deadline: Duration::from_millis(DEADLINE.unsigned_abs()),
        })
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
                    assert_eq!(step(row, born, born + age), expected, "{row:?} born {born} age {age}");
                }
            }
        }
        // no row: first the horizon, then the age
        for (born, age, expected) in [
            (HORIZON - 1, 0, Answer(Unknown)),
            (HORIZON - 1, 100 * DEADLINE, Answer(Unknown)),
            (HORIZON, -DEADLINE, Answer(Unknown)),
            (HORIZON, 0, Answer(Unknown)),
            (HORIZON, DEADLINE - 1, Answer(Unknown)),
            (HORIZON, DEADLINE, Fence),
            (HORIZON, 100 * DEADLINE, Fence),
        ] {
            assert_eq!(step(None, born, born + age), expected, "no row, born {born} age {age}");
        }
        for (row, expected) in [(None, Unknown), (Some(Row::COMMITTED), Commit), (Some(Row::TOMBSTONE), Rollback)] {
            assert_eq!(second_look(row), expected, "second look at {row:?}");
        }
    }
}
