//! Command line and environment of the binary. Only `main` reads it.

use clap::{Args, Parser, Subcommand};
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
