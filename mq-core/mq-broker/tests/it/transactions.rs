//! Half messages, verdicts and checkback, over the wire.

use std::sync::Arc;
use std::time::Duration;

use mq_broker::{BrokerConfig, FlushDiskType};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{CheckTransactionState, EndTransaction, SendMessageResponse};
use mq_protocol::ids::{LogOffset, QueueOffset};
use mq_protocol::record::StoredMessage;
use mq_protocol::sys_flag::{TRANSACTION_COMMIT, TRANSACTION_NONE, TRANSACTION_ROLLBACK};
use mq_store::backend::{CrashBackend, CrashMode};

use crate::harness::{Client, Pull, Send, World, end, end_at, pulled, until};

const GROUP: &str = "producers";
const TIMEOUT: Duration = Duration::from_secs(6);

/// Whether the topic shows a message at all, and which.
async fn visible(client: &mut Client) -> Vec<bytes::Bytes> {
    let answer = client.call(Pull::of("T", 0, 0).command()).await;
    if answer.code == response::TOPIC_NOT_EXIST { Vec::new() } else { pulled(&answer).4 }
}

async fn half(client: &mut Client, key: &str) -> SendMessageResponse {
    client.send(Send::to("T").half(key).property("TAGS", "paid").body(key.to_owned())).await
}

#[tokio::test]
async fn a_half_is_invisible_until_commit_and_a_rollback_keeps_it_so() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    let (first, second) = (half(&mut client, "kept").await, half(&mut client, "dropped").await);
    assert_eq!((first.queue_offset.0, second.queue_offset.0), (0, 1), "offsets of the half queue");
    assert_eq!((first.queue_id.0, first.transaction_id.as_deref()), (0, Some("kept")));
    assert!(visible(&mut client).await.is_empty());
    for (sent, bits) in [(&first, TRANSACTION_COMMIT), (&second, TRANSACTION_ROLLBACK)] {
        assert_eq!(client.call(end(sent, GROUP, bits)).await.code, response::SUCCESS);
    }
    let stored = client.pull(Pull::of("T", 0, 0).tags("paid")).await;
    assert_eq!(stored.len(), 1);
    let message = &stored[0].message;
    assert_eq!((&message.body[..], message.property("TRAN_MSG")), (&b"kept"[..], Some("true")));
    assert_eq!(message.sys_flag & 0xC, TRANSACTION_COMMIT);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn the_first_verdict_stands() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    let committed = half(&mut client, "committed").await;
    let rolled_back = half(&mut client, "rolled back").await;
    let open = half(&mut client, "open").await;
    let nowhere = end_at(QueueOffset(77), LogOffset(1 << 30), GROUP, TRANSACTION_COMMIT);
    let shifted = {
        let (_, offset) = mq_protocol::message_id::parse_offset_id(&open.msg_id).unwrap();
        end_at(open.queue_offset, offset.plus(1), GROUP, TRANSACTION_COMMIT)
    };
    for (name, command, code) in [
        ("commit", end(&committed, GROUP, TRANSACTION_COMMIT), response::SUCCESS),
        ("commit again", end(&committed, GROUP, TRANSACTION_COMMIT), response::SUCCESS),
        ("rollback of committed", end(&committed, GROUP, TRANSACTION_ROLLBACK), response::ILLEGAL_OPERATION),
        ("rollback", end(&rolled_back, GROUP, TRANSACTION_ROLLBACK), response::SUCCESS),
        ("rollback again", end(&rolled_back, GROUP, TRANSACTION_ROLLBACK), response::SUCCESS),
        ("commit of rolled back", end(&rolled_back, GROUP, TRANSACTION_COMMIT), response::ILLEGAL_OPERATION),
        ("other group", end(&open, "others", TRANSACTION_COMMIT), response::SYSTEM_ERROR),
        ("no such half", nowhere, response::SYSTEM_ERROR),
        ("other log offset", shifted, response::SYSTEM_ERROR),
        ("no verdict", end(&open, GROUP, 5), response::SYSTEM_ERROR),
        ("unknown", end(&open, GROUP, TRANSACTION_NONE), response::SUCCESS),
    ] {
        let answer = client.call(command).await;
        assert_eq!(answer.code, code, "{name}: {:?}", answer.remark);
    }
    assert_eq!(visible(&mut client).await, ["committed"]);
}

#[tokio::test]
async fn a_verdict_that_a_contrary_one_was_refused_for_survives_a_power_cut() {
    let disk = CrashBackend::new();
    let asynchronous = |config: &mut BrokerConfig| {
        config.flush_disk_type = FlushDiskType::Async;
        config.flush_interval = Duration::from_secs(3600);
    };
    let world = World::on(Arc::new(disk.clone()));
    let broker = world.start_with(asynchronous).await;
    let mut client = broker.connect().await;
    let sent = half(&mut client, "K").await;
    client.post(end(&sent, GROUP, TRANSACTION_COMMIT).oneway()).await;
    assert_eq!(client.call(end(&sent, GROUP, TRANSACTION_ROLLBACK)).await.code, response::ILLEGAL_OPERATION);
    let world = World { backend: Arc::new(disk.crash(CrashMode::Drop, 0)), ..world };
    broker.abandon().await;
    let broker = world.start_with(asynchronous).await;
    let mut client = broker.connect().await;
    assert_eq!(client.call(end(&sent, GROUP, TRANSACTION_ROLLBACK)).await.code, response::ILLEGAL_OPERATION);
    assert_eq!(visible(&mut client).await, ["K"]);
}

#[tokio::test]
async fn a_oneway_verdict_counts_and_is_not_answered() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    let sent = half(&mut client, "kept").await;
    client.post(end(&sent, GROUP, TRANSACTION_COMMIT).oneway()).await;
    let waited = client.call(Pull::of("T", 0, 0).waiting(Duration::from_secs(15)).command()).await;
    assert_eq!(pulled(&waited).4, ["kept"], "the first answer that came is the pull's");
}

#[tokio::test]
async fn a_broker_may_refuse_transactions() {
    let broker = World::new().start_with(|config| config.reject_transactions = true).await;
    let mut client = broker.connect().await;
    let answer = client.call(Send::to("T").half("K").command()).await;
    assert_eq!(answer.code, response::NO_PERMISSION);
}

fn asked(check: &Command) -> (CheckTransactionState, StoredMessage) {
    assert!(check.is_oneway());
    (check.header().unwrap(), StoredMessage::decode(&check.body).unwrap())
}

#[tokio::test]
async fn the_sender_of_a_silent_half_is_asked_first_and_its_answer_ends_the_half() {
    let world = World::new();
    let broker = world.start().await;
    let (mut other, mut sender) = (broker.connect().await, broker.connect().await);
    other.heartbeat("a@other", &[GROUP], &[]).await;
    sender.heartbeat("b@sender", &[GROUP], &[]).await;
    let sent = half(&mut sender, "silent").await;
    world.clock.advance(TIMEOUT);
    let check = sender.request(request::CHECK_TRANSACTION_STATE).await;
    let (header, message) = asked(&check);
    assert_eq!(header.tran_state_table_offset, sent.queue_offset);
    assert_eq!(header.transaction_id.as_deref(), Some("silent"));
    assert_eq!(header.bname.as_deref(), Some("broker-a"));
    assert_eq!((&*message.message.topic, &message.message.body[..]), ("T", &b"silent"[..]));
    assert_eq!(message.message.property("PGROUP"), Some(GROUP));
    let verdict = end_at(header.tran_state_table_offset, header.commit_log_offset, GROUP, TRANSACTION_COMMIT);
    assert_eq!(sender.call(verdict).await.code, response::SUCCESS);
    assert_eq!(visible(&mut other).await, ["silent"]);
}

#[tokio::test]
async fn when_the_sender_is_gone_another_of_its_group_is_asked_and_when_nobody_is_there_the_next_who_comes() {
    let world = World::new();
    let broker = world.start().await;
    let mut sender = broker.connect().await;
    sender.heartbeat("a@sender", &[GROUP], &[]).await;
    half(&mut sender, "orphan").await;
    drop(sender);
    world.clock.advance(TIMEOUT);
    let mut heir = broker.connect().await;
    heir.heartbeat("b@heir", &[GROUP], &[]).await;
    // Nobody may have been there at the first attempt; the next one is an interval later.
    world.clock.advance(Duration::from_secs(31));
    let (header, _) = asked(&heir.request(request::CHECK_TRANSACTION_STATE).await);
    let verdict = end_at(header.tran_state_table_offset, header.commit_log_offset, GROUP, TRANSACTION_ROLLBACK);
    assert_eq!(heir.call(verdict).await.code, response::SUCCESS);
    assert!(visible(&mut heir).await.is_empty());
}

#[tokio::test]
async fn an_unknown_answer_is_asked_again_after_the_interval_until_the_half_is_parked() {
    let world = World::new();
    let broker = world.start_with(|config| config.transaction_check_max = 3).await;
    let mut client = broker.connect().await;
    client.heartbeat("a@1", &[GROUP], &[]).await;
    half(&mut client, "undecided").await;
    world.clock.advance(TIMEOUT);
    for attempt in 1..=3 {
        let (header, message) = asked(&client.request(request::CHECK_TRANSACTION_STATE).await);
        assert_eq!(message.message.property("TRANSACTION_CHECK_TIMES"), Some(attempt.to_string().as_str()));
        let unknown = end_at(header.tran_state_table_offset, header.commit_log_offset, GROUP, TRANSACTION_NONE);
        client.call(unknown).await;
        world.clock.advance(Duration::from_secs(31));
    }
    let parked = Pull::of("TRANS_CHECK_MAX_TIME_TOPIC", 0, 0).waiting(Duration::from_secs(15));
    assert_eq!(client.pull(parked).await[0].message.body, "undecided");
    assert!(visible(&mut client).await.is_empty());
}

#[tokio::test]
async fn open_halves_and_verdicts_survive_a_restart() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    let (open, done) = (half(&mut client, "open").await, half(&mut client, "done").await);
    client.call(end(&done, GROUP, TRANSACTION_COMMIT)).await;
    broker.stop().await.unwrap();

    let broker = world.start().await;
    let mut client = broker.connect().await;
    client.heartbeat("a@1", &[GROUP], &[]).await;
    assert_eq!(client.call(end(&done, GROUP, TRANSACTION_ROLLBACK)).await.code, response::ILLEGAL_OPERATION);
    world.clock.advance(TIMEOUT + Duration::from_secs(31));
    let (header, _) = asked(&client.request(request::CHECK_TRANSACTION_STATE).await);
    assert_eq!(header.tran_state_table_offset, open.queue_offset);
    let verdict = end_at(header.tran_state_table_offset, header.commit_log_offset, GROUP, TRANSACTION_COMMIT);
    assert_eq!(client.call(verdict).await.code, response::SUCCESS);
    assert_eq!(visible(&mut client).await, ["done", "open"]);
}

#[tokio::test]
async fn several_messages_of_several_topics_have_one_verdict() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    let part = |topic: &'static str, number: u8| {
        let key = format!("order-1-{number}");
        Send::to(topic)
            .half(&key)
            .property("CHECKBACK_SHARED_ID", "order-1")
            .property("CHECKBACK_PART", format!("{number}/2"))
    };
    let paid = client.send(part("PAID", 1).body("paid")).await;
    let early = client.call(end(&paid, GROUP, TRANSACTION_COMMIT)).await;
    assert_eq!(early.code, response::SYSTEM_BUSY, "{:?}", early.remark);
    let packet = client.send(part("PACKET", 2).body("packet")).await;
    assert_eq!(client.call(end(&packet, GROUP, TRANSACTION_COMMIT)).await.code, response::SUCCESS);
    for (topic, queue, body) in [("PAID", paid.queue_id, "paid"), ("PACKET", packet.queue_id, "packet")] {
        let stored = client.pull(Pull::of(topic, queue.0, 0)).await;
        assert_eq!(Vec::from_iter(stored.iter().map(|stored| stored.message.body.clone())), [body]);
    }
    assert_eq!(client.call(end(&paid, GROUP, TRANSACTION_COMMIT)).await.code, response::SUCCESS);
    assert_eq!(client.call(end(&paid, GROUP, TRANSACTION_ROLLBACK)).await.code, response::ILLEGAL_OPERATION);
    broker.stop().await.unwrap();
}

/// apache/rocketmq #546, #9923: there a delay is stripped, or takes the half away.
#[tokio::test]
async fn a_delay_begins_at_the_commit() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    let refused = client.call(Send::to("T").half("K0").property("TIMER_DELAY_MS", "5000").command()).await;
    assert_eq!(refused.code, response::MESSAGE_ILLEGAL, "a delay that would begin now is refused by name");
    let too_far = client.call(Send::to("T").half("K1").property("CHECKBACK_DELAY_MS", "99999999999").command()).await;
    assert_eq!(too_far.code, response::MESSAGE_ILLEGAL, "{:?}", too_far.remark);
    let sent = client.send(Send::to("T").half("K2").property("CHECKBACK_DELAY_MS", "20000").body("late")).await;
    world.clock.advance(Duration::from_secs(4));
    assert_eq!(client.call(end(&sent, GROUP, TRANSACTION_COMMIT)).await.code, response::SUCCESS);
    world.clock.advance(Duration::from_secs(18));
    assert!(visible(&mut client).await.is_empty(), "counted from the send it would be there");
    world.clock.advance(Duration::from_secs(4));
    let waited = client.call(Pull::of("T", 0, 0).waiting(Duration::from_secs(60)).command()).await;
    assert_eq!(pulled(&waited).4, ["late"]);
    assert_eq!(client.call(end(&sent, GROUP, TRANSACTION_ROLLBACK)).await.code, response::ILLEGAL_OPERATION);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn messages_of_an_order_key_stand_in_one_queue_in_the_order_of_their_commits() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    let mut sent = Vec::new();
    for n in 0..12 {
        let key = format!("K{n}");
        let order = if n % 2 == 0 { "customer-1" } else { "customer-2" };
        sent.push(
            client.send(Send::to("FIFO").half(&key).property("CHECKBACK_ORDER_KEY", order).body(key.clone())).await,
        );
    }
    let queues: Vec<_> = sent.iter().map(|sent| sent.queue_id.0).collect();
    assert!((0..12).all(|n| queues[n] == queues[n % 2]), "{queues:?}");
    let commits = [4, 0, 10, 2, 8, 6];
    for n in commits {
        assert_eq!(client.call(end(&sent[n], GROUP, TRANSACTION_COMMIT)).await.code, response::SUCCESS);
    }
    let stored = client.pull(Pull::of("FIFO", queues[0], 0)).await;
    let bodies: Vec<_> =
        stored.iter().map(|stored| String::from_utf8_lossy(&stored.message.body).into_owned()).collect();
    assert_eq!(bodies, commits.map(|n| format!("K{n}")));
    let both = Send::to("FIFO").half("K99").property("CHECKBACK_ORDER_KEY", "k").property("CHECKBACK_DELAY_MS", "5");
    assert_eq!(client.call(both.command()).await.code, response::MESSAGE_ILLEGAL);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn a_half_may_ask_for_fewer_checks() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    client.heartbeat("a@1", &[GROUP], &[]).await;
    client.send(Send::to("T").half("K").property("CHECKBACK_MAX_CHECKS", "1").body("undecided")).await;
    world.clock.advance(TIMEOUT);
    client.request(request::CHECK_TRANSACTION_STATE).await;
    world.clock.advance(Duration::from_secs(31));
    let parked = Pull::of("TRANS_CHECK_MAX_TIME_TOPIC", 0, 0).waiting(Duration::from_secs(60));
    let parked = client.pull(parked).await;
    let copy = &parked[0].message;
    assert_eq!(
        (copy.property("TRANSACTION_CHECK_TIMES"), copy.property("CHECKBACK_PARKED")),
        (Some("1"), Some("no verdict"))
    );
    broker.stop().await.unwrap();
}

/// The client's answer to a check.
fn answer(check: &Command, bits: i32) -> Command {
    let (header, _) = asked(check);
    let end = end_at(header.tran_state_table_offset, header.commit_log_offset, GROUP, bits);
    let header = EndTransaction { from_transaction_check: Some(true), ..end.header().unwrap() };
    Command::request_with(request::END_TRANSACTION, &header)
}

/// Our own client drops checks when it has 256: they must not count as asked.
#[tokio::test]
async fn a_client_has_two_hundred_checks_to_answer_at_most_and_those_that_wait_are_not_counted() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    client.heartbeat("a@1", &[GROUP], &[]).await;
    for number in 0..250 {
        half(&mut client, &format!("t{number}")).await;
    }
    world.clock.advance(TIMEOUT);
    let mut checks = Vec::new();
    for _ in 0..200 {
        checks.push(client.request(request::CHECK_TRANSACTION_STATE).await);
    }
    let metric = |name: &str| {
        let metrics = broker.metrics();
        let value =
            metrics.lines().find_map(|line| line.strip_prefix(name)?.split(' ').next_back()?.parse::<f64>().ok());
        value.unwrap_or_else(|| panic!("no {name} in {metrics}"))
    };
    until(async || metric("checkback_held_back_checks") >= 50.0).await;
    assert!((metric("checkback_checks_sent") - 200.0).abs() < 0.5);
    for check in &checks {
        assert_eq!(client.call(answer(check, TRANSACTION_ROLLBACK)).await.code, response::SUCCESS);
    }
    world.clock.advance(Duration::from_secs(1));
    for _ in 0..50 {
        let check = client.request(request::CHECK_TRANSACTION_STATE).await;
        let (_, message) = asked(&check);
        assert_eq!(message.message.property("TRANSACTION_CHECK_TIMES"), Some("1"));
        assert_eq!(client.call(answer(&check, TRANSACTION_ROLLBACK)).await.code, response::SUCCESS);
    }
    broker.stop().await.unwrap();
}

/// It may have lost its database, and its peers have not.
#[tokio::test]
async fn a_sender_that_does_not_know_four_times_is_not_the_only_one_that_is_asked() {
    let world = World::new();
    let broker = world.start().await;
    let (mut other, mut sender) = (broker.connect().await, broker.connect().await);
    other.heartbeat("a@other", &[GROUP], &[]).await;
    sender.heartbeat("b@sender", &[GROUP], &[]).await;
    half(&mut sender, "lost").await;
    world.clock.advance(TIMEOUT);
    for attempt in 1..=4 {
        let check = sender.request(request::CHECK_TRANSACTION_STATE).await;
        assert_eq!(asked(&check).1.message.property("TRANSACTION_CHECK_TIMES"), Some(&*attempt.to_string()));
        sender.call(answer(&check, TRANSACTION_NONE)).await;
        world.clock.advance(Duration::from_secs(31));
    }
    let check = other.request(request::CHECK_TRANSACTION_STATE).await;
    assert_eq!(asked(&check).1.message.property("TRANSACTION_CHECK_TIMES"), Some("5"));
    assert_eq!(other.call(answer(&check, TRANSACTION_COMMIT)).await.code, response::SUCCESS);
    assert_eq!(visible(&mut other).await, ["lost"]);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn verdicts_about_halves_that_are_long_out_of_memory_are_the_same() {
    let broker = World::new().start_with(|config| config.memory_hot_percent = 0).await;
    let mut client = broker.connect().await;
    let (kept, dropped) = (half(&mut client, "kept").await, half(&mut client, "dropped").await);
    for (half, bits, code) in [
        (&kept, TRANSACTION_COMMIT, response::SUCCESS),
        (&kept, TRANSACTION_COMMIT, response::SUCCESS),
        (&kept, TRANSACTION_ROLLBACK, response::ILLEGAL_OPERATION),
        (&dropped, TRANSACTION_NONE, response::SUCCESS),
        (&dropped, TRANSACTION_ROLLBACK, response::SUCCESS),
        (&dropped, TRANSACTION_COMMIT, response::ILLEGAL_OPERATION),
    ] {
        assert_eq!(client.call(end(half, GROUP, bits)).await.code, code, "{bits} of {}", half.queue_offset);
    }
    let nowhere = end_at(QueueOffset(0), LogOffset(1 << 40), GROUP, TRANSACTION_COMMIT);
    assert_eq!(client.call(nowhere).await.code, response::SYSTEM_ERROR);
    assert_eq!(visible(&mut client).await, ["kept"]);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn messages_that_could_not_be_published_at_once_are_refused_when_they_are_sent() {
    let broker = World::new().start_with(|config| config.commit_log_segment_bytes = 64 << 10).await;
    let mut client = broker.connect().await;
    let part = |bytes: usize| {
        let half = Send::to("T").half("k").body(vec![b'x'; bytes]);
        half.property("CHECKBACK_SHARED_ID", "s").property("CHECKBACK_PART", "1/32").command()
    };
    let refused = client.call(part(1000)).await;
    let remark = refused.remark.as_deref().unwrap_or_default();
    assert!(refused.code == response::MESSAGE_ILLEGAL && remark.contains("the limit is 1024"), "{remark}");
    assert_eq!(client.call(part(500)).await.code, response::SUCCESS);
    broker.stop().await.unwrap();
}
