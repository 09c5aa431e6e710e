//! What tools do with connected consumers: send them elsewhere, ask them, hand them one message.

use std::time::Duration;

use mq_broker::BrokerConfig;
use mq_protocol::body::{self, ConsumerPositions, QueueKey, QueueOffsetList, QueueOffsets};
use mq_protocol::codes::{request, response};
use mq_protocol::command::{Command, Language};
use mq_protocol::header::{ConsumerStatus, ResetOffset, UpdateConsumerOffset};
use mq_protocol::ids::{QueueId, UnixMillis};
use mq_protocol::record::StoredMessage;

use crate::harness::{Client, Pull, START, Send, TestBroker, World, pulled};

const LONG: Duration = Duration::from_secs(15);

fn reset(timestamp: i64, queue_id: i32, offset: i64) -> Command {
    let header = ResetOffset {
        topic: "T".into(),
        group: "g".into(),
        timestamp: UnixMillis(timestamp),
        is_force: Some(true),
        queue_id: Some(queue_id),
        offset: Some(offset),
    };
    Command::request_with(request::INVOKE_BROKER_TO_RESET_OFFSET, &header)
}

/// Three messages a second apart in queue 0, one in queue 1, and a consumer that is through with all of them.
async fn consumed(world: &World, adjust: impl FnOnce(&mut BrokerConfig)) -> (TestBroker, Client) {
    let broker = world.start_with(adjust).await;
    let mut client = broker.connect().await;
    for (queue, body) in [(0, "a"), (0, "b"), (0, "c"), (1, "d")] {
        let mut send = Send::to("T").body(body);
        send.header.queue_id = queue;
        client.send(send).await;
        world.clock.advance(Duration::from_secs(1));
    }
    client.heartbeat("c@1", &[], &[("g", "T", "*")]).await;
    for (queue, offset) in [(0, 3), (1, 1), (2, 0), (3, 0)] {
        commit(&mut client, queue, offset).await;
    }
    (broker, client)
}

async fn commit(client: &mut Client, queue: u32, offset: i64) {
    let header = UpdateConsumerOffset {
        consumer_group: "g".into(),
        topic: "T".into(),
        queue_id: QueueId(queue),
        commit_offset: offset,
        bname: None,
    };
    let answer = client.call(Command::request_with(request::UPDATE_CONSUMER_OFFSET, &header)).await;
    assert_eq!(answer.code, response::SUCCESS, "{:?}", answer.remark);
}

fn offsets(answer: &Command) -> Vec<(u32, i64)> {
    assert_eq!(answer.code, response::SUCCESS, "{:?}", answer.remark);
    let offsets: QueueOffsets = body::from_json("offsets", &answer.body).unwrap();
    offsets.offset_table.into_iter().map(|(queue, offset)| (queue.0.queue_id, offset)).collect()
}

#[tokio::test]
async fn a_reset_is_heard_at_once_by_a_waiting_consumer_and_by_each_queue_once() {
    let world = World::new();
    let (broker, mut consumer) = consumed(&world, |_| {}).await;
    let mut tool = broker.connect().await;
    let waiting = consumer.post(Pull::of("T", 0, 3).by("g").waiting(LONG).command()).await;
    assert_eq!(consumer.max_offset("T", 0).await, 3);

    let second = START.0 + 1_000;
    let all = offsets(&tool.call(reset(second, -1, -1)).await);
    assert_eq!(all[..2], [(0, 1), (1, 0)], "the first message of that time, in every queue");
    assert_eq!(pulled(&consumer.answer(waiting).await).0, response::PULL_NOT_FOUND, "it does not wait on");

    commit(&mut consumer, 0, 3).await;
    let moved = consumer.call(Pull::of("T", 0, 3).by("g").waiting(LONG).command()).await;
    assert_eq!(pulled(&moved), (response::PULL_OFFSET_MOVED, 1, 0, 3, vec![]));
    let (code, _, _, _, bodies) = pulled(&consumer.call(Pull::of("T", 0, 1).by("g").command()).await);
    assert_eq!((code, bodies.len()), (response::SUCCESS, 2));
    let bodies = consumer.pull(Pull::of("T", 1, 0).by("g")).await;
    assert_eq!(bodies.len(), 1, "who is there already is not sent there");
}

#[tokio::test]
async fn a_reset_goes_to_a_time_the_end_or_an_offset() {
    let world = World::new();
    let (broker, _consumer) = consumed(&world, |_| {}).await;
    let mut tool = broker.connect().await;
    for (timestamp, queue, offset, expected) in [
        (0, 0, -1, (0, 0)),
        (START.0 + 2_000, 0, -1, (0, 2)),
        (START.0 + 1_500, 0, -1, (0, 2)),
        (START.0 + 9_000, 0, -1, (0, 3)),
        (-1, 0, -1, (0, 3)),
        (-1, 1, 0, (1, 0)),
        (0, 0, 3, (0, 3)),
    ] {
        assert_eq!(offsets(&tool.call(reset(timestamp, queue, offset)).await), [expected]);
    }
    for (queue, offset, code, reason) in [
        (0, 4, response::SYSTEM_ERROR, "Target offset 4 not in consume queue range [0-3]"),
        (0, -7, response::SYSTEM_ERROR, "Target offset -7 not in consume queue range [0-3]"),
        (99, -1, response::INVALID_PARAMETER, "there is no queue 99"),
    ] {
        let answer = tool.call(reset(0, queue, offset)).await;
        assert!(answer.code == code && answer.remark.as_ref().unwrap().contains(reason), "{:?}", answer.remark);
    }
    for (field, code) in [("topic", response::TOPIC_NOT_EXIST), ("group", response::SUBSCRIPTION_GROUP_NOT_EXIST)] {
        let mut command = Command::request(request::INVOKE_BROKER_TO_RESET_OFFSET);
        for (name, value) in reset(0, -1, -1).ext.iter() {
            command.ext.push(name.clone(), if **name == *field { "nosuch".into() } else { value.clone() });
        }
        assert_eq!(tool.call(command).await.code, code, "{field}");
    }
}

#[tokio::test]
async fn consumers_are_told_where_they_go_when_the_broker_does_not_reset_by_itself() {
    let world = World::new();
    let (broker, mut java) = consumed(&world, |config| config.server_side_reset = false).await;
    let mut cpp = broker.connect().await;
    cpp.language = Language::CPP;
    cpp.heartbeat("c@2", &[], &[("g", "T", "*")]).await;
    let mut tool = broker.connect().await;
    let all = offsets(&tool.call(reset(START.0 + 1_000, -1, -1)).await);
    assert_eq!(all[..2], [(0, 1), (1, 0)]);
    let told: QueueOffsets =
        body::from_json("offsets", &java.request(request::RESET_CONSUMER_CLIENT_OFFSET).await.body).unwrap();
    assert_eq!(told.offset_table[&QueueKey::new("broker-a", "T", 0)], 1);
    let told: QueueOffsetList =
        body::from_json("offsets", &cpp.request(request::RESET_CONSUMER_CLIENT_OFFSET).await.body).unwrap();
    assert_eq!(told.offset_table[0].offset, 1);
    drop((java, cpp));
    loop {
        let answer = tool.call(reset(0, -1, -1)).await;
        if answer.code == response::CONSUMER_NOT_ONLINE {
            break;
        }
        assert_eq!(answer.code, response::SUCCESS, "until their connections are gone");
    }
}

#[tokio::test]
async fn a_consumers_answer_reaches_the_tool_unchanged() {
    let world = World::new();
    let (broker, mut consumer) = consumed(&world, |_| {}).await;
    let mut tool = broker.connect().await;
    let stored = consumer.pull(Pull::of("T", 1, 0)).await.remove(0);
    let id = mq_protocol::message_id::offset_id(stored.message.store_host, stored.log_offset);
    let question = |code: i32, client: &'static str| {
        let mut command = Command::request(code);
        for (name, value) in [("consumerGroup", "g"), ("clientId", client), ("jstackEnable", "false"), ("msgId", &id)] {
            command.ext.push(name, value);
        }
        command
    };
    let info = &br#"{"mqTable":{{"brokerName":"b","queueId":0,"topic":"T"}:{"droped":false}}}"#[..];
    for code in [request::GET_CONSUMER_RUNNING_INFO, request::CONSUME_MESSAGE_DIRECTLY] {
        let opaque = tool.post(question(code, "c@1")).await;
        let asked = consumer.request(code).await;
        assert_eq!(asked.ext.get("consumerGroup").map(|group| &**group), Some("g"));
        if code == request::CONSUME_MESSAGE_DIRECTLY {
            assert_eq!(asked.ext.get("brokerName").map(|name| &**name), Some("broker-a"));
            assert_eq!(&StoredMessage::decode(&asked.body).unwrap().message.body[..], b"d");
        }
        consumer.respond(asked.response(7).with_body(info)).await;
        let answer = tool.answer(opaque).await;
        assert_eq!((answer.code, &answer.body[..]), (7, info));
        let offline = tool.call(question(code, "stranger")).await;
        let remark = offline.remark.unwrap();
        assert_eq!((offline.code, &*remark), (response::SYSTEM_ERROR, "The Consumer <g> <stranger> not online"));
    }
    let opaque = tool.post(question(request::GET_CONSUMER_RUNNING_INFO, "c@1")).await;
    consumer.request(request::GET_CONSUMER_RUNNING_INFO).await;
    drop(consumer);
    assert_eq!(tool.answer(opaque).await.code, response::SYSTEM_ERROR, "it went without an answer");
}

#[tokio::test]
async fn the_positions_of_all_members_are_one_answer() {
    let world = World::new();
    let (broker, mut one) = consumed(&world, |_| {}).await;
    let mut two = broker.connect().await;
    two.heartbeat("c@2", &[], &[("g", "T", "*")]).await;
    let mut tool = broker.connect().await;
    let ask = |client: Option<&'static str>| {
        let header = ConsumerStatus { topic: "T".into(), group: "g".into(), client_addr: client.map(Into::into) };
        Command::request_with(request::INVOKE_BROKER_TO_GET_CONSUMER_STATUS, &header)
    };
    let positions = |offset| {
        let message_queue_table = [(QueueKey::new("broker-a", "T", 0), offset)].into();
        body::to_json_with_object_keys(&ConsumerPositions { message_queue_table, ..ConsumerPositions::default() })
    };
    for (wanted, clients) in [(None, &["c@1", "c@2"][..]), (Some("c@2"), &["c@2"])] {
        let opaque = tool.post(ask(wanted)).await;
        if wanted.is_none() {
            let asked = one.request(request::GET_CONSUMER_STATUS_FROM_CLIENT).await;
            one.respond(asked.response(response::SUCCESS).with_body(positions(1))).await;
        }
        let asked = two.request(request::GET_CONSUMER_STATUS_FROM_CLIENT).await;
        two.respond(asked.response(response::SUCCESS).with_body(positions(2))).await;
        let answer = tool.answer(opaque).await;
        let all: ConsumerPositions = body::from_json("positions", &answer.body).unwrap();
        assert_eq!(all.consumer_table.keys().collect::<Vec<_>>(), clients);
        assert_eq!(all.consumer_table["c@2"][&QueueKey::new("broker-a", "T", 0)], 2);
    }
}
