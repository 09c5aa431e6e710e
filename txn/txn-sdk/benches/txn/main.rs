//! `make bench-txn`: transactions with their messages, end to end, three ways on the same database: the SDK; an outbox
//! table with a polling relay; and the official Java client with a check table written by hand, on Apache's broker.

mod load;
mod measuring;
mod table;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use mq_testkit::process::workspace;

use load::Load;

const TOPIC: &str = "ORDER_PAID";

#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    extent: Extent,
    /// A page whose table is replaced.
    #[arg(long)]
    page: Option<PathBuf>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(clap::Args, Clone)]
struct Extent {
    /// Runs of each, an odd number: the table has their medians, and the median of what each run of one was to the other's.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Seconds that each run is measured.
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    /// Seconds of load before: a JVM needs some.
    #[arg(long, default_value_t = 5.0)]
    warmup: f64,
    /// Transactions at the same time.
    #[arg(long, default_value_t = 64)]
    workers: usize,
    /// Transactions a second when latency is measured.
    #[arg(long, default_value_t = 200)]
    rate: u64,
    /// Where databases and brokers keep their files while they run.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Without the JVMs.
    #[arg(long)]
    ours_only: bool,
}

#[derive(Subcommand)]
enum Role {
    /// The service that is measured: started by the other.
    #[command(hide = true)]
    Load(Load),
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    match options.role {
        Some(Role::Load(load)) => load::run(load).await,
        None => {
            // Cargo starts it elsewhere.
            std::env::set_current_dir(workspace())?;
            let figures = measuring::measure_all(&options.extent).await?;
            table::print(&figures, &options.extent, options.page.as_deref())
        }
    }
}
