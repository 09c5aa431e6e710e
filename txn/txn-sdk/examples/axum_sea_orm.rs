//! A shop in one file: `POST /orders/{id}/pay` writes a payment and publishes ORDER_PAID, both or neither; a consumer
//! issues one red packet per paid order. Start a broker with `mq up`, then:
//!
//! ```text
//! cargo run -p txn-sdk --example axum_sea_orm
//! curl -X POST localhost:8080/orders/7/pay
//! ```

use std::{env, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post},
};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbErr, Statement};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use txn_sdk::{Consumer, Inbox, Key, Message, Msg, Outcome, TxnProducer};

#[derive(Deserialize)]
struct OrderPaid {
    order: i64,
}

type Shop = Arc<TxnProducer<DatabaseConnection>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().init();
    let name_servers = env::var("NAMESRV_ADDR").unwrap_or_else(|_| "127.0.0.1:9876".into());
    let url = env::var("DATABASE_URL").unwrap_or_else(|_| "sqlite://shop.db?mode=rwc".into());
    let database = Database::connect(url).await?;
    for table in ["payments", "packets"] {
        let create = format!("CREATE TABLE IF NOT EXISTS {table} (order_id INTEGER PRIMARY KEY)");
        database.execute_unprepared(&create).await?;
    }

    let txn = TxnProducer::builder(&name_servers)
        .group("order-service")
        .database(database.clone())
        .topics(["ORDER_PAID"])
        .deadline(Duration::from_secs(30))
        .build()
        .await?;
    let shutdown = CancellationToken::new();
    let consumer = Consumer::builder(&name_servers)
        .group("red-packet")
        .inbox(Inbox::new(database).dedupe_by(Key::Business))
        .on("ORDER_PAID", async |tx, paid: Msg<OrderPaid>| {
            tracing::info!(paid.body.order, "a red packet");
            insert(tx, "INSERT INTO packets VALUES (?)", paid.body.order).await
        })
        .run_until(shutdown.clone().cancelled_owned());
    let consumer = tokio::spawn(consumer);

    let shop: Shop = Arc::new(txn);
    let routes =
        Router::new().route("/orders/{id}/pay", post(pay)).route("/readyz", get(ready)).with_state(shop.clone());
    let address = env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".into());
    let listener = tokio::net::TcpListener::bind(&address).await?;
    tracing::info!("curl -X POST {address}/orders/7/pay");
    axum::serve(listener, routes).with_graceful_shutdown(async { drop(tokio::signal::ctrl_c().await) }).await?;
    shutdown.cancel();
    consumer.await??;
    shop.shutdown().await;
    Ok(())
}

async fn pay(State(shop): State<Shop>, Path(order): Path<i64>) -> (StatusCode, String) {
    let message = Message::new("ORDER_PAID", format!(r#"{{"order":{order}}}"#)).key(format!("order-{order}"));
    let sent = shop.send(message, async |tx| insert(tx, "INSERT INTO payments VALUES (?)", order).await).await;
    match sent.map(|sent| sent.outcome) {
        Ok(Outcome::Committed) => (StatusCode::OK, format!("order {order} is paid\n")),
        Ok(Outcome::RolledBack(why)) => (StatusCode::CONFLICT, format!("not paid: {why}\n")),
        Ok(Outcome::InDoubt) => (StatusCode::ACCEPTED, "ask again in a minute whether it is paid\n".into()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("nothing happened: {error}\n")),
    }
}

async fn insert(tx: &DatabaseTransaction, sql: &'static str, order: i64) -> Result<(), DbErr> {
    let statement = Statement::from_sql_and_values(tx.get_database_backend(), sql, [order.into()]);
    tx.execute_raw(statement).await.map(drop)
}

/// Ready once the broker can ask this instance how its transactions ended.
async fn ready(State(shop): State<Shop>) -> StatusCode {
    if shop.is_registered() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
