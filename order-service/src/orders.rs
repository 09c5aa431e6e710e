//! Orders: placing them once per idempotency key, reading one's own, and the two moves out of `placed`.
//! Knows nothing of payments, stock or the queue.

use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, EntityTrait,
    IntoActiveModel, QueryFilter, QueryOrder, QuerySelect,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;
use uuid::Uuid;

use crate::clock::Clock;
use crate::database;
use crate::money::{self, AmountError};
use crate::tables::order::{Column, Entity, Model};
use crate::tables::{OrderState, idempotency_key};

/// The most orders of one list.
const LIST_LIMIT: u64 = 100;
const MAX_ITEM_BYTES: usize = 200;
const MAX_ID_BYTES: usize = 64;
const MAX_KEY_BYTES: usize = 128;

/// What a buyer asks for. The shop front has looked the price up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewOrder {
    pub item: String,
    #[serde(default = "one")]
    pub quantity: i64,
    pub unit_price_minor: i64,
    #[serde(default = "cny")]
    pub currency: String,
}

fn one() -> i64 {
    1
}

fn cny() -> String {
    "CNY".to_owned()
}

#[derive(Debug, Error)]
pub enum PlaceError {
    #[error(transparent)]
    Amount(#[from] AmountError),
    #[error("item must have 1 to {MAX_ITEM_BYTES} bytes")]
    Item,
    #[error("Idempotency-Key must have 1 to {MAX_KEY_BYTES} bytes")]
    Key,
    #[error("this Idempotency-Key was used for another request")]
    KeyReused,
    #[error(transparent)]
    Database(#[from] DbErr),
}

#[derive(Debug, Error)]
pub enum ReadError {
    #[error("no order {0}")]
    Unknown(String),
    #[error("order {0} belongs to another user")]
    NotYours(String),
    #[error(transparent)]
    Database(#[from] DbErr),
}

/// Users and sales are named by short printable text.
pub fn is_valid_id(id: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

#[derive(Clone, Debug)]
pub struct Orders {
    db: DatabaseConnection,
    clock: Clock,
}

impl Orders {
    pub fn new(db: DatabaseConnection, clock: Clock) -> Orders {
        Orders { db, clock }
    }

    /// Places the order, or repeats the reply (the JSON of the order as it was placed) that the key got before.
    pub async fn place(&self, user_id: &str, key: &str, new: &NewOrder) -> Result<String, PlaceError> {
        let amount_minor = validate(key, new)?;
        let request_sha256 = fingerprint(new);
        match self.place_once(user_id, key, new, amount_minor, &request_sha256).await {
            // Only where the database lets two writers in: the other one has committed, so its reply can be read.
            Err(PlaceError::Database(error)) if database::is_duplicate(&error) => {
                self.place_once(user_id, key, new, amount_minor, &request_sha256).await
            }
            placed => placed,
        }
    }

    async fn place_once(
        &self,
        user_id: &str,
        key: &str,
        new: &NewOrder,
        amount_minor: i64,
        request_sha256: &str,
    ) -> Result<String, PlaceError> {
        let tx = database::begin(&self.db).await?;
        let used = idempotency_key::Entity::find_by_id((user_id.to_owned(), key.to_owned())).one(&tx).await?;
        if let Some(used) = used {
            return if used.request_sha256 == request_sha256 { Ok(used.reply) } else { Err(PlaceError::KeyReused) };
        }
        let now = self.clock.now_ms();
        let order = Model {
            id: Uuid::now_v7().to_string(),
            user_id: user_id.to_owned(),
            sale_id: None,
            item: new.item.clone(),
            quantity: new.quantity,
            amount_minor,
            currency: new.currency.clone(),
            state: OrderState::Placed,
            created_ms: now,
            updated_ms: now,
        };
        let reply = serde_json::to_string(&order).expect("an order has no map with odd keys");
        insert(&tx, order).await?;
        let used = idempotency_key::Model {
            user_id: user_id.to_owned(),
            idempotency_key: key.to_owned(),
            request_sha256: request_sha256.to_owned(),
            reply: reply.clone(),
            created_ms: now,
        };
        used.into_active_model().insert(&tx).await?;
        tx.commit().await?;
        Ok(reply)
    }

    /// The order, if it is this user's.
    pub async fn read(&self, user_id: &str, id: &str) -> Result<Model, ReadError> {
        let order = find(&self.db, id).await?.ok_or_else(|| ReadError::Unknown(id.to_owned()))?;
        if order.user_id == user_id { Ok(order) } else { Err(ReadError::NotYours(id.to_owned())) }
    }

    /// This user's orders, newest first.
    pub async fn list(&self, user_id: &str) -> Result<Vec<Model>, DbErr> {
        let newest_first = Entity::find().filter(Column::UserId.eq(user_id)).order_by_desc(Column::Id);
        newest_first.limit(LIST_LIMIT).all(&self.db).await
    }
}

fn validate(key: &str, new: &NewOrder) -> Result<i64, PlaceError> {
    if !(1..=MAX_KEY_BYTES).contains(&key.len()) {
        return Err(PlaceError::Key);
    }
    if !(1..=MAX_ITEM_BYTES).contains(&new.item.len()) {
        return Err(PlaceError::Item);
    }
    money::currency(&new.currency)?;
    Ok(money::total(new.unit_price_minor, new.quantity)?)
}

/// Equal for equal requests, whatever the spacing and the order of the fields.
fn fingerprint(new: &NewOrder) -> String {
    let canonical = serde_json::to_vec(new).expect("a request has no map with odd keys");
    hex::encode(Sha256::digest(canonical))
}

pub async fn find(db: &impl ConnectionTrait, id: &str) -> Result<Option<Model>, DbErr> {
    Entity::find_by_id(id.to_owned()).one(db).await
}

pub async fn insert(tx: &DatabaseTransaction, order: Model) -> Result<(), DbErr> {
    order.into_active_model().insert(tx).await.map(drop)
}

/// Moves a placed order on. False: another one moved it first, and nothing was changed.
pub async fn leave_placed(tx: &DatabaseTransaction, id: &str, to: OrderState, now_ms: i64) -> Result<bool, DbErr> {
    assert_ne!(to, OrderState::Placed, "an order leaves `placed` for another state");
    let moved = Entity::update_many()
        .col_expr(Column::State, Expr::value(to))
        .col_expr(Column::UpdatedMs, Expr::value(now_ms))
        .filter(Column::Id.eq(id))
        .filter(Column::State.eq(OrderState::Placed))
        .exec(tx)
        .await?;
    Ok(moved.rows_affected == 1)
}
