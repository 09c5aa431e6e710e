//! What `mq bench` understands on its command line.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::output::Output;

#[derive(Debug, Args)]
pub(crate) struct BenchOptions {
    #[command(subcommand)]
    pub(crate) scenario: Scenario,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Scenario {
    /// Sends, each acknowledged.
    Send(SendOptions),
    /// Transactions: a half message, then its commit or rollback, both acknowledged.
    Txn(TxnOptions),
    /// Sends at a rate, whatever the answers take: more than the broker can do, say.
    Flood(FloodOptions),
    /// Reads what the topic's queues hold.
    Pull(PullOptions),
    /// Pops what the topic's queues hold and acknowledges it, a pop at a time.
    Pop(PopOptions),
    /// The time from send to delivery at a fixed rate of sends, whatever the broker's answers take.
    Latency(LatencyOptions),
    /// Connections that say who they are and then nothing: the memory that each of them takes.
    Idle(IdleOptions),
    /// Starts `mq up` and sends messages for a later time: memory and CPU while they wait, and a restart with them.
    Timers(TimersOptions),
    /// Starts `mq up` and leaves half messages without a verdict: memory and CPU with them, and a start after `kill -9`.
    Halves(HalvesOptions),
    /// Starts `mq up` with SYNC_FLUSH and with ASYNC_FLUSH, and the floor, and runs every scenario against them.
    Suite(SuiteOptions),
    /// A server that answers sends without storing anything: what no broker on this machine can beat.
    Floor(FloorOptions),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Target {
    /// The broker's address.
    #[arg(long, default_value = "127.0.0.1:10911", conflicts_with = "namesrv")]
    pub(crate) addr: String,
    /// Ask this name server for the broker (the first that serves the topic) and its queues instead.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) namesrv: Option<String>,
    #[arg(long, default_value = "mq-bench")]
    pub(crate) topic: String,
    /// Queues of the topic, when no name server is asked; a new topic gets as many.
    #[arg(long, default_value_t = 4)]
    pub(crate) queues: u32,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Extent {
    /// How long to measure [default: 10, unless --count is given].
    #[arg(long)]
    pub(crate) seconds: Option<f64>,
    /// Stop after this many messages, those of a warm-up not counted.
    #[arg(long)]
    pub(crate) count: Option<u64>,
    /// Seconds of load before measuring begins [default: 1, and none with --count: exactly so many messages then].
    #[arg(long)]
    pub(crate) warmup: Option<f64>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Reporting {
    /// A local server process whose CPU time per message and anonymous memory to report; may be given several times.
    #[arg(long)]
    pub(crate) pid: Vec<u32>,
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Load {
    #[arg(long, default_value_t = 4)]
    pub(crate) connections: usize,
    /// Requests in flight on each connection.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) in_flight: u32,
    /// Body bytes.
    #[arg(long, default_value_t = 256)]
    pub(crate) size: usize,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct SendOptions {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) load: Load,
    /// Messages in one request.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) batch: u32,
    /// Spread the sends over so many topics, whose names are --topic and a number; one queue each.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) topics: u32,
    #[command(flatten)]
    pub(crate) extent: Extent,
    #[command(flatten)]
    pub(crate) reporting: Reporting,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct IdleOptions {
    /// The broker's address.
    #[arg(long, default_value = "127.0.0.1:10911")]
    pub(crate) addr: String,
    #[arg(long, default_value_t = 15_000)]
    pub(crate) connections: usize,
    /// Seconds from the last connection to the measurement.
    #[arg(long, default_value_t = 3.0)]
    pub(crate) rest: f64,
    #[command(flatten)]
    pub(crate) reporting: Reporting,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct TimersOptions {
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: u64,
    #[command(flatten)]
    pub(crate) alone: Alone,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct HalvesOptions {
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) count: u64,
    /// Seconds before the first check (CHECK_IMMUNITY_TIME_IN_SECONDS).
    #[arg(long, default_value_t = 0)]
    pub(crate) immunity: u32,
    #[command(flatten)]
    pub(crate) alone: Alone,
}

/// A broker that is filled, left alone and started again.
#[derive(Debug, Clone, Args)]
pub(crate) struct Alone {
    /// Body bytes.
    #[arg(long, default_value_t = 256)]
    pub(crate) size: usize,
    /// Seconds that are measured, before the broker's next start and from then on.
    #[arg(long, default_value_t = 10.0)]
    pub(crate) rest: f64,
    /// Where the broker keeps its files while it runs.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct FloodOptions {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Messages a second, of all connections together.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) rate: u64,
    #[arg(long, default_value_t = 4)]
    pub(crate) connections: usize,
    /// Body bytes.
    #[arg(long, default_value_t = 256)]
    pub(crate) size: usize,
    #[command(flatten)]
    pub(crate) extent: Extent,
    #[command(flatten)]
    pub(crate) reporting: Reporting,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct TxnOptions {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) load: Load,
    /// The part of the transactions that is rolled back, 0 to 1.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) rollback: f64,
    #[command(flatten)]
    pub(crate) extent: Extent,
    #[command(flatten)]
    pub(crate) reporting: Reporting,
}

// A topic that is read, and how long. (A doc comment would stand in the help.)
#[derive(Debug, Clone, Args)]
pub(crate) struct Backlog {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Read the topic again and again for this long (pops as other groups), instead of once.
    #[arg(long)]
    pub(crate) seconds: Option<f64>,
    /// Stop after this many messages.
    #[arg(long)]
    pub(crate) count: Option<u64>,
    #[command(flatten)]
    pub(crate) reporting: Reporting,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct PullOptions {
    #[command(flatten)]
    pub(crate) backlog: Backlog,
    /// Messages of one pull.
    #[arg(long, default_value_t = 32)]
    pub(crate) batch: i32,
}

// Each time that the topic is read again, it is as another group.
#[derive(Debug, Clone, Args)]
pub(crate) struct PopOptions {
    #[command(flatten)]
    pub(crate) backlog: Backlog,
    /// Messages of one pop.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(i32).range(1..=32))]
    pub(crate) batch: i32,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct LatencyOptions {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Messages a second.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) rate: u64,
    /// Body bytes.
    #[arg(long, default_value_t = 256)]
    pub(crate) size: usize,
    #[command(flatten)]
    pub(crate) extent: Extent,
    #[command(flatten)]
    pub(crate) reporting: Reporting,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct FloorOptions {
    /// 0: any free port.
    #[arg(long, default_value_t = 30911)]
    pub(crate) port: u16,
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub(crate) bind: IpAddr,
    /// Also append the bytes that arrive to this file before they are answered.
    #[arg(long, value_name = "FILE")]
    pub(crate) append: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct SuiteOptions {
    /// How long each scenario is measured.
    #[arg(long, default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// Measure this many messages in each scenario, however long that takes.
    #[arg(long, conflicts_with = "seconds")]
    pub(crate) count: Option<u64>,
    #[command(flatten)]
    pub(crate) load: Load,
    /// Messages in one request of the batch scenario.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) batch: u32,
    /// Messages a second of the latency scenario.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) rate: u64,
    /// Where the brokers keep their files while they run; use a disk like the one to be judged.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}
