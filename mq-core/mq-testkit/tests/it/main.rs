//! Tests of the whole: what the crates may know of each other, and how the real programs behave.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "all of it is test code; reports go to who runs it")]

mod apache;
mod clients;
mod cluster;
mod dashboard;
mod dependencies;
mod disk_full;
mod fuzz;
mod kill;
mod mqadmin;
mod own_client;
mod power;
#[cfg(feature = "proof")]
mod proof;
mod replay;
mod report;
mod request_codes;

/// What the scenarios of clients count on: short delays, and transactions that are asked about after a second.
const SHORT_TIMES: &str = "\
messageDelayLevel=1s 2s 3s 4s 5s 6s 7s 8s 9s 10s 20s 30s 1m 2m 3m 4m 5m 6m
transactionTimeOut=1000
transactionCheckInterval=1000
enablePropertyFilter=true
recallMessageEnable=true
";

/// What a seeded test runs with: `$CHECKBACK_SEED`, or a new one each time.
fn seed() -> u64 {
    let new = || std::process::id().into();
    std::env::var("CHECKBACK_SEED").map_or_else(|_| new(), |seed| seed.parse().expect("CHECKBACK_SEED is a number"))
}

/// How often a crash test crashes: `$CHECKBACK_CRASHES`, for a longer run by hand.
fn times(usual: u32) -> u32 {
    std::env::var("CHECKBACK_CRASHES").map_or(usual, |times| times.parse().expect("CHECKBACK_CRASHES is a number"))
}

fn replay(test: &str, seed: u64) -> String {
    format!("REPLAY: CHECKBACK_SEED={seed} cargo test -p mq-testkit --test it {test} -- --nocapture")
}
