//! Makes orders of the purchases that passed the flash sale's gate, at this service's own pace. The rows decide: a
//! conditional update of the pieces, one order per user and sale, one outcome per purchase. A purchase that becomes no
//! order is refused, and ORDER_CLOSED gives its reservation back.

use std::num::NonZeroU32;
use std::sync::Arc;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, DatabaseConnection, DatabaseTransaction, DbErr, EntityTrait, IntoActiveModel,
    PaginatorTrait, QueryFilter,
};
use thiserror::Error;
use txn_sdk::{Outcome, TxnProducer};

use crate::clock::Clock;
use crate::database;
use crate::events::{self, CloseDue, OrderClosed, Purchase};
use crate::money;
use crate::orders;
use crate::sales::{self, PurchaseOutcome, Sales};
use crate::tables::{OrderState, order, purchase, sale};

/// Why a purchase that passed the gate became no order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    UnknownSale,
    /// The gate that let it in was replaced meanwhile.
    OldGate,
    /// More pieces than one user may have, or none.
    Quantity,
    /// The user has an order of this sale.
    Limited,
    SoldOut,
}

impl Refusal {
    pub fn name(self) -> &'static str {
        match self {
            Refusal::UnknownSale => "unknown_sale",
            Refusal::OldGate => "old_gate",
            Refusal::Quantity => "invalid_quantity",
            Refusal::Limited => "limited",
            Refusal::SoldOut => "sold_out",
        }
    }
}

/// The message must be delivered again.
#[derive(Debug, Error)]
pub enum AcceptError {
    #[error("the close of the order could not be scheduled: {0}")]
    Schedule(String),
    #[error("the refusal could not be published: {0}")]
    Publish(String),
    #[error("the order took longer than half of the time it may stay unpaid")]
    TooSlow,
    #[error(transparent)]
    Database(#[from] DbErr),
}

#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub orders_per_second: NonZeroU32,
    /// RocketMQ's delay level after which an unpaid order is closed.
    pub close_after: DelayLevel,
}

/// One of RocketMQ's 18 delays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DelayLevel(u8);

impl DelayLevel {
    const SECONDS: [i64; 18] = [1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200];

    pub fn new(level: u8) -> Option<DelayLevel> {
        (1..=18).contains(&level).then_some(DelayLevel(level))
    }

    pub fn level(self) -> u8 {
        self.0
    }

    pub fn millis(self) -> i64 {
        DelayLevel::SECONDS[usize::from(self.0) - 1] * 1000
    }
}

#[derive(Clone)]
pub struct Purchases {
    db: DatabaseConnection,
    clock: Clock,
    txn: TxnProducer<DatabaseConnection>,
    limiter: Arc<DefaultDirectRateLimiter>,
    close_after: DelayLevel,
}

impl Purchases {
    pub fn new(db: DatabaseConnection, clock: Clock, txn: TxnProducer<DatabaseConnection>, pace: Pace) -> Purchases {
        let limiter = Arc::new(RateLimiter::direct(Quota::per_second(pace.orders_per_second)));
        Purchases { db, clock, txn, limiter, close_after: pace.close_after }
    }

    /// Brings a purchase to its one outcome. The delayed close is sent before the rows commit: an order that exists has
    /// a close ahead of it, and a close that finds no order does nothing.
    pub async fn accept(&self, purchase: &Purchase) -> Result<PurchaseOutcome, AcceptError> {
        let known = self.outcome(purchase).await?;
        if known != PurchaseOutcome::Pending {
            return Ok(known);
        }
        self.limiter.until_ready().await;
        let scheduled_ms = self.clock.now_ms();
        self.schedule_close(&purchase.purchase_id).await?;
        let decided = match self.create(purchase, scheduled_ms).await {
            Ok(Err(refusal)) => self.refuse(purchase, refusal).await,
            created => created.map(drop),
        };
        match (decided, self.outcome(purchase).await?) {
            (Err(again), PurchaseOutcome::Pending) => Err(again),
            // An error, and decided all the same: the same purchase was delivered twice at once.
            (_, outcome) => Ok(outcome),
        }
    }

    async fn outcome(&self, purchase: &Purchase) -> Result<PurchaseOutcome, DbErr> {
        Sales::new(self.db.clone(), self.clock.clone()).outcome(&purchase.purchase_id).await
    }

    async fn schedule_close(&self, order_id: &str) -> Result<(), AcceptError> {
        let due = CloseDue { order_id: order_id.to_owned() };
        let message = events::message(events::ORDER_CLOSE_DUE, order_id, &due).delay_level(self.close_after.level());
        self.txn.producer().send(message).await.map(drop).map_err(|e| AcceptError::Schedule(e.to_string()))
    }

    async fn create(&self, purchase: &Purchase, scheduled_ms: i64) -> Result<Result<(), Refusal>, AcceptError> {
        let tx = database::begin(&self.db).await?;
        let now_ms = self.clock.now_ms();
        if let Err(refusal) = place(&tx, purchase, now_ms).await? {
            tx.rollback().await?;
            return Ok(Err(refusal));
        }
        if self.clock.now_ms().saturating_sub(scheduled_ms) > self.close_after.millis() / 2 {
            tx.rollback().await?;
            return Err(AcceptError::TooSlow);
        }
        tx.commit().await?;
        Ok(Ok(()))
    }

    async fn refuse(&self, purchase: &Purchase, refusal: Refusal) -> Result<(), AcceptError> {
        let closed = OrderClosed {
            order_id: purchase.purchase_id.clone(),
            user_id: purchase.user_id.clone(),
            sale_id: Some(purchase.sale_id.clone()),
            reason: refusal.name().to_owned(),
        };
        let row = outcome_row(purchase, Some(refusal), self.clock.now_ms());
        let message = events::message(events::ORDER_CLOSED, &purchase.purchase_id, &closed);
        let sent = self.txn.send(message, async |tx| row.into_active_model().insert(tx).await.map(drop)).await;
        match sent.map_err(|e| AcceptError::Publish(e.to_string()))?.outcome {
            Outcome::Committed => Ok(()),
            Outcome::RolledBack(error) => Err(error.into()),
            Outcome::InDoubt => Err(AcceptError::Publish("the database did not say whether it committed".to_owned())),
        }
    }
}

fn outcome_row(purchase: &Purchase, refused: Option<Refusal>, now_ms: i64) -> purchase::Model {
    purchase::Model {
        id: purchase.purchase_id.clone(),
        sale_id: purchase.sale_id.clone(),
        user_id: purchase.user_id.clone(),
        refused: refused.map(|refusal| refusal.name().to_owned()),
        created_ms: now_ms,
    }
}

/// Writes the order of a purchase and takes its pieces, or says why not; then the transaction must be rolled back.
pub async fn place(tx: &DatabaseTransaction, purchase: &Purchase, now_ms: i64) -> Result<Result<(), Refusal>, DbErr> {
    outcome_row(purchase, None, now_ms).into_active_model().insert(tx).await?;
    let Some(sale) = sale::Entity::find_by_id(purchase.sale_id.clone()).one(tx).await? else {
        return Ok(Err(Refusal::UnknownSale));
    };
    if purchase.epoch != sale.epoch {
        return Ok(Err(Refusal::OldGate));
    }
    let amount = money::total(sale.unit_price_minor, purchase.quantity);
    let Some(amount_minor) = amount.ok().filter(|_| purchase.quantity <= sale.per_user) else {
        return Ok(Err(Refusal::Quantity));
    };
    if has_order(tx, &sale.id, &purchase.user_id).await? {
        return Ok(Err(Refusal::Limited));
    }
    if !sales::take_pieces(tx, &sale.id, purchase.quantity).await? {
        return Ok(Err(Refusal::SoldOut));
    }
    let order = order::Model {
        id: purchase.purchase_id.clone(),
        user_id: purchase.user_id.clone(),
        sale_id: Some(sale.id),
        item: sale.item,
        quantity: purchase.quantity,
        amount_minor,
        currency: sale.currency,
        state: OrderState::Placed,
        created_ms: now_ms,
        updated_ms: now_ms,
    };
    orders::insert(tx, order).await?;
    Ok(Ok(()))
}

async fn has_order(tx: &DatabaseTransaction, sale_id: &str, user_id: &str) -> Result<bool, DbErr> {
    let of_sale = order::Entity::find().filter(order::Column::SaleId.eq(sale_id));
    Ok(of_sale.filter(order::Column::UserId.eq(user_id)).count(tx).await? > 0)
}
