//! Crashing a broker under load and judging what is left.
//!
//! `plan` says from a seed what every message is and how its transaction ends; `load` sends it and notes in a `history`
//! what was acknowledged; `log_scan` reads the log's bytes without mq-store; `evidence` holds all of it against the
//! invariants. `run` drives any [`Target`].

pub mod evidence;
pub mod history;
pub mod load;
pub mod log_scan;
pub mod plan;
mod run;

pub use run::{CrashTest, Promise, Report, Target};
