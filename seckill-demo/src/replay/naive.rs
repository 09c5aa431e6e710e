//! The way of paying that loses red packets, written as it is usually written: commit, then send; acknowledge, then work.
//! Two processes of its own, beside the real gateway and a real broker. Only the replay starts them.

use std::future::IntoFuture;
use std::time::Duration;

use anyhow::Result;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use mq_client::{ConsumeFrom, Producer, PullConsumer, ReceivedMessage};
use order_service::database;
use order_service::events::{self, ORDER_PAID, OrderPaid};
use order_service::payments::Charged;
use sea_orm::entity::prelude::*;
use sea_orm::{ActiveValue, DatabaseConnection, TransactionTrait};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use txn_sdk::failpoints::reach;

/// Orders that were paid. The row is all that the business knows.
pub mod paid_order {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "naive_paid_orders")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub order_id: String,
        pub amount_minor: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

/// Red packets, with no unique key on the order.
pub mod packet {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "red_packets")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub order_id: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

#[derive(Clone)]
struct Orders {
    db: DatabaseConnection,
    producer: Producer,
}

/// Serves the gateway's callback until shutdown.
pub async fn orders(
    listener: TcpListener,
    database_url: &str,
    name_servers: &str,
    shutdown: CancellationToken,
) -> Result<()> {
    let db = database::connect(database_url).await?;
    database::create_table(&db, paid_order::Entity).await?;
    let producer =
        Producer::builder(name_servers).group("naive-orders").options(|options| options.retries = 0).build().await?;
    let router = Router::new()
        .route("/gateway/callback", post(callback))
        .route("/readyz", get(async || "ok\n"))
        .with_state(Orders { db, producer });
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await?;
    Ok(())
}

async fn callback(State(orders): State<Orders>, Json(charged): Json<Charged>) -> Result<&'static str, StatusCode> {
    orders.pay(&charged).await.map_err(|error| {
        tracing::warn!(%error, order = charged.order_id, "callback failed, the gateway will call again");
        StatusCode::INTERNAL_SERVER_ERROR
    })?;
    Ok("ok\n")
}

impl Orders {
    async fn pay(&self, charged: &Charged) -> Result<()> {
        if paid_order::Entity::find_by_id(charged.order_id.clone()).one(&self.db).await?.is_some() {
            return Ok(());
        }
        let tx = self.db.begin().await?;
        let row = paid_order::ActiveModel {
            order_id: ActiveValue::Set(charged.order_id.clone()),
            amount_minor: ActiveValue::Set(charged.amount_minor),
        };
        row.insert(&tx).await?;
        reach("naive-after-rows");
        tx.commit().await?;
        reach("naive-between-commit-and-send");
        let paid = OrderPaid {
            order_id: charged.order_id.clone(),
            user_id: "replay".into(),
            sale_id: None,
            amount_minor: charged.amount_minor,
            currency: charged.currency.clone(),
            paid_ms: 0,
        };
        if let Err(error) = self.producer.send(events::message(ORDER_PAID, &charged.order_id, &paid)).await {
            // What usually stands here: the row is committed, so there is nothing to roll back any more.
            tracing::error!(%error, order = charged.order_id, "could not send ORDER_PAID");
        }
        reach("naive-after-send");
        Ok(())
    }
}

/// The consumer group of the naive red packets.
pub const GROUP: &str = "naive-red-packet";
const POLL: Duration = Duration::from_millis(500);

/// Acknowledges each message to the broker, waits for the answer, and only then issues its packet.
pub async fn red_packets(
    listener: TcpListener,
    database_url: &str,
    name_servers: &str,
    shutdown: CancellationToken,
) -> Result<()> {
    let db = database::connect(database_url).await?;
    database::create_table(&db, packet::Entity).await?;
    let consumer =
        PullConsumer::builder(name_servers).group(GROUP).batch(1).consume_from(ConsumeFrom::First).build().await?;
    consumer.assign(consumer.queues(ORDER_PAID).await?).await?;
    let router = Router::new().route("/readyz", get(async || "ok\n"));
    let serving = tokio::spawn(
        axum::serve(listener, router).with_graceful_shutdown(shutdown.clone().cancelled_owned()).into_future(),
    );
    while !shutdown.is_cancelled() {
        match consumer.poll(POLL).await {
            // As clients do from time to time: a broker that crashed may have forgotten what was acknowledged.
            Ok(messages) if messages.is_empty() => drop(consumer.commit().await),
            Ok(messages) => {
                for message in messages {
                    issue(&db, &consumer, &message).await?;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read, will try again");
                tokio::time::sleep(POLL).await;
            }
        }
    }
    consumer.close().await;
    Ok(serving.await??)
}

async fn issue(db: &DatabaseConnection, consumer: &PullConsumer, message: &ReceivedMessage) -> Result<()> {
    reach("naive-before-ack");
    consumer.commit_at(&message.queue, message.queue_offset.plus(1)).await?;
    reach("naive-before-work");
    let paid: OrderPaid = serde_json::from_slice(&message.body)?;
    let row = packet::ActiveModel { order_id: ActiveValue::Set(paid.order_id), ..Default::default() };
    row.insert(db).await?;
    Ok(())
}
