//! Consumers that filter by SQL92: their subscriptions, their pulls, and what does not match.

use std::time::Duration;

use mq_protocol::body::{self, CheckClientConfig, ConsumerData, HeartbeatData, Subscription};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;

use crate::harness::{Client, Pull, Send, TestBroker, World, pulled};

const LONG: Duration = Duration::from_secs(15);

async fn broker() -> TestBroker {
    World::new().start_with(|config| config.property_filter = true).await
}

fn sql(topic: &str, expression: &str, version: i64) -> Subscription {
    Subscription {
        topic: topic.into(),
        expression_type: Subscription::SQL92.into(),
        sub_string: expression.into(),
        sub_version: version,
        ..Subscription::default()
    }
}

fn inline(pull: Pull, expression: &str) -> Pull {
    let mut pull = pull.tags(expression);
    pull.0.expression_type = Some("SQL92".into());
    pull
}

async fn subscribe(client: &mut Client, group: &str, subscription: Subscription) {
    let data = HeartbeatData {
        client_id: "c@1".into(),
        consumer_data_set: vec![ConsumerData {
            group_name: group.into(),
            subscription_data_set: vec![subscription],
            ..ConsumerData::default()
        }],
        ..HeartbeatData::default()
    };
    let answer = client.call(Command::request(request::HEART_BEAT).with_body(body::to_json(&data))).await;
    assert_eq!(answer.code, response::SUCCESS, "{:?}", answer.remark);
}

async fn check(client: &mut Client, subscription: Subscription) -> (i32, String) {
    let config = CheckClientConfig { subscription_data: subscription, ..CheckClientConfig::default() };
    let answer = client.call(Command::request(request::CHECK_CLIENT_CONFIG).with_body(body::to_json(&config))).await;
    (answer.code, answer.remark.map(|remark| remark.to_string()).unwrap_or_default())
}

async fn send(client: &mut Client, body: &'static str, properties: &[(&'static str, &'static str)]) {
    let mut send = Send::to("T").body(body);
    for (name, value) in properties {
        send = send.property(name, *value);
    }
    client.send(send).await;
}

#[tokio::test]
async fn a_pull_gets_the_messages_whose_properties_satisfy_the_filter() {
    let broker = broker().await;
    let mut client = broker.connect().await;
    send(&mut client, "one", &[("price", "1"), ("TAGS", "a")]).await;
    send(&mut client, "ten", &[("price", "10"), ("TAGS", "b"), ("city", "Köln")]).await;
    send(&mut client, "none", &[("TAGS", "a")]).await;
    send(&mut client, "much", &[("price", "much")]).await;
    for (expression, expected) in [
        ("TRUE", &["one", "ten", "none", "much"][..]),
        ("price > 5", &["ten"]),
        ("price BETWEEN 1 AND 10", &["one", "ten"]),
        ("price IS NULL", &["none"]),
        ("NOT (price > 5)", &["one"]),
        ("TAGS = 'a' OR price > 5", &["one", "ten", "none"]),
        ("city CONTAINS 'ö'", &["ten"]),
        ("price = 'much'", &["much"]),
        ("UNIQ_KEY IS NOT NULL", &["one", "ten", "none", "much"]),
    ] {
        let answer = client.call(inline(Pull::of("T", 0, 0), expression).command()).await;
        let (code, next, _, max, bodies) = pulled(&answer);
        assert_eq!((code, next, max), (response::SUCCESS, 4, 4), "{expression}: {:?}", answer.remark);
        assert_eq!(bodies, expected, "{expression}");
    }
    let nothing = client.call(inline(Pull::of("T", 0, 0), "price > 50").command()).await;
    assert_eq!(pulled(&nothing), (response::PULL_RETRY_IMMEDIATELY, 4, 0, 4, vec![]));
}

#[tokio::test]
async fn the_heartbeats_filter_is_used_until_a_newer_one_comes() {
    let broker = broker().await;
    let mut client = broker.connect().await;
    send(&mut client, "one", &[("price", "1")]).await;
    send(&mut client, "ten", &[("price", "10")]).await;
    subscribe(&mut client, "g", sql("T", "price > 5", 1)).await;
    assert_eq!(bodies(&mut client).await, ["ten"]);
    subscribe(&mut client, "g", sql("T", "price < 5", 2)).await;
    assert_eq!(bodies(&mut client).await, ["one"]);
    subscribe(&mut client, "g", sql("T", "price > 5", 1)).await;
    assert_eq!(bodies(&mut client).await, ["one"], "an older one changes nothing");
}

async fn bodies(client: &mut Client) -> Vec<bytes::Bytes> {
    client.pull(Pull::of("T", 0, 0).by("g")).await.into_iter().map(|stored| stored.message.body).collect()
}

#[tokio::test]
async fn what_is_no_filter_is_refused_where_it_is_used() {
    let on = broker().await;
    let off = World::new().start().await;
    for (broker, expression, check_code, pull_code, heartbeat_code) in [
        (&on, "a > 1", response::SUCCESS, response::PULL_NOT_FOUND, response::PULL_NOT_FOUND),
        (
            &on,
            "a > ",
            response::SUBSCRIPTION_PARSE_FAILED,
            response::SUBSCRIPTION_PARSE_FAILED,
            response::FILTER_DATA_NOT_EXIST,
        ),
        (&off, "a > 1", response::SYSTEM_ERROR, response::SYSTEM_ERROR, response::SYSTEM_ERROR),
    ] {
        let mut client = broker.connect().await;
        let (code, remark) = check(&mut client, sql("BenchmarkTest", expression, 1)).await;
        assert_eq!(code, check_code, "{remark}");
        let pull = Pull::of("BenchmarkTest", 0, 0);
        let answer = client.call(inline(pull.clone(), expression).command()).await;
        assert_eq!(answer.code, pull_code, "{:?}", answer.remark);
        subscribe(&mut client, "g", sql("BenchmarkTest", expression, 1)).await;
        let answer = client.call(pull.by("g").command()).await;
        assert_eq!(answer.code, heartbeat_code, "{:?}", answer.remark);
        assert_eq!(check(&mut client, Subscription::tags("T", "a || b", 1)).await.0, response::SUCCESS);
    }
    let mut client = on.connect().await;
    let other = Subscription { expression_type: "XPATH".into(), ..sql("T", "a", 1) };
    let (code, remark) = check(&mut client, other).await;
    assert_eq!((code, &*remark), (23, "filters of type XPATH are unknown here; use TAG or SQL92"));
    let (_, remark) = check(&mut client, sql("T", "a LIKE 'x'", 1)).await;
    assert_eq!(remark, "the filter cannot be read at byte 2: the name LIKE is not expected behind the expression");
}

#[tokio::test]
async fn a_waiting_pull_is_answered_by_the_first_message_that_satisfies_its_filter() {
    let broker = broker().await;
    let (mut reader, mut writer) = (broker.connect().await, broker.connect().await);
    send(&mut writer, "first", &[]).await;
    let opaque = reader.post(inline(Pull::of("T", 0, 1), "price > 5").waiting(LONG).command()).await;
    // The answer to a later request shows that the pull is held by now.
    assert_eq!(reader.max_offset("T", 0).await, 1);
    for body in ["a", "b", "c"] {
        send(&mut writer, body, &[("price", "1")]).await;
    }
    send(&mut writer, "wanted", &[("price", "10")]).await;
    let (code, next, _, _, bodies) = pulled(&reader.answer(opaque).await);
    assert_eq!((code, next), (response::SUCCESS, 5));
    assert_eq!(bodies, ["wanted"]);
}

#[tokio::test]
async fn a_wait_in_vain_leaves_behind_what_was_looked_at() {
    let broker = broker().await;
    let (mut reader, mut writer) = (broker.connect().await, broker.connect().await);
    send(&mut writer, "first", &[]).await;
    let wait = Duration::from_millis(500);
    let opaque = reader.post(inline(Pull::of("T", 0, 1), "price > 5").waiting(wait).command()).await;
    assert_eq!(reader.max_offset("T", 0).await, 1);
    send(&mut writer, "not wanted", &[("price", "1")]).await;
    let (code, next, _, max, bodies) = pulled(&reader.answer(opaque).await);
    // Its time may have been over before the message came.
    assert!(code == response::PULL_NOT_FOUND && next == max || code == response::PULL_RETRY_IMMEDIATELY && next == 2);
    assert!(bodies.is_empty());
}

#[tokio::test]
async fn a_filter_that_accepts_little_goes_through_a_long_queue_step_by_step() {
    let broker = broker().await;
    let mut client = broker.connect().await;
    for n in 0..2_000 {
        let price = if n == 1_900 { "10" } else { "1" };
        client.post(Send::to("T").property("price", price).command()).await;
    }
    client.max_offset("T", 0).await;
    let mut waited = client.max_offset("T", 0).await;
    while waited < 2_000 {
        waited = client.max_offset("T", 0).await;
    }
    let (mut from, mut found, mut steps) = (0, Vec::new(), 0);
    while from < 2_000 {
        let answer = client.call(inline(Pull::of("T", 0, from), "price > 5").command()).await;
        let (_, next, _, _, bodies) = pulled(&answer);
        assert!(next as i64 > from, "every pull makes progress");
        (from, steps) = (next as i64, steps + 1);
        found.extend(bodies);
    }
    assert_eq!(found.len(), 1);
    assert!(steps <= 4, "{steps}");
}
