//! What a handler publishes is a part of its delivery's transaction: out once if the effect is in, and not at all if not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use mq_protocol::codes::response;
use serde::Deserialize;
use txn_sdk::{Consumer, Delivered, Effect, Inbox, Message, Msg, TxnProducer, Verdict};

use crate::{
    broker::{Broker, OnEnd, OnSend},
    databases::{Engine, Scratch, TestDatabase, on_all_databases},
    dropped::dropped_after,
    inbox::paid,
    producer::{producer, sample},
};

const INSERT_ORDER: &str = "INSERT INTO orders (note) VALUES ('red packet')";

on_all_databases!(
    what_a_handler_emits_is_published_with_its_effect_and_once,
    a_failed_delivery_emits_nothing,
    a_half_that_is_refused_fails_the_delivery,
    a_lost_end_of_what_was_emitted_is_made_good_by_the_checkback,
    parallel_duplicates_emit_once,
    dropped_deliveries_emit_with_their_effect_or_not_at_all,
    an_inbox_without_a_producer_says_so,
    an_emitting_consumer_can_be_spawned,
);

#[derive(Deserialize)]
pub(crate) struct Paid {
    order: u64,
}

/// Writes a row and emits a message about it.
pub(crate) async fn issue<D: TestDatabase>(tx: &mut Effect<D>, paid: &Paid) -> Result<(), String> {
    D::run(tx.handle(), INSERT_ORDER).await?;
    let issued = Message::new("ORDER_PAID", "{}").key(format!("packet-{}", paid.order));
    tx.emit(issued).await.map(drop).map_err(|error| error.to_string())
}

/// A consumer that emits.
macro_rules! packets {
    ($txn:expr, $handler:expr) => {
        Consumer::builder("127.0.0.1:1").group("red-packet").inbox(Inbox::of($txn)).on_emitting("ORDER_PAID", $handler)
    };
}

async fn stage<D: TestDatabase>(engine: Engine) -> (Broker, Scratch, TxnProducer<D>) {
    let (broker, file) = (Broker::start().await, Scratch::with_orders(engine).await);
    let txn = producer(&broker, file.open::<D>().await, Duration::ZERO).await;
    (broker, file, txn)
}

async fn what_a_handler_emits_is_published_with_its_effect_and_once<D: TestDatabase>(engine: Engine) {
    let (broker, file, txn) = stage::<D>(engine).await;
    let consumer = packets!(&txn, async |tx: &mut Effect<D>, paid: Msg<Paid>| {
        issue(tx, &paid.body).await?;
        issue(tx, &paid.body).await
    });
    for delivered in [Delivered::Done, Delivered::Duplicate, Delivered::Duplicate] {
        assert_eq!(consumer.deliver(paid(1)).await, delivered);
        assert_eq!((broker.halves().len(), file.orders().await), (2, 2), "{delivered:?}");
    }
    for index in 0..2 {
        assert_eq!(broker.halves()[index].ends, [Verdict::Commit]);
        assert_eq!(broker.check(index).await, Verdict::Commit, "from the same marker");
    }
    assert_eq!(sample(&txn.counters(), "txn_outcome_total", Some("committed")), 2);
}

async fn a_failed_delivery_emits_nothing<D: TestDatabase>(engine: Engine) {
    let (broker, file, txn) = stage::<D>(engine).await;
    let attempts = AtomicU32::new(0);
    let consumer = packets!(&txn, async |tx: &mut Effect<D>, paid: Msg<Paid>| {
        issue(tx, &paid.body).await?;
        match attempts.fetch_add(1, Ordering::Relaxed) {
            0 => Err("no gift left".to_owned()),
            1 => panic!("a bug"),
            _ => Ok(()),
        }
    });
    for failed in 0..2 {
        assert!(matches!(consumer.deliver(paid(1)).await, Delivered::Later(_)));
        broker.until("cancelled", async |broker| broker.halves()[failed].ends == [Verdict::Rollback]).await;
        assert_eq!(broker.settle(failed).await, Verdict::Rollback, "the fence agrees");
        assert_eq!(file.orders().await, 0);
    }
    assert_eq!(consumer.deliver(paid(1)).await, Delivered::Done);
    assert_eq!((broker.published(), file.orders().await), (vec!["packet-1".to_owned()], 1));
}

async fn a_half_that_is_refused_fails_the_delivery<D: TestDatabase>(engine: Engine) {
    let (broker, file, txn) = stage::<D>(engine).await;
    let consumer = packets!(&txn, async |tx: &mut Effect<D>, paid: Msg<Paid>| issue(tx, &paid.body).await);
    broker.on_send(OnSend::Refuse(response::NO_PERMISSION));
    let Delivered::Later(why) = consumer.deliver(paid(1)).await else { panic!("it was taken") };
    assert!(why.contains("no half message"), "{why}");
    assert_eq!((broker.halves().len(), file.orders().await), (0, 0));
    broker.on_send(OnSend::Store);
    assert_eq!(consumer.deliver(paid(1)).await, Delivered::Done);
    assert_eq!((broker.published().len(), file.orders().await), (1, 1));
}

async fn a_lost_end_of_what_was_emitted_is_made_good_by_the_checkback<D: TestDatabase>(engine: Engine) {
    let (broker, file) = (Broker::start().await, Scratch::with_orders(engine).await);
    let txn = crate::producer::impatient(&broker, file.open::<D>().await, Duration::ZERO).await;
    let consumer = packets!(&txn, async |tx: &mut Effect<D>, paid: Msg<Paid>| issue(tx, &paid.body).await);
    broker.on_end(OnEnd::Lose);
    assert_eq!(consumer.deliver(paid(1)).await, Delivered::Done, "the effect is in: that is what counts");
    assert_eq!(broker.published(), Vec::<String>::new());
    assert_eq!(broker.check(0).await, Verdict::Commit);
    assert_eq!(consumer.deliver(paid(1)).await, Delivered::Duplicate);
    assert_eq!((broker.published().len(), file.orders().await), (1, 1));
}

async fn parallel_duplicates_emit_once<D: TestDatabase>(engine: Engine) {
    const ORDERS: u64 = 6;
    let (broker, file, txn) = stage::<D>(engine).await;
    let consumer = packets!(&txn, async |tx: &mut Effect<D>, paid: Msg<Paid>| issue(tx, &paid.body).await);
    let deliveries = (0..ORDERS).flat_map(|order| [order; 4]).map(|order| consumer.deliver(paid(order)));
    let delivered = futures_util::future::join_all(deliveries).await;
    let done = delivered.iter().filter(|delivered| **delivered == Delivered::Done).count() as u64;
    assert_eq!((done, file.orders().await as u64), (ORDERS, ORDERS), "{delivered:?}");
    let mut published = broker.published();
    published.sort();
    assert_eq!(published, (0..ORDERS).map(|order| format!("packet-{order}")).collect::<Vec<_>>());
}

async fn dropped_deliveries_emit_with_their_effect_or_not_at_all<D: TestDatabase>(engine: Engine) {
    let (broker, file, txn) = stage::<D>(engine).await;
    let consumer = packets!(&txn, async |tx: &mut Effect<D>, paid: Msg<Paid>| issue(tx, &paid.body).await);
    let (mut order, mut dropped) = (0, [0, 0]);
    // How many polls a delivery takes depends on who wakes whom first: go through all of them, some times over.
    for _ in 0..3 {
        for polls in 0.. {
            let before = broker.halves().len();
            let done = dropped_after(polls, async { consumer.deliver(paid(order)).await }).await;
            let again = consumer.deliver(paid(order)).await;
            order += 1;
            assert_eq!(file.orders().await, order as i64, "{polls} polls, then {again:?}");
            let mut published = 0;
            for index in before..broker.halves().len() {
                let verdict = broker.settle(index).await;
                published += u32::from(verdict == Verdict::Commit);
                let half = &broker.halves()[index];
                assert!(half.ends.iter().all(|end| *end == verdict), "{polls} polls: {half:?}, {verdict:?}");
            }
            assert_eq!(published, 1, "{polls} polls, then {again:?}");
            if done {
                break;
            }
            dropped[usize::from(again == Delivered::Duplicate)] += 1;
        }
    }
    assert!(dropped[0] > 0, "some were dropped before their commit: {dropped:?}");
}

async fn an_inbox_without_a_producer_says_so<D: TestDatabase>(engine: Engine) {
    let file = Scratch::with_orders(engine).await;
    let consumer = Consumer::builder("127.0.0.1:1")
        .group("red-packet")
        .inbox(Inbox::new(file.open::<D>().await))
        .on_emitting("ORDER_PAID", async |tx: &mut Effect<D>, paid: Msg<Paid>| issue(tx, &paid.body).await);
    consumer.prepare().await.unwrap();
    let Delivered::Later(why) = consumer.deliver(paid(1)).await else { panic!("it was taken") };
    assert!(why.contains("Inbox::of"), "{why}");
    assert_eq!(file.orders().await, 0);
}

async fn an_emitting_consumer_can_be_spawned<D: TestDatabase>(engine: Engine) {
    let (broker, _file, txn) = stage::<D>(engine).await;
    let consumer = packets!(&txn, async |tx: &mut Effect<D>, paid: Msg<Paid>| issue(tx, &paid.body).await);
    let consumer = Arc::new(consumer);
    let delivered = tokio::spawn(async move { consumer.deliver(paid(1)).await }).await.unwrap();
    assert_eq!((delivered, broker.published().len()), (Delivered::Done, 1));
}
