//! Command line and environment of the binary. Only `main` reads it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use order_service::config::ListenArgs;

/// The flash sale of the reference shop.
#[derive(Debug, Parser)]
#[command(name = "seckill-demo", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Sell: create and warm up sales, let buyers in, tell them what became of their purchases.
    Serve(ServeArgs),
    /// Start the whole shop on this machine: redis, broker, orders, gateway, red packets, flash sale.
    Up(UpArgs),
    /// Kill real processes at every point where a paid order's red packet can be lost, and count.
    Replay(ReplayArgs),
    /// The order service of the replay's naive way.
    #[command(hide = true)]
    NaiveOrders(NaiveArgs),
    /// The consumer of the replay's naive way.
    #[command(hide = true)]
    NaiveRedPackets(NaiveArgs),
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub listen: ListenArgs,
    /// The gate's Redis; its maxmemory-policy must be noeviction.
    #[arg(long, env = "REDIS_URL", default_value = "redis://127.0.0.1:6379")]
    pub redis_url: String,
    #[arg(long, env = "NAMESRV_ADDR", default_value = "127.0.0.1:9876")]
    pub namesrv_addr: String,
    #[arg(long, env = "ORDER_SERVICE_URL", default_value = "http://127.0.0.1:8081")]
    pub order_service_url: String,
    /// Who knows it may manage sales; order-service must have the same.
    #[arg(long, env = "ADMIN_TOKEN", hide_env_values = true)]
    pub admin_token: String,
}

#[derive(Debug, Args)]
pub struct UpArgs {
    /// A Redis that is there already; otherwise redis-server is started.
    #[arg(long, env = "REDIS_URL")]
    pub redis_url: Option<String>,
    /// Where all files go; otherwise a temporary directory that is removed at the end.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Try every journey, print what was seen, stop everything; exit status 0 only if all of it held.
    #[arg(long)]
    pub check: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    PaidNoRedPacket,
}

#[derive(Debug, Args)]
pub struct ReplayArgs {
    pub scenario: Scenario,
    /// One JSON document instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Only these: producer, broker, consumer, or a part of a point's name; several with commas.
    #[arg(long, value_delimiter = ',')]
    pub points: Vec<String>,
    /// Paid orders of each case; the second one crashes.
    #[arg(long, default_value_t = 3)]
    pub orders: usize,
    /// Keep every case's files and log here; otherwise they are removed when all went well.
    #[arg(long)]
    pub data: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct NaiveArgs {
    #[command(flatten)]
    pub listen: ListenArgs,
    #[arg(long, env = "DATABASE_URL")]
    pub database_url: String,
    #[arg(long, env = "NAMESRV_ADDR")]
    pub namesrv_addr: String,
}
