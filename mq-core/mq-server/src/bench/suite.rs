//! `suite`: starts servers of this program one after the other, each on fresh files, and runs every scenario on them.

use std::io::Write;

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::options::{
    Backlog, Extent, LatencyOptions, PullOptions, Reporting, SendOptions, SuiteOptions, Target, TxnOptions,
};
use super::report::Report;
use super::server::Server;
use crate::output::Output;

/// A short suite warms up as long as it measures.
const LONGEST_WARMUP_SECONDS: f64 = 1.0;
const COLUMNS: [&str; 9] =
    ["server", "scenario", "messages/s", "MiB/s", "p50 ms", "p99 ms", "p99.9 ms", "CPU µs/message", "anonymous MiB"];

#[derive(Serialize)]
struct Row {
    against: &'static str,
    name: String,
    #[serde(flatten)]
    report: Report,
}

pub(super) async fn run(options: &SuiteOptions) -> Result<()> {
    let mut rows = Vec::new();
    let floor = Server::floor().await?;
    rows.push(Row { against: "floor", name: "send".into(), report: super::send(&options.send(&floor, 1)).await? });
    floor.stop().await?;
    for flush in ["SYNC_FLUSH", "ASYNC_FLUSH"] {
        let broker = Server::broker(flush, &options.dir).await?;
        measure(options, flush, &broker, &mut rows).await?;
        broker.stop().await?;
    }
    print(&rows, options.output)?;
    rows.iter().try_for_each(|row| row.report.check())
}

async fn measure(options: &SuiteOptions, against: &'static str, broker: &Server, rows: &mut Vec<Row>) -> Result<()> {
    let mut add = |name: String, report| rows.push(Row { against, name, report });
    add("send".into(), super::send(&options.send(broker, 1)).await?);
    add(format!("send, batches of {}", options.batch), super::send(&options.send(broker, options.batch)).await?);
    add("txn".into(), super::txn(&options.txn(broker)).await?);
    add("pull".into(), super::pull(&options.pull(broker)).await?);
    add(format!("latency at {}/s", options.rate), super::measure_latency(&options.latency(broker)).await?);
    Ok(())
}

impl SuiteOptions {
    fn target(&self, server: &Server, topic: &str) -> Target {
        Target { addr: server.address().into(), namesrv: None, topic: topic.into(), queues: 4 }
    }

    fn extent(&self) -> Extent {
        Extent { seconds: self.time(), count: self.count, warmup: Some(self.seconds.min(LONGEST_WARMUP_SECONDS)) }
    }

    fn time(&self) -> Option<f64> {
        self.count.is_none().then_some(self.seconds)
    }

    fn reporting(&self, server: &Server) -> Reporting {
        Reporting { pid: server.id(), output: self.output }
    }

    fn send(&self, server: &Server, batch: u32) -> SendOptions {
        let (target, reporting) = (self.target(server, "bench-send"), self.reporting(server));
        SendOptions { target, load: self.load.clone(), batch, topics: 1, extent: self.extent(), reporting }
    }

    fn txn(&self, server: &Server) -> TxnOptions {
        let (target, reporting) = (self.target(server, "bench-txn"), self.reporting(server));
        TxnOptions { target, load: self.load.clone(), rollback: 0.0, extent: self.extent(), reporting }
    }

    fn pull(&self, server: &Server) -> PullOptions {
        let (target, reporting) = (self.target(server, "bench-send"), self.reporting(server));
        let backlog = Backlog { target, seconds: self.time(), count: self.count, reporting };
        PullOptions { backlog, batch: 32 }
    }

    fn latency(&self, server: &Server) -> LatencyOptions {
        let (target, reporting) = (self.target(server, "bench-latency"), self.reporting(server));
        LatencyOptions { target, rate: self.rate, size: self.load.size, extent: self.extent(), reporting }
    }
}

fn print(rows: &[Row], output: Output) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match output {
        Output::Json => writeln!(out, "{}", serde_json::to_string(rows)?)?,
        Output::Table => writeln!(out, "{}", table(rows))?,
    }
    Ok(())
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header(COLUMNS);
    for Row { against, name, report } in rows {
        let latency = &report.latency_ms;
        let cost = |figure: fn(&super::report::ServerCost) -> String| report.server.as_ref().map_or("-".into(), figure);
        table.add_row([
            (*against).to_owned(),
            name.clone(),
            format!("{:.0}", report.messages_per_second),
            format!("{:.1}", report.mib_per_second),
            format!("{:.3}", latency.p50),
            format!("{:.3}", latency.p99),
            format!("{:.3}", latency.p999),
            cost(|server| format!("{:.2}", server.cpu_us_per_message)),
            cost(|server| format!("{:.1}", server.anonymous_mib)),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
