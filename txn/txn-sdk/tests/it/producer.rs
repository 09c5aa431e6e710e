//! The transactional producer against a broker that misbehaves: rows and message always agree in the end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use mq_protocol::codes::response;
use txn_sdk::{BuildError, Message, Outcome, TRANSACTION_ID_PROPERTY, TransactionId, TxnError, TxnProducer, Verdict};

use crate::{
    broker::{Broker, OnEnd, OnSend},
    databases::{Engine, Scratch, TestDatabase, on_all_databases},
};

const DATABASE_PROPERTY: &str = mq_client::property::SDK_DATABASE;
pub(crate) const INSERT_ORDER: &str = "INSERT INTO orders (note) VALUES ('paid')";

on_all_databases!(
    commit_publishes,
    error_rolls_back_and_cancels,
    a_half_that_is_not_safe_runs_no_business,
    properties_that_name_a_transaction_are_the_sdks_own,
    a_lost_end_is_made_good_by_the_checkback,
    a_verdict_that_comes_too_late_is_counted_apart,
    a_transaction_that_begins_too_late_is_fenced,
    a_fresh_instance_answers_for_the_one_before,
    an_instance_on_another_database_does_not_answer_for_this_one,
    a_forwarded_message_names_the_database_of_its_own_transaction,
    a_marker_that_cannot_be_written_cancels_the_half,
    shutdown_waits_for_open_transactions,
    many_at_once_all_publish,
);

pub(crate) fn message() -> Message {
    Message::new("ORDER_PAID", r#"{"order":1}"#).key("order-1")
}

pub(crate) async fn producer<D: TestDatabase>(broker: &Broker, database: D, deadline: Duration) -> TxnProducer<D> {
    producer_within(LONG, broker, database, deadline).await
}

/// Where the broker keeps silent.
pub(crate) async fn impatient<D: TestDatabase>(broker: &Broker, database: D, deadline: Duration) -> TxnProducer<D> {
    producer_within(Duration::from_secs(6), broker, database, deadline).await
}

async fn producer_within<D: TestDatabase>(
    send_timeout: Duration,
    broker: &Broker,
    database: D,
    deadline: Duration,
) -> TxnProducer<D> {
    TxnProducer::builder(broker.address())
        .group("order-service")
        .database(database)
        .topics(["ORDER_PAID"])
        .deadline(deadline)
        .send_timeout(send_timeout)
        .build()
        .await
        .unwrap()
}

pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) fn sample(samples: &[txn_sdk::Sample], name: &str, label: Option<&str>) -> u64 {
    let found = samples.iter().find(|s| s.name == name && s.label.map(|(_, value)| value) == label);
    found.unwrap_or_else(|| panic!("no sample {name} {label:?}")).value
}

async fn commit_publishes<D: TestDatabase>(engine: Engine) {
    let (broker, file) = (Broker::start().await, Scratch::with_orders(engine).await);
    let txn = producer(&broker, file.open::<D>().await, LONG).await;
    let sent = txn.send(message(), async |tx| D::run(tx, INSERT_ORDER).await).await.unwrap();
    assert_eq!(sent.outcome, Outcome::Committed);
    let half = broker.last();
    assert_eq!(half.ends, [Verdict::Commit]);
    assert_eq!(half.property(TRANSACTION_ID_PROPERTY), Some(&*sent.transaction_id.to_string()));
    assert_eq!(half.property("UNIQ_KEY"), sent.message_id.as_deref());
    assert_eq!(file.orders().await, 1);
    assert_eq!(broker.check(0).await, Verdict::Commit);
    let counters = txn.counters();
    assert_eq!(sample(&counters, "txn_outcome_total", Some("committed")), 1);
    assert_eq!(sample(&counters, "txn_check_total", Some("commit")), 1);
}

async fn error_rolls_back_and_cancels<D: TestDatabase>(engine: Engine) {
    let (broker, file) = (Broker::start().await, Scratch::with_orders(engine).await);
    let txn = producer(&broker, file.open::<D>().await, Duration::ZERO).await;
    let work = async |tx: D::Handle<'_>| {
        D::run(tx, INSERT_ORDER).await?;
        Err("the coupon is gone".to_owned())
    };
    let sent = txn.send(message(), work).await.unwrap();
    assert_eq!(sent.outcome, Outcome::RolledBack("the coupon is gone".to_owned()));
    assert_eq!(broker.last().ends, [Verdict::Rollback]);
    assert_eq!(file.orders().await, 0);
    assert_eq!(broker.check(0).await, Verdict::Rollback);
}

/// With the unique key of another message it would be the transaction of that one to the broker, and share its verdict.
async fn properties_that_name_a_transaction_are_the_sdks_own<D: TestDatabase>(engine: Engine) {
    let (broker, file) = (Broker::start().await, Scratch::with_orders(engine).await);
    let txn = producer(&broker, file.open::<D>().await, LONG).await;
    for name in ["UNIQ_KEY", "CHECKBACK_SHARED_ID", "CHECKBACK_PART", "PGROUP", "TRAN_MSG"] {
        let forwarded = || message().property(name, "1/2");
        let one = txn.send(forwarded(), async |tx| D::run(tx, INSERT_ORDER).await).await.map(drop);
        let all = txn.begin_all(vec![message(), forwarded()]).await.map(drop);
        for refused in [one, all] {
            assert!(
                matches!(&refused, Err(TxnError::Reserved { property }) if *property == name),
                "{name}: {refused:?}"
            );
        }
    }
    assert_eq!((broker.halves().len(), file.orders().await), (0, 0));
    assert_eq!(sample(&txn.counters(), "txn_outcome_total", Some("refused")), 10);
}

async fn a_half_that_is_not_safe_runs_no_business<D: TestDatabase>(engine: Engine) {
    let file = Scratch::with_orders(engine).await;
    for (on_send, stored) in [
        (OnSend::Refuse(response::SERVICE_NOT_AVAILABLE), false),
        (OnSend::Refuse(response::NO_PERMISSION), false),
        (OnSend::StoreSilently, true),
        (OnSend::StoreAndSay(response::FLUSH_DISK_TIMEOUT), true),
        (OnSend::StoreAndSay(response::SLAVE_NOT_AVAILABLE), true),
        (OnSend::StoreAndSay(response::FLUSH_SLAVE_TIMEOUT), true),
    ] {
        let broker = Broker::start().await;
        broker.on_send(on_send);
        let txn = impatient(&broker, file.open::<D>().await, Duration::ZERO).await;
        let ran = AtomicUsize::new(0);
        let sent = txn
            .send(message(), async |tx| {
                ran.fetch_add(1, Ordering::Relaxed);
                D::run(tx, INSERT_ORDER).await
            })
            .await;
        match sent {
            Err(TxnError::HalfUnknown(_)) if stored => {}
            Err(TxnError::HalfRefused(_)) if !stored => {}
            other => panic!("{on_send:?}: {other:?}"),
        }
        assert_eq!(ran.into_inner(), 0, "{on_send:?}");
        for (index, half) in broker.halves().iter().enumerate() {
            assert_eq!(half.ends, [], "{on_send:?}: nobody may tell a verdict on a half in doubt");
            assert_eq!(broker.check(index).await, Verdict::Rollback, "{on_send:?}: the fence settles it");
        }
        assert_eq!(!broker.halves().is_empty(), stored, "{on_send:?}");
    }
    assert_eq!(file.orders().await, 0);
}

/// The half was parked meanwhile: no checkback will come, so this is no lost end.
async fn a_verdict_that_comes_too_late_is_counted_apart<D: TestDatabase>(engine: Engine) {
    let (broker, file) = (Broker::start().await, Scratch::with_orders(engine).await);
    let txn = producer(&broker, file.open::<D>().await, LONG).await;
    let counted = || ["txn_end_refused_total", "txn_end_lost_total"].map(|name| sample(&txn.counters(), name, None));
    broker.on_end(OnEnd::Refuse(response::ILLEGAL_OPERATION));
    let sent = txn.send(message(), async |tx| D::run(tx, INSERT_ORDER).await).await.unwrap();
    assert_eq!((sent.outcome, file.orders().await, counted()), (Outcome::Committed, 1, [1, 0]));
    // Nor is a rollback's: the half may have been committed by an operator.
    let sent = txn.send(message(), async |_| Err::<(), _>("declined")).await.unwrap();
    assert_eq!((sent.outcome, counted()), (Outcome::RolledBack("declined"), [2, 0]));
    broker.on_end(OnEnd::Refuse(response::SYSTEM_BUSY));
    let sent = txn.send(message(), async |tx| D::run(tx, INSERT_ORDER).await).await.unwrap();
    assert_eq!((sent.outcome, counted()), (Outcome::Committed, [2, 1]));
}

async fn a_lost_end_is_made_good_by_the_checkback<D: TestDatabase>(engine: Engine) {
    let (broker, file) = (Broker::start().await, Scratch::with_orders(engine).await);
    let txn = impatient(&broker, file.open::<D>().await, Duration::ZERO).await;
    broker.on_end(OnEnd::Lose);
    let sent = txn.send(message(), async |tx| D::run(tx, INSERT_ORDER).await).await.unwrap();
    assert_eq!(sent.outcome, Outcome::Committed, "the rows are in: that is what counts");
    assert_eq!(broker.last().ends, []);
    assert_eq!(broker.check(0).await, Verdict::Commit);
    let sent = txn.send(message(), async |_| Err::<(), _>("no")).await.unwrap();
    assert_eq!(sent.outcome, Outcome::RolledBack("no"));
    assert_eq!(broker.check(1).await, Verdict::Rollback);
    assert_eq!(sample(&txn.counters(), "txn_end_lost_total", None), 2);
}

async fn a_transaction_that_begins_too_late_is_fenced<D: TestDatabase>(engine: Engine) {
    let (broker, file) = (Broker::start().await, Scratch::with_orders(engine).await);
    let txn = producer(&broker, file.open::<D>().await, Duration::ZERO).await;
    broker.on_send(OnSend::CheckFirst);
    let sent = txn.send(message(), async |tx| D::run(tx, INSERT_ORDER).await).await;
    assert!(matches!(sent, Err(TxnError::Fenced)), "{sent:?}");
    assert_eq!(broker.last().answers, [Verdict::Rollback]);
    assert_eq!(broker.last().ends, []);
    assert_eq!(file.orders().await, 0);
}

async fn a_fresh_instance_answers_for_the_one_before<D: TestDatabase>(engine: Engine) {
    let (broker, file) = (Broker::start().await, Scratch::with_orders(engine).await);
    {
        let first = impatient(&broker, file.open::<D>().await, LONG).await;
        broker.on_end(OnEnd::Lose);
        let sent = first.send(message(), async |tx| D::run(tx, INSERT_ORDER).await).await.unwrap();
        assert_eq!(sent.outcome, Outcome::Committed);
        drop(first.begin(message()).await.unwrap()); // dies with the transaction open, and its cancellation is lost
        first.shutdown().await;
    }
    let _fresh = producer(&broker, file.open::<D>().await, Duration::ZERO).await;
    assert_eq!(broker.check(0).await, Verdict::Commit);
    assert_eq!(broker.check(1).await, Verdict::Rollback);
    // A message of the group that no transaction of ours sent: nothing is known of it.
    let foreign = broker.add_half(broker.last().without(TRANSACTION_ID_PROPERTY));
    assert_eq!(broker.check(foreign).await, Verdict::Unknown);
}

async fn an_instance_on_another_database_does_not_answer_for_this_one<D: TestDatabase>(engine: Engine) {
    let (broker, file) = (Broker::start().await, Scratch::with_orders(engine).await);
    let first = impatient(&broker, file.open::<D>().await, LONG).await;
    broker.on_end(OnEnd::Lose);
    let sent = first.send(message(), async |tx| D::run(tx, INSERT_ORDER).await).await.unwrap();
    assert_eq!(sent.outcome, Outcome::Committed);
    first.shutdown().await;
    let another = Scratch::with_orders(engine).await;
    let wrong = producer(&broker, another.open::<D>().await, Duration::ZERO).await;
    assert_eq!(broker.check(0).await, Verdict::Unknown, "that it has no row says nothing");
    // As the halves of earlier versions: then the group's databases are taken for one.
    let unnamed = broker.add_half(broker.last().without(DATABASE_PROPERTY));
    assert_eq!(broker.check(unnamed).await, Verdict::Rollback);
    assert_eq!(broker.check(0).await, Verdict::Unknown, "a tombstone here fences nothing off there");
    wrong.shutdown().await;
    file.run("DELETE FROM checkback_database").await;
    let _renamed = producer(&broker, file.open::<D>().await, Duration::ZERO).await;
    assert_eq!(broker.check(0).await, Verdict::Commit, "the row is here, whatever the database is called");
}

/// A message that carries all properties of another one.
async fn a_forwarded_message_names_the_database_of_its_own_transaction<D: TestDatabase>(engine: Engine) {
    let (broker, file) = (Broker::start().await, Scratch::with_orders(engine).await);
    let txn = producer(&broker, file.open::<D>().await, Duration::ZERO).await;
    let forwarded = message().property(DATABASE_PROPERTY, "another one's");
    let sent = txn.send(forwarded.clone(), async |_| Err::<(), _>("declined")).await.unwrap();
    assert_eq!(sent.outcome, Outcome::RolledBack("declined"));
    assert_eq!(broker.check(0).await, Verdict::Rollback);
    let own = TxnProducer::builder(broker.address()).group("flash-sale").topics(["ORDER_PAID"]);
    let own = own.verdicts(async |_| Verdict::Unknown).build().await.unwrap();
    drop(own.begin(forwarded).await.unwrap());
    own.shutdown().await;
    assert_eq!(broker.last().property(DATABASE_PROPERTY), None, "it is in no database");
}

async fn a_marker_that_cannot_be_written_cancels_the_half<D: TestDatabase>(engine: Engine) {
    let (broker, file) = (Broker::start().await, Scratch::with_orders(engine).await);
    let txn = producer(&broker, file.open::<D>().await, LONG).await;
    file.run("DROP TABLE checkback_marker").await;
    let sent = txn.send(message(), async |tx| D::run(tx, INSERT_ORDER).await).await;
    assert!(matches!(sent, Err(TxnError::Database(_))), "{sent:?}");
    txn.shutdown().await;
    assert_eq!(broker.last().ends, [Verdict::Rollback]);
    assert_eq!(file.orders().await, 0);
}

async fn shutdown_waits_for_open_transactions<D: TestDatabase>(engine: Engine) {
    let (broker, file) = (Broker::start().await, Scratch::with_orders(engine).await);
    let txn = producer(&broker, file.open::<D>().await, LONG).await;
    let mut open = txn.begin(message()).await.unwrap();
    let ending = {
        let txn = txn.clone();
        tokio::spawn(async move { txn.shutdown().await })
    };
    let probe = || txn.begin(Message::new("NOT_NAMED", "x"));
    while !matches!(probe().await, Err(TxnError::ShuttingDown)) {
        tokio::task::yield_now().await;
    }
    assert!(!ending.is_finished());
    D::run(open.handle(), INSERT_ORDER).await.unwrap();
    assert_eq!(open.commit().await.unwrap().outcome, Outcome::Committed);
    ending.await.unwrap();
    assert_eq!(broker.halves()[0].ends, [Verdict::Commit]);
}

#[tokio::test]
async fn builder_refuses_what_could_not_be_answered_for() {
    let (broker, file) = (Broker::start().await, Scratch::with_orders(Engine::Sqlite).await);
    let pool = file.open::<sqlx::SqlitePool>().await;
    let builder = || TxnProducer::builder(broker.address()).database(pool.clone());
    let nameless = [builder(), builder().group("g"), builder().topics(["T"])];
    for builder in nameless {
        let built = builder.build().await.map(drop);
        assert!(matches!(built, Err(BuildError::Nameless)), "{built:?}");
    }
    let named = || builder().group("g").topics(["T"]);
    for (deadline, every, fits) in [(420, 30, false), (419, 30, true), (14, 1, false), (13, 1, true)] {
        let built = named().deadline(Duration::from_secs(deadline)).checks_every(Duration::from_secs(every));
        let built = built.build().await.map(drop);
        assert_eq!(built.is_ok(), fits, "deadline {deadline} s, a check every {every} s: {built:?}");
    }
    let txn = named().build().await.unwrap();
    let sent = txn.begin(message()).await.map(drop);
    assert!(matches!(&sent, Err(TxnError::UnknownTopic(topic)) if topic == "ORDER_PAID"), "{sent:?}");
    let sent = txn.begin(Message::new("T", "x").delay_level(3)).await.map(drop);
    assert!(matches!(&sent, Err(TxnError::HalfRefused(_))), "{sent:?}");
    assert_eq!(broker.halves().len(), 0);
}

/// The service's own truth, here a list of what was reserved and what was fenced off.
#[tokio::test]
async fn own_verdicts_answer_the_checkbacks() {
    let broker = Broker::start().await;
    let reserved: Arc<parking_lot::Mutex<Vec<TransactionId>>> = Arc::default();
    let known = reserved.clone();
    let txn = TxnProducer::builder(broker.address())
        .group("flash-sale")
        .topics(["ORDER_PAID"])
        .verdicts(move |asked| {
            let known = known.clone();
            async move {
                assert_eq!(asked.message.keys().next(), Some("order-1"));
                if known.lock().contains(&asked.transaction_id) { Verdict::Commit } else { Verdict::Unknown }
            }
        })
        .build()
        .await
        .unwrap();
    let bought = txn.begin(message()).await.unwrap();
    assert_eq!(broker.check(0).await, Verdict::Unknown);
    reserved.lock().push(bought.id());
    assert_eq!(broker.check(0).await, Verdict::Commit);
    assert_eq!(bought.commit().await.outcome, Outcome::Committed);
    let sold_out = txn.begin(message()).await.unwrap();
    assert_eq!(sold_out.rollback("sold out").await.outcome, Outcome::RolledBack("sold out"));
    let timed_out = txn.begin(message()).await.unwrap();
    assert_eq!(timed_out.leave().outcome, Outcome::InDoubt);
    drop(txn.begin(message()).await.unwrap());
    txn.shutdown().await;
    let ends: Vec<_> = broker.halves().into_iter().map(|half| half.ends).collect();
    assert_eq!(ends, [vec![Verdict::Commit], vec![Verdict::Rollback], vec![], vec![]]);
}

/// On SQLite transactions take turns: one that waits for itself must not wait for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_within_anothers_work_gets_the_databases_error() {
    let (broker, file) = (Broker::start().await, Scratch::with_orders(Engine::Sqlite).await);
    let pool = file.open::<sqlx::SqlitePool>().await;
    let impatient = (*pool.connect_options()).clone().busy_timeout(Duration::from_millis(100));
    let pool = sqlx::sqlite::SqlitePoolOptions::new().connect_with(impatient).await.unwrap();
    let txn = producer(&broker, pool, Duration::ZERO).await;
    let mut outer = txn.begin(message()).await.unwrap();
    let inner = tokio::time::timeout(LONG, txn.begin(message())).await.expect("it ends");
    assert!(matches!(inner, Err(TxnError::Database(_))), "both cannot write");
    sqlx::raw_sql(INSERT_ORDER).execute(outer.handle()).await.unwrap();
    assert_eq!(outer.commit().await.unwrap().outcome, Outcome::Committed);
    let sent = txn.send(message(), async |tx| sqlx::raw_sql(INSERT_ORDER).execute(tx).await.map(drop)).await.unwrap();
    assert!(matches!(sent.outcome, Outcome::Committed), "{:?}", sent.outcome);
    assert_eq!(file.orders().await, 2);
}

/// Half messages and ends of many transactions wait for each other a moment, and none for ever.
async fn many_at_once_all_publish<D: TestDatabase>(engine: Engine) {
    const TRANSACTIONS: usize = 120;
    let (broker, file) = (Broker::start().await, Scratch::with_orders(engine).await);
    let txn = producer(&broker, file.open::<D>().await, Duration::ZERO).await;
    let calls: Vec<_> = (0..TRANSACTIONS)
        .map(|_| {
            let txn = txn.clone();
            tokio::spawn(async move { txn.send(message(), async |tx| D::run(tx, INSERT_ORDER).await).await })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().outcome, Outcome::Committed);
    }
    let halves = broker.halves();
    assert!(halves.iter().all(|half| half.ends == [Verdict::Commit]), "each is ended once");
    assert_eq!((halves.len(), file.orders().await), (TRANSACTIONS, TRANSACTIONS as i64));
}
