//! Closing what is not paid: by the delayed message that every flash-sale order has in front of it, or by its user. The
//! order's state, the stock it gives back and ORDER_CLOSED are one transaction, so it happens once however often the
//! message comes. Paying the same order at the same time: one of the two wins, by the conditional update of the state.

use sea_orm::{DatabaseConnection, DatabaseTransaction, DbErr};
use thiserror::Error;
use txn_sdk::{Outcome, TxnProducer};

use crate::clock::Clock;
use crate::events::{self, OrderClosed};
use crate::orders::{self, Orders, ReadError};
use crate::sales;
use crate::tables::{OrderState, order};

#[derive(Debug, Error)]
pub enum CloseError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("order {0} is paid")]
    Paid(String),
    #[error("the closing could not be published, try again: {0}")]
    Publish(String),
    #[error("the database did not say whether it committed, ask for the order")]
    InDoubt,
    #[error(transparent)]
    Database(#[from] DbErr),
}

/// What a request to close found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    Now,
    Before,
    /// Nothing was done: the order is paid.
    Paid,
    /// Nothing was done: there is no such order.
    Unknown,
}

#[derive(Debug, Error)]
enum Undo {
    #[error("another one moved the order first")]
    Lost,
    #[error(transparent)]
    Database(#[from] DbErr),
}

#[derive(Clone)]
pub struct Closing {
    db: DatabaseConnection,
    clock: Clock,
    txn: TxnProducer<DatabaseConnection>,
}

impl Closing {
    pub fn new(db: DatabaseConnection, clock: Clock, txn: TxnProducer<DatabaseConnection>) -> Closing {
        Closing { db, clock, txn }
    }

    /// The user changed his mind. Closing a closed order again is fine; a paid one is refused.
    pub async fn cancel(&self, user_id: &str, id: &str) -> Result<order::Model, CloseError> {
        let orders = Orders::new(self.db.clone(), self.clock.clone());
        let order = orders.read(user_id, id).await?;
        match self.close(&order.id, "cancelled").await? {
            Closed::Now | Closed::Before => Ok(orders.read(user_id, id).await?),
            Closed::Paid => Err(CloseError::Paid(order.id)),
            Closed::Unknown => Err(ReadError::Unknown(order.id).into()),
        }
    }

    pub async fn close(&self, id: &str, reason: &str) -> Result<Closed, CloseError> {
        let Some(order) = orders::find(&self.db, id).await? else {
            return Ok(Closed::Unknown);
        };
        if let Some(settled) = settled(order.state) {
            return Ok(settled);
        }
        let closed = OrderClosed {
            order_id: order.id.clone(),
            user_id: order.user_id.clone(),
            sale_id: order.sale_id.clone(),
            reason: reason.to_owned(),
        };
        let message = events::message(events::ORDER_CLOSED, &order.id, &closed);
        let now_ms = self.clock.now_ms();
        let sent = self.txn.send(message, async |tx| mark_closed(tx, &order, now_ms).await).await;
        match sent.map_err(|e| CloseError::Publish(e.to_string()))?.outcome {
            Outcome::Committed => Ok(Closed::Now),
            Outcome::RolledBack(Undo::Lost) => {
                let order = orders::find(&self.db, id).await?;
                Ok(order.and_then(|order| settled(order.state)).unwrap_or(Closed::Unknown))
            }
            Outcome::RolledBack(Undo::Database(error)) => Err(error.into()),
            Outcome::InDoubt => Err(CloseError::InDoubt),
        }
    }
}

fn settled(state: OrderState) -> Option<Closed> {
    match state {
        OrderState::Placed => None,
        OrderState::Paid => Some(Closed::Paid),
        OrderState::Closed => Some(Closed::Before),
    }
}

async fn mark_closed(tx: &DatabaseTransaction, order: &order::Model, now_ms: i64) -> Result<(), Undo> {
    if !orders::leave_placed(tx, &order.id, OrderState::Closed, now_ms).await? {
        return Err(Undo::Lost);
    }
    if let Some(sale_id) = &order.sale_id {
        sales::return_pieces(tx, sale_id, order.quantity).await?;
    }
    Ok(())
}
