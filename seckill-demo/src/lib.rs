//! Flash sale on Redis and the queue, the stack supervisor, and the scenario replays.
//!
//! Redis is the gate, order-service's database is the truth. `gate` owns the scripts, `purchases` what a buyer sees,
//! `sales` what an operator does; `http` only translates. `stack` starts the whole shop as processes, `replay` kills them.

pub mod config;
pub mod gate;
pub mod http;
pub mod purchases;
pub mod replay;
pub mod sales;
pub mod serve;
pub mod stack;
pub mod truth;
