//! The name server: brokers register their topics, clients ask where a topic lives.
//!
//! `routes` and `kv` are plain tables that are told the time; `requests` translates the wire; `connection` owns a socket.

mod connection;
mod kv;
mod registration;
mod requests;
mod routes;
mod server;
mod settings;

pub use server::{NameServer, NamesrvConfig, SharedClock};
