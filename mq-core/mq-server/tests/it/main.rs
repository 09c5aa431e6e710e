//! The binary `mq` as its users run it: started, asked over its socket, signalled, restarted.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod admin;
mod bad_input;
mod bench;
mod doctor;
mod explain;
mod metrics;
mod process;
mod refusals;
mod slow_peers;
mod split;
mod store;
mod transactions;
mod up;
mod wire;
