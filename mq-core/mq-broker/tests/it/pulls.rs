//! Pulls: statuses with their four offsets, filters, waiting, and what tools ask about a queue.

use std::time::Duration;

use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{
    EarliestStoreTimeResponse, GetEarliestStoreTime, GetMinOffset, OffsetResponse, SearchOffset, ViewMessage,
};
use mq_protocol::ids::{LogOffset, QueueId, UnixMillis};

use crate::harness::{Pull, START, Send, World, pulled};

const LONG: Duration = Duration::from_secs(15);

#[tokio::test]
async fn every_status_carries_where_to_go_on_and_the_queues_bounds() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    for body in ["a", "b", "c"] {
        client.send(Send::to("T").property("TAGS", body).body(body)).await;
    }
    for (name, pull, expected) in [
        ("found", Pull::of("T", 0, 0), (response::SUCCESS, 3, 0, 3, 3)),
        ("from the middle", Pull::of("T", 0, 2), (response::SUCCESS, 3, 0, 3, 1)),
        ("tag", Pull::of("T", 0, 0).tags("b || x"), (response::SUCCESS, 3, 0, 3, 1)),
        ("no such tag", Pull::of("T", 0, 0).tags("x"), (response::PULL_RETRY_IMMEDIATELY, 3, 0, 3, 0)),
        ("at the end", Pull::of("T", 0, 3), (response::PULL_NOT_FOUND, 3, 0, 3, 0)),
        ("behind the end", Pull::of("T", 0, 9), (response::PULL_OFFSET_MOVED, 3, 0, 3, 0)),
        ("before the start", Pull::of("T", 0, -1), (response::PULL_OFFSET_MOVED, 0, 0, 3, 0)),
        ("empty queue", Pull::of("T", 1, 0), (response::PULL_NOT_FOUND, 0, 0, 0, 0)),
        ("behind an empty queue", Pull::of("T", 1, 5), (response::PULL_OFFSET_MOVED, 0, 0, 0, 0)),
    ] {
        let answer = client.call(pull.command()).await;
        let (code, next, min, max, bodies) = pulled(&answer);
        assert_eq!((code, next, min, max, bodies.len()), expected, "{name}: {:?}", answer.remark);
    }
}

#[tokio::test]
async fn what_cannot_be_pulled_is_refused_with_its_code() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    client.send(Send::to("T")).await;
    client.heartbeat("c@1", &[], &[("g", "T", "*")]).await;
    let newer = {
        let mut pull = Pull::of("T", 0, 0).by("g");
        pull.0.sub_version = 9;
        pull
    };
    let sql = {
        let mut pull = Pull::of("T", 0, 0).tags("a > 1");
        pull.0.expression_type = Some("SQL92".into());
        pull
    };
    for (name, pull, code) in [
        ("topic", Pull::of("nosuch", 0, 0), response::TOPIC_NOT_EXIST),
        ("queue", Pull::of("T", 99, 0), response::INVALID_PARAMETER),
        ("group", Pull::of("T", 0, 0).by("unheard"), response::SUBSCRIPTION_GROUP_NOT_EXIST),
        ("subscription", Pull::of("BenchmarkTest", 0, 0).by("g"), response::SUBSCRIPTION_NOT_EXIST),
        ("version", newer, response::SUBSCRIPTION_NOT_LATEST),
        ("sql", sql, response::SYSTEM_ERROR),
        ("filter", Pull::of("T", 0, 0).tags(&"tag||".repeat(4000)), response::SUBSCRIPTION_PARSE_FAILED),
    ] {
        let answer = client.call(pull.command()).await;
        assert_eq!(answer.code, code, "{name}: {:?}", answer.remark);
    }
}

#[tokio::test]
async fn a_reader_that_brings_its_subscription_needs_no_heartbeat() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    client.send(Send::to("T")).await;
    let mut pull = Pull::of("T", 0, 0);
    pull.0.consumer_group = "unheard".into();
    let (code, _, _, _, bodies) = pulled(&client.call(pull.command()).await);
    assert_eq!((code, bodies.len()), (response::SUCCESS, 1));
}

#[tokio::test]
async fn a_waiting_pull_is_answered_by_the_message_it_wants_and_not_by_another() {
    let broker = World::new().start().await;
    let (mut reader, mut writer) = (broker.connect().await, broker.connect().await);
    writer.send(Send::to("T")).await;
    reader.heartbeat("c@1", &[], &[("g", "T", "b")]).await;
    let opaque = reader.post(Pull::of("T", 0, 1).by("g").waiting(LONG).command()).await;
    // The answer to a later request shows that the pull is held by now.
    assert_eq!(reader.max_offset("T", 0).await, 1);
    writer.send(Send::to("T").property("TAGS", "a").body("not wanted")).await;
    writer.send(Send::to("T").property("TAGS", "b").body("wanted")).await;
    let (code, next, _, _, bodies) = pulled(&reader.answer(opaque).await);
    assert_eq!((code, next), (response::SUCCESS, 3));
    assert_eq!(bodies, ["wanted"]);
}

#[tokio::test]
async fn a_pull_waits_on_a_queue_that_nobody_wrote_to_yet() {
    let broker = World::new().start().await;
    let (mut reader, mut writer) = (broker.connect().await, broker.connect().await);
    writer.send(Send::to("T")).await;
    let opaque = reader.post(Pull::of("T", 2, 0).waiting(LONG).command()).await;
    reader.max_offset("T", 2).await;
    let mut send = Send::to("T");
    send.header.queue_id = 2;
    writer.send(send).await;
    assert_eq!(pulled(&reader.answer(opaque).await).0, response::SUCCESS);
}

#[tokio::test]
async fn a_pull_that_waited_in_vain_is_told_so_in_time() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    client.send(Send::to("T")).await;
    let started = tokio::time::Instant::now();
    let answer = client.call(Pull::of("T", 0, 1).waiting(Duration::from_millis(300)).command()).await;
    assert_eq!(pulled(&answer), (response::PULL_NOT_FOUND, 1, 0, 1, vec![]));
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(290) && waited < LONG, "{waited:?}");
}

#[tokio::test]
async fn an_answer_never_ends_within_a_message_and_has_at_least_one() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    for n in 0..4u8 {
        client.send(Send::to("T").body(vec![n; 200 << 10])).await;
    }
    let mut next = 0;
    for n in 0..4u8 {
        let (code, then, .., bodies) = pulled(&client.call(Pull::of("T", 0, next).command()).await);
        assert_eq!((code, bodies.len()), (response::SUCCESS, 1));
        assert!(bodies[0].iter().all(|byte| *byte == n));
        next = then as i64;
    }
}

#[tokio::test]
async fn a_pull_may_carry_the_consumers_progress() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    client.send(Send::to("T")).await;
    client.heartbeat("c@1", &[], &[("g", "T", "*")]).await;
    for (group, progress) in [("g", Ok(1)), ("nobody's", Err(response::QUERY_NOT_FOUND))] {
        let mut pull = Pull::of("T", 0, 1);
        pull.0.consumer_group = group.into();
        pull.0.sys_flag |= mq_protocol::sys_flag::pull::COMMIT_OFFSET;
        pull.0.commit_offset = 1;
        client.call(pull.command()).await;
        let header = mq_protocol::header::QueryConsumerOffset {
            consumer_group: group.into(),
            topic: "T".into(),
            queue_id: QueueId(0),
            set_zero_if_not_found: Some(false),
            bname: None,
        };
        let answer = client.call(Command::request_with(request::QUERY_CONSUMER_OFFSET, &header)).await;
        let found = (answer.code == response::SUCCESS).then(|| answer.header::<OffsetResponse>().unwrap().offset.0);
        assert_eq!(found.ok_or(answer.code), progress, "{group}");
    }
}

#[tokio::test]
async fn a_pull_that_wants_no_answer_gets_none_not_even_later() {
    let broker = World::new().start().await;
    let (mut reader, mut writer) = (broker.connect().await, broker.connect().await);
    writer.send(Send::to("T")).await;
    reader.post(Pull::of("T", 0, 1).waiting(LONG).command().oneway()).await;
    let opaque = reader.post(Pull::of("T", 0, 1).waiting(LONG).command()).await;
    reader.call(Command::request(9999)).await;
    writer.send(Send::to("T")).await;
    // Whoever waited first is answered first.
    assert_eq!(reader.read().await.expect("answered").opaque, opaque);
}

#[tokio::test]
async fn tools_learn_a_queues_bounds_times_and_messages() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    for n in 0..3 {
        world.clock.set(UnixMillis(START.0 + n * 1000));
        client.send(Send::to("T")).await;
    }
    let (topic, queue_id) = (mq_protocol::ByteString::from("T"), QueueId(0));
    let by_time = |after_ms: i64, boundary: &'static str| {
        let header = SearchOffset {
            topic: "T".into(),
            queue_id,
            timestamp: UnixMillis(START.0 + after_ms),
            boundary_type: Some(boundary.into()),
            bname: None,
        };
        Command::request_with(request::SEARCH_OFFSET_BY_TIMESTAMP, &header)
    };
    let min = GetMinOffset { topic: topic.clone(), queue_id, bname: None };
    for (name, command, offset) in [
        ("min", Command::request_with(request::GET_MIN_OFFSET, &min), 0),
        ("before all", by_time(-5, "lower"), 0),
        ("between, lower", by_time(500, "lower"), 1),
        ("between, upper", by_time(1500, "upper"), 1),
        ("exact", by_time(1000, "LOWER"), 1),
        ("behind all", by_time(9000, "lower"), 3),
    ] {
        let answer = client.call(command).await;
        assert_eq!(answer.header::<OffsetResponse>().unwrap().offset.0, offset, "{name}");
    }
    assert_eq!(client.max_offset("T", 0).await, 3);
    for (queue, expected) in [(0, START.0), (1, -1)] {
        let header = GetEarliestStoreTime { topic: topic.clone(), queue_id: QueueId(queue), bname: None };
        let answer = client.call(Command::request_with(request::GET_EARLIEST_MSG_STORETIME, &header)).await;
        assert_eq!(answer.header::<EarliestStoreTimeResponse>().unwrap().timestamp.0, expected);
    }
    for offset in [LogOffset(7), LogOffset(1 << 40)] {
        let header = ViewMessage { offset, topic: None };
        let answer = client.call(Command::request_with(request::VIEW_MESSAGE_BY_ID, &header)).await;
        assert_eq!(answer.code, response::SYSTEM_ERROR, "{offset}");
    }
}

#[tokio::test]
async fn a_message_that_the_disk_changed_is_refused_by_place_and_its_neighbours_are_not() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    for _ in 0..4 {
        client.send(Send::to("T").body(vec![b'x'; 9000])).await;
    }
    // The clean end gives every message its checksum.
    broker.stop().await.expect("a clean end");
    let broker = world.start_with(|config| config.memory_hot_percent = 0).await;
    let log = world.backend.open("commitlog/00000000000000000000").unwrap();
    let third_body = 2 * (9000 + 200) + 4500;
    log.write_at(third_body, b"y").unwrap();
    let mut client = broker.connect().await;
    for (from, expected) in [(0, 1), (1, 1), (3, 1)] {
        let answer = client.call(Pull::of("T", 0, from).command()).await;
        assert_eq!(pulled(&answer).4.len(), expected, "from {from}");
    }
    let answer = client.call(Pull::of("T", 0, 2).command()).await;
    let remark = answer.remark.as_deref().unwrap_or_default();
    assert_eq!(answer.code, response::SYSTEM_ERROR, "{remark}");
    assert!(remark.contains("commitlog/00000000000000000000") && remark.contains("checksum"), "{remark}");
}
