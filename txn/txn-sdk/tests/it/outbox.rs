//! The outbox: with no broker to be had transactions go on, and each of their messages becomes visible once when one is
//! back, also when its half had reached the broker.

use std::time::Duration;

use mq_client::{ConsumeFrom, PushConsumer};
use mq_protocol::codes::response;
use mq_testkit::cluster::{Cluster, ClusterOptions, FAST};
use parking_lot::Mutex;
use txn_sdk::{
    Consumer, Delivered, Effect, Inbox, Message, Msg, OutboxOptions, Outcome, TxnError, TxnProducer, Verdict,
};

use crate::{
    broker::{Broker, OnEnd, OnSend},
    databases::{Engine, Scratch, TestDatabase, on_all_databases},
    emitting::{Paid, issue},
    inbox::paid,
    producer::sample,
};

const INSERT_ORDER: &str = "INSERT INTO orders (note) VALUES ('paid')";
const WAITING: &str = "SELECT count(*) FROM checkback_outbox";
const DOWN: OnSend = OnSend::Refuse(response::SERVICE_NOT_AVAILABLE);
const PATIENCE: Duration = Duration::from_secs(180);

on_all_databases!(
    what_waits_is_relayed_in_order_once_a_broker_is_back,
    a_half_that_did_reach_the_broker_is_rolled_back_and_its_copy_relayed,
    work_that_fails_leaves_nothing_in_the_outbox,
    a_full_outbox_refuses_and_writes_nothing,
    what_no_broker_would_take_never_waits,
    one_transaction_tries_a_silent_broker_again,
    a_message_that_no_broker_takes_holds_up_nobody,
    several_instances_relay_each_message_once,
    a_topic_is_relayed_by_an_instance_that_names_it,
    a_lease_of_a_dead_instance_is_waited_for_unless_its_clock_was_wrong,
    a_damaged_row_is_kept_and_holds_up_nobody,
    a_lost_end_of_a_relayed_message_is_made_good_by_the_checkback,
    what_handlers_emit_waits_too,
    a_stopped_broker_costs_no_message_and_doubles_none,
);

fn message(order: usize) -> Message {
    Message::new("ORDER_PAID", format!(r#"{{"order":{order}}}"#)).key(format!("order-{order}")).tags("gift").flag(7)
}

pub(crate) async fn with_outbox<D: TestDatabase>(name_servers: &str, file: &Scratch, limit: u64) -> TxnProducer<D> {
    with_topics(name_servers, file, limit, &["ORDER_PAID"]).await
}

async fn with_topics<D: TestDatabase>(
    name_servers: &str,
    file: &Scratch,
    limit: u64,
    topics: &[&str],
) -> TxnProducer<D> {
    TxnProducer::builder(name_servers)
        .group("order-service")
        .database(file.open::<D>().await)
        .topics(topics.iter().copied())
        .deadline(Duration::ZERO)
        .send_timeout(Duration::from_secs(6))
        .outbox(OutboxOptions { limit, retry_broker_after: Duration::from_millis(200) })
        .build()
        .await
        .unwrap()
}

async fn stage<D: TestDatabase>(engine: Engine) -> (Broker, Scratch, TxnProducer<D>) {
    let (broker, file) = (Broker::start().await, Scratch::with_orders(engine).await);
    let txn = with_outbox(&broker.address(), &file, 1_000).await;
    (broker, file, txn)
}

async fn pay<D: TestDatabase>(txn: &TxnProducer<D>, order: usize) -> Option<String> {
    let sent = txn.send(message(order), async |tx| D::run(tx, INSERT_ORDER).await).await.unwrap();
    assert_eq!(sent.outcome, Outcome::Committed);
    sent.message_id
}

fn keys(orders: impl IntoIterator<Item = usize>) -> Vec<String> {
    orders.into_iter().map(|order| format!("order-{order}")).collect()
}

async fn what_waits_is_relayed_in_order_once_a_broker_is_back<D: TestDatabase>(engine: Engine) {
    let (broker, file, txn) = stage::<D>(engine).await;
    broker.on_send(DOWN);
    for order in 0..40 {
        assert_eq!(pay(&txn, order).await, None, "it waits in the outbox");
    }
    assert_eq!((file.orders().await, file.count(WAITING).await, broker.halves().len()), (40, 40, 0));
    assert_eq!(sample(&txn.counters(), "outbox_stored_total", None), 40);
    broker.until("counted", async |_| sample(&txn.counters(), "outbox_pending", None) == 40).await;

    broker.on_send(OnSend::Store);
    broker.until("relayed", async |_| file.count(WAITING).await == 0).await;
    broker.until("published", async |broker| broker.published().len() == 40).await;
    assert_eq!(broker.published(), keys(0..40), "in their order");
    let half = broker.halves().into_iter().next().unwrap();
    assert_eq!((half.property("TAGS"), half.header.flag), (Some("gift"), 7), "as it was given");
    broker.until("counted", async |_| sample(&txn.counters(), "outbox_relayed_total", None) == 40).await;

    // Back to halves.
    broker.until("direct again", async |_| pay(&txn, 99).await.is_some()).await;
}

async fn a_half_that_did_reach_the_broker_is_rolled_back_and_its_copy_relayed<D: TestDatabase>(engine: Engine) {
    for on_send in [OnSend::StoreAndSay(response::FLUSH_DISK_TIMEOUT), OnSend::StoreSilently] {
        let (broker, file, txn) = stage::<D>(engine).await;
        broker.on_send(on_send);
        assert_eq!(pay(&txn, 1).await, None);
        let reached = broker.halves().len();
        for index in 0..reached {
            assert_eq!(broker.check(index).await, Verdict::Rollback, "{on_send:?}: the relay delivers the copy");
        }
        assert!(reached > 0 && broker.published().is_empty(), "{on_send:?}");
        broker.on_send(OnSend::Store);
        broker.until("relayed", async |broker| broker.published().len() == 1).await;
        // Whatever the relay had tried before is rolled back.
        let ids: Vec<_> = broker.halves().iter().map(|half| half.property("UNIQ_KEY").map(str::to_owned)).collect();
        for index in 0..broker.halves().len() {
            let verdict = broker.settle(index).await;
            assert_eq!(verdict == Verdict::Commit, broker.halves()[index].ends == [Verdict::Commit], "{on_send:?}");
            assert_eq!(ids.iter().filter(|id| **id == ids[index]).count(), 1, "no two share a key: {ids:?}");
        }
        assert_eq!((broker.published(), file.orders().await), (keys([1]), 1), "{on_send:?}");
    }
}

async fn work_that_fails_leaves_nothing_in_the_outbox<D: TestDatabase>(engine: Engine) {
    let (broker, file, txn) = stage::<D>(engine).await;
    broker.on_send(DOWN);
    let sent = txn.send(message(1), async |_| Err::<(), _>("declined")).await.unwrap();
    assert_eq!(sent.outcome, Outcome::RolledBack("declined"));
    drop(txn.begin(message(2)).await.unwrap());
    let gone = txn.begin(message(3)).await.unwrap();
    gone.rollback().await;
    assert_eq!(pay(&txn, 4).await, None);
    assert_eq!((file.orders().await, file.count(WAITING).await), (1, 1));
    broker.on_send(OnSend::Store);
    broker.until("relayed", async |_| file.count(WAITING).await == 0).await;
    broker.until("published", async |broker| broker.published() == keys([4])).await;
}

async fn a_full_outbox_refuses_and_writes_nothing<D: TestDatabase>(engine: Engine) {
    let (broker, file) = (Broker::start().await, Scratch::with_orders(engine).await);
    let txn = with_outbox::<D>(&broker.address(), &file, 3).await;
    broker.on_send(DOWN);
    let mut taken = 0;
    let refused = loop {
        match txn.send(message(taken), async |tx| D::run(tx, INSERT_ORDER).await).await {
            Ok(_) => taken += 1,
            Err(refused) => break refused,
        }
        // What came while the relay counted is counted the next time only.
        assert!(taken < 20, "the limit is 3");
    };
    assert!(matches!(refused, TxnError::OutboxFull { limit: 3, .. }) && taken >= 3, "{taken}: {refused:?}");
    assert_eq!((file.orders().await, file.count(WAITING).await), (taken as i64, taken as i64));
    // What is wrong with the message itself is never put off.
    let illegal = txn.begin(Message::new("ORDER_PAID", "x").delay_level(3)).await.map(drop);
    assert!(matches!(illegal, Err(TxnError::HalfRefused(_) | TxnError::OutboxFull { .. })), "{illegal:?}");
    broker.on_send(OnSend::Store);
    broker.until("room again", async |_| file.count(WAITING).await == 0).await;
    broker.until("published", async |broker| broker.published() == keys(0..taken)).await;
}

async fn what_no_broker_would_take_never_waits<D: TestDatabase>(engine: Engine) {
    let (broker, file, txn) = stage::<D>(engine).await;
    broker.on_send(DOWN);
    pay(&txn, 1).await; // from now on the broker is known to be down
    let second = Duration::from_secs(1);
    for (what, message) in [
        ("a body over the limit", Message::new("ORDER_PAID", vec![b'x'; 4 * 1024 * 1024 + 1])),
        ("no body", Message::new("ORDER_PAID", "")),
        ("a delay", message(2).delay_level(3)),
        ("properties over the limit", message(2).property("long", "x".repeat(31_600))),
        ("commit order", message(2).in_commit_order("account-7")),
        ("a delay that nobody offers", message(2).delay_from_commit(second)),
        ("a limit of checks that nobody offers", message(2).max_checks(3)),
        ("somebody else's unique key", message(2).property("UNIQ_KEY", "0A")),
    ] {
        let sent = txn.send(message, async |tx| D::run(tx, INSERT_ORDER).await).await;
        let by_name = matches!(
            sent,
            Err(TxnError::HalfRefused(_)
                | TxnError::HalfUnknown(_)
                | TxnError::NotOffered { .. }
                | TxnError::Reserved { .. })
        );
        assert!(by_name, "{what}: {sent:?}");
        assert_eq!((file.orders().await, file.count(WAITING).await), (1, 1), "{what}");
    }
}

/// The others do not wait with it.
async fn one_transaction_tries_a_silent_broker_again<D: TestDatabase>(engine: Engine) {
    let (broker, file, txn) = stage::<D>(engine).await;
    broker.on_send(DOWN);
    pay(&txn, 0).await;
    broker.on_send(OnSend::StoreSilently);
    tokio::time::sleep(Duration::from_millis(250)).await; // retry_broker_after
    let paid = futures_util::future::join_all((1..=12).map(|order| pay(&txn, order))).await;
    assert_eq!((paid.iter().flatten().count(), file.orders().await), (0, 13));
    let halves = broker.halves();
    let tries = halves.iter().filter(|half| half.property("CHECKBACK_OUTBOX_TX_ID").is_none()).count();
    assert_eq!(tries, 1, "of the transactions, not of the relay");
}

async fn a_message_that_no_broker_takes_holds_up_nobody<D: TestDatabase>(engine: Engine) {
    let (broker, file, txn) = stage::<D>(engine).await;
    broker.on_send(DOWN);
    for order in 0..4 {
        pay(&txn, order).await;
    }
    broker.on_send(OnSend::RefuseKey("order-1"));
    broker.until("the others", async |broker| broker.published().len() == 3).await;
    assert_eq!(broker.published(), keys([0, 2, 3]));
    assert_eq!(file.count(WAITING).await, 1, "it is kept");
    broker.until("tried", async |_| file.count("SELECT attempts FROM checkback_outbox").await > 0).await;
    broker.on_send(OnSend::Store);
    broker.until("taken at last", async |broker| broker.published().len() == 4).await;
}

async fn several_instances_relay_each_message_once<D: TestDatabase>(engine: Engine) {
    let (broker, file, first) = stage::<D>(engine).await;
    let second = with_outbox::<D>(&broker.address(), &file, 1_000).await;
    broker.on_send(DOWN);
    for order in 0..30 {
        pay(if order % 2 == 0 { &first } else { &second }, order).await;
    }
    // One of them goes, with what it had begun; the other takes over.
    broker.on_send(OnSend::Store);
    first.shutdown().await;
    broker.until("relayed", async |_| file.count(WAITING).await == 0).await;
    broker.until("published", async |broker| broker.published().len() >= 30).await;
    for index in 0..broker.halves().len() {
        broker.settle(index).await;
    }
    let mut published = broker.published();
    published.sort();
    let mut expected = keys(0..30);
    expected.sort();
    assert_eq!(published, expected, "each of them once");
    second.shutdown().await;
}

/// A deploy that adds a topic while brokers are down: the instance from before it relays what it knows, and keeps nobody
/// from the rest.
async fn a_topic_is_relayed_by_an_instance_that_names_it<D: TestDatabase>(engine: Engine) {
    let (broker, file, before) = stage::<D>(engine).await;
    broker.on_send(DOWN);
    pay(&before, 1).await;
    broker.on_send(OnSend::RefuseKey("order-1")); // so that it always has something to relay
    broker.until("tried", async |_| file.count("SELECT attempts FROM checkback_outbox").await > 0).await;
    let after = with_topics::<D>(&broker.address(), &file, 1_000, &["ORDER_PAID", "STOCK_TAKEN"]).await;
    broker.on_send(DOWN);
    let taken = Message::new("STOCK_TAKEN", "{}").key("stock-1");
    let sent = after.send(taken, async |tx| D::run(tx, INSERT_ORDER).await).await.unwrap();
    assert_eq!((sent.outcome, sent.message_id), (Outcome::Committed, None));
    broker.on_send(OnSend::RefuseKey("order-1"));
    broker.until("relayed", async |broker| broker.published() == ["stock-1"]).await;
    assert_eq!(file.count(WAITING).await, 1);
}

async fn a_lease_of_a_dead_instance_is_waited_for_unless_its_clock_was_wrong<D: TestDatabase>(engine: Engine) {
    let now_ms = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
    for (ahead, waits) in [(Duration::from_secs(4), true), (Duration::from_secs(73 * 3600), false)] {
        let (broker, file, txn) = stage::<D>(engine).await;
        let until = now_ms() + ahead.as_millis() as i64;
        let values = match engine {
            Engine::Sqlite => format!("CAST('order-service' AS BLOB), CAST('ORDER_PAID' AS BLOB), x'00', {until}"),
            _ => format!("'order-service', 'ORDER_PAID', 'dead', {until}"),
        };
        file.run(format!("INSERT INTO checkback_lease VALUES ({values})").leak()).await;
        broker.on_send(DOWN);
        pay(&txn, 1).await;
        broker.on_send(OnSend::Store);
        broker.until("relayed", async |broker| broker.published() == keys([1])).await;
        assert_eq!(now_ms() >= until, waits, "{ahead:?}");
    }
}

async fn a_damaged_row_is_kept_and_holds_up_nobody<D: TestDatabase>(engine: Engine) {
    let (broker, file, txn) = stage::<D>(engine).await;
    broker.on_send(DOWN);
    let damage = match engine {
        Engine::Postgres => r"UPDATE checkback_outbox SET properties = '\xFF00'",
        _ => "UPDATE checkback_outbox SET properties = x'FF00'",
    };
    // In its own transaction: no relay sees it whole.
    let sent = txn.send(message(1), async |tx| D::run(tx, damage).await).await.unwrap();
    assert_eq!(sent.outcome, Outcome::Committed);
    pay(&txn, 2).await;
    broker.on_send(OnSend::Store);
    broker.until("the other", async |broker| broker.published() == keys([2])).await;
    assert_eq!(file.count(WAITING).await, 1, "it is kept");
}

async fn a_lost_end_of_a_relayed_message_is_made_good_by_the_checkback<D: TestDatabase>(engine: Engine) {
    let (broker, file, txn) = stage::<D>(engine).await;
    broker.on_send(DOWN);
    pay(&txn, 1).await;
    broker.on_end(OnEnd::Lose);
    broker.on_send(OnSend::Store);
    broker.until("relayed", async |_| file.count(WAITING).await == 0).await;
    for index in 0..broker.halves().len() {
        broker.settle(index).await;
    }
    assert_eq!(broker.published(), keys([1]));
}

async fn what_handlers_emit_waits_too<D: TestDatabase>(engine: Engine) {
    let (broker, file, txn) = stage::<D>(engine).await;
    let consumer = Consumer::builder("127.0.0.1:1")
        .group("red-packet")
        .inbox(Inbox::of(&txn))
        .on_emitting("ORDER_PAID", async |tx: &mut Effect<D>, paid: Msg<Paid>| issue(tx, &paid.body).await);
    broker.on_send(DOWN);
    assert_eq!(consumer.deliver(paid(1)).await, Delivered::Done);
    assert_eq!(consumer.deliver(paid(1)).await, Delivered::Duplicate);
    assert_eq!((file.orders().await, file.count(WAITING).await), (1, 1));
    broker.on_send(OnSend::Store);
    broker.until("published", async |broker| broker.published() == ["packet-1"]).await;
}

/// A real broker: stopped in the middle, and back.
async fn a_stopped_broker_costs_no_message_and_doubles_none<D: TestDatabase>(engine: Engine) {
    const ORDERS: usize = 24;
    let configuration = format!("{FAST}transactionCheckMax=1000\n");
    let options = ClusterOptions { configuration, ..ClusterOptions::default() };
    let mut cluster = Cluster::start(options).await.unwrap();
    let file = Scratch::with_orders(engine).await;
    let txn = TxnProducer::builder(cluster.name_servers())
        .group("order-service")
        .database(file.open::<D>().await)
        .topics(["ORDER_PAID"])
        .deadline(Duration::from_secs(10)) // a slow machine's transaction is not fenced
        .checks_every(Duration::from_secs(1))
        .send_timeout(Duration::from_millis(700))
        .outbox(OutboxOptions::default())
        .build()
        .await
        .unwrap();
    txn.producer().send(message(1_000)).await.unwrap(); // the topic is there
    for order in 0..ORDERS {
        match order {
            8 => cluster.stop_broker().await.unwrap(),
            16 => cluster.restart().await.unwrap(),
            _ => {}
        }
        // What this cluster was heard to offer may wait for it, too.
        let message = if order == 12 { message(order).max_checks(1_000) } else { message(order) };
        let sent = txn.send(message, async |tx| D::run(tx, INSERT_ORDER).await).await.unwrap();
        assert_eq!(sent.outcome, Outcome::Committed);
    }
    assert!(sample(&txn.counters(), "outbox_stored_total", None) >= 8);

    let seen: &'static Mutex<Vec<String>> = Box::leak(Box::default());
    let reader = PushConsumer::builder(cluster.name_servers())
        .group("reader")
        .consume_from(ConsumeFrom::First)
        .subscribe("ORDER_PAID", mq_client::Filter::all())
        .concurrent(move |batch: Vec<mq_client::ReceivedMessage>| async move {
            seen.lock().extend(batch.iter().flat_map(|message| message.keys().map(str::to_owned).collect::<Vec<_>>()));
            mq_client::Action::Ack
        })
        .start()
        .await
        .unwrap();
    let all_there = async {
        while seen.lock().len() <= ORDERS || file.count(WAITING).await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, all_there).await;
    let waiting = file.count(WAITING).await;
    assert!(in_time.is_ok(), "{:?}, and {waiting} wait", seen.lock());
    // Whatever is still pending is rolled back: nothing comes after it.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let mut seen: Vec<_> = seen.lock().clone();
    seen.sort();
    let mut expected = keys((0..ORDERS).chain([1_000]));
    expected.sort();
    assert_eq!((seen, file.orders().await), (expected, ORDERS as i64));
    reader.shut_down().await;
    txn.shutdown().await;
    cluster.stop().await.unwrap();
}
