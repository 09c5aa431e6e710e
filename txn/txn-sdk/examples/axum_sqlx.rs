//! `POST /orders/{id}/pay` writes a payment and publishes ORDER_PAID, both or neither; a consumer issues one red packet
//! for each paid order.
use std::env::var;

use axum::{Router, extract::Path, extract::State, http::StatusCode, routing::get, routing::post};
use serde::Deserialize;
use sqlx::SqlitePool;
use tokio::{net::TcpListener, signal::ctrl_c};
use txn_sdk::{Consumer, Inbox, Message, Msg, Outcome, TxnProducer};

const TABLES: &str = "CREATE TABLE IF NOT EXISTS payments (order_id INTEGER PRIMARY KEY);
                      CREATE TABLE IF NOT EXISTS packets (order_id INTEGER PRIMARY KEY)";

#[derive(Deserialize)]
struct OrderPaid {
    order: i64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt::init();
    let stop = || async { drop(ctrl_c().await) };
    let broker = var("NAMESRV_ADDR").unwrap_or("127.0.0.1:9876".into());
    let db = SqlitePool::connect(&var("DATABASE_URL").unwrap_or("sqlite://shop.db?mode=rwc".into())).await?;
    sqlx::raw_sql(TABLES).execute(&db).await?;

    let txn = TxnProducer::builder(&broker).group("orders").database(db.clone()).topics(["ORDER_PAID"]).build().await?;
    let packets = Consumer::builder(&broker).group("red-packets").inbox(Inbox::new(db)).on(
        "ORDER_PAID",
        async |tx, paid: Msg<OrderPaid>| {
            sqlx::query("INSERT INTO packets VALUES (?)").bind(paid.body.order).execute(tx).await.map(drop)
        },
    );

    let routes = Router::new().route("/orders/{id}/pay", post(pay)).route("/readyz", get(ready));
    let listener = TcpListener::bind(var("LISTEN").unwrap_or("127.0.0.1:8080".into())).await?;
    let server = axum::serve(listener, routes.with_state(txn.clone())).with_graceful_shutdown(stop());
    let serving = async { anyhow::Ok(server.await?) };
    tokio::try_join!(serving, async { Ok(packets.run_until(stop()).await?) })?;
    txn.shutdown().await;
    Ok(())
}

async fn pay(State(txn): State<TxnProducer<SqlitePool>>, Path(order): Path<i64>) -> (StatusCode, String) {
    let message = Message::new("ORDER_PAID", format!(r#"{{"order":{order}}}"#)).key(format!("order-{order}"));
    let work = async |tx: &mut sqlx::SqliteConnection| {
        sqlx::query("INSERT INTO payments VALUES (?)").bind(order).execute(tx).await.map(drop)
    };
    match txn.send(message, work).await.map(|sent| sent.outcome) {
        Ok(Outcome::Committed) => (StatusCode::OK, "paid; the message is out, or the checkback brings it out".into()),
        Ok(Outcome::RolledBack(why)) => (StatusCode::CONFLICT, format!("no rows, no message: {why}")),
        Ok(Outcome::InDoubt) => (StatusCode::ACCEPTED, "ask again: the database did not say whether it is paid".into()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("nothing happened: {error}")),
    }
}

async fn ready(State(txn): State<TxnProducer<SqlitePool>>) -> StatusCode {
    if txn.is_registered() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
