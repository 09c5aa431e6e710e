//! What is told, and where it is read.

use std::collections::BTreeMap;

use mq_protocol::body::{ConsumeType, TopicConfig};
use mq_protocol::ids::{QueueId, QueueOffset};
use mq_protocol::topic;

use super::{Family, Kind, Labels};
use crate::broker::Broker;
use crate::clients::Client;
use crate::topics::is_system;

pub(super) fn all(broker: &Broker) -> Vec<Family> {
    let mut families = Vec::from(tables(broker));
    families.extend(storage(broker));
    families.extend(transactions(broker));
    families.extend(incoming(broker));
    families.extend(outgoing(broker));
    families.push(dead_letters(broker));
    families.extend(connections(broker));
    families.extend(lag(broker));
    families
}

fn label(name: &'static str, value: impl ToString) -> (&'static str, String) {
    (name, value.to_string())
}

fn gauge(name: &'static str, help: &'static str, value: u64) -> Family {
    Family::new(Kind::Gauge, name, help).with(Vec::new(), value)
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

fn storage(broker: &Broker) -> Vec<Family> {
    let store = &broker.store;
    let (min, end) = (store.min(), store.end());
    let oldest = store.scan(min).next().and_then(Result::ok);
    let reserved = oldest.map_or(0, |oldest| broker.clock.now().since(oldest.store_timestamp).as_millis() as u64);
    let on_disk = |name, help, value| {
        let labels = vec![label("storage_type", "local"), label("storage_medium", "disk")];
        Family::new(Kind::Gauge, name, help).with(labels, value)
    };
    vec![
        on_disk("rocketmq_storage_size", "Bytes of the commit log", end.0.saturating_sub(min.0)),
        on_disk(
            "rocketmq_storage_flush_behind_bytes",
            "Bytes that are not on disk yet",
            end.0.saturating_sub(store.durable().0),
        ),
        on_disk(
            "rocketmq_storage_dispatch_behind_bytes",
            "Bytes that consumers do not see yet",
            end.0.saturating_sub(store.visible().0),
        ),
        on_disk("rocketmq_storage_message_reserve_time", "Age of the oldest message in milliseconds", reserved),
    ]
}

fn transactions(broker: &Broker) -> Vec<Family> {
    let stats = broker.transactions.stats();
    let counter = |name, help, value| Family::new(Kind::Counter, name, help).with(Vec::new(), value);
    vec![
        gauge("rocketmq_half_messages", "Half messages that wait for their verdict", stats.pending_halves as u64),
        counter("rocketmq_commit_messages", "Transactions that were committed", stats.counters.committed),
        counter("rocketmq_rollback_messages", "Transactions that were rolled back", stats.counters.rolled_back),
        counter("checkback_parked_messages", "Half messages that were given up", stats.counters.parked),
        counter(
            "checkback_checks_sent",
            "Questions about half messages that reached a client",
            stats.counters.checks_sent,
        ),
        counter("checkback_contrary_verdicts", "Verdicts that contradicted the first one", stats.counters.contrary),
    ]
}

fn incoming(broker: &Broker) -> [Family; 2] {
    let mut messages = Family::new(Kind::Counter, "rocketmq_messages_in", "Messages that became readable");
    let mut bytes = Family::new(Kind::Counter, "rocketmq_throughput_in", "Bytes of messages that became readable");
    for (topic, counted) in broker.stats.by_topic() {
        let config = broker.topics.get(&topic);
        let labels = vec![
            label("topic", &topic),
            label("message_type", message_type(config.as_deref())),
            label("is_system", is_system(&topic)),
        ];
        messages.rows.push((labels.clone(), counted.messages));
        bytes.rows.push((labels, counted.bytes));
    }
    [messages, bytes]
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
        messages.rows.push((of_group(&group, &topic), counted.messages));
        bytes.rows.push((of_group(&group, &topic), counted.bytes));
    }
    [messages, bytes]
}

fn dead_letters(broker: &Broker) -> Family {
    let mut family =
        Family::new(Kind::Counter, "rocketmq_send_to_dlq_messages", "Messages that a group could not consume");
    for (topic, counted) in broker.stats.by_topic() {
        if let Some(group) = topic.strip_prefix(topic::DLQ_PREFIX) {
            let labels = vec![label("consumer_group", group), label("is_system", is_system_group(group))];
            family.rows.push((labels, counted.messages));
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
        rows: rows.into_iter().collect(),
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

/// What waits for each group that has consumed before. Reads the next message of each queue that is behind.
fn lag(broker: &Broker) -> [Family; 2] {
    let mut messages =
        Family::new(Kind::Gauge, "rocketmq_consumer_lag_messages", "Messages that a group has not consumed");
    let mut latency = Family::new(
        Kind::Gauge,
        "rocketmq_consumer_lag_latency",
        "Age of the oldest message that a group has not consumed, in milliseconds",
    );
    let now = broker.clock.now();
    for (key, queues) in broker.offsets.snapshot().offset_table {
        let Some((topic, group)) = key.split_once('@') else { continue };
        let (mut behind, mut oldest) = (0, None);
        for (queue, offset) in queues {
            let bounds = broker.store.queue_bounds(topic, QueueId(queue));
            let next = QueueOffset(offset).max(bounds.min);
            if next < bounds.max {
                behind += bounds.max.0 - next.0;
                let entry = broker.store.entry(topic, QueueId(queue), next).ok().flatten();
                let message = entry.and_then(|entry| broker.store.read(entry.log_offset).ok().flatten());
                let time = message.map(|message| message.store_timestamp);
                oldest = oldest.into_iter().chain(time).min();
            }
        }
        messages.rows.push((of_group(group, topic), behind));
        latency.rows.push((of_group(group, topic), oldest.map_or(0, |time| now.since(time).as_millis() as u64)));
    }
    [messages, latency]
}
