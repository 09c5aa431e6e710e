//! `mq explain`: one business key from its half message to a group's acknowledgement, and each step while it is missing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mq_client::{Action, CheckedHalf, ConsumeFrom, Filter, Message, PopConsumer, Producer, PushConsumer, Verdict};
use serde_json::Value;

use crate::process::{Mq, PATIENCE, printed};

const GROUP: &str = "order-service";

fn explained(mq: &Mq, key: &str) -> Value {
    let names = mq.address("name server").to_string();
    let (success, said, error) = printed(&["explain", "--namesrv", &names, "--key", key, "--output", "json"]);
    let answer: Value = serde_json::from_str(&said).expect("JSON, whatever the status");
    assert_eq!(success, answer["timeline"] != serde_json::json!([]), "{answer}: {error}");
    answer
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
            understands(missing["fix"].as_str().unwrap_or_default());
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "{stage}, {why}: {answer}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What it says to run are commands with flags that exist.
fn understands(fix: &str) {
    for command in fix.split('`').skip(1).step_by(2) {
        let first_choice = |word| str::split(word, '|').next().unwrap_or_default();
        let words: Vec<&str> = command.split(' ').skip(1).map(first_choice).chain(["--help"]).collect();
        let (success, _, error) = printed(&words);
        assert!(command.starts_with("mq ") && success, "{command}: {error}");
    }
}

#[test]
fn a_business_key_is_followed_from_its_half_message_to_its_acknowledgement() {
    let directory = tempfile::tempdir().expect("a directory");
    let mq = Mq::up(directory.path(), &[]);
    let names = mq.address("name server").to_string();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    until_missing(&mq, "order-7", "half", "has the key");
    for (words, why) in [
        (["--key", "order-7", "--topic", "NOPE"], "topic NOPE is not known"),
        (["--topic", "NOPE", "--key", ""], "a value is required"),
    ] {
        let (success, _, said) = printed(&[&["explain", "--namesrv", &names][..], &words].concat());
        assert!(!success && said.contains(why), "{words:?}: {said}");
    }
    let (_, said, error) = printed(&["explain", "--namesrv", &names, "--key", "order-7"]);
    assert!(
        said.contains("missing: half message: no half message and no message")
            && error.contains("error: nothing is known of order-7"),
        "{error}"
    );

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

#[test]
fn a_dead_letter_is_tried_again_by_its_own_group_when_an_operator_wants_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let mq = Mq::up(directory.path(), &[]);
    let names = mq.address("name server").to_string();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let good = Arc::new(AtomicBool::new(false));
    let consume = |group: &'static str, good: Arc<AtomicBool>, handled: Arc<AtomicUsize>| {
        let builder = PushConsumer::builder(&names).group(group).subscribe("PAID", Filter::all());
        let builder = builder.consume_from(ConsumeFrom::First).options(|options| {
            (options.commit_interval, options.max_reconsume_times) = (Duration::from_millis(100), Some(0));
        });
        builder.concurrent(move |_| {
            handled.fetch_add(1, Ordering::Relaxed);
            std::future::ready(if good.load(Ordering::Relaxed) { Action::Ack } else { Action::RetryLater })
        })
    };
    let (tried, others) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let running = runtime.block_on(async {
        let producer = Producer::builder(&names).build().await.expect("valid");
        producer.send(Message::new("PAID", "{}").key("order-9")).await.expect("stored");
        let packets = consume("packets", good.clone(), tried.clone()).start().await.expect("valid");
        let others = consume("points", Arc::new(AtomicBool::new(true)), others.clone()).start().await.expect("valid");
        [packets, others]
    });
    let dead = until_missing(&mq, "order-9", "delivery", "packets gave it up");
    let fix = dead["missing"][0]["fix"].as_str().expect("a fix");
    assert!(fix.contains("mq admin message resend packets --key "), "{fix}");
    let command = fix.split('`').nth(1).expect("a command").split(' ').skip(1);
    good.store(true, Ordering::Relaxed);
    let words: Vec<&str> = command.chain(["--namesrv", &names]).collect();
    let (success, said, error) = printed(&words);
    assert!(success && said.contains("PAID") && said.contains("order-9"), "{said}{error}");
    let started = Instant::now();
    while tried.load(Ordering::Relaxed) < 2 {
        assert!(started.elapsed() < PATIENCE, "it is not tried again");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(others.load(Ordering::Relaxed), 1, "another group does not see it again");
    let told = loop {
        let told = explained(&mq, "order-9");
        if told["missing"] == serde_json::json!([]) {
            break told;
        }
        assert!(started.elapsed() < PATIENCE, "{told}");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(told.to_string().contains("packets gets it again: an operator has sent it"), "{told}");
    let unknown = printed(&["admin", "--namesrv", &names, "message", "resend", "packets", "--key", "order-10"]);
    assert!(!unknown.0 && unknown.2.contains("no dead letter with the key order-10"), "{unknown:?}");
    running.into_iter().for_each(|consumer| runtime.block_on(consumer.shut_down()));
    assert!(mq.stop().success());
}
