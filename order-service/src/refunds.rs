//! Gives back what the gateway charged for orders that were closed first. The debt stands in the payment's row, so a
//! restart goes on where it was; the gateway refunds a payment once however often it is asked.

use std::time::Duration;

use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, DatabaseConnection, DbErr, EntityTrait, QueryFilter, QuerySelect};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::gateway::GatewayClient;
use crate::tables::PaymentState;
use crate::tables::payment::{Column, Entity, Model};

const LOOK_EVERY: Duration = Duration::from_millis(200);
const BATCH: u64 = 100;

#[derive(Clone, Debug)]
pub struct Refunds {
    db: DatabaseConnection,
    clock: Clock,
    gateway: GatewayClient,
}

impl Refunds {
    pub fn new(db: DatabaseConnection, clock: Clock, gateway: GatewayClient) -> Refunds {
        Refunds { db, clock, gateway }
    }

    pub async fn run(self, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            if let Err(error) = self.refund_due().await {
                tracing::warn!(%error, "cannot read or note refunds");
            }
        }
    }

    async fn refund_due(&self) -> Result<(), DbErr> {
        let due = Entity::find().filter(Column::State.eq(PaymentState::RefundDue)).limit(BATCH).all(&self.db).await?;
        for payment in due {
            match self.gateway.refund(&payment.id).await {
                Ok(()) => self.note(&payment).await?,
                Err(error) => tracing::warn!(%error, pay_id = payment.id, "refund refused, will ask again"),
            }
        }
        Ok(())
    }

    async fn note(&self, payment: &Model) -> Result<(), DbErr> {
        let update = Entity::update_many()
            .col_expr(Column::State, Expr::value(PaymentState::Refunded))
            .col_expr(Column::UpdatedMs, Expr::value(self.clock.now_ms()));
        let due = update.filter(Column::Id.eq(&payment.id)).filter(Column::State.eq(PaymentState::RefundDue));
        due.exec(&self.db).await.map(drop)
    }
}
