//! The rows of order-service's database: one module per table, and nothing that decides. The gateway's and the red
//! packets' databases are their own modules' business.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

/// `placed -> paid` or `placed -> closed`; both ends are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum, Serialize, Deserialize)]
#[sea_orm(rs_type = "String", db_type = "String(StringLen::N(16))")]
#[serde(rename_all = "snake_case")]
pub enum OrderState {
    #[sea_orm(string_value = "placed")]
    Placed,
    #[sea_orm(string_value = "paid")]
    Paid,
    #[sea_orm(string_value = "closed")]
    Closed,
}

/// `started -> paid`, or, when the order was closed first, `started -> refund_due -> refunded`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum, Serialize, Deserialize)]
#[sea_orm(rs_type = "String", db_type = "String(StringLen::N(16))")]
#[serde(rename_all = "snake_case")]
pub enum PaymentState {
    #[sea_orm(string_value = "started")]
    Started,
    #[sea_orm(string_value = "paid")]
    Paid,
    #[sea_orm(string_value = "refund_due")]
    RefundDue,
    #[sea_orm(string_value = "refunded")]
    Refunded,
}

pub mod order {
    use sea_orm::entity::prelude::*;
    use serde::{Deserialize, Serialize};

    use super::OrderState;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, Serialize, Deserialize)]
    #[sea_orm(table_name = "orders")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        #[sea_orm(indexed, unique_key = "sale-user")]
        pub user_id: String,
        /// The flash sale that it belongs to; one order per user and sale.
        #[sea_orm(unique_key = "sale-user")]
        pub sale_id: Option<String>,
        pub item: String,
        pub quantity: i64,
        pub amount_minor: i64,
        pub currency: String,
        pub state: OrderState,
        pub created_ms: i64,
        pub updated_ms: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// What an Idempotency-Key was used for, and the reply it got.
pub mod idempotency_key {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "idempotency_keys")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub user_id: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub idempotency_key: String,
        pub request_sha256: String,
        pub reply: String,
        pub created_ms: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

pub mod payment {
    use sea_orm::entity::prelude::*;
    use serde::{Deserialize, Serialize};

    use super::PaymentState;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, Serialize, Deserialize)]
    #[sea_orm(table_name = "payments")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        #[sea_orm(unique)]
        pub order_id: String,
        pub amount_minor: i64,
        pub currency: String,
        pub state: PaymentState,
        /// The gateway's id of the charge, known from its callback.
        pub charge_id: Option<String>,
        pub created_ms: i64,
        pub updated_ms: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Nonces of authentic callbacks, kept for as long as their timestamps could be accepted.
pub mod callback_nonce {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "callback_nonces")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub nonce: String,
        #[sea_orm(indexed)]
        pub seen_ms: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A flash sale's truth. `left_pieces` moves only by conditional updates.
pub mod sale {
    use sea_orm::entity::prelude::*;
    use serde::{Deserialize, Serialize};

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, Serialize, Deserialize)]
    #[sea_orm(table_name = "sales")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub item: String,
        pub unit_price_minor: i64,
        pub currency: String,
        /// The most pieces of one user's one order.
        pub per_user: i64,
        pub initial_pieces: i64,
        #[sea_orm(extra = "CHECK (left_pieces >= 0)")]
        pub left_pieces: i64,
        /// Counts how often the gate was built; purchases of an older gate are refused.
        pub epoch: i64,
        pub created_ms: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// The one outcome of a purchase that passed a sale's gate: an order of the same id, or a refusal.
pub mod purchase {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "purchases")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub sale_id: String,
        pub user_id: String,
        /// Why it became no order.
        pub refused: Option<String>,
        pub created_ms: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}
