//! What became of a business key: one timeline across half message, checks, verdict, visible message, each group's
//! delivery, retries and dead letters, from the log of the brokers itself; and a likely cause for each step that is missing.
//!
//! `gather` asks the brokers, and by way of them a connected consumer of each group for what its inbox says (the SDK's
//! consumers have one); `decide` concludes from what they said and asks nobody. Where nobody has an inbox, the committed
//! position of the group and its traces are the evidence for its effect.

mod decide;
mod facts;
mod gather;

use mq_protocol::ids::UnixMillis;
use serde::Serialize;

use crate::admin::Admin;
use crate::error::ClientError;

/// The answer of [`Admin::explain`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub key: String,
    /// What happened, in the order of its times.
    pub timeline: Vec<Step>,
    /// What has not happened, and why.
    pub missing: Vec<Missing>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Of what has no time of its own: that of what led to it.
    pub at: UnixMillis,
    pub stage: Stage,
    /// The message's unique key.
    pub message: String,
    pub what: String,
    pub source: Source,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    pub stage: Stage,
    /// The message's unique key; empty where there is no message.
    pub message: String,
    pub why: String,
    /// What an operator can do; empty where nothing is to be done.
    pub fix: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    Half,
    Check,
    /// What somebody did or said by hand.
    Operator,
    Parked,
    Verdict,
    Delayed,
    Visible,
    Delivery,
    Retry,
    /// The row of the consumer's database that stands for the effect.
    Inbox,
    DeadLetter,
}

/// Who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// A message in the log.
    Log,
    /// The broker's tables: transactions, positions, connections.
    Broker,
    /// A client's own account in the trace topic.
    Trace,
    /// A connected consumer, from its database.
    Consumer,
}

impl Admin {
    /// What became of the messages with this key (of KEYS, or a unique key), in one topic or in all of the users'.
    pub async fn explain(&self, key: &str, topic: Option<&str>) -> Result<Explanation, ClientError> {
        Ok(decide::decide(&gather::gather(self, key, topic).await?))
    }
}
