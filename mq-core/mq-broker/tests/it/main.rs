//! A broker on real sockets, driven frame by frame.

mod bad_input;
mod delays;
mod harness;
mod pulls;
mod retries;
mod sends;
mod stops;
mod transactions;
