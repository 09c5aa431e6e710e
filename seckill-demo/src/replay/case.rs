//! One crash point, one way: a stack of its own, a few paid orders, one process that dies at that very point and is
//! started again, and the count when everything has settled.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use order_service::gateway::ChargeRequest;
use rustix::process::Signal;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::outcome::Outcome;
use super::points::{Place, Point, Way};
use super::settled::Queue;
use super::tables::Tables;
use crate::stack::ports::any_free;
use crate::stack::process::{Log, Process, Program};
use crate::stack::programs::{Addresses, Programs, loopback};
use crate::stack::{ready, topics};

/// First check after a second, then every second.
const BROKER_SETTINGS: &str =
    "transactionTimeOut=1000\ntransactionCheckInterval=1000\nmappedFileSizeCommitLog=16777216\n";
/// The order service is told the broker's interval, and to give up early on a transaction that died.
const CHECK_INTERVAL_MS: &str = "1000";
const TRANSACTION_DEADLINE_MS: &str = "5000";
const PRICE_MINOR: i64 = 8_800;
/// A payment that is not answered by then, and a packet that is not there by then, will not come by itself.
const HEAL_LIMIT: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(50);

/// Plays the case in `dir` and counts.
pub(super) async fn play(point: &Point, way: Way, orders: usize, dir: &Path) -> Result<Outcome> {
    let failpoint = point.failpoint(way).context("this way has no such point")?;
    let case = Case::new(way, dir).await?;
    let outcome = case.run(point.place, &failpoint.arm(point.crash), orders).await;
    outcome.with_context(|| {
        format!("{way:?}, {} {} as {}: see {}", point.place, point.name, point.crash, case.log_path.display())
    })
}

struct Case {
    way: Way,
    at: Addresses,
    programs: Programs,
    log: Log,
    log_path: std::path::PathBuf,
    http: reqwest::Client,
}

/// A process that was told to die once, and its next life.
struct Doomed {
    crashed: oneshot::Receiver<Instant>,
    revived: JoinHandle<Result<Process>>,
}

impl Case {
    async fn new(way: Way, dir: &Path) -> Result<Self> {
        let port = || any_free().map(loopback);
        let at = Addresses {
            name_server: port()?,
            broker: port()?,
            gateway: port()?,
            orders: port()?,
            red_packets: port()?,
            sale: port()?,
        };
        let programs = Programs::new(dir, at)?;
        let log_path = dir.join("log");
        Ok(Self { way, at, programs, log: Log::file(&log_path), log_path, http: reqwest::Client::new() })
    }

    async fn run(&self, place: Place, failpoints: &str, orders: usize) -> Result<Outcome> {
        let plans = [
            (Place::Broker, self.programs.broker(BROKER_SETTINGS)?, ready::Probe::Tcp(self.at.broker)),
            (Place::Consumer, self.red_packets(), ready::Probe::http(self.at.red_packets)),
            (Place::Producer, self.orders(), ready::Probe::http(self.at.orders)),
        ];
        let gateway = self.programs.gateway().start(self.log.clone())?;
        ready::Probe::http(self.at.gateway).wait().await?;
        let (mut calm, mut doomed) = (vec![gateway], None);
        for (of, program, probe) in plans {
            let armed = of == place;
            let process = if armed { program.clone().env("FAILPOINTS", failpoints) } else { program.clone() };
            let process = process.start(self.log.clone())?;
            probe.wait().await?;
            if armed {
                doomed = Some(Doomed::watch(process, program, probe, self.log.clone()));
            } else {
                calm.push(process);
            }
            if of == Place::Broker {
                topics::create(self.at.name_server, &[order_service::events::ORDER_PAID]).await?;
            }
        }
        let doomed = doomed.context("a point belongs to one of the three")?;
        let tables = Tables::open(&self.programs.database("gateway"), &self.programs.database("red-packets")).await?;
        let outcome = self.pay_and_count(orders, &tables, doomed, &mut calm).await;
        while let Some(process) = calm.pop() {
            process.stop().await?;
        }
        outcome
    }

    async fn pay_and_count(
        &self,
        orders: usize,
        tables: &Tables,
        doomed: Doomed,
        calm: &mut Vec<Process>,
    ) -> Result<Outcome> {
        let settled = CancellationToken::new();
        let healing = tokio::spawn(heal(doomed.crashed, tables.clone(), settled.clone()));
        for number in 0..orders {
            self.pay(number, tables).await?;
        }
        let Ok(revived) = timeout(HEAL_LIMIT, doomed.revived).await else {
            bail!("the point was not reached within {HEAL_LIMIT:?}");
        };
        calm.push(revived??);
        self.settle(tables).await?;
        settled.cancel();
        // A consumer that was asked to stop finishes what it works on: the count after that is final.
        let consumer = calm.iter().position(|process| process.name == "red-packets").context("a consumer runs")?;
        calm.remove(consumer).stop().await?;
        Ok(Outcome::count(&tables.paid().await?, &tables.packets().await?, healing.await??))
    }

    /// Places an order and has the gateway charge it; returns once the merchant has answered the gateway.
    async fn pay(&self, number: usize, tables: &Tables) -> Result<()> {
        let order = match self.way {
            Way::Naive => self.charge_naive(number).await?,
            Way::Transactional => self.pay_transactional(number).await?,
        };
        let deadline = Instant::now() + HEAL_LIMIT;
        while !(tables.paid().await?.contains(&order) && tables.all_answered().await?) {
            ensure!(Instant::now() < deadline, "the payment of order {order} was not answered within {HEAL_LIMIT:?}");
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    async fn charge_naive(&self, number: usize) -> Result<String> {
        let order_id = format!("order-{number}");
        let charge = ChargeRequest {
            pay_id: format!("pay-{number}"),
            order_id: order_id.clone(),
            amount_minor: PRICE_MINOR,
            currency: "CNY".into(),
            callback_url: format!("http://{}/gateway/callback", self.at.orders),
        };
        let url = format!("http://{}/charge", self.at.gateway);
        self.http.post(url).json(&charge).send().await?.error_for_status()?;
        Ok(order_id)
    }

    async fn pay_transactional(&self, number: usize) -> Result<String> {
        let url = format!("http://{}/orders", self.at.orders);
        let place =
            self.http.post(&url).header("x-user", "replay").header("idempotency-key", format!("replay-{number}"));
        let new = json!({"item": "tea", "unit_price_minor": PRICE_MINOR, "currency": "CNY"});
        let placed: serde_json::Value = place.json(&new).send().await?.error_for_status()?.json().await?;
        let order_id = placed["id"].as_str().with_context(|| format!("no id in {placed}"))?.to_owned();
        let pay = self.http.post(format!("{url}/{order_id}/pay")).header("x-user", "replay");
        pay.send().await?.error_for_status()?;
        Ok(order_id)
    }

    /// Waits until nothing is on its way any more.
    async fn settle(&self, tables: &Tables) -> Result<()> {
        if self.way == Way::Transactional {
            // What is missing now can only come through a checkback, which the limit leaves ample time for.
            let deadline = Instant::now() + HEAL_LIMIT;
            while Instant::now() < deadline && !all_have_packets(&tables.paid().await?, tables).await? {
                tokio::time::sleep(POLL).await;
            }
        }
        self.queue().drained(HEAL_LIMIT).await
    }

    fn orders(&self) -> Program {
        match self.way {
            Way::Naive => self.programs.naive_orders(),
            Way::Transactional => {
                let orders = self.programs.orders().env("CHECK_INTERVAL_MS", CHECK_INTERVAL_MS);
                orders.env("TRANSACTION_DEADLINE_MS", TRANSACTION_DEADLINE_MS)
            }
        }
    }

    fn red_packets(&self) -> Program {
        match self.way {
            Way::Naive => self.programs.naive_red_packets(),
            Way::Transactional => self.programs.red_packets(),
        }
    }

    fn queue(&self) -> Queue {
        let group = match self.way {
            Way::Naive => super::naive::GROUP,
            Way::Transactional => order_service::red_packets::GROUP,
        };
        Queue { name_server: self.at.name_server, topic: order_service::events::ORDER_PAID, group }
    }
}

impl Doomed {
    fn watch(mut process: Process, again: Program, probe: ready::Probe, log: Log) -> Self {
        let (tell, crashed) = oneshot::channel();
        let revived = tokio::spawn(async move {
            let status = process.ended().await?;
            // Nobody listens any more when the case has failed meanwhile.
            let _ = tell.send(Instant::now());
            let at_its_point = status.signal() == Some(Signal::ABORT.as_raw());
            ensure!(at_its_point, "{} was to abort at its crash point and ended with {status}", again.name);
            let revived = again.start(log)?;
            probe.wait().await?;
            Ok(revived)
        });
        Self { crashed, revived }
    }
}

/// Seconds from the crash until the orders that were paid before it have their packets; `None` when that is not so by
/// the time everything has settled.
async fn heal(crashed: oneshot::Receiver<Instant>, tables: Tables, settled: CancellationToken) -> Result<Option<f64>> {
    let Ok(crashed) = crashed.await else { return Ok(None) };
    let paid = tables.paid().await?;
    loop {
        let last_look = settled.is_cancelled();
        if all_have_packets(&paid, &tables).await? {
            return Ok(Some(crashed.elapsed().as_secs_f64()));
        }
        if last_look {
            return Ok(None);
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn all_have_packets(paid: &[String], tables: &Tables) -> Result<bool> {
    let packets = tables.packets().await?;
    Ok(paid.iter().all(|order| packets.contains_key(order)))
}
