//! Messages for an arbitrary time: hidden until due, delivered once, also across crashes; taken back by their handle;
//! priorities.

use std::time::Duration;

use mq_protocol::body::{self, TimerMetrics};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{RecallMessage, RecallMessageResponse, SendMessageResponse};
use mq_protocol::recall::RecallHandle;
use mq_protocol::record;

use crate::harness::{Client, Pull, START, Send, TestBroker, World, pulled, until};

const LONG: Duration = Duration::from_secs(15);

/// What stands in queue 0 of `T` from `from` on, once there are so many.
async fn delivered(client: &mut Client, from: usize, count: usize) -> Vec<String> {
    let mut bodies = Vec::new();
    while bodies.len() < count {
        let pull = Pull::of("T", 0, (from + bodies.len()) as i64).waiting(LONG);
        let answer = client.call(pull.command()).await;
        bodies.extend(pulled(&answer).4.iter().map(|body| String::from_utf8(body.to_vec()).unwrap()));
    }
    bodies
}

async fn start_recalling(world: &World) -> TestBroker {
    world.start_with(|config| config.recall = true).await
}

fn recall(topic: &str, handle: &str) -> Command {
    let header = RecallMessage {
        producer_group: Some("producers".into()),
        topic: topic.into(),
        recall_handle: handle.into(),
        bname: None,
    };
    Command::request_with(request::RECALL_MESSAGE, &header)
}

#[tokio::test]
async fn a_message_appears_at_its_time_where_it_was_sent_to() {
    let at = (START.0 + 5000).to_string();
    for (name, value, due_ms) in [
        ("TIMER_DELAY_SEC", "5", 5000),
        ("TIMER_DELAY_MS", "4321", 5000),
        ("TIMER_DELIVER_MS", at.as_str(), 5000),
        ("TIMER_DELIVER_MS", "1700000004001", 5000),
    ] {
        let world = World::new();
        let broker = world.start().await;
        let mut client = broker.connect().await;
        client.send(Send::to("T")).await;
        let sent = client.send(Send::to("T").property(name, value).property("TAGS", "late").body("late")).await;
        assert_eq!(sent.queue_id.0, 0, "the answer names the queue that was asked for");
        let handle = RecallHandle::decode(&sent.recall_handle.expect("a handle")).unwrap();
        assert_eq!(handle.deliver_ms, START.0 + due_ms - 1000 + 1);
        let opaque = client.post(Pull::of("T", 0, 1).tags("late").waiting(LONG).command()).await;
        world.clock.advance(Duration::from_millis(due_ms as u64 - 1));
        assert_eq!(client.max_offset("T", 0).await, 1);
        world.clock.advance(Duration::from_millis(1));
        let answer = client.answer(opaque).await;
        let message = &record::decode_all(&answer.body).unwrap()[0].message;
        assert_eq!((&*message.body, message.property(name)), (&b"late"[..], Some(value)), "{name}");
        assert!(message.property("TIMER_DEQUEUE_MS").is_some());
    }
}

#[tokio::test]
async fn what_cannot_be_promised_is_refused_and_what_is_past_is_delivered_now() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    for (name, value, code, remark) in [
        ("TIMER_DELAY_SEC", "259201", response::MESSAGE_ILLEGAL, "the limit is 259200000 ms (timerMaxDelaySec)"),
        ("TIMER_DELAY_SEC", "soon", response::MESSAGE_ILLEGAL, "is no number"),
        ("TIMER_DELIVER_MS", "9223372036854775807", response::MESSAGE_ILLEGAL, "the limit is"),
        ("TIMER_DELIVER_MS", "1", response::SUCCESS, ""),
        ("TIMER_DELAY_SEC", "-1", response::SUCCESS, ""),
        ("TIMER_DELAY_SEC", "259200", response::SUCCESS, ""),
    ] {
        let answer = client.call(Send::to("T").property(name, value).command()).await;
        assert_eq!(answer.code, code, "{name}={value}: {:?}", answer.remark);
        assert!(answer.remark.unwrap_or_default().contains(remark), "{name}={value}");
    }
    assert_eq!(client.max_offset("T", 0).await, 2, "the two that were due");
    let forged = client.call(Send::to("rmq_sys_wheel_timer").command()).await;
    assert_eq!(forged.code, response::NO_PERMISSION);
    let half = Send::to("T").half("key").property("TIMER_DELAY_SEC", "5");
    assert_eq!(client.call(half.command()).await.code, response::MESSAGE_ILLEGAL);
    let level = client.send(Send::to("T").property("DELAY", "1").property("TIMER_DELAY_SEC", "9999999")).await;
    assert_eq!(level.recall_handle, None, "the level wins");
    broker.stop().await.unwrap();

    let broker = world.start_with(|config| config.timer_wheel = false).await;
    let mut client = broker.connect().await;
    let answer = client.call(Send::to("T").property("TIMER_DELAY_SEC", "5").command()).await;
    assert_eq!(answer.code, response::SYSTEM_ERROR);
    assert!(answer.remark.unwrap().contains("timerWheelEnable=false"));
}

#[tokio::test]
async fn what_was_delivered_is_not_delivered_again_after_a_stop_or_a_crash_and_the_rest_is() {
    for crash in [false, true] {
        let world = World::new();
        let broker = world.start().await;
        let mut client = broker.connect().await;
        for n in 0..40 {
            let seconds = if n < 30 { "1" } else { "7200" };
            client.send(Send::to("T").property("TIMER_DELAY_SEC", seconds).body(n.to_string())).await;
        }
        world.clock.advance(Duration::from_secs(2));
        let expected: Vec<_> = (0..30).map(|n: u32| n.to_string()).collect();
        assert_eq!(delivered(&mut client, 0, 30).await, expected);
        if crash {
            broker.abandon().await;
            world.wait_unlocked().await;
        } else {
            broker.stop().await.unwrap();
        }
        let broker = world.start().await;
        let mut client = broker.connect().await;
        client.send(Send::to("T").property("TIMER_DELAY_SEC", "1").body("marker")).await;
        world.clock.advance(Duration::from_secs(2));
        assert_eq!(delivered(&mut client, 30, 1).await, ["marker"], "crash: {crash}");
        world.clock.advance(Duration::from_secs(7200));
        let expected: Vec<_> = (30..40).map(|n: u32| n.to_string()).collect();
        assert_eq!(delivered(&mut client, 31, 10).await, expected, "crash: {crash}");
        assert_eq!(client.max_offset("T", 0).await, 41);
    }
}

#[tokio::test]
async fn a_message_is_taken_back_by_its_handle() {
    let world = World::new();
    let broker = start_recalling(&world).await;
    let mut client = broker.connect().await;
    let mut sent: Vec<SendMessageResponse> = Vec::new();
    for body in ["a", "b", "c"] {
        sent.push(client.send(Send::to("T").property("TIMER_DELAY_SEC", "60").body(body)).await);
    }
    let answer = client.call(recall("T", sent[1].recall_handle.as_ref().unwrap())).await;
    assert_eq!(answer.code, response::SUCCESS, "{:?}", answer.remark);
    let header: RecallMessageResponse = answer.header().unwrap();
    assert_eq!(Some(header.msg_id), sent[1].transaction_id);
    world.clock.advance(Duration::from_secs(61));
    assert_eq!(delivered(&mut client, 0, 2).await, ["a", "c"]);
    client.send(Send::to("T").property("TIMER_DELAY_SEC", "1").body("marker")).await;
    world.clock.advance(Duration::from_secs(2));
    assert_eq!(delivered(&mut client, 2, 1).await, ["marker"]);

    // What cannot be taken back, and why.
    let waiting = client.send(Send::to("T").property("TIMER_DELAY_SEC", "60")).await.recall_handle.unwrap();
    client.send(Send::to("U")).await;
    let elsewhere = RecallHandle { broker_name: "broker-b".into(), ..RecallHandle::decode(&waiting).unwrap() };
    let far = RecallHandle { deliver_ms: START.0 + 300_000_000, ..RecallHandle::decode(&waiting).unwrap() };
    for (topic, handle, code) in [
        ("T", "rubbish", response::ILLEGAL_OPERATION),
        ("U", &waiting, response::ILLEGAL_OPERATION),
        ("unknown", &waiting, response::TOPIC_NOT_EXIST),
        ("T", &elsewhere.encode(), response::ILLEGAL_OPERATION),
        ("T", &far.encode(), response::ILLEGAL_OPERATION),
        ("T", sent[0].recall_handle.as_ref().unwrap(), response::ILLEGAL_OPERATION),
        ("T", &waiting, response::SUCCESS),
        ("T", &waiting, response::SUCCESS),
    ] {
        let answer = client.call(recall(topic, handle)).await;
        assert_eq!(answer.code, code, "{topic} {handle}: {:?}", answer.remark);
    }
    broker.stop().await.unwrap();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    assert_eq!(client.call(recall("T", &waiting)).await.code, response::NO_PERMISSION, "it is off by default");
}

#[tokio::test]
async fn a_recall_counts_although_the_broker_was_down_when_both_fell_due() {
    let world = World::new();
    let broker = start_recalling(&world).await;
    let mut client = broker.connect().await;
    let sent = client.send(Send::to("T").property("TIMER_DELAY_SEC", "60").body("gone")).await;
    client.send(Send::to("T").property("TIMER_DELAY_SEC", "60").body("stays")).await;
    assert_eq!(client.call(recall("T", sent.recall_handle.as_ref().unwrap())).await.code, response::SUCCESS);
    broker.abandon().await;
    world.wait_unlocked().await;
    world.clock.advance(Duration::from_secs(3600));
    let broker = start_recalling(&world).await;
    let mut client = broker.connect().await;
    assert_eq!(delivered(&mut client, 0, 1).await, ["stays"]);
    client.send(Send::to("T").property("TIMER_DELAY_SEC", "1").body("marker")).await;
    world.clock.advance(Duration::from_secs(2));
    assert_eq!(delivered(&mut client, 1, 1).await, ["marker"]);
}

#[tokio::test]
async fn tools_and_metrics_see_what_waits() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    for seconds in ["2", "30", "30", "7200", "172000"] {
        client.send(Send::to("T").property("TIMER_DELAY_SEC", seconds)).await;
    }
    client.send(Send::to("U").property("TIMER_DELAY_SEC", "9")).await;
    // The marker is seen after all of them.
    client.send(Send::to("V").property("TIMER_DELAY_MS", "1")).await;
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(pulled(&client.call(Pull::of("V", 0, 0).waiting(LONG).command()).await).4, ["hello"]);
    let by_topic = vec![("T".to_owned(), 5), ("U".to_owned(), 1)];
    let expected = (by_topic, vec![(5, 1), (60, 3), (14_400, 1), (u64::MAX, 1)]);
    // The marker itself leaves the tables a moment later.
    let settled = async {
        loop {
            let pending = broker.broker.pending_timers().unwrap();
            let found: Vec<_> =
                pending.iter().filter(|(_, count)| **count > 0).map(|(by, count)| (by.as_secs(), *count)).collect();
            if (waiting_by_topic(&mut client).await, found) == expected {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), settled).await.expect("what waits is counted");
    let checkpoint = client.call(Command::request(request::GET_TIMER_CHECK_POINT)).await;
    assert_eq!((checkpoint.code, checkpoint.body.len()), (response::SUCCESS, 56));
}

async fn waiting_by_topic(client: &mut Client) -> Vec<(String, i64)> {
    let answer = client.call(Command::request(request::GET_TIMER_METRICS)).await;
    let metrics: TimerMetrics = body::from_json("metrics", &answer.body).unwrap();
    metrics.timing_count.into_iter().map(|(topic, counted)| (topic, counted.count)).collect()
}

#[tokio::test]
async fn a_priority_is_a_queue_and_counts_on_plain_messages_only() {
    let world = World::new();
    let broker = world.start_with(|config| config.default_topic_queues = 4).await;
    let mut client = broker.connect().await;
    for (priority, other, queue, kept) in [
        ("2", None, 2, true),
        ("99", None, 3, true),
        ("0", None, 0, true),
        ("-1", None, 1, true),
        ("2", Some(("__SHARDINGKEY", "k")), 1, false),
        ("2", Some(("DELAY", "0")), 1, false),
    ] {
        let mut send = Send::to("T").property("_SYS_MSG_PRIORITY_", priority);
        send.header.queue_id = 1;
        if let Some((name, value)) = other {
            send = send.property(name, value);
        }
        let sent = client.send(send).await;
        assert_eq!(sent.queue_id.0, queue, "{priority} {other:?}");
        let message = client.pull(Pull::of("T", queue, sent.queue_offset.0 as i64)).await.remove(0).message;
        assert_eq!(message.property("_SYS_MSG_PRIORITY_").is_some(), kept, "{priority} {other:?}");
    }
}

#[tokio::test]
async fn a_slot_takes_as_many_messages_as_it_may_and_the_limit_changes_while_the_broker_runs() {
    let world = World::new();
    let broker = world.start_with(|config| config.timer_congestion = 3).await;
    let mut client = broker.connect().await;
    let at = |seconds: i64| (START.0 + seconds * 1000).to_string();
    let send = |seconds: i64| Send::to("orders").property("TIMER_DELIVER_MS", at(seconds)).command();
    let waiting = async |count: u64| {
        until(async || broker.broker.pending_timers().unwrap().values().sum::<u64>() == count).await;
    };
    for count in 1..=3 {
        assert_eq!(client.call(send(50)).await.code, response::SUCCESS);
        waiting(count).await;
    }
    let refused = client.call(send(50)).await;
    let says = "[FLOW_CONTROL] 3 messages are to be delivered in that slot already, the limit is 3 \
                (timerCongestNumEachSlot); ask for a time a slot earlier or later";
    assert_eq!((refused.code, refused.remark.as_deref()), (response::SYSTEM_ERROR, Some(says)));
    assert_eq!(client.call(send(51)).await.code, response::SUCCESS, "another slot");
    waiting(4).await;

    let set = |text: &'static str| Command::request(request::UPDATE_BROKER_CONFIG).with_body(text.as_bytes());
    let answer = client.call(set("timerCongestNumEachSlot=4\ntimerMaxDelaySec=100")).await;
    assert_eq!((answer.code, answer.remark), (response::SUCCESS, None), "both at once");
    until(async || client.call(send(50)).await.code == response::SUCCESS).await;
    assert_eq!(client.call(send(101)).await.code, response::MESSAGE_ILLEGAL);
    waiting(5).await;
    client.call(set("timerCongestNumEachSlot=1")).await;
    until(async || client.call(send(51)).await.code == response::SYSTEM_ERROR).await;

    let told = async |client: &mut Client, key: &str| {
        let answer = client.call(Command::request(request::GET_BROKER_RUNTIME_INFO)).await;
        mq_protocol::body::from_json::<mq_protocol::body::KvTable>("runtime", &answer.body).unwrap().table[key].clone()
    };
    assert_ne!(told(&mut client, "timerEnqueueTps").await, "0.0");
    assert_eq!(told(&mut client, "timerDequeueTps").await, "0.0");
    world.clock.advance(Duration::from_secs(60));
    until(async || told(&mut client, "timerCongestNum").await == "0").await;
    assert_ne!(told(&mut client, "timerDequeueTps").await, "0.0");
    broker.stop().await.unwrap();
}
