//! Connections: frames in and out, requests matched with their answers, reconnecting. Knows no topic and no group.

mod connection;
mod pool;

pub(crate) use connection::{Connection, Inbound};
pub(crate) use pool::{Patience, Pool};
