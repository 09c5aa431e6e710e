//! A consumer alone: one red packet for each ORDER_PAID, and a PACKET_ISSUED with it, however often the message comes and
//! wherever the process dies. Start a broker with `mq up`, then:
//!
//! ```text
//! cargo run -p txn-sdk --example inbox
//! mq admin message send ORDER_PAID '{"order":7}' --key order-7
//! ```

use std::env;

use serde::Deserialize;
use sqlx::SqlitePool;
use txn_sdk::{Consumer, Effect, Inbox, Key, Message, Msg, TxnError, TxnProducer};

#[derive(Deserialize)]
struct OrderPaid {
    order: i64,
}

#[derive(Debug, thiserror::Error)]
enum NotIssued {
    #[error(transparent)]
    Rows(#[from] sqlx::Error),
    #[error(transparent)]
    Message(#[from] TxnError),
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().init();
    let name_servers = env::var("NAMESRV_ADDR").unwrap_or_else(|_| "127.0.0.1:9876".into());
    let url = env::var("DATABASE_URL").unwrap_or_else(|_| "sqlite://packets.db?mode=rwc".into());
    let database = SqlitePool::connect(&url).await?;
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS packets (order_id INTEGER PRIMARY KEY)").execute(&database).await?;

    // Whose handlers publish need a producer; its inbox is in the same database.
    let txn = TxnProducer::builder(&name_servers).group("packets").database(database).topics(["PACKET_ISSUED"]);
    let txn = txn.build().await?;
    let consumer = Consumer::builder(&name_servers)
        .group("red-packet")
        .inbox(Inbox::of(&txn).dedupe_by(Key::Business))
        .on_emitting("ORDER_PAID", issue);
    let counters = consumer.counters();
    consumer.run_until(async { drop(tokio::signal::ctrl_c().await) }).await?;
    txn.shutdown().await;
    print(&txn_sdk::prometheus([("packets", txn.counters()), ("red-packet", counters.samples())]));
    Ok(())
}

async fn issue(tx: &mut Effect<SqlitePool>, paid: Msg<OrderPaid>) -> Result<(), NotIssued> {
    let order = paid.body.order;
    sqlx::query("INSERT INTO packets VALUES (?)").bind(order).execute(tx.handle()).await?;
    let issued = Message::new("PACKET_ISSUED", format!(r#"{{"order":{order}}}"#)).key(format!("packet-{order}"));
    tx.emit(issued).await?;
    Ok(())
}

#[allow(clippy::print_stdout, reason = "an example shows what it counted")]
fn print(text: &str) {
    println!("{text}");
}
