//! The binary `order-service`: reads the command line, opens one of the three processes, runs it until a signal.

use clap::Parser;
use order_service::clock::Clock;
use order_service::config::{Cli, GatewayArgs, Process, RedPacketsArgs, ServeArgs};
use order_service::gateway::{Gateway, GatewayOptions};
use order_service::red_packets::{RedPacketOptions, RedPackets};
use order_service::service::{OrderService, ServiceOptions};
use order_service::signature::Secret;
use order_service::{database, process};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    process::start();
    let shutdown = process::shutdown_on_signals()?;
    match cli.process {
        Process::Serve(args) => Box::pin(serve(args, shutdown)).await,
        Process::Gateway(args) => gateway(args, shutdown).await,
        Process::RedPackets(args) => red_packets(args, shutdown).await,
    }
}

async fn serve(args: ServeArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let listener = args.listen.bind().await?;
    let here = format!("http://{}/gateway/callback", listener.local_addr()?);
    let (pace, checks) = (args.pace(), args.checks());
    let options = ServiceOptions {
        db: database::connect(&args.database_url).await?,
        clock: Clock::system(),
        name_servers: args.namesrv_addr,
        gateway_url: args.gateway_url,
        secret: Secret::new(args.gateway_secret),
        callback_url: args.callback_url.unwrap_or(here),
        admin_token: args.admin_token,
        pace,
        checks,
    };
    OrderService::open(options).await?.run(listener, shutdown).await
}

async fn gateway(args: GatewayArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let listener = args.listen.bind().await?;
    let db = database::connect(&args.database_url).await?;
    let secret = Secret::new(args.gateway_secret);
    Gateway::open(GatewayOptions { db, clock: Clock::system(), secret }).await?.run(listener, shutdown).await
}

async fn red_packets(args: RedPacketsArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let listener = args.listen.bind().await?;
    let db = database::connect(&args.database_url).await?;
    let options = RedPacketOptions { db, clock: Clock::system(), name_servers: args.namesrv_addr };
    RedPackets::open(options).await?.run(listener, shutdown).await
}
