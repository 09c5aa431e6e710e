//! Old messages go by the clock and by an operator's word, and never those that are still needed.

use std::time::Duration;

use mq_broker::BrokerConfig;
use mq_protocol::body::{TxnDeed, TxnVerdict, to_json};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{GetMinOffset, OffsetResponse};
use mq_protocol::ids::QueueId;
use mq_protocol::sys_flag::TRANSACTION_ROLLBACK;

use crate::harness::{Client, Pull, Send, World, end, pulled, until};

const HOUR: Duration = Duration::from_secs(3600);

/// Files of a few messages, kept for an hour, removed only when a test asks for it.
fn by_hand(config: &mut BrokerConfig) {
    config.apply("fileReservedTime=1\ncleanResourceInterval=86400000\nmappedFileSizeCommitLog=16384\n").unwrap();
}

/// 329, and how many files of the log it removed.
async fn clean(client: &mut Client) -> usize {
    let answer = client.call(Command::request(request::DELETE_EXPIRED_COMMITLOG)).await;
    assert_eq!(answer.code, response::SUCCESS, "{:?}", answer.remark);
    let remark = answer.remark.unwrap();
    remark.split(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("{remark}"))
}

async fn fill(client: &mut Client, messages: u32) {
    for number in 0..messages {
        client.send(Send::to("T").body(format!("{number:0900}"))).await;
    }
}

async fn min_offset(client: &mut Client) -> u64 {
    let header = GetMinOffset { topic: "T".into(), queue_id: QueueId(0), bname: None };
    let answer = client.call(Command::request_with(request::GET_MIN_OFFSET, &header)).await;
    answer.header::<OffsetResponse>().unwrap().offset.0
}

#[tokio::test]
async fn messages_older_than_their_time_go_at_their_hour_and_consumers_behind_are_told_where_to_go_on() {
    let world = World::new();
    let every_hour = (0..24).map(|hour| format!("{hour:02}")).collect::<Vec<_>>().join(";");
    let broker = world
        .start_with(|config| {
            by_hand(config);
            config.apply(&format!("cleanResourceInterval=10\ndeleteWhen={every_hour}\n")).unwrap();
        })
        .await;
    let mut client = broker.connect().await;
    fill(&mut client, 60).await;
    assert_eq!(min_offset(&mut client).await, 0);
    world.clock.advance(HOUR);
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    let min = loop {
        let min = min_offset(&mut client).await;
        if min > 40 {
            break min;
        }
        assert!(std::time::Instant::now() < deadline, "the first message is {min}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let (code, next, first, last, _) = pulled(&client.call(Pull::of("T", 0, 3).command()).await);
    assert_eq!((code, next, first, last), (response::PULL_OFFSET_MOVED, min, min, 60));
    let left = client.pull(Pull::of("T", 0, min as i64)).await;
    assert_eq!(left.len() as u64, 60 - min);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn a_pending_half_and_an_undelivered_message_keep_their_files_until_they_are_done() {
    let world = World::new();
    let broker = world.start_with(by_hand).await;
    let mut client = broker.connect().await;
    let half = client.send(Send::to("T").half("key")).await;
    fill(&mut client, 60).await;
    world.clock.advance(HOUR);
    assert_eq!(clean(&mut client).await, 0, "the half is in the first file");
    let ended = client.call(end(&half, "producers", TRANSACTION_ROLLBACK)).await;
    assert_eq!(ended.code, response::SUCCESS, "{:?}", ended.remark);
    assert!(clean(&mut client).await > 2);

    client.send(Send::to("later").property("DELAY", "18")).await;
    fill(&mut client, 60).await;
    world.clock.advance(HOUR + HOUR / 2);
    let removed = clean(&mut client).await;
    let before = min_offset(&mut client).await;
    assert!(removed < 2 && before <= 61, "{removed} files, up to the one with the delayed message: {before}");
    world.clock.advance(HOUR);
    let delivered = client.pull(Pull::of("later", 0, 0).waiting(Duration::from_secs(15))).await;
    assert_eq!(delivered.len(), 1);
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while min_offset(&mut client).await <= 61 {
        assert!(std::time::Instant::now() < deadline, "{}", min_offset(&mut client).await);
        clean(&mut client).await;
    }

    broker.stop().await.unwrap();
    let broker = world.start_with(by_hand).await;
    let mut client = broker.connect().await;
    let half = client.send(Send::to("T").half("another")).await;
    let ended = client.call(end(&half, "producers", TRANSACTION_ROLLBACK)).await;
    assert_eq!(ended.code, response::SUCCESS, "transactions go on above the new begin: {:?}", ended.remark);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn a_given_up_half_keeps_its_file_until_an_operator_has_decided() {
    let world = World::new();
    let set = |config: &mut BrokerConfig| {
        by_hand(config);
        config.transaction_check_max = 1;
    };
    let broker = world.start_with(set).await;
    let mut client = broker.connect().await;
    client.heartbeat("c", &["producers"], &[]).await;
    client.send(Send::to("T").half("key")).await;
    until(async || {
        world.clock.advance(Duration::from_secs(40));
        client.max_offset("TRANS_CHECK_MAX_TIME_TOPIC", 0).await > 0
    })
    .await;
    fill(&mut client, 60).await;
    world.clock.advance(HOUR);
    assert_eq!(clean(&mut client).await, 0, "its copy is in the first file");
    broker.stop().await.unwrap();

    let broker = world.start_with(set).await;
    let mut client = broker.connect().await;
    assert_eq!(clean(&mut client).await, 0, "a restart knows that it waits");
    let verdict = Some(TxnVerdict::Rollback);
    let deed = TxnDeed { parked: Some(0), confirm: "key".into(), verdict, ..TxnDeed::default() };
    let resolved = client.call(Command::request(request::TXN_RESOLVE).with_body(to_json(&deed))).await;
    assert_eq!(resolved.code, response::SUCCESS, "{:?}", resolved.remark);
    assert!(clean(&mut client).await > 2);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn what_waits_for_the_timers_keeps_its_files_while_they_are_switched_off() {
    let world = World::new();
    let broker = world.start_with(by_hand).await;
    let mut client = broker.connect().await;
    client.send(Send::to("timed").property("TIMER_DELAY_SEC", "7200")).await;
    fill(&mut client, 60).await;
    broker.stop().await.unwrap();

    let broker = world
        .start_with(|config| {
            by_hand(config);
            config.apply("timerWheelEnable=false\n").unwrap();
        })
        .await;
    let mut client = broker.connect().await;
    world.clock.advance(HOUR + HOUR / 2);
    assert_eq!(clean(&mut client).await, 0, "the timer's message is in the first file");
    broker.stop().await.unwrap();

    let broker = world.start_with(by_hand).await;
    let mut client = broker.connect().await;
    world.clock.advance(HOUR);
    let delivered = client.pull(Pull::of("timed", 0, 0).waiting(Duration::from_secs(15))).await;
    assert_eq!(delivered.len(), 1);
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while clean(&mut client).await == 0 {
        assert!(std::time::Instant::now() < deadline, "delivered, and its file stays");
    }
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn messages_of_topics_that_nobody_configured_any_more_go_when_an_operator_says_so() {
    let world = World::new();
    let broker = world.start_with(by_hand).await;
    let mut client = broker.connect().await;
    for topic in ["kept", "orphaned"] {
        client.send(Send::to(topic)).await;
    }
    client.send(Send::to("T").half("pending")).await;
    broker.stop().await.unwrap();
    let table = world.directory.path().join("config/topics.json");
    let text = std::fs::read_to_string(&table).unwrap();
    // As the manual says: without the line of the checksum.
    let (content, _) = text.split_once(",\n\t\"checkbackSum\"").unwrap();
    std::fs::write(&table, content.replace("\"orphaned\"", "\"renamed\"") + "\n}").unwrap();
    let broker = world.start_with(by_hand).await;
    let mut client = broker.connect().await;
    let answer = client.call(Command::request(request::CLEAN_UNUSED_TOPIC)).await;
    assert_eq!(answer.remark.as_deref(), Some("the messages of 1 topics were removed"));
    assert_eq!(client.call(Command::request(request::CLEAN_EXPIRED_CONSUMEQUEUE)).await.code, response::SUCCESS);
    assert_eq!(client.pull(Pull::of("kept", 0, 0)).await.len(), 1);
    let sent = client.send(Send::to("orphaned")).await;
    assert_eq!(sent.queue_offset.0, 1, "its numbering goes on");
    broker.stop().await.unwrap();
}
