//! The binary `seckill-demo`: reads the command line and runs what it names until a signal.

use clap::Parser;
use order_service::process;
use seckill_demo::config::{Cli, Command, ServeArgs};
use seckill_demo::serve::{FlashSale, SaleOptions};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    process::start();
    let shutdown = process::shutdown_on_signals()?;
    match cli.command {
        Command::Serve(args) => serve(args, shutdown).await,
    }
}

async fn serve(args: ServeArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let listener = args.listen.bind().await?;
    let options = SaleOptions {
        redis_url: args.redis_url,
        name_servers: args.namesrv_addr,
        order_service_url: args.order_service_url,
        admin_token: args.admin_token,
    };
    FlashSale::open(options).await?.run(listener, shutdown).await
}
