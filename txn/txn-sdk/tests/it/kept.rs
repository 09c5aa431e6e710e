//! Connections that are kept from one transaction to the next.

use std::time::Duration;

use txn_sdk::Outcome;

use crate::{
    broker::Broker,
    databases::{Engine, PoolShape, Scratch},
    producer::{message, producer},
};

/// Nobody looks whether they still live.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_died_between_two_transactions_is_replaced() {
    let (broker, file) = (Broker::start().await, Scratch::with_orders(Engine::Postgres).await);
    let txn = producer(&broker, file.open::<sqlx::PgPool>().await, Duration::ZERO).await;
    for round in 0..3 {
        let mut process = 0_i32;
        let work = async |tx: &mut sqlx::PgConnection| {
            process = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *tx).await?;
            sqlx::raw_sql("INSERT INTO orders (note) VALUES ('paid')").execute(tx).await.map(drop)
        };
        let sent = txn.send(message(), work).await.unwrap();
        assert!(matches!(sent.outcome, Outcome::Committed), "{:?}", sent.outcome);
        assert_eq!(file.orders().await, round + 1);
        file.run(format!("SELECT pg_terminate_backend({process})").leak()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_on_postgres_begins_durable_whatever_its_session_was_set_to_before() {
    for (session, commit) in [
        ("SET synchronous_commit = off", "on"),
        ("SET synchronous_commit = local", "on"),
        ("SET synchronous_commit = remote_apply", "remote_apply"),
    ] {
        let (broker, file) = (Broker::start().await, Scratch::with_orders(Engine::Postgres).await);
        let pool = file.open_as::<sqlx::PgPool>(PoolShape { connections: 1, on_connect: Some(session) }).await;
        let txn = producer(&broker, pool, Duration::ZERO).await;
        for _ in 0..3 {
            let work = async |tx: &mut sqlx::PgConnection| {
                let noted = "INSERT INTO orders (note) VALUES (current_setting('synchronous_commit'))";
                sqlx::raw_sql(noted).execute(&mut *tx).await?;
                // For whoever comes next.
                sqlx::raw_sql(session).execute(tx).await.map(drop)
            };
            let sent = txn.send(message(), work).await.unwrap();
            assert!(matches!(sent.outcome, Outcome::Committed), "{:?}", sent.outcome);
        }
        let noted = file.rows("SELECT DISTINCT note FROM orders").await;
        let noted: Vec<String> = noted.iter().map(|row| row.try_get_by_index(0).unwrap()).collect();
        assert_eq!(noted, [commit], "{session}");
    }
}
