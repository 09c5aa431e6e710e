//! Buying: a half message, one reservation at the gate, and the message's end. The reservation is the local transaction;
//! whoever is asked how it ended (a checkback, after a crash) asks the gate. Fails closed: without a clear answer from
//! the gate nobody is told "yours".

use mq_client::{Client, Verdict};
use order_service::events::{self, Purchase};
use order_service::sales::PurchaseOutcome;
use serde::Serialize;
use thiserror::Error;
use txn_sdk::{Asked, Own, TxnError, TxnProducer};
use uuid::Uuid;

use crate::gate::{Gate, GateError, Remembered, ReservationState, Turned};
use crate::truth::{Truth, TruthError};

/// The producer group of the buyers' messages.
pub const GROUP: &str = "seckill";

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bought {
    /// Also the id of the order that it becomes.
    pub purchase_id: String,
    pub state: BoughtState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BoughtState {
    /// Reserved, and on its way to an order.
    Queued,
    /// The gate did not answer: ask for the result.
    InDoubt,
}

#[derive(Debug, Error)]
pub enum BuyError {
    #[error("{}", describe(.0))]
    Turned(Turned),
    #[error("the gate does not answer: nothing was reserved")]
    Gate(#[source] GateError),
    #[error("the queue does not take orders: nothing was reserved: {0}")]
    Queue(#[from] TxnError),
}

fn describe(turned: &Turned) -> &'static str {
    match turned {
        Turned::Closed => "the sale is not open",
        Turned::Limited { before: Some(_) } => "you have a purchase of this sale",
        Turned::Limited { before: None } => "more pieces than one buyer may have",
        Turned::SoldOut => "sold out",
        Turned::Fenced => "this purchase took too long and was given up",
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Progress {
    /// Reserved; the order will come.
    Queued,
    /// The order is there: `placed`, `paid` or `closed`.
    Ordered(OrderOfPurchase),
    /// No order will come.
    Refused { reason: String },
    /// Neither the gate nor the database knows it (yet).
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OrderOfPurchase {
    pub order_id: String,
    pub order_state: order_service::tables::OrderState,
}

#[derive(Debug, Error)]
pub enum ProgressError {
    #[error("purchase {0} belongs to another user")]
    NotYours(String),
    #[error(transparent)]
    Gate(#[from] GateError),
    #[error(transparent)]
    Truth(#[from] TruthError),
}

#[derive(Clone)]
pub struct Purchases {
    gate: Gate,
    truth: Truth,
    txn: TxnProducer<Own>,
}

impl Purchases {
    /// Registers for checkbacks, which the gate answers.
    pub async fn open(name_servers: &str, gate: Gate, truth: Truth) -> Result<Purchases, txn_sdk::BuildError> {
        let asked_gate = gate.clone();
        let txn = TxnProducer::builder(name_servers)
            .group(GROUP)
            .topics([events::SALE_PURCHASE])
            .verdicts(move |asked| answer(asked_gate.clone(), asked))
            .build()
            .await?;
        Ok(Purchases { gate, truth, txn })
    }

    pub fn is_registered(&self) -> bool {
        self.txn.producer().is_registered()
    }

    /// The connection to the queue.
    pub fn queue(&self) -> Client {
        self.txn.producer().client().clone()
    }

    pub async fn buy(&self, sale_id: &str, user_id: &str, quantity: i64) -> Result<Bought, BuyError> {
        let peeked = self.gate.peek(sale_id, user_id, quantity).await.map_err(BuyError::Gate)?;
        let epoch = peeked.map_err(BuyError::Turned)?;
        let purchase = Purchase {
            purchase_id: Uuid::now_v7().to_string(),
            sale_id: sale_id.to_owned(),
            user_id: user_id.to_owned(),
            quantity,
            epoch,
        };
        let message = events::message(events::SALE_PURCHASE, &purchase.purchase_id, &purchase);
        let pending = self.txn.begin(message).await?;
        let state = match self.gate.reserve(&purchase).await {
            Ok(Ok(())) => {
                let _committed = pending.commit().await;
                BoughtState::Queued
            }
            Ok(Err(turned)) => {
                let _cancelled = pending.rollback(()).await;
                return Err(BuyError::Turned(turned));
            }
            Err(error) => {
                tracing::warn!(%error, purchase_id = purchase.purchase_id, "reservation in doubt: the checkback settles it");
                let _in_doubt = pending.leave();
                BoughtState::InDoubt
            }
        };
        Ok(Bought { purchase_id: purchase.purchase_id, state })
    }

    pub async fn progress(&self, sale_id: &str, user_id: &str, purchase_id: &str) -> Result<Progress, ProgressError> {
        let remembered = self.gate.purchase(sale_id, purchase_id).await?;
        match &remembered {
            Some(Remembered::Fenced) => return Ok(Progress::Refused { reason: "given_up".to_owned() }),
            Some(Remembered::Reservation { user_id: owner, .. }) if owner != user_id => {
                return Err(ProgressError::NotYours(purchase_id.to_owned()));
            }
            _ => {}
        }
        match (self.truth.outcome(purchase_id).await?, remembered) {
            (PurchaseOutcome::Ordered { order_id, order_state }, _) => {
                Ok(Progress::Ordered(OrderOfPurchase { order_id, order_state }))
            }
            (PurchaseOutcome::Refused { reason }, _) => Ok(Progress::Refused { reason }),
            (PurchaseOutcome::Pending, Some(Remembered::Reservation { state: ReservationState::Reserved, .. })) => {
                Ok(Progress::Queued)
            }
            (PurchaseOutcome::Pending, _) => Ok(Progress::Unknown),
        }
    }

    /// Ends what runs and answers checkbacks until then.
    pub async fn shutdown(&self) {
        self.txn.shutdown().await;
    }
}

/// How a purchase ended, as the gate knows it.
async fn answer(gate: Gate, asked: Asked) -> Verdict {
    let purchase: Purchase = match serde_json::from_slice(&asked.message.body) {
        Ok(purchase) => purchase,
        Err(error) => {
            tracing::error!(%error, "asked about a half message that is no purchase");
            return Verdict::Unknown;
        }
    };
    gate.check(&purchase).await.unwrap_or_else(|error| {
        tracing::warn!(%error, purchase_id = purchase.purchase_id, "cannot answer a checkback now");
        Verdict::Unknown
    })
}
