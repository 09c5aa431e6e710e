//! The gate of a sale: one atomic script per question, in a Redis that may forget everything but must not lie. A gate
//! belongs to the server that it was built in (its run_id) and to one epoch of the sale; it is shut for everybody else.
//! Reservations have no expiry: they end by `settle`, once. Knows no queue and no database.
//!
//! ```text
//! seckill:{sale}:gate       hash  open run_id epoch per_user initial left reserved sold build_epoch build_run_id
//! seckill:{sale}:purchases  hash  purchase id -> "reserved|quantity|user", "sold|…", "released|…" or "fenced"
//! seckill:{sale}:users      hash  user -> purchase id
//! ```

mod scripts;

use std::sync::Arc;
use std::time::Duration;

use mq_client::Verdict;
use order_service::events::Purchase;
use order_service::sales::GatePlan;
use order_service::tables::OrderState;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{AsyncCommands, FromRedisValue, RedisError, ScriptInvocation};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use scripts::Scripts;

/// A gate that is slower than this is as good as shut; whether it reserved is then the checkback's question.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Entries that one script call loads.
const LOAD_BATCH: usize = 500;

#[derive(Debug, Error)]
pub enum GateError {
    #[error("the gate does not answer: {0}")]
    Redis(#[from] RedisError),
    #[error("the gate answered {0:?}, which no script of this version says")]
    Unexpected(String),
}

#[derive(Debug, Error)]
pub enum BuildError {
    #[error("this Redis may evict reservations: set maxmemory-policy to noeviction")]
    Evicts,
    #[error("a newer gate is being built, or Redis restarted meanwhile")]
    Superseded,
    #[error(transparent)]
    Gate(#[from] GateError),
}

impl From<RedisError> for BuildError {
    fn from(error: RedisError) -> BuildError {
        BuildError::Gate(error.into())
    }
}

/// Why a buyer is turned away. Final for this attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turned {
    /// Not open: not warmed up, stopped, or built in a Redis that has restarted since.
    Closed,
    /// The user has a purchase already (its id), or asks for more than one may have.
    Limited {
        before: Option<String>,
    },
    SoldOut,
    /// A checkback gave this purchase up before its reservation came.
    Fenced,
}

/// How a reservation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Sold,
    Released,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    Now,
    Before,
    /// The gate never heard of the purchase, or was rebuilt without it.
    Unknown,
    /// No gate stands in this Redis: ask again when one was built.
    NoGate,
}

/// What the gate counts: `sold + reserved + left = initial`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub open: bool,
    pub epoch: i64,
    pub initial: i64,
    pub left: i64,
    pub reserved: i64,
    pub sold: i64,
}

/// What the gate remembers of a purchase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remembered {
    Reservation { state: ReservationState, user_id: String },
    Fenced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservationState {
    Reserved,
    Sold,
    Released,
}

#[derive(Clone)]
pub struct Gate {
    connection: ConnectionManager,
    scripts: Arc<Scripts>,
}

impl Gate {
    /// Connects when it is first used, and again whenever the connection was lost.
    pub fn connect(url: &str) -> Result<Gate, GateError> {
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(1)
            .set_connection_timeout(Some(ANSWER_WITHIN))
            .set_response_timeout(Some(ANSWER_WITHIN));
        let connection = ConnectionManager::new_lazy_with_config(redis::Client::open(url)?, config)?;
        Ok(Gate { connection, scripts: Arc::default() })
    }

    pub async fn is_reachable(&self) -> bool {
        self.connection.clone().ping::<String>().await.is_ok()
    }

    /// Whether it is worth a half message to try; the epoch of the open gate. Changes nothing.
    pub async fn peek(&self, sale_id: &str, user_id: &str, quantity: i64) -> Result<Result<i64, Turned>, GateError> {
        let mut call = self.scripts.peek.key(key(sale_id, "gate"));
        call.key(key(sale_id, "users")).arg(user_id).arg(quantity);
        let answer: Vec<String> = self.run(&call).await?;
        match answer.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["open", epoch] => Ok(Ok(epoch.parse().map_err(|_| GateError::Unexpected(epoch.to_owned()))?)),
            _ => Ok(Err(turned(&answer)?)),
        }
    }

    /// Reserves, once per purchase id. An error says nothing about whether it did.
    pub async fn reserve(&self, purchase: &Purchase) -> Result<Result<(), Turned>, GateError> {
        let sale_id = &purchase.sale_id;
        let mut call = self.scripts.reserve.key(key(sale_id, "gate"));
        call.key(key(sale_id, "purchases")).key(key(sale_id, "users"));
        call.arg(&purchase.purchase_id).arg(&purchase.user_id).arg(purchase.quantity).arg(purchase.epoch);
        let answer: Vec<String> = self.run(&call).await?;
        if answer == ["reserved"] { Ok(Ok(())) } else { Ok(Err(turned(&answer)?)) }
    }

    /// The answer to a checkback. Where there is no reservation there will be none: the id is fenced in the same step.
    pub async fn check(&self, purchase: &Purchase) -> Result<Verdict, GateError> {
        let mut call = self.scripts.check.key(key(&purchase.sale_id, "gate"));
        call.key(key(&purchase.sale_id, "purchases")).arg(&purchase.purchase_id).arg(purchase.epoch);
        let answer: String = self.run(&call).await?;
        match answer.as_str() {
            "commit" => Ok(Verdict::Commit),
            "rollback" => Ok(Verdict::Rollback),
            _ => Err(GateError::Unexpected(answer)),
        }
    }

    pub async fn settle(&self, sale_id: &str, purchase_id: &str, end: End) -> Result<Settled, GateError> {
        let end = if end == End::Sold { "sold" } else { "released" };
        let mut call = self.scripts.settle.key(key(sale_id, "gate"));
        call.key(key(sale_id, "purchases")).arg(purchase_id).arg(end);
        let answer: String = self.run(&call).await?;
        match answer.as_str() {
            "done" => Ok(Settled::Now),
            "before" => Ok(Settled::Before),
            "unknown" => Ok(Settled::Unknown),
            "no_gate" => Ok(Settled::NoGate),
            _ => Err(GateError::Unexpected(answer)),
        }
    }

    /// Lets nobody in any more; what is reserved goes on.
    pub async fn stop(&self, sale_id: &str) -> Result<(), GateError> {
        Ok(self.connection.clone().hset(key(sale_id, "gate"), "open", 0).await?)
    }

    /// Takes the gate down before the database is read for the next one: what would be settled in between waits.
    pub async fn dismantle(&self, sale_id: &str) -> Result<(), GateError> {
        self.run::<String>(&self.scripts.dismantle.key(key(sale_id, "gate"))).await.map(drop)
    }

    /// Builds the gate that the database plans, and opens it.
    pub async fn build(&self, plan: &GatePlan) -> Result<(), BuildError> {
        let (sale_id, epoch) = (&plan.sale.id, plan.sale.epoch);
        let gate = key(sale_id, "gate");
        let (purchases, users) = (key(sale_id, "purchases"), key(sale_id, "users"));
        let mut begin = self.scripts.begin.key(&gate);
        begin.key(&purchases).key(&users).arg(epoch);
        self.step(&begin).await?;
        for batch in plan.orders.chunks(LOAD_BATCH) {
            let mut load = self.scripts.load.key(&gate);
            load.key(&purchases).key(&users).arg(epoch);
            for taken in batch {
                load.arg(&taken.order_id).arg(state_name(taken.state)).arg(taken.quantity).arg(&taken.user_id);
            }
            self.step(&load).await?;
        }
        let pieces = |state| -> i64 {
            plan.orders.iter().filter(|taken| taken.state == state).map(|taken| taken.quantity).sum()
        };
        let mut open = self.scripts.open.key(&gate);
        open.arg(epoch).arg(plan.sale.per_user).arg(plan.sale.initial_pieces).arg(plan.sale.left_pieces);
        open.arg(pieces(OrderState::Placed)).arg(pieces(OrderState::Paid));
        self.step(&open).await
    }

    /// `None`: no gate was built here.
    pub async fn status(&self, sale_id: &str) -> Result<Option<Status>, GateError> {
        let answer: Vec<i64> = self.run(&self.scripts.status.key(key(sale_id, "gate"))).await?;
        match answer[..] {
            [] => Ok(None),
            [open, epoch, initial, left, reserved, sold] => {
                Ok(Some(Status { open: open == 1, epoch, initial, left, reserved, sold }))
            }
            _ => Err(GateError::Unexpected(format!("{answer:?}"))),
        }
    }

    pub async fn purchase(&self, sale_id: &str, purchase_id: &str) -> Result<Option<Remembered>, GateError> {
        let entry: Option<String> = self.connection.clone().hget(key(sale_id, "purchases"), purchase_id).await?;
        entry.map(|entry| remembered(&entry)).transpose()
    }

    /// The ids of all purchases that are reserved and not settled.
    pub async fn reserved(&self, sale_id: &str) -> Result<Vec<String>, GateError> {
        let all: Vec<(String, String)> = self.connection.clone().hgetall(key(sale_id, "purchases")).await?;
        Ok(all.into_iter().filter(|(_, entry)| entry.starts_with("reserved|")).map(|(id, _)| id).collect())
    }

    async fn run<T: FromRedisValue>(&self, call: &ScriptInvocation<'_>) -> Result<T, GateError> {
        Ok(call.invoke_async(&mut self.connection.clone()).await?)
    }

    async fn step(&self, call: &ScriptInvocation<'_>) -> Result<(), BuildError> {
        let answer: String = self.run(call).await?;
        match answer.as_str() {
            "done" => Ok(()),
            "evicts" => Err(BuildError::Evicts),
            "superseded" => Err(BuildError::Superseded),
            _ => Err(GateError::Unexpected(answer).into()),
        }
    }
}

/// All keys of a sale share a hash tag, so that a script's keys are on one node.
fn key(sale_id: &str, part: &str) -> String {
    format!("seckill:{{{sale_id}}}:{part}")
}

fn turned(answer: &[String]) -> Result<Turned, GateError> {
    match answer.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["closed"] => Ok(Turned::Closed),
        ["sold_out"] => Ok(Turned::SoldOut),
        ["fenced"] => Ok(Turned::Fenced),
        ["limited", before] => Ok(Turned::Limited { before: (!before.is_empty()).then(|| before.to_owned()) }),
        _ => Err(GateError::Unexpected(format!("{answer:?}"))),
    }
}

/// How an order of the database counts at the gate.
fn state_name(state: OrderState) -> &'static str {
    match state {
        OrderState::Placed => "reserved",
        OrderState::Paid => "sold",
        OrderState::Closed => "released",
    }
}

fn remembered(entry: &str) -> Result<Remembered, GateError> {
    let unexpected = || GateError::Unexpected(entry.to_owned());
    if entry == "fenced" {
        return Ok(Remembered::Fenced);
    }
    let mut parts = entry.splitn(3, '|');
    let (Some(state), Some(_quantity), Some(user_id)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(unexpected());
    };
    let state = match state {
        "reserved" => ReservationState::Reserved,
        "sold" => ReservationState::Sold,
        "released" => ReservationState::Released,
        _ => return Err(unexpected()),
    };
    Ok(Remembered::Reservation { state, user_id: user_id.to_owned() })
}
