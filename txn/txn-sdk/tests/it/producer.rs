//! The transactional producer against a broker that misbehaves: rows and message always agree in the end.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use mq_protocol::codes::response;
use txn_sdk::{BuildError, Message, Outcome, TRANSACTION_ID_PROPERTY, TransactionId, TxnError, TxnProducer, Verdict};

use crate::{
    broker::{Broker, OnEnd, OnSend},
    databases::{Engine, PoolShape, Scratch, TestDatabase, on_all_databases},
};

const INSERT_ORDER: &str = "INSERT INTO orders (note) VALUES ('paid')";

on_all_databases!(
    commit_publishes,
    error_rolls_back_and_cancels,
    a_half_that_is_not_safe_runs_no_business,
    properties_that_name_a_transaction_are_the_sdks_own,
    a_lost_end_is_made_good_by_the_checkback,
    a_commit_that_comes_too_late_is_counted_apart,
    an_unknown_commit_is_in_doubt_until_the_checkback,
    a_refused_commit_is_an_error_without_rows,
    a_connection_that_dies_in_the_commit_leaves_it_in_doubt,
    a_swallowed_error_never_publishes_without_rows,
    a_transaction_that_begins_too_late_is_fenced,
    dropped_calls_end_one_way_or_the_other,
    dropped_guard_is_rolled_back_and_cancelled,
    a_dropped_commit_is_published_without_any_checkback,
    a_fresh_instance_answers_for_the_one_before,
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

const LONG: Duration = Duration::from_secs(60);

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
async fn a_commit_that_comes_too_late_is_counted_apart<D: TestDatabase>(engine: Engine) {
    let (broker, file) = (Broker::start().await, Scratch::with_orders(engine).await);
    let txn = producer(&broker, file.open::<D>().await, LONG).await;
    let counted = || ["txn_end_refused_total", "txn_end_lost_total"].map(|name| sample(&txn.counters(), name, None));
    broker.on_end(OnEnd::Refuse(response::ILLEGAL_OPERATION));
    let sent = txn.send(message(), async |tx| D::run(tx, INSERT_ORDER).await).await.unwrap();
    assert_eq!((sent.outcome, file.orders().await, counted()), (Outcome::Committed, 1, [1, 0]));
    // A rollback loses nothing by it, and what may be tried again is lost only.
    let sent = txn.send(message(), async |_| Err::<(), _>("declined")).await.unwrap();
    assert_eq!((sent.outcome, counted()), (Outcome::RolledBack("declined"), [1, 1]));
    broker.on_end(OnEnd::Refuse(response::SYSTEM_BUSY));
    let sent = txn.send(message(), async |tx| D::run(tx, INSERT_ORDER).await).await.unwrap();
    assert_eq!((sent.outcome, counted()), (Outcome::Committed, [1, 2]));
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

/// The commit fails for real: the transaction was ended behind the SDK's back, once each way. Neither the driver nor the
/// SDK can know which way it went, and the pool's only connection must be usable afterwards.
async fn an_unknown_commit_is_in_doubt_until_the_checkback<D: TestDatabase>(engine: Engine) {
    for (behind_our_back, orders, verdict) in [("COMMIT", 1, Verdict::Commit), ("ROLLBACK", 0, Verdict::Rollback)] {
        let (broker, file) = (Broker::start().await, Scratch::with_orders(engine).await);
        let database = file.open_as(PoolShape { connections: 1, on_connect: None }).await;
        let txn = producer::<D>(&broker, database, Duration::ZERO).await;
        let mut transaction = txn.begin(message()).await.unwrap();
        D::run(transaction.handle(), INSERT_ORDER).await.unwrap();
        D::run(transaction.handle(), behind_our_back).await.unwrap();
        let sent = transaction.commit().await.unwrap();
        assert_eq!(sent.outcome, Outcome::InDoubt, "{behind_our_back}");
        assert_eq!(broker.last().ends, [], "{behind_our_back}: never a verdict that is not known");
        assert_eq!(sample(&txn.counters(), "txn_in_doubt", None), 1);

        assert_eq!(broker.settle(0).await, verdict, "{behind_our_back}");
        assert_eq!(file.orders().await, orders, "{behind_our_back}");
        assert_eq!(sample(&txn.counters(), "txn_in_doubt", None), 0);

        // The driver still believes the connection inside a transaction: what follows must not become a part of that.
        let sent = txn.send(message(), async |_| Err::<(), _>("declined")).await.unwrap();
        assert_eq!(sent.outcome, Outcome::RolledBack("declined"));
        for round in 1..4 {
            let sent = txn.send(message(), async |tx| D::run(tx, INSERT_ORDER).await).await.unwrap();
            assert_eq!(sent.outcome, Outcome::Committed, "round {round} on the same pool");
            assert_eq!(file.orders().await, orders + round);
        }
    }
}

async fn a_refused_commit_is_an_error_without_rows<D: TestDatabase>(engine: Engine) {
    let (broker, file) = (Broker::start().await, Scratch::with_orders(engine).await);
    match engine {
        Engine::MariaDb | Engine::MySql => return, // has no constraint that waits for the commit
        Engine::Sqlite | Engine::Postgres => {
            file.run("CREATE TABLE items (order_id BIGINT REFERENCES orders DEFERRABLE INITIALLY DEFERRED)").await;
        }
    }
    let txn = producer(&broker, file.open::<D>().await, Duration::ZERO).await;
    let mut transaction = txn.begin(message()).await.unwrap();
    D::run(transaction.handle(), INSERT_ORDER).await.unwrap();
    D::run(transaction.handle(), "INSERT INTO items (order_id) VALUES (4711)").await.unwrap();
    let sent = transaction.commit().await;
    assert!(matches!(sent, Err(TxnError::CommitRefused(_))), "{sent:?}");
    assert_eq!(broker.last().ends, [Verdict::Rollback]);
    assert_eq!(file.orders().await, 0);
    assert_eq!(broker.check(0).await, Verdict::Rollback);
}

/// What a server says to a COMMIT, by a trigger that waits for it: only an error of the transaction is a refusal.
async fn a_connection_that_dies_in_the_commit_leaves_it_in_doubt<D: TestDatabase>(engine: Engine) {
    if engine != Engine::Postgres {
        return; // nothing of the others' runs inside a COMMIT
    }
    let (broker, file) = (Broker::start().await, Scratch::with_orders(engine).await);
    for statement in [
        "CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF NEW.note = 'dies' THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
             IF NEW.note = 'refuses' THEN RAISE EXCEPTION 'no'; END IF;
             RETURN NULL;
         END $$",
        "CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW EXECUTE FUNCTION at_commit()",
    ] {
        file.run(statement).await;
    }
    let txn = producer(&broker, file.open::<D>().await, Duration::ZERO).await;
    let insert = async |statement| txn.send(message(), async |tx| D::run(tx, statement).await).await;

    let sent = insert("INSERT INTO orders (note) VALUES ('dies')").await.unwrap();
    assert_eq!(sent.outcome, Outcome::InDoubt);
    assert_eq!(broker.last().ends, []);
    assert_eq!(broker.settle(0).await, Verdict::Rollback);

    let sent = insert("INSERT INTO orders (note) VALUES ('refuses')").await;
    assert!(matches!(sent, Err(TxnError::CommitRefused(_))), "{sent:?}");
    assert_eq!(broker.last().ends, [Verdict::Rollback]);

    let sent = insert(INSERT_ORDER).await.unwrap();
    assert_eq!((sent.outcome, file.orders().await), (Outcome::Committed, 1));
}

/// Work that goes on after a failed statement. PostgreSQL has given its transaction up then, and rolls it back at the
/// COMMIT without calling that an error; the others have lost the statement only.
async fn a_swallowed_error_never_publishes_without_rows<D: TestDatabase>(engine: Engine) {
    let (broker, file) = (Broker::start().await, Scratch::with_orders(engine).await);
    let txn = producer(&broker, file.open::<D>().await, Duration::ZERO).await;
    let mut transaction = txn.begin(message()).await.unwrap();
    D::run(transaction.handle(), INSERT_ORDER).await.unwrap();
    D::run(transaction.handle(), "INSERT INTO no_such_table VALUES (1)").await.unwrap_err();
    let sent = transaction.commit().await;
    if engine == Engine::Postgres {
        assert!(matches!(sent, Err(TxnError::CommitRefused(_))), "{sent:?}");
        assert_eq!((broker.last().ends.as_slice(), file.orders().await), ([Verdict::Rollback].as_slice(), 0));
    } else {
        assert_eq!(sent.unwrap().outcome, Outcome::Committed);
        assert_eq!((broker.last().ends.as_slice(), file.orders().await), ([Verdict::Commit].as_slice(), 1));
    }
    assert_eq!(vec![broker.check(0).await], broker.last().ends);
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

/// Polls a call `polls` times, then drops it. True: it finished before.
pub(crate) async fn dropped_after<F: Future>(polls: usize, call: F) -> bool {
    let mut call = pin!(call);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        call.as_mut().poll(context).map(|_| true)
    })
    .await
}

async fn dropped_calls_end_one_way_or_the_other<D: TestDatabase>(engine: Engine) {
    let (broker, file) = (Broker::start().await, Scratch::with_orders(engine).await);
    let txn = producer(&broker, file.open::<D>().await, Duration::ZERO).await;
    let mut committed = 0;
    let (mut cancelled_drops, mut committed_drops) = (0, 0);
    for round in 0..30 {
        // How many polls a call takes depends on who wakes whom first: go through all of them, until it finishes.
        for polls in 0.. {
            let before = broker.halves().len();
            let done = dropped_after(polls, txn.send(message(), async |tx| D::run(tx, INSERT_ORDER).await)).await;
            tokio::time::sleep(Duration::from_millis(2)).await; // let a half that is on its way arrive
            for index in before..broker.halves().len() {
                let verdict = broker.settle(index).await;
                committed += i64::from(verdict == Verdict::Commit);
                let half = &broker.halves()[index];
                assert_eq!(file.orders().await, committed, "{polls} polls: {verdict:?}");
                assert!(
                    half.ends.iter().all(|end| *end == verdict),
                    "{polls} polls: {half:?}, the check says {verdict:?}"
                );
                match verdict {
                    _ if done => {}
                    Verdict::Commit => committed_drops += 1,
                    _ => cancelled_drops += 1,
                }
            }
            if done {
                break;
            }
        }
        if round >= 2 && cancelled_drops > 0 && committed_drops > 0 {
            return;
        }
    }
    panic!("one side of the commit was never hit: {cancelled_drops} cancelled, {committed_drops} committed");
}

async fn dropped_guard_is_rolled_back_and_cancelled<D: TestDatabase>(engine: Engine) {
    let (broker, file) = (Broker::start().await, Scratch::with_orders(engine).await);
    let txn = producer(&broker, file.open::<D>().await, LONG).await;
    let mut transaction = txn.begin(message()).await.unwrap();
    D::run(transaction.handle(), INSERT_ORDER).await.unwrap();
    drop(transaction);
    txn.begin(message()).await.unwrap().rollback().await;
    txn.shutdown().await;
    for half in broker.halves() {
        assert_eq!(half.ends, [Verdict::Rollback]);
    }
    assert_eq!((broker.halves().len(), file.orders().await), (2, 0));
    assert_eq!(sample(&txn.counters(), "txn_outcome_total", Some("rolled_back")), 2);
}

async fn a_dropped_commit_is_published_without_any_checkback<D: TestDatabase>(engine: Engine) {
    let (broker, file) = (Broker::start().await, Scratch::with_orders(engine).await);
    let txn = producer(&broker, file.open::<D>().await, LONG).await;
    let mut transaction = txn.begin(message()).await.unwrap();
    D::run(transaction.handle(), INSERT_ORDER).await.unwrap();
    assert!(!dropped_after(1, transaction.commit()).await, "the client hung up as soon as the commit had begun");
    txn.shutdown().await;
    assert_eq!(broker.last().ends, [Verdict::Commit]);
    assert_eq!(file.orders().await, 1);
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
