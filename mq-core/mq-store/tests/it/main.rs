//! The store through its public interface. One binary, so that it links once.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod checksums;
mod clean_end;
mod conformance;
mod crash;
mod damage;
mod durability;
#[cfg(feature = "failpoints")]
mod failpoints;
mod history;
mod index;
mod layout;
mod life;
mod pulls;
mod retention;
mod support;
mod timer;
mod verify;
