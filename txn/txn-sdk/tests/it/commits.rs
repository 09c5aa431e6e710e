//! What a database answers to a commit, and what becomes of the message.

use std::time::Duration;

use txn_sdk::{Outcome, TxnError, Verdict};

use crate::{
    broker::Broker,
    databases::{Engine, PoolShape, Scratch, TestDatabase, on_all_databases},
    producer::{INSERT_ORDER, message, producer, sample},
};

on_all_databases!(
    an_unknown_commit_is_in_doubt_until_the_checkback,
    a_refused_commit_is_an_error_without_rows,
    a_connection_that_dies_in_the_commit_leaves_it_in_doubt,
    a_swallowed_error_never_publishes_without_rows,
);

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
