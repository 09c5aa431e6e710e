//! Flash sales as order-service's database knows them: the truth about pieces. The gate in front of the sale is built
//! from here and never overrules it. Knows no Redis and no queue.

use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, EntityTrait,
    ExprTrait, IntoActiveModel, QueryFilter,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::clock::Clock;
use crate::database;
use crate::money::{self, AmountError};
use crate::orders;
use crate::tables::sale::{Column, Entity, Model};
use crate::tables::{OrderState, order, purchase};

/// The most pieces of one sale.
pub const MAX_PIECES: i64 = 10_000_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewSale {
    pub id: String,
    pub item: String,
    pub unit_price_minor: i64,
    #[serde(default = "cny")]
    pub currency: String,
    pub pieces: i64,
    /// The most pieces of one user's one purchase.
    #[serde(default = "one")]
    pub per_user: i64,
}

fn one() -> i64 {
    1
}

fn cny() -> String {
    "CNY".to_owned()
}

#[derive(Debug, Error)]
pub enum SaleError {
    #[error(transparent)]
    Amount(#[from] AmountError),
    #[error("a sale's id is 1 to 64 letters, digits, `-` or `_`")]
    Id,
    #[error("sale {0} exists with other terms")]
    Exists(String),
    #[error("no sale {0}")]
    Unknown(String),
    #[error(transparent)]
    Database(#[from] DbErr),
}

/// Counted from the rows: `sold + reserved + left = initial`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    pub initial: i64,
    /// Pieces of paid orders.
    pub sold: i64,
    /// Pieces of placed orders.
    pub reserved: i64,
    pub left: i64,
    /// Orders that were ever made, closed ones included.
    pub orders: i64,
    pub epoch: i64,
}

/// What a new gate must let through, and what it must count as taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatePlan {
    pub sale: Model,
    pub orders: Vec<Taken>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    pub order_id: String,
    pub user_id: String,
    pub quantity: i64,
    pub state: OrderState,
}

impl From<order::Model> for Taken {
    fn from(order: order::Model) -> Taken {
        Taken { order_id: order.id, user_id: order.user_id, quantity: order.quantity, state: order.state }
    }
}

/// What became of a purchase that passed the gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum PurchaseOutcome {
    /// Not seen yet: on its way, or never sent.
    Pending,
    Ordered {
        order_id: String,
        order_state: OrderState,
    },
    Refused {
        reason: String,
    },
}

#[derive(Clone, Debug)]
pub struct Sales {
    db: DatabaseConnection,
    clock: Clock,
}

impl Sales {
    pub fn new(db: DatabaseConnection, clock: Clock) -> Sales {
        Sales { db, clock }
    }

    /// Creates the sale; creating it again with the same terms is fine.
    pub async fn create(&self, new: &NewSale) -> Result<Model, SaleError> {
        validate(new)?;
        let sale = Model {
            id: new.id.clone(),
            item: new.item.clone(),
            unit_price_minor: new.unit_price_minor,
            currency: new.currency.clone(),
            per_user: new.per_user,
            initial_pieces: new.pieces,
            left_pieces: new.pieces,
            epoch: 0,
            created_ms: self.clock.now_ms(),
        };
        match sale.into_active_model().insert(&self.db).await {
            Err(error) if database::is_duplicate(&error) => {
                let existing = find(&self.db, &new.id).await?;
                if terms(&existing) == *new { Ok(existing) } else { Err(SaleError::Exists(existing.id)) }
            }
            inserted => Ok(inserted?),
        }
    }

    pub async fn figures(&self, id: &str) -> Result<Figures, SaleError> {
        let tx = database::begin(&self.db).await?;
        let sale = find(&tx, id).await?;
        let orders = orders_of(&tx, id).await?;
        tx.rollback().await?;
        let pieces = |state| orders.iter().filter(|order| order.state == state).map(|order| order.quantity).sum();
        Ok(Figures {
            initial: sale.initial_pieces,
            sold: pieces(OrderState::Paid),
            reserved: pieces(OrderState::Placed),
            left: sale.left_pieces,
            orders: i64::try_from(orders.len()).unwrap_or(i64::MAX),
            epoch: sale.epoch,
        })
    }

    /// Starts the next epoch: from here on no purchase of an older gate becomes an order, so what the plan says is left
    /// stays left until the gate that is built from it lets buyers in.
    pub async fn plan_gate(&self, id: &str) -> Result<GatePlan, SaleError> {
        let tx = database::begin(&self.db).await?;
        Entity::update_many()
            .col_expr(Column::Epoch, Expr::col(Column::Epoch).add(1))
            .filter(Column::Id.eq(id))
            .exec(&tx)
            .await?;
        let sale = find(&tx, id).await?;
        let orders = orders_of(&tx, id).await?;
        tx.commit().await?;
        Ok(GatePlan { sale, orders: orders.into_iter().map(Taken::from).collect() })
    }

    /// Every order that the sale ever had, closed ones included.
    pub async fn orders(&self, id: &str) -> Result<Vec<Taken>, SaleError> {
        let sale = find(&self.db, id).await?;
        Ok(orders_of(&self.db, &sale.id).await?.into_iter().map(Taken::from).collect())
    }

    pub async fn outcome(&self, purchase_id: &str) -> Result<PurchaseOutcome, DbErr> {
        let Some(purchase) = purchase::Entity::find_by_id(purchase_id.to_owned()).one(&self.db).await? else {
            return Ok(PurchaseOutcome::Pending);
        };
        if let Some(reason) = purchase.refused {
            return Ok(PurchaseOutcome::Refused { reason });
        }
        let order = orders::find(&self.db, purchase_id).await?;
        let order = order.ok_or_else(|| DbErr::RecordNotFound(format!("order of purchase {purchase_id}")))?;
        Ok(PurchaseOutcome::Ordered { order_id: order.id, order_state: order.state })
    }
}

/// Takes pieces out of the sale. False: there are not so many left, and nothing was changed.
pub async fn take_pieces(tx: &DatabaseTransaction, sale_id: &str, quantity: i64) -> Result<bool, DbErr> {
    let taken = Entity::update_many()
        .col_expr(Column::LeftPieces, Expr::col(Column::LeftPieces).sub(quantity))
        .filter(Column::Id.eq(sale_id))
        .filter(Column::LeftPieces.gte(quantity))
        .exec(tx)
        .await?;
    Ok(taken.rows_affected == 1)
}

/// Puts the pieces of a closed order back; the caller's transaction closes that order, so it happens once.
pub(crate) async fn return_pieces(tx: &DatabaseTransaction, sale_id: &str, quantity: i64) -> Result<(), DbErr> {
    Entity::update_many()
        .col_expr(Column::LeftPieces, Expr::col(Column::LeftPieces).add(quantity))
        .filter(Column::Id.eq(sale_id))
        .exec(tx)
        .await
        .map(drop)
}

async fn find(db: &impl ConnectionTrait, id: &str) -> Result<Model, SaleError> {
    let sale = Entity::find_by_id(id.to_owned()).one(db).await?;
    sale.ok_or_else(|| SaleError::Unknown(id.to_owned()))
}

async fn orders_of(db: &impl ConnectionTrait, sale_id: &str) -> Result<Vec<order::Model>, DbErr> {
    order::Entity::find().filter(order::Column::SaleId.eq(sale_id)).all(db).await
}

fn validate(new: &NewSale) -> Result<(), SaleError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !orders::is_valid_id(&new.id) || !new.id.bytes().all(plain) {
        return Err(SaleError::Id);
    }
    money::currency(&new.currency)?;
    money::within("pieces", new.pieces, MAX_PIECES)?;
    money::total(new.unit_price_minor, new.per_user)?;
    Ok(())
}

fn terms(sale: &Model) -> NewSale {
    NewSale {
        id: sale.id.clone(),
        item: sale.item.clone(),
        unit_price_minor: sale.unit_price_minor,
        currency: sale.currency.clone(),
        pieces: sale.initial_pieces,
        per_user: sale.per_user,
    }
}
