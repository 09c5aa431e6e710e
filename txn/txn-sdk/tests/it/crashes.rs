//! Real deaths: a child process aborts at each crash point, and what it left behind is settled by a fresh instance.
//! Needs `--features failpoints`.

use std::{process::Stdio, time::Duration};

use txn_sdk::{Consumer, Delivered, Inbox, Msg, Outcome, TxnProducer, Verdict, failpoints};

use crate::{
    broker::Broker,
    databases::{Engine, Scratch, TestDatabase, on_all_databases},
    inbox::paid,
    producer::message,
};

const INSERT_ORDER: &str = "INSERT INTO orders (note) VALUES ('paid')";
const URL: &str = "CHECKBACK_CRASH_URL";
const BROKER: &str = "CHECKBACK_CRASH_BROKER";

on_all_databases!(rows_and_message_agree_after_each_crash, one_effect_after_each_crash, children);

fn producer<D: TestDatabase>(name_servers: &str, database: D) -> txn_sdk::TxnProducerBuilder<D> {
    TxnProducer::builder(name_servers)
        .group("order-service")
        .database(database)
        .topics(["ORDER_PAID"])
        .deadline(Duration::ZERO)
}

async fn packets<D: TestDatabase>(database: D) -> Delivered {
    let consumer = Consumer::builder("127.0.0.1:1")
        .group("red-packet")
        .inbox(Inbox::new(database))
        .on("ORDER_PAID", async |tx, _: Msg<serde_json::Value>| D::run(tx, INSERT_ORDER).await);
    consumer.prepare().await.unwrap();
    consumer.deliver(paid(1)).await
}

/// The child's work. As an ordinary test, without its variables, it does nothing.
async fn children<D: TestDatabase>(engine: Engine) {
    let Ok(url) = std::env::var(URL) else { return };
    failpoints::arm();
    let database = Scratch::at(engine, url).await.open::<D>().await;
    match std::env::var(BROKER) {
        Ok(name_servers) => {
            let txn = producer(&name_servers, database).build().await.unwrap();
            let sent = txn.send(message(), async |tx| D::run(tx, INSERT_ORDER).await).await.unwrap();
            assert_eq!(sent.outcome, Outcome::Committed);
        }
        Err(_) => assert_eq!(packets(database).await, Delivered::Done),
    }
}

/// Runs the child with one point armed, and says whether it died there.
async fn dies_at<D: TestDatabase>(point: &str, file: &Scratch, broker: Option<&Broker>) -> bool {
    let module = if std::any::type_name::<D>().contains("sqlx") { "on_sqlx" } else { "on_sea_orm" };
    let engine = match file.engine {
        Engine::Sqlite => "sqlite",
        Engine::MySql => "mysql",
        Engine::Postgres => "postgres",
    };
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", &format!("crashes::{module}::{engine}::children"), "--nocapture"]);
    child.env("FAILPOINTS", format!("{point}=return")).env(URL, file.url());
    if let Some(broker) = broker {
        child.env(BROKER, broker.address());
    }
    let output = child.stdout(Stdio::piped()).stderr(Stdio::piped()).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.contains(&format!("crash point {point}: aborting")), !output.status.success(), "{point}: {said}");
    !output.status.success()
}

async fn rows_and_message_agree_after_each_crash<D: TestDatabase>(engine: Engine) {
    for (point, expected) in [
        ("txn-before-half", None),
        ("txn-after-half", Some(Verdict::Rollback)),
        ("txn-after-rows", Some(Verdict::Rollback)),
        ("txn-between-commit-and-end", Some(Verdict::Commit)),
        ("txn-after-end", Some(Verdict::Commit)),
    ] {
        let (broker, file) = (Broker::start().await, Scratch::with_orders(engine).await);
        assert!(dies_at::<D>(point, &file, Some(&broker)).await, "{point} was never reached");
        let _fresh = producer(&broker.address(), file.open::<D>().await).build().await.unwrap();
        assert_eq!(broker.halves().len(), usize::from(expected.is_some()), "{point}");
        let Some(expected) = expected else { continue };
        assert_eq!(broker.settle(0).await, expected, "{point}");
        assert!(broker.last().ends.iter().all(|end| *end == expected), "{point}");
        assert_eq!(file.orders().await, i64::from(expected == Verdict::Commit), "{point}");
    }
}

async fn one_effect_after_each_crash<D: TestDatabase>(engine: Engine) {
    for (point, redelivered) in [
        ("inbox-before-row", Delivered::Done),
        ("inbox-after-row", Delivered::Done),
        ("inbox-before-ack", Delivered::Duplicate),
    ] {
        let file = Scratch::with_orders(engine).await;
        assert!(dies_at::<D>(point, &file, None).await, "{point} was never reached");
        assert_eq!(packets(file.open::<D>().await).await, redelivered, "{point}");
        assert_eq!(file.orders().await, 1, "{point}");
    }
}
