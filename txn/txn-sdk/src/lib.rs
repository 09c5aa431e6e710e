//! A message is published if and only if your database transaction committed: producer, marker, fence, inbox.

mod database;
mod decision;
mod id;
mod marker;
mod schema;

pub use database::{Database, DatabaseError};
pub use id::{InvalidTransactionId, TRANSACTION_ID_PROPERTY, TransactionId};
pub use marker::{MarkError, MarkerOptions, MarkerOwner, Markers};
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict { Commit, Rollback, Unknown }
