//! Figures for people and for programs.

use std::io::Write;

use anyhow::{Result, ensure};
use comfy_table::{Table, presets};
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::output::Output;

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) scenario: &'static str,
    pub(super) address: String,
    pub(super) topic: String,
    pub(super) load: String,
    pub(super) messages: u64,
    pub(super) failed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first_error: Option<String>,
    pub(super) seconds: f64,
    pub(super) messages_per_second: f64,
    pub(super) mib_per_second: f64,
    /// What `latency_ms` is the time of.
    pub(super) latency_of: &'static str,
    pub(super) latency_ms: Quantiles,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) server: Option<ServerCost>,
}

#[derive(Debug, Serialize)]
pub(super) struct Quantiles {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) max: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct ServerCost {
    pub(super) cpu_us_per_message: f64,
    pub(super) cpu_seconds: f64,
    pub(super) anonymous_mib: f64,
}

impl Quantiles {
    pub(super) fn of(micros: &Histogram<u64>) -> Self {
        let at = |quantile| micros.value_at_quantile(quantile) as f64 / 1000.0;
        Self { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: micros.max() as f64 / 1000.0 }
    }
}

impl Report {
    /// Prints the figures; failures make the command fail.
    pub(super) fn finish(&self, output: Output) -> Result<()> {
        let mut out = std::io::stdout().lock();
        match output {
            Output::Json => writeln!(out, "{}", serde_json::to_string(self)?)?,
            Output::Table => writeln!(out, "{}", self.table())?,
        }
        self.check()
    }

    pub(super) fn check(&self) -> Result<()> {
        let why = self.first_error.as_deref().unwrap_or_default();
        ensure!(self.failed == 0, "{}: {} failed, the first with {why}", self.scenario, self.failed);
        Ok(())
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        let mut row = |name: &str, value: String| {
            table.add_row([name.to_owned(), value]);
        };
        row("scenario", format!("{} at {}, topic {}", self.scenario, self.address, self.topic));
        row("load", self.load.clone());
        row("messages", format!("{} in {:.2} s, {} failed", self.messages, self.seconds, self.failed));
        if let Some(error) = &self.first_error {
            row("first failure", error.clone());
        }
        row("rate", format!("{:.0} messages/s, {:.1} MiB/s", self.messages_per_second, self.mib_per_second));
        let Quantiles { p50, p99, p999, max } = &self.latency_ms;
        row(self.latency_of, format!("p50 {p50:.3} ms, p99 {p99:.3} ms, p99.9 {p999:.3} ms, max {max:.3} ms"));
        if let Some(server) = &self.server {
            row("server CPU", format!("{:.2} µs/message ({:.2} s)", server.cpu_us_per_message, server.cpu_seconds));
            row("server memory", format!("{:.1} MiB anonymous", server.anonymous_mib));
        }
        table
    }
}
