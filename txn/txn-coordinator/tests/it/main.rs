//! The coordinator on real stores: stories one by one, then simulations from seeds.
#![allow(clippy::unwrap_used)] // A helper that cannot go on fails its test.

mod bench;
mod given_up;
mod operators;
mod restarts;
mod shared;
mod simulation;
mod stories;
