//! What became of an order, by the library call behind `mq explain`: a paid order whose red packet is missing is told with
//! the step that keeps it, and what the consumer's own inbox says of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use mq_client::{
    Admin, ClientOptions,
    explain::{Explanation, Stage},
};
use mq_protocol::body::SubscriptionGroup;
use mq_testkit::cluster::{Cluster, ClusterOptions};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use txn_sdk::{Consumer, Inbox, Key, Message, Msg, Outcome, TxnProducer};

use crate::databases::{Engine, Scratch, TestDatabase, on_all_databases};

const INSERT_ORDER: &str = "INSERT INTO orders (note) VALUES ('paid')";
const PATIENCE: Duration = Duration::from_secs(180);

on_all_databases!(a_red_packet_that_is_missing_is_explained_with_what_the_inbox_says);

#[derive(Deserialize)]
struct Paid {}

async fn explained(admin: &Admin, what: &str, holds: impl Fn(&Explanation) -> bool) -> Explanation {
    let started = Instant::now();
    loop {
        let told = admin.explain("order-1", None).await.unwrap();
        if holds(&told) {
            return told;
        }
        assert!(started.elapsed() < PATIENCE, "{what}: {told:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn lacks(told: &Explanation, stage: Stage, parts: &[&str]) -> bool {
    let [missing] = &told.missing[..] else { return false };
    missing.stage == stage && parts.iter().all(|part| missing.why.contains(part))
}

async fn a_red_packet_that_is_missing_is_explained_with_what_the_inbox_says<D: TestDatabase>(engine: Engine) {
    let cluster = Cluster::start(ClusterOptions::fast()).await.unwrap();
    let names = cluster.name_servers();
    let admin = Admin::new(ClientOptions::new(&names)).unwrap();
    let (orders, packets) = (Scratch::with_orders(engine).await, Scratch::with_orders(engine).await);
    let producer = TxnProducer::builder(&names)
        .group("order-service")
        .database(orders.open::<D>().await)
        .topics(["ORDER_PAID"])
        .deadline(Duration::from_secs(2))
        .checks_every(Duration::from_millis(200))
        .build()
        .await
        .unwrap();
    let message = Message::new("ORDER_PAID", "{}").key("order-1");
    let sent = producer.send(message, async |tx| D::run(tx, INSERT_ORDER).await).await.unwrap();
    assert_eq!(sent.outcome, Outcome::Committed);

    let (mended, shutdown) = (Arc::new(AtomicBool::new(false)), CancellationToken::new());
    let (works, stopped) = (mended.clone(), shutdown.clone());
    let inbox = Inbox::new(packets.open::<D>().await).dedupe_by(Key::Business);
    let consumer =
        Consumer::builder(&names).group("red-packet").inbox(inbox).on("ORDER_PAID", async move |tx, _: Msg<Paid>| {
            D::run(tx, INSERT_ORDER).await?;
            if works.load(Ordering::Relaxed) { Ok(()) } else { Err("no gift left".to_owned()) }
        });
    let consuming = tokio::spawn(async move { consumer.run_until(stopped.cancelled_owned()).await });

    let why = ["red-packet failed it", "its inbox has no row order-1: nothing of the effect is in its database"];
    explained(&admin, "in retry", |told| lacks(told, Stage::Delivery, &why)).await;
    mended.store(true, Ordering::Relaxed);
    let done = explained(&admin, "done", |told| told.missing.is_empty()).await;
    let told: Vec<Stage> = done.timeline.iter().map(|step| step.stage).collect();
    for stage in [Stage::Half, Stage::Verdict, Stage::Visible, Stage::Retry, Stage::Inbox, Stage::Delivery] {
        assert!(told.contains(&stage), "{stage:?}: {done:#?}");
    }
    let row = done.timeline.iter().find(|step| step.stage == Stage::Inbox).unwrap();
    assert!(row.what.contains("the inbox of red-packet has its row, order-1") && row.at.0 > 0, "{row:?}");
    assert_eq!(packets.orders().await, 1);

    packets.run("DELETE FROM checkback_inbox").await;
    let why = ["the position of red-packet is past it, and the inbox has no row order-1: its handler never ran"];
    explained(&admin, "without its row", |told| lacks(told, Stage::Inbox, &why)).await;
    shutdown.cancel();
    consuming.await.unwrap().unwrap();
    let why = "without a consumer nobody looks";
    let told = explained(&admin, why, |told| told.timeline.iter().all(|step| step.stage != Stage::Inbox)).await;
    assert!(told.missing.iter().all(|missing| missing.stage != Stage::Inbox), "{told:#?}");
    producer.shutdown().await;
    cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_consumer_or_else_the_group_s_setting_says_after_how_many_retries_a_message_is_a_dead_letter() {
    let cluster = Cluster::start(ClusterOptions::fast()).await.unwrap();
    let names = cluster.name_servers();
    let admin = Admin::new(ClientOptions::new(&names)).unwrap();
    let producer = mq_client::Producer::builder(&names).build().await.unwrap();
    producer.send(Message::new("ORDER_PAID", "{}").key("order-1")).await.unwrap();
    for (group, own, setting) in [("by-itself", Some(0), 16), ("by-the-broker", None, 0)] {
        let settings =
            SubscriptionGroup { group_name: group.into(), retry_max_times: setting, ..SubscriptionGroup::default() };
        admin.put_group(&settings).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}?mode=rwc", directory.path().join("shop.db").display());
        let inbox = Inbox::new(sqlx::SqlitePool::connect(&url).await.unwrap());
        let consumer = Consumer::builder(&names)
            .group(group)
            .inbox(inbox)
            .on("ORDER_PAID", async |_, _: Msg<Paid>| Err::<(), _>("no gift left"));
        let consumer = if let Some(retries) = own { consumer.max_retries(retries) } else { consumer };
        let shutdown = CancellationToken::new();
        let consuming = tokio::spawn(consumer.run_until(shutdown.clone().cancelled_owned()));
        let is_dead = |told: &Explanation| {
            let letter = format!("a dead letter of {group}");
            told.timeline.iter().any(|step| step.stage == Stage::DeadLetter && step.what == letter)
        };
        let told = explained(&admin, "a dead letter", is_dead).await;
        assert!(told.timeline.iter().all(|step| step.stage != Stage::Retry), "{told:#?}");
        shutdown.cancel();
        consuming.await.unwrap().unwrap();
    }
    cluster.stop().await.unwrap();
}
