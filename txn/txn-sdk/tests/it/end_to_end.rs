//! Producers and consumers over a real broker in this process: in the end there is one red packet per payment, one entry
//! in the ledger per packet, and none without one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use mq_testkit::cluster::{Cluster, ClusterOptions};
use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use txn_sdk::{Consumer, Effect, Inbox, Message, Msg, TxnProducer};

use crate::databases::{Engine, Scratch, TestDatabase, on_all_databases};

on_all_databases!(one_packet_per_payment);

#[derive(Deserialize)]
struct Paid {
    order: u64,
}

const ORDERS: u64 = 60;
const PATIENCE: Duration = Duration::from_secs(240);

/// What happens to a payment, by the roll of a die.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Pays,
    Declined,
    /// The client hangs up after so many polls.
    HangsUp(usize),
    /// The commit's answer is lost, after it was done or before.
    InDoubt(&'static str),
}

impl Fate {
    fn roll(rng: &mut StdRng) -> Self {
        match rng.random_range(0..10) {
            0..4 => Self::Pays,
            4..6 => Self::Declined,
            6..8 => Self::HangsUp(rng.random_range(1..30)),
            8 => Self::InDoubt("COMMIT"),
            _ => Self::InDoubt("ROLLBACK"),
        }
    }
}

fn insert(order: u64) -> &'static str {
    Box::leak(format!("INSERT INTO orders (note) VALUES ('{order}')").into_boxed_str())
}

async fn pay<D: TestDatabase>(txn: &TxnProducer<D>, topic: &'static str, order: u64, fate: Fate) {
    let message = || Message::new(topic, format!(r#"{{"order":{order}}}"#)).key(format!("order-{order}"));
    let paying = async |declined: bool| {
        txn.send(message(), async |tx| {
            D::run(tx, insert(order)).await?;
            if declined { Err("declined".to_owned()) } else { Ok(()) }
        })
        .await
    };
    match fate {
        Fate::Pays => drop(paying(false).await),
        Fate::Declined => drop(paying(true).await),
        Fate::HangsUp(polls) => drop(crate::dropped::dropped_after(polls, paying(false)).await),
        Fate::InDoubt(behind_our_back) => {
            let Ok(mut transaction) = txn.begin(message()).await else { return };
            D::run(transaction.handle(), insert(order)).await.unwrap();
            D::run(transaction.handle(), behind_our_back).await.unwrap();
            let _ = transaction.commit().await;
        }
    }
}

async fn one_packet_per_payment<D: TestDatabase>(engine: Engine) {
    let mut cluster = Cluster::start(ClusterOptions::fast()).await.unwrap();
    let names = cluster.name_servers();
    let stage = Stage { names: &names, topic: "ORDER_PAID", every: Duration::from_millis(200) };
    journey::<D>(engine, stage, async || cluster.restart().await.unwrap()).await;
    cluster.stop().await.unwrap();
}

/// Where a journey takes place.
#[derive(Clone, Copy)]
pub(crate) struct Stage<'s> {
    pub(crate) names: &'s str,
    pub(crate) topic: &'static str,
    /// The broker's `transactionCheckInterval`.
    pub(crate) every: Duration,
}

/// Payments of every fate become red packets, and each packet is entered in a ledger: three databases, two topics, two
/// transactional groups. `midway` happens in the middle of it.
pub(crate) async fn journey<D: TestDatabase>(engine: Engine, stage: Stage<'_>, midway: impl AsyncFnOnce()) {
    let Stage { names, topic, every } = stage;
    let issued_topic: &'static str = Box::leak(format!("{topic}_ISSUED").into_boxed_str());
    let group = |name: &str| format!("{name}-{topic}");
    let payments = Scratch::with_orders(engine).await;
    let (packets, ledger) = (Scratch::with_orders(engine).await, Scratch::with_orders(engine).await);
    let producer = async |name: &str, place: &Scratch, topic: &'static str| {
        TxnProducer::builder(names)
            .group(group(name))
            .database(place.open::<D>().await)
            .topics([topic])
            .deadline(Duration::from_millis(500))
            .checks_every(every)
            .build()
            .await
            .unwrap()
    };
    let issuing = producer("red-packet-producer", &packets, issued_topic).await;
    let shutdown = CancellationToken::new();
    let failed_once: Arc<Mutex<BTreeSet<u64>>> = Arc::default();
    let mut consumers = Vec::new();
    for _ in 0..2 {
        let failed_once = failed_once.clone();
        let consumer = Consumer::builder(names).group(group("red-packet")).inbox(Inbox::of(&issuing)).on_emitting(
            topic,
            async move |tx: &mut Effect<D>, paid: Msg<Paid>| {
                let order = paid.body.order;
                D::run(tx.handle(), insert(order)).await?;
                let message = Message::new(issued_topic, paid.message.body.clone()).key(format!("packet-{order}"));
                tx.emit(message).await.map_err(|error| error.to_string())?;
                let fails = order.is_multiple_of(7) && failed_once.lock().insert(order);
                if fails { Err("the first attempt fails".to_owned()) } else { Ok(()) }
            },
        );
        consumers.push(tokio::spawn(consumer.run_until(shutdown.clone().cancelled_owned())));
    }
    let entering = Consumer::builder(names)
        .group(group("ledger"))
        .inbox(Inbox::new(ledger.open::<D>().await))
        .on(issued_topic, async |tx, issued: Msg<Paid>| D::run(tx, insert(issued.body.order)).await);
    consumers.push(tokio::spawn(entering.run_until(shutdown.clone().cancelled_owned())));

    let txn = producer("order-service", &payments, topic).await;
    let mut rng = StdRng::seed_from_u64(7);
    let mut midway = Some(midway);
    for order in 0..ORDERS {
        pay(&txn, topic, order, Fate::roll(&mut rng)).await;
        if order == ORDERS / 2
            && let Some(midway) = midway.take()
        {
            midway().await;
        }
    }
    txn.producer().send(Message::new(topic, r#"{"order":1000}"#).key("order-1000")).await.unwrap();

    // The commit of a client that hung up may still be running: read all sides afresh each time.
    let settled = async {
        loop {
            let issued = numbers(&packets).await;
            if expected(&payments).await == issued && issued == numbers(&ledger).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, settled).await;
    let sides = async || (expected(&payments).await, numbers(&packets).await, numbers(&ledger).await);
    let (paid, issued, entered) = sides().await;
    assert!(in_time.is_ok(), "paid {paid:?}, packets {issued:?}, ledger {entered:?}");
    // Whatever is still pending is rolled back, and no redelivery adds anything.
    tokio::time::sleep(every.max(Duration::from_millis(500)) * 3).await;
    let (paid, issued, entered) = sides().await;
    assert_eq!((&paid, &paid), (&issued, &entered));
    assert!(paid.len() > 20 && paid.len() < ORDERS as usize, "the dice fell to both sides");
    shutdown.cancel();
    for consumer in consumers {
        consumer.await.unwrap().unwrap();
    }
    txn.shutdown().await;
    issuing.shutdown().await;
}

/// One packet for each payment, and one for the message that was sent without a transaction.
async fn expected(payments: &Scratch) -> BTreeMap<String, i64> {
    let mut expected = numbers(payments).await;
    expected.insert("1000".into(), 1);
    expected
}

/// How often each order stands in the table.
async fn numbers(file: &Scratch) -> BTreeMap<String, i64> {
    let rows = file.rows("SELECT note, count(*) FROM orders GROUP BY note").await;
    rows.iter().map(|row| row.try_get_many_by_index::<(String, i64)>().unwrap()).collect()
}
