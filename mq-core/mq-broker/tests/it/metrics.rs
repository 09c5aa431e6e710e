//! What Prometheus reads of a broker.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mq_protocol::body::perm;
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{DeleteSubscriptionGroup, UpdateConsumerOffset};
use mq_protocol::ids::QueueId;

use crate::harness::{Client, Pull, Send, World, end, until};
use crate::pop::{pop, popped};
use crate::{retries, topics_and_groups};

const NODE: &str = r#"cluster="DefaultCluster",node_type="broker",node_id="broker-a""#;

#[tokio::test]
async fn figures_are_told_under_rocketmqs_names_and_labels() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    client.heartbeat("c", &["producers"], &[("g", "orders", "*")]).await;
    for _ in 0..3 {
        client.send(Send::to("orders")).await;
    }
    let half = client.send(Send::to("orders").half("K")).await;
    client.send(Send::to("orders").half("open")).await;
    client.call(end(&half, "producers", 8)).await;
    assert_eq!(client.pull(Pull::of("orders", 0, 0).by("g")).await.len(), 4);
    let commit = UpdateConsumerOffset {
        consumer_group: "g".into(),
        topic: "orders".into(),
        queue_id: QueueId(0),
        commit_offset: 1,
        bname: None,
    };
    client.call(Command::request_with(request::UPDATE_CONSUMER_OFFSET, &commit)).await;
    world.clock.advance(Duration::from_secs(5));

    let topic = r#"topic="orders",message_type="normal",is_system="false""#;
    // Counted by the store's own thread, a moment after the send is answered.
    let counted = format!("rocketmq_messages_in_total{{{NODE},{topic}}} 4\n");
    until(async || broker.metrics().contains(&counted)).await;
    let text = broker.metrics();
    let group = r#"consumer_group="g",topic="orders",is_retry="false",is_system="false""#;
    let disk = r#"storage_type="local",storage_medium="disk""#;
    let client = r#"language="java",version="479",protocol_type="remoting""#;
    for line in [
        format!("rocketmq_messages_out_total{{{NODE},{group}}} 4"),
        format!("rocketmq_consumer_lag_messages{{{NODE},{group}}} 3"),
        format!("rocketmq_consumer_lag_latency_milliseconds{{{NODE},{group}}} 5000"),
        format!("rocketmq_consumer_inflight_messages{{{NODE},{group}}} 3"),
        format!("rocketmq_consumer_ready_messages{{{NODE},{group}}} 0"),
        format!("rocketmq_half_messages{{{NODE}}} 1"),
        format!("rocketmq_commit_messages_total{{{NODE},topic=\"orders\"}} 1"),
        format!("rocketmq_rollback_messages_total{{{NODE},topic=\"orders\"}} 0"),
        format!("rocketmq_finish_message_latency_milliseconds_count{{{NODE},topic=\"orders\"}} 1"),
        format!("rocketmq_message_size_bucket{{{NODE},le=\"1024.0\",{topic}}} 4"),
        format!("rocketmq_broker_permission{{{NODE}}} {}", perm::READ_WRITE),
        format!("rocketmq_storage_flush_behind_bytes{{{NODE},{disk}}} 0"),
        format!("rocketmq_storage_message_reserve_time_milliseconds{{{NODE},{disk}}} 5000"),
        format!("rocketmq_producer_connections{{{NODE},{client}}} 1"),
        format!(
            "rocketmq_consumer_connections{{{NODE},consumer_group=\"g\",consume_mode=\"push\",{client},is_system=\"false\"}} 1"
        ),
        format!("rocketmq_dropped_series{{{NODE}}} 0"),
    ] {
        assert!(text.lines().any(|told| told == line), "{line}\nis not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn what_is_deleted_is_not_told_any_more() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    client.heartbeat("c", &[], &[("g", "orders", "*")]).await;
    client.send(Send::to("orders")).await;
    client.pull(Pull::of("orders", 0, 0).by("g")).await;
    assert!(broker.metrics().contains("rocketmq_messages_out_total{"));
    let header = DeleteSubscriptionGroup { group_name: "g".into(), clean_offset: Some(true) };
    client.call(Command::request_with(request::DELETE_SUBSCRIPTIONGROUP, &header)).await;
    assert!(!broker.metrics().contains("rocketmq_messages_out_total{"));
    broker.stop().await.unwrap();
}

/// Of every name that the page has: its kind, and whether it is served.
fn page() -> BTreeMap<&'static str, (&'static str, bool)> {
    let rows = include_str!("../../../../docs/METRICS.md").lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, name, kind, ours @ ("served" | "not"), _, _] = cells[..] else { return None };
        Some((name, (kind, ours == "served")))
    });
    rows.collect()
}

/// A little of everything that has a figure.
async fn traffic(client: &mut Client, world: &World) {
    client.heartbeat("c", &["producers"], &[("g", "orders", "*"), ("poppers", "orders", "*")]).await;
    client.call(topics_and_groups::create("tools", 4, 6, "")).await;
    client.call(topics_and_groups::create("no|name", 4, 6, "")).await;
    client.call(topics_and_groups::group("tools", 16)).await;
    client.send(Send::to("orders")).await;
    client.send(Send::to("later").property("TIMER_DELAY_SEC", "100")).await;
    for bits in [8, 12, 12] {
        let half = client.send(Send::to("orders").half(&format!("K{bits}"))).await;
        client.call(end(&half, "producers", bits)).await;
    }
    let mut message = client.pull(Pull::of("orders", 0, 0).by("g")).await;
    let waits = client.post(Pull::of("orders", 0, 2).by("g").waiting(Duration::from_secs(15)).command()).await;
    client.send(Send::to("orders")).await;
    assert_eq!(client.answer(waits).await.code, response::SUCCESS);
    assert_eq!(client.call(retries::back(message.remove(0).log_offset, "g", -1, None)).await.code, response::SUCCESS);
    let popped = popped(client, &pop("poppers", "orders")).await;
    assert_eq!(client.call(popped[0].ack()).await.code, response::SUCCESS);
    world.clock.advance(Duration::from_secs(61));
}

#[tokio::test]
async fn the_page_of_metrics_says_of_every_name_of_apaches_whether_it_is_served_and_lists_all_that_is() {
    const APACHES: &str = include_str!("apache_metrics.txt");
    let page = page();
    for line in APACHES.lines() {
        let (name, kind) = line.split_once(' ').unwrap();
        assert_eq!(page.get(name).map(|(kind, _)| *kind), Some(kind), "{name}");
    }
    let world = World::new();
    let broker = world.start_with(|config| config.metrics_enabled = true).await;
    let mut client = broker.connect().await;
    traffic(&mut client, &world).await;
    let wanted: BTreeSet<String> =
        page.iter().filter(|(_, (_, served))| *served).map(|(name, (kind, _))| format!("{name} {kind}")).collect();
    let mut told = BTreeSet::new();
    // Some are counted by the broker's own threads, a moment later.
    until(async || {
        let text = broker.metrics();
        told = text.lines().filter_map(|line| line.strip_prefix("# TYPE ").map(Into::into)).collect();
        told.is_superset(&wanted)
    })
    .await;
    assert_eq!(told, wanted, "served and not on the page");
    let text = broker.metrics();
    for part in [
        r#"request_code="send_message_v2",response_code="success",is_long_polling="false",result="success""#,
        r#"request_code="pull_message",response_code="success",is_long_polling="true",result="success""#,
        r#"request_code="end_transaction",response_code="success",is_long_polling="false",result="success""#,
    ] {
        let row = |line: &str| line.starts_with("rocketmq_rpc_latency_milliseconds_count{") && line.contains(part);
        assert!(text.lines().any(row), "{part}\nis not in\n{text}");
    }
    for row in [
        format!(r#"rocketmq_rollback_messages_total{{{NODE},topic="orders"}} 1"#),
        format!(r#"rocketmq_send_to_dlq_messages_total{{{NODE},consumer_group="g",is_system="false"}} 1"#),
    ] {
        assert!(text.lines().any(|line| line == row), "{row}\nis not in\n{text}");
    }
    broker.stop().await.unwrap();
}
