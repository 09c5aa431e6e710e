//! What an operator does with a sale: create it in the database, warm its gate up from there, stop it. A gate that is
//! gone (Redis restarted) comes back the same way: only empty-handed, only from the database.

use std::collections::HashSet;

use mq_client::{Client, ClientError};
use order_service::sales::{Figures, NewSale};
use order_service::tables::sale;
use order_service::{events, service};
use serde::Serialize;
use thiserror::Error;

use crate::gate::{BuildError, Gate, GateError, Status};
use crate::truth::{Truth, TruthError};

#[derive(Debug, Error)]
pub enum WarmUpError {
    #[error("the gate is open")]
    Open,
    #[error("{0} purchases of the last gate are still on their way to an order: try again when they arrived")]
    NotDrained(u64),
    #[error("the broker does not say whether the queue is drained: {0}")]
    Queue(#[from] ClientError),
    #[error(transparent)]
    Truth(#[from] TruthError),
    #[error(transparent)]
    Build(#[from] BuildError),
}

impl From<GateError> for WarmUpError {
    fn from(error: GateError) -> WarmUpError {
        WarmUpError::Build(error.into())
    }
}

/// Both sides of a sale. Once settled, their figures agree.
#[derive(Clone, Debug, Serialize)]
pub struct Overview {
    pub gate: Option<Status>,
    pub database: Figures,
}

#[derive(Clone)]
pub struct Sales {
    gate: Gate,
    truth: Truth,
    queue: Client,
}

impl Sales {
    /// `queue` only answers whether purchases are still in it.
    pub fn new(gate: Gate, truth: Truth, queue: Client) -> Sales {
        Sales { gate, truth, queue }
    }

    pub async fn create(&self, new: &NewSale) -> Result<sale::Model, TruthError> {
        self.truth.create_sale(new).await
    }

    /// Opens the sale with a gate built from the database. The old gate, if there is one, is shut and its purchases have
    /// become orders or refusals; then the epoch moves on, so that nothing older can take a piece that the new gate
    /// counts as left.
    pub async fn warm_up(&self, sale_id: &str) -> Result<Status, WarmUpError> {
        if self.gate.status(sale_id).await?.is_some_and(|status| status.open) {
            return Err(WarmUpError::Open);
        }
        let on_their_way = self.on_their_way(sale_id).await?;
        if on_their_way > 0 {
            return Err(WarmUpError::NotDrained(on_their_way));
        }
        self.gate.dismantle(sale_id).await?;
        self.gate.build(&self.truth.plan_gate(sale_id).await?).await?;
        let status = self.gate.status(sale_id).await?;
        status.ok_or(WarmUpError::Build(BuildError::Superseded))
    }

    /// Purchases that the gate reserved and the database has not seen, or that are in the queue and that the gate, having
    /// lost its memory, cannot name.
    async fn on_their_way(&self, sale_id: &str) -> Result<u64, WarmUpError> {
        if self.truth.figures(sale_id).await?.epoch == 0 {
            return Ok(0);
        }
        let orders: HashSet<String> = self.truth.orders(sale_id).await?.into_iter().map(|it| it.order_id).collect();
        let reserved = self.gate.reserved(sale_id).await?;
        let unseen = reserved.iter().filter(|id| !orders.contains(*id)).count();
        let queued = self.queue.lag(service::PURCHASES_GROUP, events::SALE_PURCHASE).await?;
        Ok(queued.max(u64::try_from(unseen).unwrap_or(u64::MAX)))
    }

    pub async fn stop(&self, sale_id: &str) -> Result<(), GateError> {
        self.gate.stop(sale_id).await
    }

    pub async fn overview(&self, sale_id: &str) -> Result<Overview, WarmUpError> {
        let database = self.truth.figures(sale_id).await?;
        Ok(Overview { gate: self.gate.status(sale_id).await?, database })
    }
}
