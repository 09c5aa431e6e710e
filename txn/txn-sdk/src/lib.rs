//! A message is published if and only if your database transaction committed: producer, marker, fence, inbox.

mod clock;
mod consumer;
mod counters;
mod database;
mod decision;
pub mod failpoints;
mod housekeeping;
mod id;
mod marker;
mod producer;
mod schema;

pub use consumer::{
    Consumer, ConsumerBuilder, Delivered, HandlerError, Handlers, Inbox, InboxError, Key, Msg, NoHandler, OnTopic,
};
pub use counters::Sample;
pub use database::{Database, DatabaseError};
pub use id::{InvalidTransactionId, TRANSACTION_ID_PROPERTY, TransactionId};
pub use marker::{MarkError, MarkerOptions, MarkerOwner, Markers};
pub use mq_client::{Message, ReceivedMessage, Verdict};
pub use producer::{
    Asked, BuildError, Outcome, Own, Pending, Sent, Source, Transaction, TxnError, TxnProducer, TxnProducerBuilder,
    Unsourced,
};
