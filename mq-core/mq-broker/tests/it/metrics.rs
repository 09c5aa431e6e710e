//! What Prometheus reads of a broker.

use std::time::Duration;

use mq_protocol::body::perm;
use mq_protocol::codes::request;
use mq_protocol::command::Command;
use mq_protocol::header::{DeleteSubscriptionGroup, UpdateConsumerOffset};
use mq_protocol::ids::QueueId;

use crate::harness::{Pull, Send, World, end, until};

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
        format!("rocketmq_consumer_lag_latency{{{NODE},{group}}} 5000"),
        format!("rocketmq_half_messages{{{NODE}}} 1"),
        format!("rocketmq_commit_messages_total{{{NODE}}} 1"),
        format!("rocketmq_rollback_messages_total{{{NODE}}} 0"),
        format!("rocketmq_broker_permission{{{NODE}}} {}", perm::READ_WRITE),
        format!("rocketmq_storage_flush_behind_bytes{{{NODE},{disk}}} 0"),
        format!("rocketmq_storage_message_reserve_time{{{NODE},{disk}}} 5000"),
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
