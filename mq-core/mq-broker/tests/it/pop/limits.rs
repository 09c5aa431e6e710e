//! What a group may have in flight, and what cannot be done.

use super::*;

const TWELVE_HOURS: i64 = 12 * 3600 * 1000;

#[tokio::test]
async fn a_group_that_acknowledges_nothing_is_given_no_more_than_its_limit() {
    let world = World::new();
    let broker = world.start_with(|config| config.pop.max_in_flight_of_group = 2).await;
    let mut client = member(&broker).await;
    client.heartbeat("c1", &[], &[("g", "T", "*"), ("h", "T", "*")]).await;
    send(&mut client, &["a", "b", "c"]).await;
    let two = PopMessage { max_msg_nums: 2, ..pop("g", "T") };
    let first = popped(&mut client, &two).await;
    while broker.broker.pop_in_flight("T", "g", QueueId(0)) < 2 {
        tokio::task::yield_now().await;
    }
    let refused = client.call(command(&two)).await;
    assert_eq!(refused.code, response::POLLING_FULL);
    assert!(refused.remark.unwrap().contains("its limit is 2"));
    assert_eq!(popped(&mut client, &PopMessage { max_msg_nums: 1, ..pop("h", "T") }).await.len(), 1, "others go on");
    done(&mut client, first[0].ack()).await;
    while broker.broker.pop_in_flight("T", "g", QueueId(0)) > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bodies(&popped(&mut client, &two).await), ["c"]);
}

#[tokio::test]
async fn a_queue_over_its_threshold_waits_where_that_is_switched_on() {
    let mut config = BrokerConfig::default();
    config.apply("enablePopMessageThreshold=true\npopInflightMessageThreshold=0\n").unwrap();
    let world = World::new();
    let broker = world.start_with(|own| own.pop = config.pop).await;
    let mut client = member(&broker).await;
    send(&mut client, &["a", "b"]).await;
    let one = PopMessage { max_msg_nums: 1, ..pop("g", "T") };
    let first = popped(&mut client, &one).await;
    while broker.broker.pop_in_flight("T", "g", QueueId(0)) == 0 {
        tokio::task::yield_now().await;
    }
    assert!(popped(&mut client, &one).await.is_empty());
    done(&mut client, first[0].ack()).await;
    while broker.broker.pop_in_flight("T", "g", QueueId(0)) > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bodies(&popped(&mut client, &one).await), ["b"]);
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_with_its_code() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    send(&mut client, &["a"]).await;
    let found = popped(&mut client, &pop("g", "T")).await.remove(0);
    let ack = |change: fn(&mut AckMessage)| {
        let mut header: AckMessage = found.ack().header().unwrap();
        change(&mut header);
        Command::request_with(request::ACK_MESSAGE, &header)
    };
    let change = |change: fn(&mut ChangeInvisibleTime)| {
        let mut header: ChangeInvisibleTime = found.change(INVISIBLE).header().unwrap();
        change(&mut header);
        Command::request_with(request::CHANGE_MESSAGE_INVISIBLETIME, &header)
    };
    let pop = |change: fn(&mut PopMessage)| {
        let mut header = pop("g", "T");
        change(&mut header);
        command(&header)
    };
    let batch = |acks| {
        let body = body::to_json(&BatchAcks { broker_name: "b".into(), acks });
        Command::request(request::BATCH_ACK_MESSAGE).with_body(body)
    };
    let acks = |bits: std::ops::Range<u64>| BatchAck { bits: bits.collect(), ..acks_of(&found) };
    for (name, request, code) in [
        ("too many", pop(|pop| pop.max_msg_nums = 33), response::INVALID_PARAMETER),
        ("no topic", pop(|pop| pop.topic = "U".into()), response::TOPIC_NOT_EXIST),
        ("no queue", pop(|pop| pop.queue_id = 99), response::INVALID_PARAMETER),
        ("no group", pop(|pop| pop.consumer_group = "h".into()), response::SUBSCRIPTION_GROUP_NOT_EXIST),
        ("a negative time", pop(|pop| pop.invisible_time = -1), response::INVALID_PARAMETER),
        ("12 hours", pop(|pop| pop.invisible_time = TWELVE_HOURS), response::POLLING_TIMEOUT),
        ("more than 12 hours", pop(|pop| pop.invisible_time = TWELVE_HOURS + 1), response::INVALID_PARAMETER),
        ("for ever", pop(|pop| pop.invisible_time = i64::MAX), response::INVALID_PARAMETER),
        ("ack: no topic", ack(|ack| ack.topic = "U".into()), response::TOPIC_NOT_EXIST),
        ("ack: no queue", ack(|ack| ack.queue_id = -1), response::MESSAGE_ILLEGAL),
        ("ack: no message", ack(|ack| ack.offset = 1), response::NO_MESSAGE),
        ("ack: no handle", ack(|ack| ack.extra_info = "1 2 3".into()), response::INVALID_PARAMETER),
        ("ack: no revive queue", ack(|ack| ack.extra_info = "0 1 2 8 0 b 0 0".into()), response::INVALID_PARAMETER),
        ("ack: not in order", ack(|ack| ack.extra_info = "0 1 2 999 0 b 0 0".into()), response::SUCCESS),
        ("change: no topic", change(|change| change.topic = "U".into()), response::TOPIC_NOT_EXIST),
        ("change: no queue", change(|change| change.queue_id = 99), response::MESSAGE_ILLEGAL),
        ("change: no message", change(|change| change.offset = -1), response::NO_MESSAGE),
        ("change: a negative time", change(|change| change.invisible_time = -1), response::INVALID_PARAMETER),
        ("change: for ever", change(|change| change.invisible_time = i64::MAX), response::INVALID_PARAMETER),
        ("batch: nothing", batch(Vec::new()), response::NO_MESSAGE),
        ("batch: too many", batch(vec![acks_of(&found); 1025]), response::INVALID_PARAMETER),
        ("batch: at the limit", batch(vec![acks(0..32 << 10)]), response::SUCCESS),
        ("batch: too many messages", batch(vec![acks(0..1), acks(0..32 << 10)]), response::INVALID_PARAMETER),
        ("batch: 4 million messages", batch(vec![acks(0..4096); 1024]), response::INVALID_PARAMETER),
        (
            "batch: far away",
            batch(vec![BatchAck {
                start_offset: QueueOffset(u64::MAX),
                bits: [0, 1].into_iter().collect(),
                ..acks_of(&found)
            }]),
            response::SUCCESS,
        ),
        ("batch: no mark", batch(vec![BatchAck { retry: "7".into(), ..acks_of(&found) }]), response::INVALID_PARAMETER),
        ("rollback", Command::request(request::POP_ROLLBACK), response::SUCCESS),
    ] {
        assert_eq!(client.call(request).await.code, code, "{name}");
    }
    set_group(&mut client, SubscriptionGroup { consume_enable: false, ..group() }).await;
    assert_eq!(client.call(pop(|_| {})).await.code, response::NO_PERMISSION);
}
