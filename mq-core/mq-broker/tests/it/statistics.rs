//! What tools read of a broker's work: counts, rates, windows, positions.

use std::collections::BTreeMap;
use std::time::Duration;

use mq_protocol::body::{
    self, BrokerConsumeStats, BrokerStatsData, ConsumeStats, ConsumeTimeSpans, KvTable, QueueKey, TopicStats,
};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{self, TopicName, UpdateConsumerOffset, ViewBrokerStats};
use mq_protocol::ids::QueueId;

use crate::harness::{Client, Pull, START, Send, World, until};

async fn runtime(tool: &mut Client) -> BTreeMap<String, String> {
    let answer = tool.call(Command::request(request::GET_BROKER_RUNTIME_INFO)).await;
    body::from_json::<KvTable>("runtime info", &answer.body).unwrap().table
}

async fn named(tool: &mut Client, name: &str, key: &str) -> Result<BrokerStatsData, String> {
    let header = ViewBrokerStats { stats_name: name.into(), stats_key: key.into() };
    let answer = tool.call(Command::request_with(request::VIEW_BROKER_STATS_DATA, &header)).await;
    match answer.code {
        response::SUCCESS => Ok(body::from_json("statistics", &answer.body).unwrap()),
        _ => Err(answer.remark.unwrap().to_string()),
    }
}

async fn commit(client: &mut Client, group: &str, topic: &str, offset: i64) {
    let header = UpdateConsumerOffset {
        consumer_group: group.into(),
        topic: topic.into(),
        queue_id: QueueId(0),
        commit_offset: offset,
        bname: None,
    };
    let answer = client.call(Command::request_with(request::UPDATE_CONSUMER_OFFSET, &header)).await;
    assert_eq!(answer.code, response::SUCCESS, "{:?}", answer.remark);
}

#[tokio::test]
async fn sent_and_read_messages_are_counted_by_topic_group_and_day() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    client.heartbeat("c", &["p"], &[("g", "orders", "*")]).await;
    for _ in 0..3 {
        client.send(Send::to("orders")).await;
    }
    assert_eq!(client.pull(Pull::of("orders", 0, 0).by("g")).await.len(), 3);
    client.call(Pull::of("orders", 0, 3).by("g").command()).await;
    // Counted by the store's own thread, a moment after the send is answered.
    until(async || runtime(&mut client).await["msgPutTotalTodayNow"] == "3").await;
    world.clock.advance(Duration::from_secs(20));

    for (name, key, sum, avgpt) in [
        ("TOPIC_PUT_NUMS", "orders", 3, 1.0),
        ("BROKER_PUT_NUMS", "DefaultCluster", 3, 1.0),
        ("GROUP_GET_NUMS", "orders@g", 3, 3.0),
        ("BROKER_GET_NUMS", "DefaultCluster", 3, 3.0),
    ] {
        let data = named(&mut client, name, key).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((data.stats_minute.sum, data.stats_minute.avgpt), (sum, avgpt), "{name}");
        assert!((data.stats_minute.tps - sum as f64 / 20.0).abs() < 1e-9, "{name}");
    }
    let unknown = named(&mut client, "GROUP_GET_NUMS", "orders@h").await.unwrap_err();
    assert_eq!(unknown, "The stats <GROUP_GET_NUMS> <orders@h> not exist");

    let table = runtime(&mut client).await;
    for (key, value) in [
        ("msgPutTotalTodayNow", "3"),
        ("msgGetTotalTodayNow", "3"),
        ("msgPutTotalTodayMorning", "0"),
        ("runtime", "[ 0 days, 0 hours, 0 minutes, 20 seconds ]"),
        ("putMessageTimesTotal", "3"),
        ("brokerActive", "true"),
        ("remainHowManyDataToFlush", "0 B"),
        ("dispatchBehindBytes", "0"),
        ("commitLogMinOffset", "0"),
    ] {
        assert_eq!(table[key], value, "{key}");
    }
    assert_eq!(table["bootTimestamp"], START.0.to_string());
    assert_eq!(table["earliestMessageTimeStamp"], START.0.to_string());
    world.clock.advance(Duration::from_secs(24 * 3600));
    let tomorrow = runtime(&mut client).await;
    assert_eq!((&*tomorrow["msgPutTotalTodayMorning"], &*tomorrow["msgPutTotalYesterdayMorning"]), ("3", "0"));
    broker.stop().await.unwrap();
}

/// `mqadmin clusterList` splits and parses these; 4.9 asks under another spelling.
#[tokio::test]
async fn the_runtime_table_has_every_key_that_apaches_tools_read() {
    const APACHES: &str = include_str!("runtime_keys.txt");
    let world = World::new();
    let broker = world.start().await;
    let mut tool = broker.connect().await;
    let table = runtime(&mut tool).await;
    for key in APACHES.split_whitespace() {
        assert!(table.contains_key(key), "{key}");
    }
    for key in ["putTps", "getTransferredTps", "getTransferedTps", "getFoundTps", "getMissTps", "getTotalTps"] {
        let numbers: Vec<f64> = table[key].split(' ').map(|number| number.parse().unwrap()).collect();
        assert_eq!(numbers.len(), 3, "{key}");
    }
    for key in ["commitLogDiskRatio", "consumeQueueDiskRatio", "putMessageAverageSize"] {
        assert!(table[key].parse::<f64>().is_ok_and(|value| value >= 0.0), "{key}");
    }
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn positions_of_topics_and_groups_are_told_queue_by_queue() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    for seconds in [0, 10, 20] {
        world.clock.set(START.plus(Duration::from_secs(seconds)));
        client.send(Send::to("orders")).await;
    }
    until(async || runtime(&mut client).await["msgPutTotalTodayNow"] == "3").await;
    world.clock.set(START.plus(Duration::from_secs(60)));
    client.heartbeat("c", &[], &[("g", "orders", "*")]).await;
    commit(&mut client, "g", "orders", 2).await;
    let first = QueueKey::new("broker-a", "orders", 0);
    let of_topic = TopicName { topic: "orders".into() };

    let answer = client.call(Command::request_with(request::GET_TOPIC_STATS_INFO, &of_topic)).await;
    assert!(answer.body.starts_with(br#"{"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"orders"}:{"#));
    let topic: TopicStats = body::from_json("topic stats", &answer.body).unwrap();
    let row = topic.offset_table[&first];
    assert_eq!((row.min_offset, row.max_offset, row.last_update_timestamp), (0, 3, START.0 + 20_000));
    assert_eq!((topic.offset_table.len(), topic.topic_put_tps), (4, 3.0 / 60.0));

    let ask = |topic: Option<&str>, list: Option<&str>| {
        let (topic, topic_list) = (topic.map(Into::into), list.map(Into::into));
        let header = header::ConsumeStats { consumer_group: "g".into(), topic, topic_list };
        Command::request_with(request::GET_CONSUME_STATS, &header)
    };
    for (topic, list, queues) in
        [(None, None, 4), (Some("orders"), None, 4), (Some("other"), None, 0), (None, Some("orders;none"), 4)]
    {
        let stats: ConsumeStats = body::from_json("consume stats", &client.call(ask(topic, list)).await.body).unwrap();
        assert_eq!(stats.offset_table.len(), queues, "{topic:?} {list:?}");
        if let Some(row) = stats.offset_table.get(&first) {
            assert_eq!((row.broker_offset, row.consumer_offset, row.last_timestamp), (3, 2, START.0 + 10_000));
            assert_eq!(stats.lag(), 1);
        }
    }

    let header = header::BrokerConsumeStats { is_order: Some(false) };
    let answer = client.call(Command::request_with(request::GET_BROKER_CONSUME_STATS, &header)).await;
    let all: BrokerConsumeStats = body::from_json("broker consume stats", &answer.body).unwrap();
    assert_eq!((all.total_diff, all.broker_addr), (1, broker.address.to_string()));
    assert!(all.consume_stats_list.iter().any(|group| group.get("g").is_some_and(|topics| topics.len() == 1)));

    let header = header::ConsumeTimeSpan { topic: "orders".into(), group: "g".into() };
    let answer = client.call(Command::request_with(request::QUERY_CONSUME_TIME_SPAN, &header)).await;
    let spans: ConsumeTimeSpans = body::from_json("time spans", &answer.body).unwrap();
    let span = &spans.consume_time_span_set[0];
    assert_eq!((span.min_time_stamp, span.max_time_stamp), (START.0, START.0 + 20_000));
    assert_eq!((span.consume_time_stamp, span.delay_time), (START.0 + 10_000, 40_000));
    let empty = &spans.consume_time_span_set[1];
    assert_eq!((empty.min_time_stamp, empty.max_time_stamp, empty.delay_time), (-1, -1, 0));

    for code in [request::GET_TOPIC_STATS_INFO, request::QUERY_CONSUME_TIME_SPAN] {
        let header = header::ConsumeTimeSpan { topic: "none".into(), group: "g".into() };
        assert_eq!(client.call(Command::request_with(code, &header)).await.code, response::TOPIC_NOT_EXIST);
    }
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn messages_that_were_pulled_and_not_consumed_are_in_flight() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    client.heartbeat("c", &[], &[("g", "orders", "*")]).await;
    for _ in 0..5 {
        client.send(Send::to("orders")).await;
    }
    let in_flight = async |client: &mut Client| {
        let header =
            header::ConsumeStats { consumer_group: "g".into(), topic: Some("orders".into()), topic_list: None };
        let answer = client.call(Command::request_with(request::GET_CONSUME_STATS, &header)).await;
        let one: ConsumeStats = body::from_json("consume stats", &answer.body).unwrap();
        let header = header::BrokerConsumeStats { is_order: Some(false) };
        let answer = client.call(Command::request_with(request::GET_BROKER_CONSUME_STATS, &header)).await;
        let all: BrokerConsumeStats = body::from_json("broker consume stats", &answer.body).unwrap();
        assert_eq!(all.total_inflight_diff, one.in_flight(), "208 and 317 say the same");
        one.in_flight()
    };
    commit(&mut client, "g", "orders", 0).await;
    assert_eq!(in_flight(&mut client).await, 0, "nothing was pulled");
    assert_eq!(client.pull(Pull::of("orders", 0, 0).by("g")).await.len(), 5);
    assert_eq!(in_flight(&mut client).await, 5);
    commit(&mut client, "g", "orders", 3).await;
    assert_eq!(in_flight(&mut client).await, 2);
    let mut again = Pull::of("orders", 0, 3).by("g");
    again.0.max_msg_nums = 1;
    assert_eq!(client.pull(again).await.len(), 1);
    assert_eq!(in_flight(&mut client).await, 1, "a consumer that begins again has only that in flight");
    commit(&mut client, "g", "orders", 5).await;
    assert_eq!(in_flight(&mut client).await, 0, "a commit ahead of the pulls");
    broker.stop().await.unwrap();
}
