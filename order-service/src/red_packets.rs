//! Red packets: one per paid order, issued by a consumer process with a database of its own. The inbox row and the packet
//! are one transaction, so a message that is delivered again issues nothing. Knows no order-service table.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use sea_orm::entity::prelude::*;
use sea_orm::{DatabaseConnection, DatabaseTransaction, IntoActiveModel};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use txn_sdk::{Consumer, Inbox, Key, Msg};

use crate::clock::Clock;
use crate::database;
use crate::events::{self, OrderPaid};
use crate::http::{self, Problem};

/// The consumer group of the process.
pub const GROUP: &str = "red-packet";

/// A packet is one percent of the order, and at least one cent.
const ORDER_PARTS: i64 = 100;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, Serialize, Deserialize)]
#[sea_orm(table_name = "red_packets")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub order_id: String,
    pub user_id: String,
    pub amount_minor: i64,
    pub currency: String,
    pub issued_ms: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    pub packets: u64,
}

/// Issues the packet of a paid order.
pub async fn issue(tx: &DatabaseTransaction, paid: &OrderPaid, now_ms: i64) -> Result<(), DbErr> {
    let packet = Model {
        order_id: paid.order_id.clone(),
        user_id: paid.user_id.clone(),
        amount_minor: (paid.amount_minor / ORDER_PARTS).max(1),
        currency: paid.currency.clone(),
        issued_ms: now_ms,
    };
    packet.into_active_model().insert(tx).await.map(drop)
}

#[derive(Clone, Debug)]
pub struct RedPacketOptions {
    pub db: DatabaseConnection,
    pub clock: Clock,
    pub name_servers: String,
}

#[derive(Debug)]
pub struct RedPackets {
    options: RedPacketOptions,
}

impl RedPackets {
    pub async fn open(options: RedPacketOptions) -> anyhow::Result<RedPackets> {
        database::create_table(&options.db, Entity).await?;
        Ok(RedPackets { options })
    }

    pub async fn run(self, listener: TcpListener, shutdown: CancellationToken) -> anyhow::Result<()> {
        let RedPacketOptions { db, clock, name_servers } = self.options;
        let consumer = Consumer::builder(&name_servers)
            .group(GROUP)
            .inbox(Inbox::new(db.clone()).dedupe_by(Key::Business))
            .on(events::ORDER_PAID, async move |tx: &DatabaseTransaction, paid: Msg<OrderPaid>| {
                issue(tx, &paid.body, clock.now_ms()).await
            });
        // Who cannot consume must not look ready: the failure of one ends both.
        tokio::try_join!(async { Ok(http::serve(listener, router(db), shutdown.clone()).await?) }, async {
            anyhow::Ok(consumer.run_until(shutdown.clone().cancelled_owned()).await?)
        },)?;
        Ok(())
    }
}

fn router(db: DatabaseConnection) -> Router {
    Router::new()
        .route("/packets", get(count))
        .route("/packets/{order}", get(read))
        .route("/livez", get(http::alive))
        .route("/readyz", get(http::alive))
        .with_state(db)
}

async fn count(State(db): State<DatabaseConnection>) -> Result<axum::Json<Count>, Problem> {
    Ok(axum::Json(Count { packets: Entity::find().count(&db).await? }))
}

async fn read(State(db): State<DatabaseConnection>, Path(order): Path<String>) -> Result<axum::Json<Model>, Problem> {
    let packet = Entity::find_by_id(order).one(&db).await?;
    let none = || Problem::new(StatusCode::NOT_FOUND, "no_packet", "no red packet was issued for this order");
    packet.map(axum::Json).ok_or_else(none)
}
