//! A broker on real sockets, driven frame by frame.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod assignment;
mod bad_input;
mod busy_peers;
mod clients;
mod consumer_control;
mod consumer_offsets;
mod delays;
mod harness;
mod inspection;
mod load;
mod metrics;
mod pop;
mod pop_simulation;
mod pulls;
mod queries;
mod registration;
mod replies;
mod retention;
mod retries;
mod sends;
mod settings;
mod slow_peers;
mod sql_filters;
mod stalled_disk;
mod statistics;
mod stops;
mod timers;
mod topics_and_groups;
mod transactions;
