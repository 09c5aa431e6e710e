//! Where a group begins, how it moves on, and that it is not lost.

use std::time::{Duration, Instant};

use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{OffsetResponse, QueryConsumerOffset, UpdateConsumerOffset};
use mq_protocol::ids::QueueId;

use crate::harness::{Client, PATIENCE, Send, World};

/// The offset, or the code of the refusal.
async fn query(client: &mut Client, group: &str, set_zero_if_not_found: Option<bool>) -> Result<u64, i32> {
    let header = QueryConsumerOffset {
        consumer_group: group.into(),
        topic: "orders".into(),
        queue_id: QueueId(0),
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
