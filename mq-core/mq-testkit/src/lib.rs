//! For tests only: brokers in this process and as real processes, real Redis and database servers, and the crash harness with its checker.
//!
//! Nothing here is part of a program; crates use it as a dev-dependency.

pub mod apache;
mod child;
pub mod cluster;
pub mod crash;
pub mod database;
pub mod page;
pub mod process;
pub mod redis;
pub mod replay;
pub mod report;
pub mod wire;
