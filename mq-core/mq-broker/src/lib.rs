//! What a broker does, as a library: topics, groups, offsets, long polling, delay, retry, transactions.
//!
//! `Broker` owns the tables and the store; `serve` moves bytes between sockets and `handlers`, which translate requests
//! into calls on them. Nothing here parses arguments or knows gRPC.

mod announcing;
mod assignment;
mod audit;
mod bell;
mod broker;
mod checkback;
mod clients;
pub mod config;
mod config_file;
mod config_update;
mod connection;
mod delay_levels;
mod disk_space;
mod elsewhere;
mod failure;
mod groups;
mod handlers;
mod held;
mod histogram;
mod housekeeping;
mod incoming;
mod journal;
pub mod limits;
mod locks;
mod metrics;
mod offsets;
mod operators;
mod output;
mod pop;
mod pulling;
mod registration;
mod retention;
mod routes;
mod saved;
mod schedule;
mod schedule_progress;
mod scrub;
mod selection;
mod sending;
mod serve;
mod session;
mod settings;
mod start;
mod stats;
mod store_link;
mod timers;
mod topics;
mod unique_key;
mod waiters;
mod waiting;

pub use broker::{Broker, RunError, StartError};
pub use config::{BrokerConfig, ConfigError, ConfigWarning, FlushDiskType};
pub use config_file::SaveError;
pub use connection::{Closed, Connection, ConnectionId};
pub use operators::Refused;
pub use scrub::{ScrubError, rebuild_store, verify_store};
