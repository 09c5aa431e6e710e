//! Calls and transactions that are dropped half-way: rows and message agree all the same.

use std::{future::Future, pin::pin, task::Poll, time::Duration};

use txn_sdk::Verdict;

use crate::{
    broker::Broker,
    databases::{Engine, Scratch, TestDatabase, on_all_databases},
    producer::{INSERT_ORDER, LONG, message, producer, sample},
};

on_all_databases!(
    dropped_calls_end_one_way_or_the_other,
    dropped_guard_is_rolled_back_and_cancelled,
    a_dropped_commit_is_published_without_any_checkback,
);

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
