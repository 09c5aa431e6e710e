//! order-service through its public interface: on its own database files, and on an in-process cluster.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod callbacks;
mod flash_sale;
mod gateway;
mod orders;
mod paying;
mod shop;
mod stock;
mod support;
