//! A broker on real sockets, driven frame by frame.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod bad_input;
mod delays;
mod harness;
mod load;
mod pulls;
mod retries;
mod sends;
mod stops;
mod transactions;
