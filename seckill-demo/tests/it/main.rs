//! The flash sale through its public interface, on a real Redis of its own; and what `mq explain` says of the shop's processes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod explained;
mod gate;
mod sale;
