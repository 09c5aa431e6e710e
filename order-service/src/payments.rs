//! Payments: started at the gateway, settled by its callback. The payment's row, the order's state and ORDER_PAID are one
//! transaction. Knows no HTTP and no signature; refunds of late charges are `refunds`' work.

use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, EntityTrait,
    IntoActiveModel, QueryFilter,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use txn_sdk::{Outcome, TxnProducer};
use uuid::Uuid;

use crate::clock::Clock;
use crate::database;
use crate::events::{self, OrderPaid};
use crate::gateway::{ChargeRequest, GatewayClient, GatewayError};
use crate::orders::{self, Orders, ReadError};
use crate::tables::payment::{Column, Entity, Model};
use crate::tables::{OrderState, PaymentState, order};

/// What the gateway says in its callback: this was charged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charged {
    pub charge_id: String,
    pub pay_id: String,
    pub order_id: String,
    pub amount_minor: i64,
    pub currency: String,
}

#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("order {order_id} is {state:?}")]
    NotPayable { order_id: String, state: OrderState },
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    #[error(transparent)]
    Database(#[from] DbErr),
}

#[derive(Debug, Error)]
pub enum SettleError {
    #[error("no payment {pay_id} of order {order_id}")]
    UnknownOrder { pay_id: String, order_id: String },
    #[error("payment {pay_id} is over {expected}, not {got}")]
    WrongAmount { pay_id: String, expected: i64, got: i64 },
    #[error("payment {pay_id} is in {expected}, not {got:?}")]
    WrongCurrency { pay_id: String, expected: String, got: String },
    #[error("payment {pay_id} was settled by another charge")]
    AnotherCharge { pay_id: String },
    #[error("the payment could not be published, call again: {0}")]
    Publish(String),
    #[error("the database did not say whether it committed, call again")]
    InDoubt,
    #[error(transparent)]
    Database(#[from] DbErr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Settled {
    /// This callback paid the order.
    Paid,
    /// An earlier callback about the same charge had its effect; this one has none.
    AlreadyProcessed,
    /// The order was closed before the charge was known: the money goes back.
    RefundDue,
}

#[derive(Clone)]
pub struct Payments {
    db: DatabaseConnection,
    clock: Clock,
    orders: Orders,
    gateway: GatewayClient,
    txn: TxnProducer<DatabaseConnection>,
    callback_url: String,
}

/// Why a payment's local transaction rolled back.
#[derive(Debug, Error)]
enum PayError {
    #[error("the order is no longer payable")]
    Lost,
    #[error(transparent)]
    Database(#[from] DbErr),
}

impl Payments {
    pub fn new(
        db: DatabaseConnection,
        clock: Clock,
        gateway: GatewayClient,
        txn: TxnProducer<DatabaseConnection>,
        callback_url: String,
    ) -> Payments {
        let orders = Orders::new(db.clone(), clock.clone());
        Payments { db, clock, orders, gateway, txn, callback_url }
    }

    /// Asks the gateway to charge for the order. Asking again continues the same payment, so nobody is charged twice.
    pub async fn start(&self, user_id: &str, order_id: &str) -> Result<Model, StartError> {
        let order = self.orders.read(user_id, order_id).await?;
        if order.state != OrderState::Placed {
            return Err(StartError::NotPayable { order_id: order.id, state: order.state });
        }
        let payment = self.payment_of(&order).await?;
        let request = ChargeRequest {
            pay_id: payment.id.clone(),
            order_id: payment.order_id.clone(),
            amount_minor: payment.amount_minor,
            currency: payment.currency.clone(),
            callback_url: self.callback_url.clone(),
        };
        self.gateway.charge(&request).await?;
        Ok(payment)
    }

    async fn payment_of(&self, order: &order::Model) -> Result<Model, DbErr> {
        if let Some(payment) = by_order(&self.db, &order.id).await? {
            return Ok(payment);
        }
        let now = self.clock.now_ms();
        let payment = Model {
            id: Uuid::now_v7().to_string(),
            order_id: order.id.clone(),
            amount_minor: order.amount_minor,
            currency: order.currency.clone(),
            state: PaymentState::Started,
            charge_id: None,
            created_ms: now,
            updated_ms: now,
        };
        match payment.into_active_model().insert(&self.db).await {
            Err(error) if database::is_duplicate(&error) => {
                by_order(&self.db, &order.id).await?.ok_or(DbErr::RecordNotFound(order.id.clone()))
            }
            inserted => inserted,
        }
    }

    /// Handles an authentic callback. `Ok` is final: the gateway need not call again.
    pub async fn settle(&self, charged: &Charged) -> Result<Settled, SettleError> {
        let payment = self.check(charged).await?;
        if payment.state != PaymentState::Started {
            return repeated(&payment, charged);
        }
        let order = orders::find(&self.db, &payment.order_id).await?.ok_or_else(|| unknown(charged))?;
        if order.state == OrderState::Closed {
            return self.owe_refund(charged).await;
        }
        self.pay(&order, charged).await
    }

    /// The payment that the callback is about, if they agree.
    async fn check(&self, charged: &Charged) -> Result<Model, SettleError> {
        let payment = Entity::find_by_id(charged.pay_id.clone()).one(&self.db).await?;
        let payment = payment.filter(|it| it.order_id == charged.order_id).ok_or_else(|| unknown(charged))?;
        let pay_id = charged.pay_id.clone();
        if payment.currency != charged.currency {
            let got = charged.currency.clone();
            return Err(SettleError::WrongCurrency { pay_id, expected: payment.currency, got });
        }
        if payment.amount_minor != charged.amount_minor {
            let got = charged.amount_minor;
            return Err(SettleError::WrongAmount { pay_id, expected: payment.amount_minor, got });
        }
        Ok(payment)
    }

    async fn pay(&self, order: &order::Model, charged: &Charged) -> Result<Settled, SettleError> {
        let now_ms = self.clock.now_ms();
        let paid = OrderPaid {
            order_id: order.id.clone(),
            user_id: order.user_id.clone(),
            sale_id: order.sale_id.clone(),
            amount_minor: order.amount_minor,
            currency: order.currency.clone(),
            paid_ms: now_ms,
        };
        let message = events::message(events::ORDER_PAID, &order.id, &paid);
        let sent = self.txn.send(message, async |tx| mark_paid(tx, charged, now_ms).await).await;
        match sent.map_err(|e| SettleError::Publish(e.to_string()))?.outcome {
            Outcome::Committed => Ok(Settled::Paid),
            Outcome::RolledBack(PayError::Lost) => self.lost(charged).await,
            Outcome::RolledBack(PayError::Database(error)) => Err(error.into()),
            Outcome::InDoubt => Err(SettleError::InDoubt),
        }
    }

    /// Somebody else moved the order meanwhile: the same callback in parallel, or whoever closed it.
    async fn lost(&self, charged: &Charged) -> Result<Settled, SettleError> {
        let payment = self.check(charged).await?;
        if payment.state == PaymentState::Started {
            self.owe_refund(charged).await
        } else {
            repeated(&payment, charged)
        }
    }

    async fn owe_refund(&self, charged: &Charged) -> Result<Settled, SettleError> {
        let due = leave_started(&self.db, charged, PaymentState::RefundDue, self.clock.now_ms()).await?;
        if due { Ok(Settled::RefundDue) } else { repeated(&self.check(charged).await?, charged) }
    }
}

/// The local half of ORDER_PAID.
async fn mark_paid(tx: &DatabaseTransaction, charged: &Charged, now_ms: i64) -> Result<(), PayError> {
    let order_moved = orders::leave_placed(tx, &charged.order_id, OrderState::Paid, now_ms).await?;
    let payment_moved = leave_started(tx, charged, PaymentState::Paid, now_ms).await?;
    if order_moved && payment_moved { Ok(()) } else { Err(PayError::Lost) }
}

async fn leave_started(
    db: &impl ConnectionTrait,
    charged: &Charged,
    to: PaymentState,
    now_ms: i64,
) -> Result<bool, DbErr> {
    let moved = Entity::update_many()
        .col_expr(Column::State, Expr::value(to))
        .col_expr(Column::ChargeId, Expr::value(charged.charge_id.clone()))
        .col_expr(Column::UpdatedMs, Expr::value(now_ms))
        .filter(Column::Id.eq(&charged.pay_id))
        .filter(Column::State.eq(PaymentState::Started))
        .exec(db)
        .await?;
    Ok(moved.rows_affected == 1)
}

fn repeated(payment: &Model, charged: &Charged) -> Result<Settled, SettleError> {
    if payment.charge_id.as_deref() == Some(charged.charge_id.as_str()) {
        Ok(Settled::AlreadyProcessed)
    } else {
        Err(SettleError::AnotherCharge { pay_id: payment.id.clone() })
    }
}

fn unknown(charged: &Charged) -> SettleError {
    SettleError::UnknownOrder { pay_id: charged.pay_id.clone(), order_id: charged.order_id.clone() }
}

async fn by_order(db: &DatabaseConnection, order_id: &str) -> Result<Option<Model>, DbErr> {
    Entity::find().filter(Column::OrderId.eq(order_id)).one(db).await
}
