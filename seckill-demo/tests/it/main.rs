//! The flash sale through its public interface, on a real Redis of its own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod gate;
mod sale;
