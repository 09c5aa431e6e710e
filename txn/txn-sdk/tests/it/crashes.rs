//! Real deaths: a child process aborts at each crash point, and what it left behind is settled by a fresh instance.
//! Needs `--features failpoints`.

use std::{process::Stdio, time::Duration};

use txn_sdk::{Consumer, Delivered, Inbox, Msg, Outcome, TxnProducer, Verdict, failpoints};

use crate::{
    broker::{Broker, OnSend},
    databases::{Engine, Scratch, TestDatabase, on_all_databases},
    inbox::paid,
    outbox,
    producer::message,
};

const INSERT_ORDER: &str = "INSERT INTO orders (note) VALUES ('paid')";
const URL: &str = "CHECKBACK_CRASH_URL";
const BROKER: &str = "CHECKBACK_CRASH_BROKER";
/// The child relays what lies in the outbox.
const RELAYS: &str = "CHECKBACK_CRASH_RELAYS";

on_all_databases!(
    rows_and_message_agree_after_each_crash,
    one_effect_after_each_crash,
    a_relay_that_dies_delivers_nothing_twice,
    children,
);

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
    if std::env::var_os(URL).is_none() {
        return;
    }
    let url = || std::env::var(URL).unwrap();
    failpoints::arm();
    let database = Scratch::at(engine, url()).await.open::<D>().await;
    match std::env::var(BROKER) {
        Ok(name_servers) if std::env::var_os(RELAYS).is_some() => {
            let _relays = outbox::with_outbox::<D>(&name_servers, &Scratch::at(engine, url()).await, 10).await;
            std::future::pending().await
        }
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
    dies_with::<D>(point, file, broker, &[]).await
}

async fn dies_with<D: TestDatabase>(
    point: &str,
    file: &Scratch,
    broker: Option<&Broker>,
    more: &[(&str, &str)],
) -> bool {
    let module = if std::any::type_name::<D>().contains("sqlx") { "on_sqlx" } else { "on_sea_orm" };
    let engine = match file.engine {
        Engine::Sqlite => "sqlite",
        Engine::MariaDb | Engine::MySql => "mysql",
        Engine::Postgres => "postgres",
    };
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", &format!("crashes::{module}::{engine}::children"), "--nocapture"]);
    child.env("FAILPOINTS", format!("{point}=return")).env(URL, file.url());
    child.envs(more.iter().copied()).kill_on_drop(true);
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

async fn a_relay_that_dies_delivers_nothing_twice<D: TestDatabase>(engine: Engine) {
    for point in ["outbox-after-half", "outbox-between-commit-and-end"] {
        let (broker, file) = (Broker::start().await, Scratch::with_orders(engine).await);
        {
            let txn = outbox::with_outbox::<D>(&broker.address(), &file, 10).await;
            broker.on_send(OnSend::Refuse(mq_protocol::codes::response::SERVICE_NOT_AVAILABLE));
            for _ in 0..3 {
                let sent = txn.send(message(), async |tx| D::run(tx, INSERT_ORDER).await).await.unwrap();
                assert_eq!((sent.outcome, sent.message_id), (Outcome::Committed, None));
            }
            txn.shutdown().await;
        }
        broker.on_send(OnSend::Store);
        assert!(dies_with::<D>(point, &file, Some(&broker), &[(RELAYS, "yes")]).await, "{point} was never reached");
        let _fresh = outbox::with_outbox::<D>(&broker.address(), &file, 10).await;
        broker.until("relayed", async |_| file.count("SELECT count(*) FROM checkback_outbox").await == 0).await;
        for index in 0..broker.halves().len() {
            broker.settle(index).await;
        }
        broker.until("published", async |broker| broker.published().len() >= 3).await;
        assert_eq!((broker.published().len(), file.orders().await), (3, 3), "{point}");
    }
}
