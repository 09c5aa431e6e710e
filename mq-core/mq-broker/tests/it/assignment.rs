//! Queues shared out by the broker, and whether a group pulls or pops.

use mq_protocol::body::{self, MessageModel, MessageRequestMode, QueryAssignment, QueueAssignments, RequestMode};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;

use crate::harness::{Client, Send, World};

/// Queue ids, each with its mode; `None`: the client keeps what it has.
async fn assigned(
    client: &mut Client,
    who: &str,
    change: impl FnOnce(&mut QueryAssignment),
) -> Option<Vec<(i32, RequestMode)>> {
    let mut query = QueryAssignment {
        client_id: who.into(),
        consumer_group: "g".into(),
        message_model: MessageModel::Clustering,
        strategy_name: "AVG".into(),
        topic: "T".into(),
    };
    change(&mut query);
    let answer = client.call(Command::request(request::QUERY_ASSIGNMENT).with_body(body::to_json(&query))).await;
    assert_eq!(answer.code, response::SUCCESS, "{:?}", answer.remark);
    let found: QueueAssignments = body::from_json("assignments", &answer.body).unwrap();
    let mut queues: Vec<_> = found
        .message_queue_assignments?
        .into_iter()
        .map(|assignment| {
            assert_eq!(
                (&*assignment.message_queue.broker_name, &*assignment.message_queue.topic),
                ("broker-a", &*query.topic)
            );
            (assignment.message_queue.queue_id, assignment.mode)
        })
        .collect();
    queues.sort_by_key(|(queue, _)| *queue);
    Some(queues)
}

async fn set_mode(client: &mut Client, topic: &str, group: &str) -> i32 {
    let mode = MessageRequestMode {
        consumer_group: group.into(),
        mode: RequestMode::Pop,
        pop_share_queue_num: 0,
        topic: topic.into(),
    };
    client.call(Command::request(request::SET_MESSAGE_REQUEST_MODE).with_body(body::to_json(&mode))).await.code
}

#[tokio::test]
async fn members_get_their_share_and_groups_that_pop_get_the_whole_broker() {
    let world = World::new();
    let broker = world.start_with(|config| config.default_topic_queues = 4).await;
    let mut one = broker.connect().await;
    one.send(Send::to("T")).await;
    assert_eq!(assigned(&mut one, "c1", |_| {}).await, None, "nobody of the group is here");
    one.heartbeat("c1", &[], &[("g", "T", "*")]).await;
    let pull = |queues: &[i32]| Some(queues.iter().map(|queue| (*queue, RequestMode::Pull)).collect::<Vec<_>>());
    assert_eq!(assigned(&mut one, "c1", |_| {}).await, pull(&[0, 1, 2, 3]));
    let mut two = broker.connect().await;
    two.heartbeat("c2", &[], &[("g", "T", "*")]).await;
    one.request(request::NOTIFY_CONSUMER_IDS_CHANGED).await;
    for (name, who, change, expected) in [
        ("first half", "c1", (|_| {}) as fn(&mut QueryAssignment), pull(&[0, 1])),
        ("second half", "c2", |_| {}, pull(&[2, 3])),
        ("every other one", "c2", |query| query.strategy_name = "AVG_BY_CIRCLE".into(), pull(&[1, 3])),
        ("a stranger", "c3", |_| {}, pull(&[])),
        ("an unknown strategy", "c1", |query| query.strategy_name = "FAIR".into(), None),
        ("an unknown topic", "c1", |query| query.topic = "U".into(), None),
        ("broadcast", "c1", |query| query.message_model = MessageModel::Broadcasting, pull(&[0, 1, 2, 3])),
    ] {
        assert_eq!(assigned(&mut one, who, change).await, expected, "{name}");
    }
    for (topic, group, code) in [
        ("%RETRY%g", "g", response::NO_PERMISSION),
        ("U", "g", response::TOPIC_NOT_EXIST),
        ("T", "h", response::SUBSCRIPTION_GROUP_NOT_EXIST),
        ("T", "g", response::SUCCESS),
    ] {
        assert_eq!(set_mode(&mut one, topic, group).await, code, "{topic} {group}");
    }
    let pops = Some(vec![(-1, RequestMode::Pop)]);
    assert_eq!(assigned(&mut one, "c1", |_| {}).await, pops);
    assert_eq!(assigned(&mut one, "c1", |query| query.topic = "%RETRY%g".into()).await, pull(&[0]));

    broker.stop().await.unwrap();
    let broker = world.start().await;
    let mut one = broker.connect().await;
    one.heartbeat("c1", &[], &[("g", "T", "*")]).await;
    assert_eq!(assigned(&mut one, "c1", |_| {}).await, pops, "a mode outlives the broker");
    let all = one.call(Command::request(request::GET_ALL_MESSAGE_REQUEST_MODE)).await;
    let all: serde_json::Value = serde_json::from_slice(&all.body).unwrap();
    assert_eq!(all["messageRequestModeMap"]["T"]["g"]["mode"], "POP");
}
