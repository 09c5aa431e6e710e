//! `mq explain`: one business key from its half message to a group's acknowledgement, and each step while it is missing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mq_client::{Action, CheckedHalf, ConsumeFrom, Filter, Message, PopConsumer, Producer, PushConsumer, Verdict};
use serde_json::Value;

use crate::process::{Mq, PATIENCE, printed};

const GROUP: &str = "order-service";

fn explained(mq: &Mq, key: &str) -> Value {
    let names = mq.address("name server").to_string();
    let (success, said, error) = printed(&["explain", "--namesrv", &names, "--key", key, "--output", "json"]);
    assert!(success, "{error}");
    serde_json::from_str(&said).expect("JSON")
}

fn stages(answer: &Value, part: &str) -> Vec<String> {
    let steps = answer[part].as_array().expect("a list").iter();
    steps.map(|step| step["stage"].as_str().expect("a stage").to_owned()).collect()
}

/// Asks until the one thing that is missing is of this stage and for this reason.
fn until_missing(mq: &Mq, key: &str, stage: &str, why: &str) -> Value {
    let started = Instant::now();
    loop {
        let answer = explained(mq, key);
        let missing = &answer["missing"][0];
        if missing["stage"] == stage && missing["why"].as_str().is_some_and(|text| text.contains(why)) {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "{stage}, {why}: {answer}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_business_key_is_followed_from_its_half_message_to_its_acknowledgement() {
    let directory = tempfile::tempdir().expect("a directory");
    let mq = Mq::up(directory.path(), &[]);
    let names = mq.address("name server").to_string();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    until_missing(&mq, "order-7", "half", "has the key");

    let (producer, half) = runtime.block_on(async {
        let producer = Producer::builder(&names).group(GROUP);
        let producer = producer.checker(async |_: CheckedHalf| Verdict::Unknown).build().await.expect("valid");
        let message = Message::new("ORDER_PAID", "{}").key("order-7").check_after(Duration::from_secs(3600));
        let half = producer.send_half(message).await.expect("stored");
        (producer, half)
    });
    let open = until_missing(&mq, "order-7", "verdict", "not checked, no verdict: the producer has not said");
    assert_eq!(stages(&open, "timeline"), ["half"]);

    runtime.block_on(producer.end(&half, Verdict::Commit)).expect("committed");
    let unread = until_missing(&mq, "order-7", "delivery", "no group reads ORDER_PAID");
    assert_eq!(stages(&unread, "timeline").last().map(String::as_str), Some("visible"));

    let good = Arc::new(AtomicBool::new(false));
    let consumer = |good: Arc<AtomicBool>| {
        let builder = PushConsumer::builder(&names).group("packets").subscribe("ORDER_PAID", Filter::all());
        let builder = builder.consume_from(ConsumeFrom::First);
        builder.options(|options| options.commit_interval = Duration::from_millis(100)).concurrent(move |_| {
            std::future::ready(if good.load(Ordering::Relaxed) { Action::Ack } else { Action::RetryAfterLevel(1) })
        })
    };
    let running = runtime.block_on(consumer(good.clone()).start()).expect("valid");
    until_missing(&mq, "order-7", "delivery", "packets failed it");
    good.store(true, Ordering::Relaxed);
    let started = Instant::now();
    let done = loop {
        let answer = explained(&mq, "order-7");
        if answer["missing"] == serde_json::json!([]) {
            break answer;
        }
        assert!(started.elapsed() < PATIENCE, "{answer}");
        std::thread::sleep(Duration::from_millis(50));
    };
    let told = stages(&done, "timeline");
    for stage in ["half", "verdict", "visible", "retry", "delivery"] {
        assert!(told.iter().any(|one| one == stage), "{stage} in {done}");
    }
    assert_eq!(done["timeline"][0]["message"], half.message_id.to_string());
    runtime.block_on(running.shut_down());
    runtime.block_on(producer.close());
    let (success, said, error) =
        printed(&["explain", "--namesrv", &names, "--key", "order-7", "--topic", "ORDER_PAID"]);
    assert!(success && said.contains("half message") && said.contains("nothing is missing"), "{said}{error}");
    assert!(mq.stop().success());
}

#[test]
fn a_message_in_the_hands_of_a_group_that_pops_is_not_taken_for_acknowledged() {
    let directory = tempfile::tempdir().expect("a directory");
    let mq = Mq::up(directory.path(), &[]);
    let names = mq.address("name server").to_string();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (consumer, popped) = runtime.block_on(async {
        let producer = Producer::builder(&names).build().await.expect("valid");
        producer.send(Message::new("PARCELS", "{}").key("parcel-1")).await.expect("stored");
        let builder = PopConsumer::builder(&names).group("drivers").consume_from(ConsumeFrom::First);
        let consumer = builder.invisible(Duration::from_secs(3600)).build().await.expect("valid");
        let started = Instant::now();
        loop {
            let popped = consumer.receive("PARCELS", 1, Duration::from_secs(1)).await.expect("answered");
            if let Some(popped) = popped.into_iter().next() {
                return (consumer, popped);
            }
            assert!(started.elapsed() < PATIENCE, "nothing to pop");
        }
    });
    let held = until_missing(&mq, "parcel-1", "delivery", "drivers popped it and has not acknowledged it");
    assert_eq!(stages(&held, "timeline"), ["visible", "delivery"]);
    runtime.block_on(consumer.ack(&popped)).expect("acknowledged");
    let started = Instant::now();
    while explained(&mq, "parcel-1")["missing"] != serde_json::json!([]) {
        assert!(started.elapsed() < PATIENCE, "{}", explained(&mq, "parcel-1"));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(mq.stop().success());
}
