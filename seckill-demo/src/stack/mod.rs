//! The whole shop as processes on loopback: starting, watching and stopping them.

pub mod ports;
pub mod process;
