//! The gateway's table: what was charged, what went back, and which callback is still unanswered.

use std::time::Duration;

use sea_orm::entity::prelude::*;
use sea_orm::sea_query::Expr;
use sea_orm::{DatabaseConnection, IntoActiveModel, QueryOrder, QuerySelect};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use crate::clock::Clock;
use crate::database;
use crate::money::{self, AmountError};

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, Serialize, Deserialize)]
#[sea_orm(table_name = "charges")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    #[sea_orm(unique)]
    pub pay_id: String,
    pub order_id: String,
    pub amount_minor: i64,
    pub currency: String,
    pub callback_url: String,
    pub charged_ms: i64,
    pub refunded_ms: Option<i64>,
    /// When the merchant answered 200.
    pub answered_ms: Option<i64>,
    pub attempts: i64,
    #[sea_orm(indexed)]
    pub next_attempt_ms: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

pub type Charge = Model;

/// What a merchant asks for. The same `pay_id` is charged once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChargeRequest {
    pub pay_id: String,
    pub order_id: String,
    pub amount_minor: i64,
    pub currency: String,
    pub callback_url: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub charges: u64,
    /// Charges whose callback was answered.
    pub answered: u64,
    pub refunded: u64,
}

#[derive(Debug, Error)]
pub enum ChargeError {
    #[error(transparent)]
    Amount(#[from] AmountError),
    #[error("callback_url must be an http URL")]
    CallbackUrl,
    #[error("payment {0} was charged with other terms")]
    OtherTerms(String),
    #[error("no charge of payment {0}")]
    Unknown(String),
    #[error(transparent)]
    Database(#[from] DbErr),
}

#[derive(Clone, Debug)]
pub struct Charges {
    db: DatabaseConnection,
    clock: Clock,
}

impl Charges {
    /// Opens the table, creating it where it is missing.
    pub async fn open(db: DatabaseConnection, clock: Clock) -> Result<Charges, DbErr> {
        database::create_table(&db, Entity).await?;
        Ok(Charges { db, clock })
    }

    pub async fn charge(&self, request: &ChargeRequest) -> Result<Charge, ChargeError> {
        money::within("amount_minor", request.amount_minor, money::MAX_AMOUNT_MINOR)?;
        money::currency(&request.currency)?;
        if !request.callback_url.starts_with("http://") {
            return Err(ChargeError::CallbackUrl);
        }
        let now = self.clock.now_ms();
        let charge = Model {
            id: Uuid::now_v7().to_string(),
            pay_id: request.pay_id.clone(),
            order_id: request.order_id.clone(),
            amount_minor: request.amount_minor,
            currency: request.currency.clone(),
            callback_url: request.callback_url.clone(),
            charged_ms: now,
            refunded_ms: None,
            answered_ms: None,
            attempts: 0,
            next_attempt_ms: now,
        };
        match charge.into_active_model().insert(&self.db).await {
            Err(error) if database::is_duplicate(&error) => self.charged_before(request).await,
            inserted => Ok(inserted?),
        }
    }

    async fn charged_before(&self, request: &ChargeRequest) -> Result<Charge, ChargeError> {
        let charge = self.of_payment(&request.pay_id).await?;
        let same = charge.order_id == request.order_id
            && charge.amount_minor == request.amount_minor
            && charge.currency == request.currency;
        if same { Ok(charge) } else { Err(ChargeError::OtherTerms(charge.pay_id)) }
    }

    pub async fn of_payment(&self, pay_id: &str) -> Result<Charge, ChargeError> {
        let charge = Entity::find().filter(Column::PayId.eq(pay_id)).one(&self.db).await?;
        charge.ok_or_else(|| ChargeError::Unknown(pay_id.to_owned()))
    }

    /// Gives the money back, once.
    pub async fn refund(&self, pay_id: &str) -> Result<Charge, ChargeError> {
        Entity::update_many()
            .col_expr(Column::RefundedMs, Expr::value(self.clock.now_ms()))
            .filter(Column::PayId.eq(pay_id))
            .filter(Column::RefundedMs.is_null())
            .exec(&self.db)
            .await?;
        self.of_payment(pay_id).await
    }

    pub async fn totals(&self) -> Result<Totals, DbErr> {
        Ok(Totals {
            charges: Entity::find().count(&self.db).await?,
            answered: Entity::find().filter(Column::AnsweredMs.is_not_null()).count(&self.db).await?,
            refunded: Entity::find().filter(Column::RefundedMs.is_not_null()).count(&self.db).await?,
        })
    }

    /// Charges whose merchant has not answered and whose next attempt is due, oldest first.
    pub(super) async fn due(&self, limit: u64) -> Result<Vec<Charge>, DbErr> {
        let unanswered = Entity::find().filter(Column::AnsweredMs.is_null());
        let due = unanswered.filter(Column::NextAttemptMs.lte(self.clock.now_ms()));
        due.order_by_asc(Column::NextAttemptMs).limit(limit).all(&self.db).await
    }

    pub(super) async fn answered(&self, charge: &Charge) -> Result<(), DbErr> {
        let now = self.clock.now_ms();
        let update = Entity::update_many().col_expr(Column::AnsweredMs, Expr::value(now));
        update.filter(Column::Id.eq(&charge.id)).exec(&self.db).await.map(drop)
    }

    pub(super) async fn retry_later(&self, charge: &Charge) -> Result<(), DbErr> {
        let attempts = charge.attempts.saturating_add(1);
        let next = self.clock.now_ms().saturating_add(retry_delay_ms(attempts));
        let update = Entity::update_many()
            .col_expr(Column::Attempts, Expr::value(attempts))
            .col_expr(Column::NextAttemptMs, Expr::value(next));
        update.filter(Column::Id.eq(&charge.id)).exec(&self.db).await.map(drop)
    }
}

fn retry_delay_ms(attempts: i64) -> i64 {
    let doublings = u32::try_from(attempts.clamp(1, 16) - 1).unwrap_or(0);
    let delay = FIRST_RETRY.saturating_mul(1 << doublings).min(LONGEST_RETRY);
    i64::try_from(delay.as_millis()).unwrap_or(i64::MAX)
}
