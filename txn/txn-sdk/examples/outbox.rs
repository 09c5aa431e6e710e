//! `POST /orders/{id}/pay` also while no broker is there: the message waits in the database and is out soon after the
//! broker is back.
//!
//! ```text
//! cargo run -p txn-sdk --example outbox
//! curl -X POST localhost:8080/orders/7/pay
//! curl localhost:8080/metrics
//! ```

use std::env;

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post},
};
use sqlx::{SqliteConnection, SqlitePool};
use txn_sdk::{Message, OutboxOptions, Outcome, TxnProducer};

type Txn = TxnProducer<SqlitePool>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().init();
    let name_servers = env::var("NAMESRV_ADDR").unwrap_or_else(|_| "127.0.0.1:9876".into());
    let url = env::var("DATABASE_URL").unwrap_or_else(|_| "sqlite://shop.db?mode=rwc".into());
    let database = SqlitePool::connect(&url).await?;
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS payments (order_id INTEGER PRIMARY KEY)").execute(&database).await?;

    let txn = TxnProducer::builder(&name_servers)
        .group("orders")
        .database(database)
        .topics(["ORDER_PAID"])
        .outbox(OutboxOptions { limit: 10_000, ..OutboxOptions::default() })
        .build()
        .await?;
    let routes = Router::new()
        .route("/orders/{id}/pay", post(pay))
        .route("/metrics", get(metrics))
        // Ready without a broker: that is what the outbox is for.
        .route("/readyz", get(|| async { StatusCode::OK }))
        .with_state(txn.clone());
    let address = env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".into());
    let listener = tokio::net::TcpListener::bind(&address).await?;
    axum::serve(listener, routes).with_graceful_shutdown(async { drop(tokio::signal::ctrl_c().await) }).await?;
    txn.shutdown().await;
    Ok(())
}

async fn pay(State(txn): State<Txn>, Path(order): Path<i64>) -> (StatusCode, String) {
    let message = Message::new("ORDER_PAID", format!(r#"{{"order":{order}}}"#)).key(format!("order-{order}"));
    let work = async |tx: &mut SqliteConnection| {
        sqlx::query("INSERT INTO payments VALUES (?)").bind(order).execute(tx).await.map(drop)
    };
    match txn.send(message, work).await {
        Ok(sent) => match (sent.outcome, sent.message_id) {
            (Outcome::Committed, Some(id)) => (StatusCode::OK, format!("paid, message {id}\n")),
            (Outcome::Committed, None) => (StatusCode::OK, "paid, the message waits for a broker\n".into()),
            (Outcome::RolledBack(why), _) => (StatusCode::CONFLICT, format!("not paid: {why}\n")),
            (Outcome::InDoubt, _) => (StatusCode::ACCEPTED, "ask again in a minute whether it is paid\n".into()),
        },
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("nothing happened: {error}\n")),
    }
}

async fn metrics(State(txn): State<Txn>) -> String {
    txn_sdk::prometheus([("orders", txn.counters())])
}
