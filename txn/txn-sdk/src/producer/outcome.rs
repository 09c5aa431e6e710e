//! How a transactional send ends.

use std::convert::Infallible;

use mq_client::MAX_PARTS;

use crate::{database::DatabaseError, id::TransactionId};

/// What became of a transaction whose half message the broker took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<E = Infallible> {
    /// The rows are in. The message is out, or a checkback will bring it out. The exception is a transaction that was so slow
    /// that the broker had parked its half message before (or an operator had ended it): an error in the log and
    /// `txn_end_refused_total` say so, `mq admin txn resume` publishes it.
    Committed,
    /// Your code returned this error: no rows, and no message, unless an operator had committed its half message before: an
    /// error in the log then.
    RolledBack(E),
    /// The database did not say whether it committed. The next checkback reads what really happened and the message
    /// follows it. Do not tell the user "failed", and do not simply try again: look at your rows first.
    InDoubt,
}

/// A transactional send that was begun: its outcome, and its names in tables and tools.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "an outcome is three-valued: look at it"]
pub struct Sent<E = Infallible> {
    pub outcome: Outcome<E>,
    /// The key of the marker row.
    pub transaction_id: TransactionId,
    /// The client's unique key, which consumers see as the message id. `None`: the message lies in the outbox, and gets
    /// one when it is relayed.
    pub message_id: Option<String>,
}

impl Sent {
    /// For callers whose own code may fail: a commit never answers `RolledBack`.
    pub(crate) fn widen<E>(self) -> Sent<E> {
        let outcome = match self.outcome {
            Outcome::Committed => Outcome::Committed,
            Outcome::InDoubt => Outcome::InDoubt,
            Outcome::RolledBack(never) => match never {},
        };
        Sent { outcome, transaction_id: self.transaction_id, message_id: self.message_id }
    }
}

/// Nothing was written and nothing will be published.
#[derive(Debug, thiserror::Error)]
pub enum TxnError {
    #[error("this producer is shutting down")]
    ShuttingDown,
    #[error("topic {0} was not named to the builder, so no broker would know whom to ask about its half messages")]
    UnknownTopic(String),
    /// No broker has the half message. Your code did not run.
    #[error("no half message, no transaction: {0}")]
    HalfRefused(#[source] Box<mq_client::SendError>),
    /// A broker may have the half message (a timeout, or stored but not yet safe). Your code did not run; the checkback
    /// will find no row and roll the half back.
    #[error("the half message may or may not be stored, so the transaction was not begun: {0}")]
    HalfUnknown(#[source] Box<mq_client::SendError>),
    /// The transaction was so slow to begin that a checkback has given it up already.
    #[error("fenced: a checkback has given this transaction up; it took longer than the deadline")]
    Fenced,
    /// By this property the broker knows a transaction, so that the SDK alone sets it. Leave it out when the properties
    /// of another message are passed on.
    #[error("property {property} names a transaction to the broker and is set by the SDK: leave it out")]
    Reserved { property: &'static str },
    /// The message asks for what this cluster does not do (Apache RocketMQ, for one). It was not sent.
    #[error("property {property} needs brokers that offer {capability}, and {broker} does not say so")]
    NotOffered { property: &'static str, capability: &'static str, broker: String },
    #[error("{messages} messages in one transaction: from 1 to {MAX_PARTS}")]
    Parts { messages: usize },
    #[error("this inbox has no producer to emit with: make it with Inbox::of(&producer)")]
    NothingToEmitWith,
    #[error("no broker takes the message, and {waiting} wait in the outbox already (the limit is {limit})")]
    OutboxFull { waiting: u64, limit: u64 },
    /// Of the relay's only.
    #[error("the row of the outbox is damaged: its id or its properties cannot be read")]
    UnreadableRow,
    #[error("the transaction could not be begun: {0}")]
    Database(#[source] DatabaseError),
    /// A constraint that is checked at the commit does not hold.
    #[error("the database refused the commit: {0}")]
    CommitRefused(#[source] DatabaseError),
}
