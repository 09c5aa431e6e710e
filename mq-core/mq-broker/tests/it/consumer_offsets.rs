//! Where a group begins, how it moves on, and that it is not lost.

use std::time::{Duration, Instant};

use mq_protocol::body::{self, ConsumeStats, QueueKey, SubscriptionGroup};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{self, OffsetResponse, PopMessage, QueryConsumerOffset, UpdateConsumerOffset};
use mq_protocol::ids::QueueId;

use crate::harness::{Client, PATIENCE, START, Send, World};
use crate::pop;

/// The offset, or the code of the refusal.
async fn query(client: &mut Client, group: &str, set_zero_if_not_found: Option<bool>) -> Result<u64, i32> {
    query_queue(client, group, "orders", 0, set_zero_if_not_found).await
}

async fn query_queue(
    client: &mut Client,
    group: &str,
    topic: &str,
    queue: u32,
    set_zero_if_not_found: Option<bool>,
) -> Result<u64, i32> {
    let header = QueryConsumerOffset {
        consumer_group: group.into(),
        topic: topic.into(),
        queue_id: QueueId(queue),
        set_zero_if_not_found,
        bname: None,
    };
    let answer = client.call(Command::request_with(request::QUERY_CONSUMER_OFFSET, &header)).await;
    match answer.code {
        response::SUCCESS => Ok(answer.header::<OffsetResponse>().unwrap().offset.0),
        code => Err(code),
    }
}

fn update(group: &str, topic: &str, queue: u32, commit_offset: i64) -> Command {
    let header = UpdateConsumerOffset {
        consumer_group: group.into(),
        topic: topic.into(),
        queue_id: QueueId(queue),
        commit_offset,
        bname: None,
    };
    Command::request_with(request::UPDATE_CONSUMER_OFFSET, &header)
}

#[tokio::test]
async fn a_new_group_starts_at_the_first_message_of_a_young_queue() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    assert_eq!(query(&mut client, "g", None).await, Err(response::QUERY_NOT_FOUND), "an empty queue has no first");
    client.send(Send::to("orders")).await;
    for (asked, answer) in [(None, Ok(0)), (Some(true), Ok(0)), (Some(false), Err(response::QUERY_NOT_FOUND))] {
        assert_eq!(query(&mut client, "g", asked).await, answer, "{asked:?}");
    }
    broker.stop().await.unwrap();

    let world = World::new();
    let broker = world.start_with(|config| config.memory_hot_percent = 0).await;
    let mut client = broker.connect().await;
    client.send(Send::to("orders")).await;
    let cold = query(&mut client, "g", None).await;
    assert_eq!(cold, Err(response::QUERY_NOT_FOUND), "what is out of memory is history");
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn commits_of_unknown_groups_topics_and_queues_are_refused() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    client.send(Send::to("orders")).await;
    client.heartbeat("c", &[], &[("g", "orders", "*")]).await;
    for (commit, code) in [
        (update("nobody", "orders", 0, 1), response::SUBSCRIPTION_GROUP_NOT_EXIST),
        (update("g", "nowhere", 0, 1), response::TOPIC_NOT_EXIST),
        (update("g", "orders", 99, 1), response::INVALID_PARAMETER),
        (Command::request(request::UPDATE_CONSUMER_OFFSET), response::INVALID_PARAMETER),
        (update("g", "orders", 0, -1), response::SUCCESS),
    ] {
        assert_eq!(client.call(commit).await.code, code);
    }
    assert_eq!(query(&mut client, "g", Some(false)).await, Err(response::QUERY_NOT_FOUND), "nothing was written");
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn consumers_move_forward_only_and_tools_move_them_anywhere() {
    let broker = World::new().start().await;
    let mut member = broker.connect().await;
    let mut tool = broker.connect().await;
    for _ in 0..9 {
        member.send(Send::to("orders")).await;
    }
    member.heartbeat("c", &[], &[("g", "orders", "*")]).await;
    for (commit, expected) in [(5, 5), (3, 5), (8, 8)] {
        assert_eq!(member.call(update("g", "orders", 0, commit)).await.code, response::SUCCESS);
        assert_eq!(query(&mut member, "g", None).await, Ok(expected));
    }
    member.post(update("g", "orders", 0, 9).oneway()).await;
    assert_eq!(query(&mut member, "g", None).await, Ok(9));
    tool.post(update("g", "orders", 0, 1).oneway()).await;
    assert_eq!(query(&mut tool, "g", None).await, Ok(9), "one-way commits are a consumer's");
    tool.call(update("g", "orders", 0, 2)).await;
    assert_eq!(query(&mut tool, "g", None).await, Ok(2));
    tool.call(update("g", "orders", 0, 20)).await;
    member.call(update("g", "orders", 0, 9)).await;
    assert_eq!(query(&mut member, "g", None).await, Ok(9), "from behind the end of the queue there is a way back");
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn offsets_are_saved_by_the_clock_and_at_the_stop() {
    let world = World::new();
    let broker = world.start_with(|config| config.flush_offsets_interval = Duration::from_millis(10)).await;
    let mut client = broker.connect().await;
    for _ in 0..7 {
        client.send(Send::to("orders")).await;
    }
    client.heartbeat("c", &[], &[("g", "orders", "*")]).await;
    client.call(update("g", "orders", 0, 1)).await;
    let file = world.directory.path().join("config/consumerOffset.json");
    let deadline = Instant::now() + PATIENCE;
    while !std::fs::read_to_string(&file).is_ok_and(|text| text.contains("orders@g")) {
        assert!(Instant::now() < deadline, "never saved");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    broker.stop().await.unwrap();

    let broker = world.start_with(|config| config.flush_offsets_interval = Duration::from_secs(3600)).await;
    let mut client = broker.connect().await;
    assert_eq!(query(&mut client, "g", None).await, Ok(1));
    client.call(update("g", "orders", 0, 7)).await;
    broker.stop().await.unwrap();

    let broker = world.start().await;
    let mut client = broker.connect().await;
    assert_eq!(query(&mut client, "g", None).await, Ok(7));
    broker.stop().await.unwrap();

    // A power cut took messages that were consumed already: what comes to stand there must not be passed over.
    let text = std::fs::read_to_string(&file).unwrap().replace(": 7\n", ": 700\n");
    assert!(text.contains(": 700\n"), "{text}");
    std::fs::write(&file, text).unwrap();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    assert_eq!(query(&mut client, "g", None).await, Ok(7));
    broker.stop().await.unwrap();
}

/// Sets the group's start; the code that says whether it could be.
async fn start_at(client: &mut Client, group: &str, key: &str, from: &str) -> i32 {
    let attributes = [(key.to_owned(), from.to_owned())].into();
    let config = SubscriptionGroup { group_name: group.into(), attributes, ..SubscriptionGroup::default() };
    let command = Command::request(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP).with_body(body::to_json(&config));
    client.call(command).await.code
}

/// How far the group's progress (208) says it is in the first queue.
async fn shown(client: &mut Client, group: &str) -> Option<u64> {
    let header = header::ConsumeStats { consumer_group: group.into(), topic: Some("orders".into()), topic_list: None };
    let answer = client.call(Command::request_with(request::GET_CONSUME_STATS, &header)).await;
    let stats: ConsumeStats = body::from_json("consume stats", &answer.body).unwrap();
    stats.offset_table.get(&QueueKey::new("broker-a", "orders", 0)).map(|row| row.consumer_offset)
}

#[tokio::test]
async fn a_group_with_a_start_begins_every_queue_there_once_and_visibly() {
    let world = World::new();
    let broker = world.start_with(|config| config.memory_hot_percent = 0).await;
    let mut client = broker.connect().await;
    for second in 0..5 {
        world.clock.set(START.plus(Duration::from_secs(second)));
        client.send(Send::to("orders")).await;
    }
    let third = format!("timestamp:{}", START.plus(Duration::from_secs(2)).0);
    for (from, starts_at) in [("first", 0), (third.as_str(), 2), ("timestamp:0", 0), ("timestamp:9999999999999", 5)] {
        let group = format!("g-{starts_at}-{}", from.len());
        assert_eq!(start_at(&mut client, &group, "+consume.from", from).await, response::SUCCESS);
        assert_eq!(
            query(&mut client, &group, Some(false)).await,
            Err(response::QUERY_NOT_FOUND),
            "{from}: only looked"
        );
        assert_eq!(query(&mut client, &group, None).await, Ok(starts_at), "{from}");
        assert_eq!(query(&mut client, &group, Some(false)).await, Ok(starts_at), "{from}: kept");
        assert_eq!(shown(&mut client, &group).await, Some(starts_at), "{from}");
    }

    // From the moment on at which it was set, however late its members come, and in queues that they see later.
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(start_at(&mut client, "late", "+consume.from", "last").await, response::SUCCESS);
    for queue_id in [0, 1, 0, 1] {
        world.clock.advance(Duration::from_secs(1));
        let send = Send::to("orders");
        client.send(Send { header: header::SendMessage { queue_id, ..send.header.clone() }, ..send }).await;
    }
    assert_eq!(start_at(&mut client, "late", "+consume.from", "last").await, response::SUCCESS, "said twice");
    assert_eq!(query(&mut client, "late", None).await, Ok(5));
    assert_eq!(start_at(&mut client, "late", "+consume.from", "first").await, response::SUCCESS);
    assert_eq!(query(&mut client, "late", None).await, Ok(5), "once begun, it stays");
    assert_eq!(query_queue(&mut client, "late", "orders", 1, None).await, Ok(0));
    assert_eq!(query_queue(&mut client, "late", "%RETRY%late", 0, None).await, Err(response::QUERY_NOT_FOUND));
    for (topic, queue) in [("nowhere", 0), ("orders", 99)] {
        let answer = query_queue(&mut client, "late", topic, queue, None).await;
        assert_eq!(answer, Err(response::QUERY_NOT_FOUND), "{topic} {queue}");
    }

    assert_eq!(start_at(&mut client, "poppers", "+consume.from", &third).await, response::SUCCESS);
    let ask = PopMessage { queue_id: 0, ..pop::pop("poppers", "orders") };
    assert_eq!(pop::popped(&mut client, &ask).await.len(), 5, "the third of seven, and on");

    for (key, from) in [("+consume.from", "never"), ("consume.from", "first"), ("+consume.to", "first")] {
        assert_eq!(start_at(&mut client, "wrong", key, from).await, response::INVALID_PARAMETER, "{key}={from}");
    }
    broker.stop().await.unwrap();

    let broker = world.start().await;
    let mut client = broker.connect().await;
    assert_eq!(query(&mut client, "late", Some(false)).await, Ok(5), "over a restart");
    assert_eq!(start_at(&mut client, "late", "-consume.from", "").await, response::SUCCESS);
    broker.stop().await.unwrap();
}
