//! The reference shop's order side: orders, payments at a simulated third-party gateway, flash-sale orders, red packets.
//!
//! One module per noun. `http` translates, the others decide; nothing here opens a commit log or knows the broker's
//! inside: the queue is reached through `txn-sdk` and `mq-client` only.

pub mod callbacks;
pub mod clock;
pub mod closing;
pub mod config;
pub mod database;
pub mod events;
pub mod gateway;
pub mod http;
pub mod listen;
pub mod money;
pub mod orders;
pub mod payments;
pub mod process;
pub mod purchases;
pub mod red_packets;
pub mod refunds;
pub mod sales;
pub mod service;
pub mod signature;
pub mod tables;
