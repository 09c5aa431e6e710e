//! The whole shop as processes on loopback: starting, watching, trying and stopping them.

pub mod check;
pub mod command;
pub mod ports;
pub mod process;
pub mod programs;
pub mod ready;
pub mod topics;
pub mod up;
