//! The proof: every single fault and every pair of crashes at the 29 points of a transaction, on the real coordinator and
//! store, the real SDK and the real inbox (docs/PROOF.md). Two runs of a plan are equal.
//!
//! `PROOF=HalfSent:CrashAfter:0,7 cargo test -p mq-testkit --features proof --test it -- proof::simulation::the_plan` replays
//! one plan.

#![allow(clippy::large_futures, reason = "a run is one large future, polled where it stands")]

mod audit;
mod beyond;
mod broker;
mod consumer;
mod database;
mod planted;
mod points;
mod process;
mod real;
mod service;
mod simulation;
mod world;
