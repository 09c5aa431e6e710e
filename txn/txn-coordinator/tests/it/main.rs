//! The coordinator on real stores: stories one by one, then simulations from seeds.

mod bench;
mod simulation;
mod stories;
