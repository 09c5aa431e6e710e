//! `suite`: starts servers of this program one after the other, each on fresh files, and runs every scenario on them.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use comfy_table::{CellAlignment, Table, presets};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::options::{
    Backlog, Extent, LatencyOptions, PullOptions, Reporting, SendOptions, SuiteOptions, Target, TxnOptions,
};
use super::report::Report;
use crate::output::Output;

const START_PATIENCE: Duration = Duration::from_secs(10);
const STOP_PATIENCE: Duration = Duration::from_secs(10);
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
        Target { addr: server.address.clone(), namesrv: None, topic: topic.into(), queues: 4 }
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

/// A child process, killed when dropped.
pub(super) struct Server {
    child: Child,
    address: String,
    _store: Option<TempDir>,
}

impl Server {
    async fn floor() -> Result<Self> {
        let (child, mut lines) = start(&["bench", "floor", "--port", "0"])?;
        let line = next(&mut lines).await?;
        let address = line.split(" on ").nth(1).and_then(|rest| rest.split(',').next());
        let address = address.with_context(|| format!("the floor said {line:?}"))?.to_owned();
        Ok(Self { child, address, _store: None })
    }

    async fn broker(flush: &str, dir: &Path) -> Result<Self> {
        let store = tempfile::Builder::new().prefix("mq-bench-").tempdir_in(dir);
        let store = store.with_context(|| format!("cannot write in {}", dir.display()))?;
        let server = Self::broker_in(flush, store.path()).await?;
        Ok(Self { _store: Some(store), ..server })
    }

    /// Its files stay where they are.
    pub(super) async fn broker_in(flush: &str, directory: &Path) -> Result<Self> {
        let config = directory.join("broker.conf");
        std::fs::write(&config, format!("flushDiskType={flush}\n"))?;
        let (files, config) = (directory.join("store"), config.display().to_string());
        let files = files.display().to_string();
        let arguments = ["up", "-c", &config, "--store", &files, "--port", "0", "--namesrv-port", "0"];
        let (child, mut lines) = start(&arguments)?;
        let mut address = None;
        loop {
            let line = next(&mut lines).await?;
            if let Some(rest) = line.strip_prefix("broker ") {
                address = rest.split_whitespace().next().map(str::to_owned);
            }
            if line == "ready" {
                break;
            }
        }
        Ok(Self { child, address: address.context("the broker said no address")?, _store: None })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn id(&self) -> Vec<u32> {
        self.child.id().into_iter().collect()
    }

    /// As a crash ends it: nothing is saved.
    pub(super) async fn kill(mut self) -> Result<()> {
        self.child.kill().await.context("the server cannot be killed")
    }

    /// Its files go with it, unless somebody else keeps them.
    pub(super) async fn stop(mut self) -> Result<()> {
        let id = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        kill_process(id.context("the server ended by itself")?, Signal::TERM)?;
        let status = timeout(STOP_PATIENCE, self.child.wait()).await.context("the server does not stop")??;
        ensure!(status.success(), "the server ended with {status}");
        Ok(())
    }
}

fn start(arguments: &[&str]) -> Result<(Child, Lines<BufReader<ChildStdout>>)> {
    let program = std::env::current_exe().context("this program is not to be found")?;
    let mut command = Command::new(program);
    command.args(arguments).env_remove("NAMESRV_ADDR").env("RUST_LOG", "warn");
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn();
    let mut child = child.with_context(|| format!("cannot start mq {}", arguments.join(" ")))?;
    let out = child.stdout.take().expect("piped");
    Ok((child, BufReader::new(out).lines()))
}

async fn next(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<String> {
    let line = timeout(START_PATIENCE, lines.next_line()).await.context("the server is not ready in time")??;
    line.context("the server ended before it was ready")
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
