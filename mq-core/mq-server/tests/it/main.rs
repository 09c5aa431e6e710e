//! The binary `mq` as its users run it: started, asked over its socket, signalled, restarted.

mod admin;
mod bad_input;
mod bench;
mod doctor;
mod metrics;
mod process;
mod refusals;
mod split;
mod store;
mod up;
mod wire;
