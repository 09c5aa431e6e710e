//! A message is published if and only if your database transaction committed, and has its effect on the consumer's
//! database exactly once.
//!
//! ```no_run
//! # use sea_orm::{ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbErr};
//! # use txn_sdk::{Consumer, Inbox, Key, Message, Msg, Outcome, TxnProducer};
//! # #[derive(serde::Deserialize)] struct OrderPaid { order: i64 }
//! # async fn insert_payment(tx: &DatabaseTransaction, order: i64) -> Result<(), DbErr> { Ok(()) }
//! # async fn issue_red_packet(tx: &DatabaseTransaction, order: i64) -> Result<(), DbErr> { Ok(()) }
//! # async fn example(order: i64) -> Result<(), Box<dyn std::error::Error>> {
//! let db = Database::connect("sqlite://shop.db?mode=rwc").await?; // or a sqlx pool; or mysql://, postgres://
//! let txn = TxnProducer::builder("127.0.0.1:9876").group("order-service").database(db).topics(["ORDER_PAID"]).build().await?;
//!
//! let message = Message::new("ORDER_PAID", format!(r#"{{"order":{order}}}"#)).key(format!("order-{order}"));
//! let sent = txn.send(message, async |tx| insert_payment(tx, order).await).await?;
//! match sent.outcome {
//!     Outcome::Committed => println!("rows are in; the message is out, or the checkback will bring it out"),
//!     Outcome::RolledBack(why) => println!("no rows, no message: {why}"),
//!     Outcome::InDoubt => println!("the database did not say whether it committed; the checkback settles it"),
//! }
//!
//! let packets = Database::connect("sqlite://packets.db?mode=rwc").await?;
//! Consumer::builder("127.0.0.1:9876")
//!     .group("red-packet")
//!     .inbox(Inbox::new(packets).dedupe_by(Key::Business))
//!     .on("ORDER_PAID", async |tx, paid: Msg<OrderPaid>| issue_red_packet(tx, paid.body.order).await)
//!     .run_until(async { tokio::signal::ctrl_c().await.expect("a signal handler") })
//!     .await?;
//! # Ok(()) }
//! ```
//!
//! # What is promised, and what is not
//!
//! * `Err` from [`TxnProducer::send`]: nothing was written and nothing will be published.
//! * Exactly once is the *effect in that database*. An e-mail or an HTTP call from inside a handler happens at least once.
//! * It holds when the process dies at any point, on either side, and when the broker does.
//! * `InDoubt` is rare (the disk failed under the commit) and it is not "failed": look at your rows.
//!
//! # How
//!
//! The broker stores a half message that nobody sees. A marker row under the transaction's id is the first row of your
//! transaction. After the commit the broker is told; if that is lost, the broker asks any instance of the group, which
//! looks for the row: there, the message is published. Not there and past the deadline, a tombstone takes the row's
//! place, so that the transaction can no longer commit, and only then the message is cancelled. The consumer writes its
//! inbox row and its effect in one transaction. Both tables appear by themselves (`checkback_*`).
//!
//! # Databases
//!
//! SQLite in a file, MySQL or MariaDB with InnoDB, and PostgreSQL, through a sqlx pool or sea-orm. The SDK opens
//! connections of its own with the options of yours (as many as your pool, and three for checks), and refuses a database
//! whose commits would not survive a power cut. `docs/SDK.md` has what it needs from each.
//!
//! On SQLite a transaction holds the one write lock from its begin to its commit: keep it short.

mod clock;
mod consumer;
mod counters;
mod database;
#[doc(hidden)]
pub mod decision;
pub mod failpoints;
#[doc(hidden)]
pub mod housekeeping;
mod id;
mod marker;
mod outbox;
mod planted;
mod producer;
mod schema;
#[cfg(feature = "simulation")]
pub mod simulation;
mod trace;
mod unborn;

pub use consumer::{
    ConsumeError, Consumer, ConsumerBuilder, ConsumerCounters, Delivered, Effect, HandlerError, Handlers, Inbox,
    InboxError, Key, Msg, NoHandler, OnTopic, OnTopicEmitting, Witness,
};
pub use counters::{Sample, prometheus};
#[doc(hidden)]
pub use database::CommitError;
pub use database::{Database, DatabaseError};
pub use id::{InvalidTransactionId, TRANSACTION_ID_PROPERTY, TransactionId};
pub use marker::{MarkError, MarkerOptions, MarkerOwner, Markers};
pub use mq_client::{InboxAnswer, Message, ReceivedMessage, Verdict};
pub use outbox::OutboxOptions;
pub use producer::{
    Asked, BuildError, Outcome, Own, Pending, Sent, Source, Transaction, TxnError, TxnProducer, TxnProducerBuilder,
    Unsourced,
};
pub use trace::TraceContext;
