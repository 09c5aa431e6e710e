//! What is told, and where it is read.

mod groups;
mod own;
mod pops;
mod timers;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use mq_protocol::body::{ConsumeType, TopicConfig};
use mq_protocol::codes;
use mq_protocol::topic;

use super::{Family, Kind, Labels, Value};
use crate::broker::Broker;
use crate::clients::Client;
use crate::histogram::Distribution;
use crate::metrics::instruments::ByOutcome;
use crate::topics::is_system;
use txn_coordinator::{COMMIT_SECONDS, TopicOutcomes};

pub(super) fn all(broker: &Broker) -> Vec<Family> {
    let mut families = Vec::from(tables(broker));
    families.extend([watermark(broker), rpc(broker)]);
    families.extend(created(broker));
    families.extend(storage(broker));
    families.extend(transactions(broker));
    families.extend(incoming(broker));
    families.extend(outgoing(broker));
    families.push(dead_letters(broker));
    families.extend(connections(broker));
    families.extend(groups::backlogs(broker));
    families.extend(timers::timers(broker));
    families.extend(pops::pops(broker));
    families.extend(own::own(broker));
    families
}

fn label(name: &'static str, value: impl ToString) -> (&'static str, String) {
    (name, value.to_string())
}

fn gauge(name: &'static str, help: &'static str, value: u64) -> Family {
    gauge_family(name, help).with(Vec::new(), value)
}

fn gauge_family(name: &'static str, help: &'static str) -> Family {
    Family::new(Kind::Gauge, name, help)
}

fn counter(name: &'static str, help: &'static str, value: u64) -> Family {
    Family::new(Kind::Counter, name, help).with(Vec::new(), value)
}

fn on_disk() -> Labels {
    vec![label("storage_type", "local"), label("storage_medium", "disk")]
}

fn tables(broker: &Broker) -> [Family; 3] {
    let topics = broker.topics.snapshot().topic_config_table.len() as u64;
    let groups = broker.groups.snapshot().subscription_group_table.len() as u64;
    [
        gauge(
            "rocketmq_broker_permission",
            "What the broker allows: 2 writes, 4 reads",
            broker.live().permission.into(),
        ),
        gauge("rocketmq_topic_number", "Topics of the broker", topics),
        gauge("rocketmq_consumer_group_number", "Consumer groups of the broker", groups),
    ]
}

/// Apache's thread pools: how many requests wait for a thread of theirs. Here requests run at once on their connection's
/// task; what waits, waits for the disk or is on the lane of those that may read it.
fn watermark(broker: &Broker) -> Family {
    const WITHOUT_QUEUE: [&str; 10] = [
        "async_put",
        "pull",
        "ack",
        "query_message",
        "client_manager",
        "heartbeat",
        "lite_pull",
        "transaction",
        "consumer_manager",
        "reply",
    ];
    let mut family = gauge_family("rocketmq_processor_watermark", "Requests that wait");
    family.push(vec![label("processor", "send")], broker.instruments.waiting_for_disk.load(Relaxed) as u64);
    family.push(vec![label("processor", "admin")], broker.instruments.on_lane.load(Relaxed) as u64);
    for processor in WITHOUT_QUEUE {
        family.push(vec![label("processor", processor)], 0u64);
    }
    family
}

fn rpc(broker: &Broker) -> Family {
    let mut family =
        Family::new(Kind::Histogram, "rocketmq_rpc_latency_milliseconds", "From a request's arrival to its answer");
    for (call, times) in broker.instruments.rpc.told() {
        let code = |name: Option<&str>| name.unwrap_or("other").to_lowercase();
        let request = call.and_then(|call| codes::request::name(call.request));
        let response = call.and_then(|call| codes::response::name(call.response));
        let labels = vec![
            label("protocol_type", "remoting"),
            label("request_code", code(request)),
            label("response_code", code(response)),
            label("is_long_polling", call.is_some_and(|call| call.long_polling)),
            label("result", if call.is_some_and(|call| call.oneway) { "oneway" } else { "success" }),
        ];
        family.push(labels, times);
    }
    family
}

fn created(broker: &Broker) -> [Family; 2] {
    let family = |name, help, times: &ByOutcome| {
        let mut family = Family::new(Kind::Histogram, name, help);
        for (status, histogram) in [("success", &times.done), ("failure", &times.failed)] {
            let times = histogram.distribution();
            if times.count() > 0 {
                family.push(vec![label("invocation_status", status)], times);
            }
        }
        family
    };
    [
        family(
            "rocketmq_topic_create_execution_time_milliseconds",
            "Creations of topics by tools",
            &broker.instruments.topics_created,
        ),
        family(
            "rocketmq_consumer_group_create_execution_time_milliseconds",
            "Creations of consumer groups by tools",
            &broker.instruments.groups_created,
        ),
    ]
}

fn storage(broker: &Broker) -> [Family; 4] {
    let store = &broker.store;
    let (min, end) = (store.min(), store.end());
    let oldest = store.scan(min).next().and_then(Result::ok);
    let reserved = oldest.map_or(0, |oldest| broker.clock.now().since(oldest.store_timestamp).as_millis() as u64);
    let gauge = |name, help, value: u64| gauge_family(name, help).with(on_disk(), value);
    [
        gauge("rocketmq_storage_size_bytes", "Bytes of the commit log", end.0.saturating_sub(min.0)),
        gauge(
            "rocketmq_storage_flush_behind_bytes",
            "Bytes that are not on disk yet",
            end.0.saturating_sub(store.durable().0),
        ),
        gauge(
            "rocketmq_storage_dispatch_behind_bytes",
            "Bytes that consumers do not see yet",
            end.0.saturating_sub(store.visible().0),
        ),
        gauge("rocketmq_storage_message_reserve_time_milliseconds", "Age of the oldest message", reserved),
    ]
}

fn transactions(broker: &Broker) -> [Family; 4] {
    let pending = broker.transactions.stats().pending_halves as u64;
    let mut committed = Family::new(Kind::Counter, "rocketmq_commit_messages", "Transactions that were committed");
    let mut rolled_back =
        Family::new(Kind::Counter, "rocketmq_rollback_messages", "Transactions that were rolled back");
    let mut latency = Family::new(
        Kind::Histogram,
        "rocketmq_finish_message_latency_milliseconds",
        "From a half message to its commit (in seconds; the name is Apache's)",
    );
    for (topic, outcomes) in broker.transactions.outcomes_by_topic() {
        let labels = || vec![label("topic", &topic)];
        committed.push(labels(), outcomes.committed);
        rolled_back.push(labels(), outcomes.rolled_back);
        latency.push(labels(), commit_times(&outcomes));
    }
    [
        gauge("rocketmq_half_messages", "Half messages that wait for their verdict", pending),
        committed,
        rolled_back,
        latency,
    ]
}

fn commit_times(outcomes: &TopicOutcomes) -> Distribution {
    let bounds = COMMIT_SECONDS.iter().map(|bound| *bound as f64).chain([f64::MAX]);
    Distribution { sum: outcomes.commit_seconds as f64, buckets: bounds.zip(outcomes.commits_within).collect() }
}

fn incoming(broker: &Broker) -> [Family; 3] {
    let mut messages = Family::new(Kind::Counter, "rocketmq_messages_in", "Messages that became readable");
    let mut bytes = Family::new(Kind::Counter, "rocketmq_throughput_in", "Bytes of messages that became readable");
    let mut sizes = Family::new(Kind::Histogram, "rocketmq_message_size", "Bytes of a message as it is stored");
    for (topic, counted, of_sizes) in broker.stats.by_topic() {
        let config = broker.topics.get(&topic);
        let labels = vec![
            label("topic", &topic),
            label("message_type", message_type(config.as_deref())),
            label("is_system", is_system(&topic)),
        ];
        messages.push(labels.clone(), counted.messages);
        bytes.push(labels.clone(), counted.bytes);
        sizes.push(labels, of_sizes);
    }
    [messages, bytes, sizes]
}

/// As the topic says it; messages are not looked into.
fn message_type(topic: Option<&TopicConfig>) -> String {
    topic.and_then(|topic| topic.attributes.get("message.type")).map_or("normal".into(), |kind| kind.to_lowercase())
}

fn of_group(group: &str, topic: &str) -> Labels {
    vec![
        label("consumer_group", group),
        label("topic", topic),
        label("is_retry", topic.starts_with(topic::RETRY_PREFIX)),
        label("is_system", is_system(topic) || is_system_group(group)),
    ]
}

fn is_system_group(group: &str) -> bool {
    group.starts_with("CID_RMQ_SYS_") || group == topic::TOOLS_GROUP
}

fn outgoing(broker: &Broker) -> [Family; 2] {
    let mut messages = Family::new(Kind::Counter, "rocketmq_messages_out", "Messages that were handed to consumers");
    let mut bytes = Family::new(Kind::Counter, "rocketmq_throughput_out", "Bytes that were handed to consumers");
    for (group, topic, counted) in broker.stats.by_reader() {
        messages.push(of_group(&group, &topic), counted.messages);
        bytes.push(of_group(&group, &topic), counted.bytes);
    }
    [messages, bytes]
}

fn dead_letters(broker: &Broker) -> Family {
    let mut family =
        Family::new(Kind::Counter, "rocketmq_send_to_dlq_messages", "Messages that a group could not consume");
    for (topic, counted, _) in broker.stats.by_topic() {
        if let Some(group) = topic.strip_prefix(topic::DLQ_PREFIX) {
            let labels = vec![label("consumer_group", group), label("is_system", is_system_group(group))];
            family.push(labels, counted.messages);
        }
    }
    family
}

fn connections(broker: &Broker) -> [Family; 2] {
    let of_client = |client: &Client| {
        vec![
            label("language", client.language.name().to_lowercase()),
            label("version", client.version),
            label("protocol_type", "remoting"),
        ]
    };
    let mut producers: BTreeMap<Labels, u64> = BTreeMap::new();
    for client in broker.clients.all_producers().values().flatten() {
        *producers.entry(of_client(client)).or_default() += 1;
    }
    let mut consumers: BTreeMap<Labels, u64> = BTreeMap::new();
    for (group, mode, members) in broker.clients.all_consumers() {
        for client in &members {
            let mut labels = vec![label("consumer_group", &group), label("consume_mode", mode_name(mode))];
            labels.extend(of_client(client));
            labels.push(label("is_system", is_system_group(&group)));
            *consumers.entry(labels).or_default() += 1;
        }
    }
    let family = |name, help, rows: BTreeMap<Labels, u64>| Family {
        rows: rows.into_iter().map(|(labels, count)| (labels, Value::Number(count))).collect(),
        ..Family::new(Kind::Gauge, name, help)
    };
    [
        family("rocketmq_producer_connections", "Producers that are connected", producers),
        family("rocketmq_consumer_connections", "Consumers that are connected", consumers),
    ]
}

fn mode_name(mode: ConsumeType) -> &'static str {
    match mode {
        ConsumeType::ConsumeActively => "pull",
        ConsumeType::ConsumePassively => "push",
        ConsumeType::ConsumePop => "pop",
    }
}
