//! Integration tests of the SDK: each suite runs with sqlx and with sea-orm, on SQLite, MariaDB and
//! PostgreSQL, each test in a database or schema of its own.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a failed unwrap is a failed test")]

mod apache;
mod beyond;
mod broker;
mod commits;
#[cfg(feature = "failpoints")]
mod crashes;
mod cut;
mod databases;
mod dropped;
mod emitting;
mod end_to_end;
mod examples;
mod explain;
mod inbox;
mod kept;
mod markers;
mod outbox;
mod producer;
mod redis;
mod traces;
mod unborn;
