//! What differs between the databases, as one value for each: [`SQLITE`](super::sqlite::SQLITE),
//! [`MYSQL`](super::mysql::MYSQL) and [`POSTGRES`](super::postgres::POSTGRES).
//!
//! What each has to guarantee, however it does it:
//!
//! * A row goes in, or finds its key taken, or waits for the transaction that is just inserting that key. So a tombstone
//!   never passes by a marker that may still be committed.
//! * The horizon of the marker's producer group is read *after* the marker row is in, and never from an older snapshot. A
//!   tombstone goes only once the horizon of its group has passed it: whoever could insert over the place of a cleaned
//!   tombstone then sees that horizon. Each group has a row of its own from its first start on, so that there always is one to
//!   lock or to miss. The one row of `checkback_horizon` counts for all groups: instances of earlier versions raise it.
//! * A row goes in only if the commit will be durable.
//! * A row that is seen is durable before anybody is told of it (`barrier`).

use sqlx::error::DatabaseError;

use super::Begin;

#[doc(hidden)]
#[derive(Debug)]
pub struct Dialect {
    /// A transaction that writes keeps all others from writing, from its begin to its end.
    pub(crate) one_writer: bool,
    /// How a transaction begins.
    pub(crate) begin: fn(Begin) -> &'static str,
    /// `(ms)`: how long statements of this transaction wait for a lock. Where there is none, the connection knows.
    pub(crate) lock_timeout: Option<&'static str>,
    /// `(tx_id, group, topic, state, mode, created_ms)`
    pub(crate) insert_marker: &'static str,
    /// `(group, tx_id) -> (horizon_ms, state, mode)`; no row: no horizon is known
    pub(crate) look: &'static str,
    /// The same with the newest horizon, for a transaction that may have read something before its marker was in.
    pub(crate) look_again: &'static str,
    /// `(group, topic, tag, key, created_ms)`
    pub(crate) insert_inbox: &'static str,
    /// `(group, topic, tag, key) -> created_ms`, if it is there
    pub(crate) look_inbox: &'static str,
    /// Where others see a commit before it is on disk: a write whose own durable commit puts all earlier ones there.
    pub(crate) barrier: Option<&'static str>,
    /// `(group)`: from now on it has a horizon, at first the one that all groups had together in earlier versions.
    pub(crate) join_cleaned: &'static str,
    /// `(group, horizon_ms)`
    pub(crate) raise_horizon: &'static str,
    /// `-> created_ms` of the last marker of any group
    pub(crate) newest_marker: &'static str,
    /// `(group) -> created_ms`
    pub(crate) newest_inbox: &'static str,
    /// `(group, smallest tx_id to look at, smallest one to keep, rows)`
    pub(crate) clean_markers: &'static str,
    /// `(created_ms to keep, group, rows)`
    pub(crate) clean_inbox: &'static str,
    /// `(tx_id, group, topic, properties, body, flag, due_ms)`
    pub(crate) insert_outbox: &'static str,
    /// `(group, topic, now_ms, rows) -> tx_id, properties, body, flag, attempts`, oldest first
    pub(crate) outbox_batch: &'static str,
    /// `(due_ms, tx_id)`
    pub(crate) postpone_outbox: &'static str,
    /// `(tx_id)`
    pub(crate) delete_outbox: &'static str,
    /// `(group) -> topic, how many wait`
    pub(crate) count_outbox: &'static str,
    /// `(group, topic)`
    pub(crate) join_relay: &'static str,
    /// `(holder, until_ms, group, topic, now_ms, latest_ms, holder)`: free is what is over, and what is later than any lease
    pub(crate) lease_relay: &'static str,
    /// `-> which of WEAKNESSES, from 1; 0 is none`
    pub(crate) weakness: &'static str,
    /// Why commits would not be durable, and what to do.
    pub(crate) weaknesses: &'static [&'static str],
    /// `-> 1`, once this transaction or connection is the only one that migrates. `None`: it is from its begin.
    pub(crate) lock_schema: Option<&'static str>,
    /// The table `checkback_schema (one, version)`.
    pub(crate) create_schema: &'static str,
    /// Only ever appended to. Keys are binary: no collation, no trailing-blank rule makes two of them one.
    pub(crate) migrations: &'static [&'static str],
    /// `(version)`
    pub(crate) set_version: &'static str,
    /// Whether this answer to a commit says for sure that the transaction is rolled back.
    pub(crate) refuses_commit: fn(&dyn DatabaseError) -> bool,
    /// Whether a statement lost to another transaction, so that all of its own has to be done again.
    pub(crate) lost_a_race: fn(&dyn DatabaseError) -> bool,
}
