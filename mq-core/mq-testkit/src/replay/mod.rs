//! The public tickets about Apache RocketMQ's transactional messages, each as a scenario that the same code drives against
//! any broker: what is done, what is right, and what this broker did.
//!
//! A scenario speaks frames and knows nothing of the broker but its address. Whatever a broker does is an [`Outcome`];
//! errors are for what keeps a scenario from being played at all.

mod asking;
mod cost;
mod replica;
mod shapes;
mod stage;
mod verdicts;
mod view;

use anyhow::Result;

pub use replica::{UNREPLICATED, unreplicated};
pub use stage::Stage;

/// How a broker is set up for a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Setting {
    /// Rounds of a second, five checks.
    Short,
    /// The same with the default of 15 checks.
    FifteenChecks,
    /// As `Short`, for a scenario that a broker may not survive in working order.
    Alone,
}

impl Setting {
    pub const ALL: [Self; 3] = [Self::Short, Self::FifteenChecks, Self::Alone];

    /// Lines of a broker.conf, which both brokers read.
    #[must_use]
    pub fn configuration(self) -> String {
        let checks = self.max_checks();
        format!(
            "brokerName=broker-a\nmessageDelayLevel=1s 2s 3s 4s 5s 6s 7s 8s 9s 10s 20s 30s 1m 2m 3m 4m 5m 6m\n\
             transactionTimeOut=1000\ntransactionCheckInterval=1000\ntransactionCheckMax={checks}\n"
        )
    }

    #[must_use]
    pub fn max_checks(self) -> u32 {
        if self == Self::FifteenChecks { 15 } else { 5 }
    }
}

/// What a broker did, and whether that is right by the scenario's measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub did: String,
    pub is_right: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Of apache/rocketmq.
    pub tickets: &'static str,
    pub done: &'static str,
    /// What is right, so that the verdict is nobody's taste.
    pub right: &'static str,
    pub setting: Setting,
    pub run: fn(&Stage) -> Result<Outcome>,
}

/// A ticket that was played: what is right, and what both did.
#[derive(Clone, Debug)]
pub struct Row {
    pub tickets: &'static str,
    pub done: &'static str,
    pub right: &'static str,
    pub apaches: Outcome,
    pub ours: Outcome,
}

#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    [&verdicts::SCENARIOS[..], &asking::SCENARIOS, &cost::SCENARIOS, &shapes::SCENARIOS, &view::SCENARIOS].concat()
}
