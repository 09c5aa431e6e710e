//! What a broker does, as a library: topics, groups, offsets, long polling, delay, retry, transactions.
//!
//! `Broker` owns the tables and the store; `serve` moves bytes between sockets and `handlers`, which translate requests
//! into calls on them. Nothing here parses arguments or knows gRPC.

mod broker;
mod connection;
mod handlers;
pub mod limits;
mod output;
mod serve;
mod session;

pub use broker::{Broker, RunError};
pub use connection::{Closed, Connection, ConnectionId};
