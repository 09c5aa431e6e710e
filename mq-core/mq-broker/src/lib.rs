//! What a broker does, as a library: topics, groups, offsets, long polling, delay, retry, transactions.
//!
//! `Broker` owns the tables and the store; `serve` moves bytes between sockets and `handlers`, which translate requests
//! into calls on them. Nothing here parses arguments or knows gRPC.

mod broker;
mod clients;
pub mod config;
mod config_file;
mod connection;
mod groups;
mod handlers;
pub mod limits;
mod locks;
mod offsets;
mod output;
mod registration;
mod serve;
mod session;
mod topics;

pub use broker::{Broker, RunError};
pub use config::{BrokerConfig, ConfigError, ConfigWarning, FlushDiskType};
pub use connection::{Closed, Connection, ConnectionId};
