//! The broker's figures for Prometheus, under RocketMQ's names and labels.
//!
//! Counters are read where they count, and gauges are worked out when somebody asks. What is measured for metrics only is
//! in `instruments`. Names carry their unit, as Apache's exporter prints them; `docs/METRICS.md` lists them.

mod gather;
mod instruments;
mod rpc;
mod text;

use crate::broker::Broker;
use crate::histogram::Distribution;

pub(crate) use instruments::Instruments;
pub(crate) use rpc::{Call, Tally};

/// Rows of one answer (`metricsOtelCardinalityLimit`); what is beyond is counted and left out.
const MAX_ROWS: usize = 50_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Its name is printed with `_total`.
    Counter,
    Gauge,
    Histogram,
}

#[derive(Clone, Debug)]
enum Value {
    Number(u64),
    Distribution(Distribution),
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<Distribution> for Value {
    fn from(distribution: Distribution) -> Self {
        Self::Distribution(distribution)
    }
}

type Labels = Vec<(&'static str, String)>;

/// One name and all its rows.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    rows: Vec<(Labels, Value)>,
}

impl Family {
    fn new(kind: Kind, name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind, rows: Vec::new() }
    }

    fn push(&mut self, labels: Labels, value: impl Into<Value>) {
        self.rows.push((labels, value.into()));
    }

    fn with(mut self, labels: Labels, value: impl Into<Value>) -> Self {
        self.push(labels, value);
        self
    }
}

/// The answer to a scrape, in OpenMetrics text. Looks into the log, so it may take its time.
pub(crate) fn scrape(broker: &Broker) -> String {
    let mut families = gather::all(broker);
    let mut left = MAX_ROWS;
    let mut dropped = 0;
    for family in &mut families {
        let kept = family.rows.len().min(left);
        dropped += family.rows.len() - kept;
        family.rows.truncate(kept);
        left -= kept;
    }
    let help = "Series beyond the limit, left out of this answer";
    families.push(Family::new(Kind::Gauge, "rocketmq_dropped_series", help).with(Vec::new(), dropped as u64));
    let node = vec![
        ("cluster", broker.config.cluster_name.clone()),
        ("node_type", "broker".to_owned()),
        ("node_id", broker.config.broker_name.clone()),
    ];
    text::print(node, families)
}
