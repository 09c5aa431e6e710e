//! Half messages, their ends, and checkbacks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use mq_client::{CheckedHalf, Message, Producer, SendFailure, Verdict};

use crate::cluster::{Cluster, Seen, eventually, unique};

async fn transactional(cluster: &Cluster, topic: &str, checker: impl mq_client::TransactionChecker) -> Producer {
    let builder = Producer::builder(&cluster.name_servers).group(unique("transactions"));
    builder.topics([topic.to_owned()]).checker(checker).build().await.expect("valid")
}

async fn no_opinion(_: CheckedHalf) -> Verdict {
    Verdict::Unknown
}

#[tokio::test]
async fn a_half_is_seen_when_it_is_committed_and_never_when_it_is_rolled_back() {
    let cluster = Cluster::start().await;
    let topic = cluster.topic("ends", &cluster.producer().await).await;
    let producer = transactional(&cluster, &topic, no_opinion).await;
    let commit = producer.send_half(Message::new(topic.clone(), "commit").tags("t")).await.expect("stored");
    let rollback = producer.send_half(Message::new(topic.clone(), "rollback")).await.expect("stored");
    assert_eq!(cluster.bodies(&topic).await, ["first"]);
    producer.end(&commit, Verdict::Commit).await.expect("acknowledged");
    producer.end(&rollback, Verdict::Rollback).await.expect("acknowledged");
    eventually("the committed one", || async { (cluster.bodies(&topic).await == ["commit", "first"]).then_some(()) })
        .await;
    let all = cluster.read_all(&topic).await;
    assert!(all.iter().any(|message| message.message_id == commit.message_id && message.tags() == Some("t")));
}

#[tokio::test]
async fn halves_left_open_are_asked_about_until_there_is_a_verdict() {
    let cluster = Cluster::start().await;
    let topic = cluster.topic("checked", &cluster.producer().await).await;
    let (asked, seen) = (Arc::new(AtomicU32::new(0)), Seen::default());
    let (counter, log) = (asked.clone(), seen.clone());
    let checker = move |half: CheckedHalf| {
        let (counter, log) = (counter.clone(), log.clone());
        async move {
            let body = String::from_utf8_lossy(&half.message.body).into_owned();
            log.add(format!("{body} {} {}", half.message.topic, half.message.property("own").unwrap_or("-")));
            match body.as_str() {
                "late commit" if counter.fetch_add(1, Ordering::SeqCst) < 2 => Verdict::Unknown,
                "late commit" => Verdict::Commit,
                _ => Verdict::Rollback,
            }
        }
    };
    let producer = transactional(&cluster, &topic, checker).await;
    producer.send_half(Message::new(topic.clone(), "late commit").property("own", "p")).await.expect("stored");
    producer.send_half(Message::new(topic.clone(), "late rollback")).await.expect("stored");
    eventually("the late commit", || async {
        (cluster.bodies(&topic).await == ["first", "late commit"]).then_some(())
    })
    .await;
    let commits = seen.all().into_iter().filter(|line| *line == format!("late commit {topic} p")).count();
    assert_eq!(commits, 3, "{:?}", seen.all());
    assert!(seen.all().contains(&format!("late rollback {topic} -")));
}

#[tokio::test]
async fn another_process_of_the_group_answers_for_one_that_is_gone() {
    let cluster = Cluster::start().await;
    let topic = cluster.topic("orphans", &cluster.producer().await).await;
    let group = unique("transactions");
    let member = async |verdict: Verdict| {
        let builder = Producer::builder(&cluster.name_servers).group(group.clone()).topics([topic.clone()]);
        builder.checker(move |_: CheckedHalf| async move { verdict }).build().await.expect("valid")
    };
    let gone = member(Verdict::Unknown).await;
    gone.send_half(Message::new(topic.clone(), "orphan")).await.expect("stored");
    gone.close().await;
    drop(gone);
    let _heir = member(Verdict::Commit).await;
    eventually("the orphan", || async { (cluster.bodies(&topic).await == ["first", "orphan"]).then_some(()) }).await;
}

#[tokio::test]
async fn delays_and_transactions_do_not_mix() {
    let cluster = Cluster::start().await;
    let producer = transactional(&cluster, "anything", no_opinion).await;
    let error = producer.send_half(Message::new("anything", "x").delay_level(3)).await.expect_err("refused");
    assert!(matches!(*error.reason, SendFailure::Invalid(_)) && !error.may_be_stored(), "{error}");
}
