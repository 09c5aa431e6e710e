//! The binary `seckill-demo`: reads the command line and runs what it names until a signal.

use std::process::ExitCode;

use clap::Parser;
use order_service::process;
use seckill_demo::config::{Cli, Command, NaiveArgs, ServeArgs};
use seckill_demo::replay::naive;
use seckill_demo::serve::{FlashSale, SaleOptions};
use seckill_demo::{replay, stack};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> ExitCode {
    run().await.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

async fn run() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    process::start();
    let shutdown = process::shutdown_on_signals()?;
    match cli.command {
        Command::Serve(args) => serve(args, shutdown).await?,
        Command::Up(args) => return stack::command::run(args, shutdown).await,
        Command::Replay(args) => return replay::command::run(args, shutdown).await,
        Command::NaiveOrders(NaiveArgs { listen, database_url, namesrv_addr }) => {
            naive::orders(listen.bind().await?, &database_url, &namesrv_addr, shutdown).await?;
        }
        Command::NaiveRedPackets(NaiveArgs { listen, database_url, namesrv_addr }) => {
            naive::red_packets(listen.bind().await?, &database_url, &namesrv_addr, shutdown).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
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
