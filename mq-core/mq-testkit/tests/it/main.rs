//! Tests of the whole: what the crates may know of each other, and how the real programs behave.

mod cluster;
mod dependencies;
mod java;
mod kill;
mod power;

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
