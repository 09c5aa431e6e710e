//! Flash sale on Redis and the queue, the stack supervisor, and the scenario replays.

pub mod stack;
