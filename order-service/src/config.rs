//! Command line and environment of the binary's three processes. Only `main` reads it.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Args, Parser, Subcommand};
use tokio::net::TcpListener;

use crate::purchases::{DelayLevel, Pace};
use crate::service::Checks;

/// Orders, payments and red packets of the reference shop.
#[derive(Debug, Parser)]
#[command(name = "order-service", version)]
pub struct Cli {
    #[command(subcommand)]
    pub process: Process,
}

#[derive(Debug, Subcommand)]
pub enum Process {
    /// Orders and payments, and the orders of flash sales.
    Serve(ServeArgs),
    /// The simulated third-party payment gateway.
    Gateway(GatewayArgs),
    /// Issues one red packet per paid order.
    RedPackets(RedPacketsArgs),
}

#[derive(Debug, Args)]
pub struct ListenArgs {
    /// Address of the HTTP interface.
    #[arg(long, env = "LISTEN")]
    pub listen: SocketAddr,
    /// Allow addresses that other machines reach, without TLS.
    #[arg(long)]
    pub insecure: bool,
}

impl ListenArgs {
    pub async fn bind(&self) -> anyhow::Result<TcpListener> {
        let local = self.listen.ip().is_loopback();
        ensure!(local || self.insecure, "{} is reachable from other machines: add --insecure to mean it", self.listen);
        TcpListener::bind(self.listen).await.with_context(|| format!("cannot listen on {}", self.listen))
    }
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub listen: ListenArgs,
    #[arg(long, env = "DATABASE_URL", default_value = "sqlite://orders.db?mode=rwc")]
    pub database_url: String,
    #[arg(long, env = "NAMESRV_ADDR", default_value = "127.0.0.1:9876")]
    pub namesrv_addr: String,
    /// The payment gateway.
    #[arg(long, env = "GATEWAY_URL", default_value = "http://127.0.0.1:8082")]
    pub gateway_url: String,
    /// The key shared with the gateway.
    #[arg(long, env = "GATEWAY_SECRET", hide_env_values = true)]
    pub gateway_secret: String,
    /// Where the gateway calls back; this service, unless it is set.
    #[arg(long, env = "CALLBACK_URL")]
    pub callback_url: Option<String>,
    /// Who knows it may manage sales. Not set: nobody.
    #[arg(long, env = "ADMIN_TOKEN", hide_env_values = true)]
    pub admin_token: Option<String>,
    /// How many orders of flash sales are made in a second.
    #[arg(long, env = "ORDERS_PER_SECOND", default_value = "200")]
    pub orders_per_second: NonZeroU32,
    /// Delay level (1 s, 5 s, 10 s, 30 s, 1 to 10 min, 20 min, 30 min, 1 h, 2 h: 1 to 18) after which an unpaid order of
    /// a flash sale is closed.
    #[arg(long, env = "CLOSE_AFTER_LEVEL", default_value = "16", value_parser = delay_level)]
    pub close_after_level: DelayLevel,
    /// The broker's `transactionCheckInterval` in milliseconds.
    #[arg(long, env = "CHECK_INTERVAL_MS", default_value = "30000")]
    pub check_interval_ms: u64,
    /// The age in milliseconds from which a checkback may give up a transaction that wrote nothing.
    #[arg(long, env = "TRANSACTION_DEADLINE_MS", default_value = "60000")]
    pub transaction_deadline_ms: u64,
}

impl ServeArgs {
    pub fn pace(&self) -> Pace {
        Pace { orders_per_second: self.orders_per_second, close_after: self.close_after_level }
    }

    pub fn checks(&self) -> Checks {
        let every = Duration::from_millis(self.check_interval_ms);
        Checks { every, deadline: Duration::from_millis(self.transaction_deadline_ms) }
    }
}

#[derive(Debug, Args)]
pub struct GatewayArgs {
    #[command(flatten)]
    pub listen: ListenArgs,
    #[arg(long, env = "DATABASE_URL", default_value = "sqlite://gateway.db?mode=rwc")]
    pub database_url: String,
    /// The key shared with the merchants.
    #[arg(long, env = "GATEWAY_SECRET", hide_env_values = true)]
    pub gateway_secret: String,
}

#[derive(Debug, Args)]
pub struct RedPacketsArgs {
    #[command(flatten)]
    pub listen: ListenArgs,
    #[arg(long, env = "DATABASE_URL", default_value = "sqlite://red-packets.db?mode=rwc")]
    pub database_url: String,
    #[arg(long, env = "NAMESRV_ADDR", default_value = "127.0.0.1:9876")]
    pub namesrv_addr: String,
}

fn delay_level(text: &str) -> Result<DelayLevel, String> {
    let level = text.parse().ok().and_then(DelayLevel::new);
    level.ok_or_else(|| "a delay level is a number from 1 to 18".to_owned())
}
