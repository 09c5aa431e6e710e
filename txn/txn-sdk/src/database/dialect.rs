//! What differs between the databases, as one value for each: [`SQLITE`](super::sqlite::SQLITE),
//! [`MYSQL`](super::mysql::MYSQL) and [`POSTGRES`](super::postgres::POSTGRES).
//!
//! What each has to guarantee, however it does it:
//!
//! * A row goes in, or finds its key taken, or waits for the transaction that is just inserting that key. So a tombstone
//!   never passes by a marker that may still be committed.
//! * A transaction is committed only if it is still the one that was begun (`sign`, `still`).
//! * A row goes in only if the commit will be durable.
//! * A row that is seen is durable before anybody is told of it (`barrier`).

use sqlx::error::DatabaseError;

use super::Begin;
use crate::{decision::Row, id::TransactionId, marker::MarkerOwner};

#[doc(hidden)]
#[derive(Debug)]
pub struct Dialect {
    /// A transaction that writes keeps all others from writing, from its begin to its end.
    pub(crate) one_writer: bool,
    /// How a transaction begins.
    pub(crate) begin: fn(Begin) -> &'static str,
    /// `(ms)`: how long statements of this transaction wait for a lock. Where there is none, the connection knows.
    pub(crate) lock_timeout: Option<&'static str>,
    /// `(tx_id, group, topic, state, mode, created_ms)`, as a tombstone goes in
    pub(crate) insert_marker: &'static str,
    /// Leaves something in a transaction that goes with its end. Part of `begin` for the user's.
    pub(crate) sign: &'static str,
    /// Writes markers. Each fails where a row stands and waits for whoever is just writing one; that the commit will be
    /// durable is looked at, which fails where it will not, or set.
    pub(crate) marks: fn(&[Mark<'_>], Durably) -> String,
    /// Where looking costs more than setting.
    pub(crate) setting: Option<Setting>,
    /// The last statement before the commit of a transaction for the user's work: fails without the sign.
    pub(crate) still: &'static str,
    /// `(group, tx_id) -> (horizon_ms, state, mode)`; no row: no horizon is known
    pub(crate) look: &'static str,
    /// `(group, topic, tag, key, created_ms)`
    pub(crate) insert_inbox: &'static str,
    /// `(group, topic, tag, key) -> created_ms`, if it is there
    pub(crate) look_inbox: &'static str,
    /// Where others see a commit before it is on disk: a write whose own durable commit puts all earlier ones there.
    pub(crate) barrier: Option<&'static str>,
    /// `(id)`: the database's name, unless it has one.
    pub(crate) name_database: &'static str,
    /// `-> id`
    pub(crate) database_id: &'static str,
    /// `(group)`: from now on it has a horizon.
    pub(crate) join_cleaned: &'static str,
    /// `(group, horizon_ms)`
    pub(crate) raise_horizon: &'static str,
    /// `-> created_ms` of the last marker of any group
    pub(crate) newest_marker: &'static str,
    /// `(group) -> created_ms`
    pub(crate) newest_inbox: &'static str,
    /// `(group, state, smallest tx_id to look at, smallest one to keep, rows)`
    pub(crate) clean_markers: &'static str,
    /// `(group, state, smallest tx_id not to look at, n) -> tx_id`, the newest is 0
    pub(crate) nth_newest: &'static str,
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
    /// What a failure of `marks`, of `still` or of the commit means.
    pub(crate) closing: fn(&dyn DatabaseError) -> Closing,
    /// Whether it is the last answer on this connection, which the server closes.
    pub(crate) is_last_word: fn(&dyn DatabaseError) -> bool,
    /// Whether a statement lost to another transaction, so that all of its own has to be done again.
    pub(crate) lost_a_race: fn(&dyn DatabaseError) -> bool,
}

/// A marker that is to go in.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark<'m> {
    pub(crate) id: TransactionId,
    pub(crate) owner: MarkerOwner<'m>,
    pub(crate) row: Row,
}

/// How a transaction with markers makes sure that its commit will be durable.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Durably {
    /// By what the server and the session are set to.
    Looks,
    /// By this statement, which sets what the session decides. At the rest another transaction has looked on this connection,
    /// seconds ago.
    Sets(&'static str),
}

/// What sessions decide about the durability of their commits.
#[derive(Debug)]
pub(crate) struct Setting {
    /// `->` which of `sets`
    pub(crate) which: &'static str,
    pub(crate) sets: [&'static str; 2],
}

/// Why the SDK's statements in a transaction or its commit failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// A row stands where the marker should go.
    Fenced,
    /// The transaction is not the one that was begun.
    Ended,
    /// Its commit would not be durable, by this one of `weaknesses`.
    Weak(usize),
    /// It is rolled back, surely.
    Refused,
    /// It may or may not have committed.
    Unknown,
}

/// How a dialect writes the values of markers. Where a condition does not hold, its value is missing and breaks NOT NULL.
pub(super) struct MarkWords {
    /// A literal of bytes, by their hexadecimal digits.
    pub(super) bytes: fn(&str) -> String,
    /// The same of text.
    pub(super) text: fn(&str) -> String,
    pub(super) state_if: Option<&'static str>,
    pub(super) mode_if: Option<&'static str>,
}

impl MarkWords {
    pub(super) fn insert(&self, marks: &[Mark<'_>]) -> String {
        marks.iter().map(|mark| self.insert_one(mark)).collect::<Vec<_>>().join("; ")
    }

    fn insert_one(&self, Mark { id, owner, row }: &Mark<'_>) -> String {
        format!(
            "INSERT INTO checkback_marker (tx_id, producer_group, topic, state, mode, created_ms) VALUES \
             ({id}, {group}, {topic}, {state}, {mode}, {born})",
            group = self.name(owner.group),
            topic = self.name(owner.topic),
            state = value_if(self.state_if, row.state),
            mode = value_if(self.mode_if, row.mode),
            born = id.born().0,
            id = (self.bytes)(&hex::encode(id.as_bytes())),
        )
    }

    /// Itself, as names usually are, else by its digits.
    fn name(&self, name: &str) -> String {
        let usual = |byte: u8| byte.is_ascii_alphanumeric() || b"_-%|".contains(&byte);
        if name.bytes().all(usual) { format!("'{name}'") } else { (self.text)(&hex::encode(name)) }
    }
}

fn value_if(holds: Option<&str>, value: i64) -> String {
    holds.map_or_else(|| value.to_string(), |holds| format!("CASE WHEN {holds} THEN {value} END"))
}
