//! Members of groups: who is told of whom, and who may consume a queue in order.

use std::time::Duration;

use mq_protocol::body::{
    self, CheckClientConfig, ConsumerData, ConsumerIds, HeartbeatData, LockBatch, LockedQueues, MessageQueue,
    Subscription,
};
use mq_protocol::codes::{request, response};
use mq_protocol::command::{Command, OUR_VERSION};
use mq_protocol::header::{GetConsumerList, GetTopicConfig, HeartbeatResponse, UnregisterClient};

use crate::harness::{Client, Send, World};

async fn members(client: &mut Client, group: &str) -> Result<Vec<String>, i32> {
    let header = GetConsumerList { consumer_group: group.into() };
    let answer = client.call(Command::request_with(request::GET_CONSUMER_LIST_BY_GROUP, &header)).await;
    match answer.code {
        response::SUCCESS => Ok(body::from_json::<ConsumerIds>("list", &answer.body).unwrap().consumer_id_list),
        code => Err(code),
    }
}

#[tokio::test]
async fn members_are_told_when_one_comes_leaves_or_breaks_off() {
    let broker = World::new().start().await;
    let mut one = broker.connect().await;
    assert_eq!(members(&mut one, "g").await, Err(response::SYSTEM_ERROR), "never an empty list");
    one.heartbeat("c1", &[], &[("g", "orders", "*")]).await;
    let told = one.request(request::NOTIFY_CONSUMER_IDS_CHANGED).await;
    assert!(told.is_oneway());
    assert_eq!(told.ext.get("consumerGroup").map(|group| &**group), Some("g"));

    let mut two = broker.connect().await;
    two.heartbeat("c2", &[], &[("g", "orders", "*")]).await;
    one.request(request::NOTIFY_CONSUMER_IDS_CHANGED).await;
    assert_eq!(members(&mut one, "g").await, Ok(vec!["c1".into(), "c2".into()]));

    drop(two);
    one.request(request::NOTIFY_CONSUMER_IDS_CHANGED).await;
    assert_eq!(members(&mut one, "g").await, Ok(vec!["c1".into()]));

    let mut three = broker.connect().await;
    three.heartbeat("c3", &[], &[("g", "orders", "*")]).await;
    one.request(request::NOTIFY_CONSUMER_IDS_CHANGED).await;
    let leave = UnregisterClient { client_id: "c3".into(), producer_group: None, consumer_group: Some("g".into()) };
    assert_eq!(three.call(Command::request_with(request::UNREGISTER_CLIENT, &leave)).await.code, response::SUCCESS);
    one.request(request::NOTIFY_CONSUMER_IDS_CHANGED).await;
    assert_eq!(members(&mut one, "g").await, Ok(vec!["c1".into()]));
    broker.stop().await.unwrap();
}

fn consumer(client: &str, group: &str, fingerprint: i32, without_sub: bool) -> Command {
    let subscriptions = if without_sub { Vec::new() } else { vec![Subscription::tags("orders", "*", 1)] };
    let data = HeartbeatData {
        client_id: client.into(),
        consumer_data_set: vec![ConsumerData {
            group_name: group.into(),
            subscription_data_set: subscriptions,
            ..ConsumerData::default()
        }],
        heartbeat_fingerprint: fingerprint,
        without_sub,
        ..HeartbeatData::default()
    };
    Command::request(request::HEART_BEAT).with_body(body::to_json(&data))
}

#[tokio::test]
async fn a_heartbeat_is_answered_with_what_the_broker_can_do() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    for (what, beat, changed) in [
        ("version 1 always brings its subscriptions", consumer("c", "g", 0, false), true),
        ("a fingerprint that is new here is asked for in full", consumer("c", "g", 7, true), true),
        ("in full it is known from now on", consumer("c", "g", 7, false), false),
        ("and may come without subscriptions", consumer("c", "g", 7, true), false),
        ("another fingerprint is asked for again", consumer("c", "g", 8, true), true),
    ] {
        let answer = client.call(beat).await;
        let header: HeartbeatResponse = answer.header().unwrap();
        assert_eq!((answer.code, answer.version), (response::SUCCESS, OUR_VERSION));
        assert_eq!(header.supports_v2, Some(true));
        assert_eq!(header.subscription_changed, Some(changed), "{what}");
        let capabilities = header.capabilities.unwrap_or_default();
        for capability in ["first-verdict", "shared-verdict", "delay-from-commit", "commit-order", "max-checks"] {
            assert!(capabilities.split(',').any(|known| known == capability), "{capability}: {capabilities}");
        }
    }
    let retry = GetTopicConfig { topic: "%RETRY%g".into(), lo: None };
    let answer = client.call(Command::request_with(request::GET_TOPIC_CONFIG, &retry)).await;
    assert_eq!(answer.code, response::SUCCESS, "the retry topic came with the first heartbeat");
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn heartbeats_that_cannot_be_taken_are_refused_by_name() {
    let world = World::new();
    let broker = world.start_with(|config| config.auto_create_group = false).await;
    let mut client = broker.connect().await;
    for (beat, code, remark) in [
        (consumer("", "TOOLS_CONSUMER", 0, false), response::INVALID_PARAMETER, "the heartbeat has no clientID"),
        (consumer("c", "g 1", 0, false), response::INVALID_PARAMETER, "the group name \"g 1\" may only have"),
        (consumer("c", "g", 0, false), response::SUBSCRIPTION_GROUP_NOT_EXIST, "subscription group g does not exist"),
        (
            Command::request(request::HEART_BEAT).with_body(&b"{]"[..]),
            response::INVALID_PARAMETER,
            "the body is not a heartbeat",
        ),
    ] {
        let answer = client.call(beat).await;
        let said = answer.remark.as_deref().unwrap_or_default();
        assert_eq!(answer.code, code, "{said}");
        assert!(said.starts_with(remark), "{said:?}");
    }
    client.heartbeat("c", &["producers"], &[]).await;
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn filters_beyond_tags_are_refused_before_the_consumer_starts() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    for (kind, code) in [(Subscription::TAG, response::SUCCESS), (Subscription::SQL92, response::SYSTEM_ERROR)] {
        let config = CheckClientConfig {
            client_id: "c".into(),
            group: "g".into(),
            namespace: String::new(),
            subscription_data: Subscription { expression_type: kind.into(), ..Subscription::tags("orders", "a", 1) },
        };
        let ask = Command::request(request::CHECK_CLIENT_CONFIG).with_body(body::to_json(&config));
        assert_eq!(client.call(ask).await.code, code, "{kind}");
    }
    broker.stop().await.unwrap();
}

fn queue(broker_name: &str, topic: &str, queue_id: u32) -> MessageQueue {
    MessageQueue { topic: topic.into(), broker_name: broker_name.into(), queue_id }
}

async fn lock(client: &mut Client, code: i32, owner: &str, queues: &[MessageQueue]) -> Command {
    let batch = LockBatch {
        client_id: owner.into(),
        consumer_group: "g".into(),
        mq_set: queues.to_vec(),
        only_this_broker: false,
    };
    client.call(Command::request(code).with_body(body::to_json(&batch))).await
}

async fn locked(client: &mut Client, owner: &str, queues: &[MessageQueue]) -> Vec<u32> {
    let answer = lock(client, request::LOCK_BATCH_MQ, owner, queues).await;
    assert_eq!(answer.code, response::SUCCESS, "{:?}", answer.remark);
    let granted = body::from_json::<LockedQueues>("locks", &answer.body).unwrap().locked;
    granted.into_iter().map(|queue| queue.queue_id).collect()
}

#[tokio::test]
async fn a_queue_is_locked_by_one_client_of_its_group_for_a_minute() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    client.send(Send::to("orders")).await;
    let q = |id| queue("broker-a", "orders", id);
    let unknown = lock(&mut client, request::LOCK_BATCH_MQ, "one", &[q(0)]).await;
    assert_eq!(unknown.code, response::SUBSCRIPTION_GROUP_NOT_EXIST);
    client.heartbeat("one", &[], &[("g", "orders", "*")]).await;

    let not_here = [queue("broker-b", "orders", 0), queue("broker-a", "nowhere", 0), q(99)];
    assert_eq!(locked(&mut client, "one", &not_here).await, Vec::<u32>::new());
    assert_eq!(locked(&mut client, "one", &[q(0), q(1)]).await, [0, 1]);
    assert_eq!(locked(&mut client, "two", &[q(1), q(2)]).await, [2]);
    assert_eq!(lock(&mut client, request::UNLOCK_BATCH_MQ, "one", &[q(1)]).await.code, response::SUCCESS);
    assert_eq!(locked(&mut client, "two", &[q(0), q(1)]).await, [1]);
    world.clock.advance(Duration::from_secs(61));
    assert_eq!(locked(&mut client, "two", &[q(0)]).await, [0]);
    assert_eq!(lock(&mut client, request::LOCK_BATCH_MQ, "", &[q(0)]).await.code, response::INVALID_PARAMETER);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn a_member_that_leaves_its_group_frees_its_queues_and_one_that_breaks_off_does_not() {
    let broker = World::new().start().await;
    let mut one = broker.connect().await;
    one.send(Send::to("orders")).await;
    one.heartbeat("one", &[], &[("g", "orders", "*")]).await;
    let queues = [queue("broker-a", "orders", 0), queue("broker-a", "orders", 1)];

    let mut two = broker.connect().await;
    two.heartbeat("two", &[], &[("g", "orders", "*")]).await;
    one.request(request::NOTIFY_CONSUMER_IDS_CHANGED).await;
    assert_eq!(locked(&mut two, "two", &queues).await, [0, 1]);
    drop(two);
    one.request(request::NOTIFY_CONSUMER_IDS_CHANGED).await;
    let none = Vec::<u32>::new();
    assert_eq!(locked(&mut one, "one", &queues).await, none, "it may be back, with a batch in hand");

    let mut two = broker.connect().await;
    let leave = UnregisterClient { client_id: "two".into(), producer_group: None, consumer_group: Some("g".into()) };
    assert_eq!(two.call(Command::request_with(request::UNREGISTER_CLIENT, &leave)).await.code, response::SUCCESS);
    assert_eq!(locked(&mut one, "one", &queues).await, [0, 1]);
    broker.stop().await.unwrap();
}
