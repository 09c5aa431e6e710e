//! `seckill-demo up`: the whole shop on this machine, each part a process of its own, until Ctrl-C or a failing part.

use std::path::Path;

use anyhow::{Context, Result, bail};
use comfy_table::{Table, presets};
use order_service::events;
use tokio_util::sync::CancellationToken;

use super::ports::Ports;
use super::process::{Log, Process, Program};
use super::programs::{ADMIN_TOKEN, Addresses, Programs, loopback};
use super::ready::Probe;
use super::topics;

/// An unpaid order of a flash sale is closed after the third delay level, 10 s: short enough to watch, and longer than a
/// crowd of 2,000 takes.
const CLOSE_AFTER_LEVEL: u8 = 3;
const TOPICS: [&str; 4] = [events::ORDER_PAID, events::ORDER_CLOSED, events::ORDER_CLOSE_DUE, events::SALE_PURCHASE];
const BROKER_SETTINGS: &str = "mappedFileSizeCommitLog=67108864\n";

/// A running stack.
#[derive(Debug)]
pub struct Stack {
    pub at: Addresses,
    pub redis_url: String,
    /// What is not where it usually is, as sentences.
    pub moved: Vec<String>,
    /// In the order of their start.
    processes: Vec<Process>,
}

impl Stack {
    /// Starts every part and waits until it is ready. `redis_url`: a Redis that is there already.
    pub async fn start(data: &Path, redis_url: Option<String>, log: Log) -> Result<Self> {
        let mut ports = Ports::keeping([9876, 10911, 8081, 8082, 8083, 8084]);
        let at = Addresses {
            name_server: loopback(ports.pick("name server", 9876, &[])?),
            // The port two below is the broker's VIP port, the one above is kept for replication.
            broker: loopback(ports.pick("broker", 10911, &[-2, 1])?),
            orders: loopback(ports.pick("order service", 8081, &[])?),
            gateway: loopback(ports.pick("payment gateway", 8082, &[])?),
            red_packets: loopback(ports.pick("red packets", 8083, &[])?),
            sale: loopback(ports.pick("flash sale", 8084, &[])?),
        };
        let programs = Programs::new(data, at)?;
        let mut stack = Self { at, redis_url: String::new(), moved: Vec::new(), processes: Vec::new() };
        stack.redis_url = match redis_url {
            Some(url) => url,
            None => {
                let port = ports.pick("redis", 6379, &[])?;
                stack.add(&programs.redis(port)?, Probe::Tcp(loopback(port)), &log).await?;
                format!("redis://{}", loopback(port))
            }
        };
        stack.moved = ports.moved;
        stack.add(&programs.broker(BROKER_SETTINGS)?, Probe::Tcp(at.broker), &log).await?;
        topics::create(at.name_server, &TOPICS).await?;
        stack.add(&programs.gateway(), Probe::http(at.gateway), &log).await?;
        let orders = programs.orders().env("CLOSE_AFTER_LEVEL", CLOSE_AFTER_LEVEL.to_string());
        stack.add(&orders, Probe::http(at.orders), &log).await?;
        stack.add(&programs.red_packets(), Probe::http(at.red_packets), &log).await?;
        stack.add(&programs.sale(&stack.redis_url), Probe::http(at.sale), &log).await?;
        Ok(stack)
    }

    async fn add(&mut self, program: &Program, probe: Probe, log: &Log) -> Result<()> {
        let process = program.start(log.clone())?;
        self.processes.push(process);
        let process = self.processes.last_mut().context("it was just added")?;
        tokio::select! {
            ready = probe.wait() => ready.with_context(|| format!("{} did not start", program.name)),
            ended = process.ended() => bail!("{} ended while it was starting: {}", program.name, ended?),
        }
    }

    /// Runs until `stop`, or until a part ends by itself, which is an error.
    pub async fn run_until(&mut self, stop: &CancellationToken) -> Result<()> {
        loop {
            for process in &mut self.processes {
                if let Some(status) = process.try_ended()? {
                    bail!("{} ended with {status}; stopping the rest", process.name);
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(std::time::Duration::from_millis(200)) => {}
            }
        }
    }

    /// Stops every part, the last started first.
    pub async fn stop(mut self) -> Result<()> {
        while let Some(process) = self.processes.pop() {
            let name = process.name;
            let status = process.stop().await?;
            if !status.success() {
                tracing::warn!(%status, "{name} did not stop cleanly");
            }
        }
        Ok(())
    }

    /// Addresses and what to try, for people.
    #[must_use]
    pub fn welcome(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(["part", "address"]);
        for (part, address) in [
            ("name server", self.at.name_server.to_string()),
            ("broker", self.at.broker.to_string()),
            ("redis", self.redis_url.clone()),
            ("order service", format!("http://{}", self.at.orders)),
            ("payment gateway", format!("http://{}", self.at.gateway)),
            ("red packets", format!("http://{}", self.at.red_packets)),
            ("flash sale", format!("http://{}", self.at.sale)),
        ] {
            table.add_row([part.to_owned(), address]);
        }
        format!("{table}\n{}", self.to_try())
    }

    fn to_try(&self) -> String {
        let Addresses { orders, red_packets, sale, .. } = self.at;
        format!(
            r#"
Place an order, pay it, and look at its red packet:
  curl -sX POST http://{orders}/orders -H 'X-User: ada' -H 'Idempotency-Key: 1' -H 'Content-Type: application/json' -d '{{"item":"tea","unit_price_minor":8800}}'
  ORDER=…                                     # the "id" of the answer
  curl -sX POST http://{orders}/orders/$ORDER/pay -H 'X-User: ada'
  curl -s http://{orders}/orders/$ORDER -H 'X-User: ada'
  curl -s http://{red_packets}/packets/$ORDER

Sell ten pieces in a flash sale; an unpaid order is closed after 10 s and its piece is free again:
  curl -sX POST http://{sale}/sales -H 'X-Admin-Token: {ADMIN_TOKEN}' -H 'Content-Type: application/json' -d '{{"id":"phone","item":"phone","unit_price_minor":99900,"pieces":10}}'
  curl -sX POST http://{sale}/sales/phone/warm-up -H 'X-Admin-Token: {ADMIN_TOKEN}'
  curl -sX POST http://{sale}/sales/phone/purchases -H 'X-User: ada' -H 'Content-Type: application/json' -d '{{}}'
  curl -s http://{sale}/sales/phone
"#
        )
    }
}
