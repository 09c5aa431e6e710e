//! How far producers and consumers have come: 202, 208, 303 and 317. They read store times out of the log, so they run
//! on the blocking lane.

use std::collections::{BTreeMap, BTreeSet};

use mq_protocol::body::{
    BrokerConsumeStats, ConsumeOffset, ConsumeStats, ConsumeTimeSpans, MessageQueue, QueueKey, QueueTimeSpan,
    TopicConfig, TopicOffset, TopicStats, to_json, to_json_with_object_keys,
};
use mq_protocol::command::Command;
use mq_protocol::header::{self, TopicName};
use mq_protocol::ids::{QueueId, QueueOffset};
use mq_store::ReadError;

use super::error::Refusal;
use super::{Handled, Reply};
use crate::broker::Broker;

/// What Apache says where there is no message.
const NO_TIME: i64 = -1;

/// Code 202: the bounds of a topic's queues.
pub(crate) fn topic_stats(request: &Command) -> Handled {
    let TopicName { topic } = request.header()?;
    let request = request.clone();
    Ok(Reply::Blocking(Box::new(move |broker| {
        let config = broker.topics.get(&topic).ok_or_else(|| Refusal::no_such_topic(&topic))?;
        let mut stats = TopicStats {
            topic_put_tps: broker.stats.topic_put_tps(&topic, broker.clock.now()),
            ..TopicStats::default()
        };
        for queue in 0..config.read_queue_nums.max(config.write_queue_nums) {
            let bounds = broker.store.queue_bounds(&topic, QueueId(queue));
            let row = TopicOffset {
                last_update_timestamp: time_before(broker, &topic, QueueId(queue), bounds.max)?.unwrap_or(0),
                max_offset: bounds.max.0,
                min_offset: bounds.min.0,
            };
            stats.offset_table.insert(key(broker, &topic, queue), row);
        }
        Reply::body(&request, to_json_with_object_keys(&stats))
    })))
}

/// Code 208: how far a group is in the topics that it is asked for, or in all that it subscribes to.
pub(crate) fn consume_stats(request: &Command) -> Handled {
    let header: header::ConsumeStats = request.header()?;
    let request = request.clone();
    Ok(Reply::Blocking(Box::new(move |broker| {
        let group = &*header.consumer_group;
        let listed: Vec<&str> =
            header.topic_list.as_deref().unwrap_or_default().split(';').filter(|topic| !topic.is_empty()).collect();
        let topics: BTreeSet<String> = match header.topic.as_deref().map(str::trim).filter(|topic| !topic.is_empty()) {
            _ if !listed.is_empty() => listed.into_iter().map(Into::into).collect(),
            Some(topic) => still_subscribed(broker, group, vec![topic.to_owned()]).collect(),
            None => still_subscribed(broker, group, broker.offsets.topics_of(group)).collect(),
        };
        let mut stats = ConsumeStats::default();
        for config in topics.iter().filter_map(|topic| broker.topics.get(topic)) {
            let of_topic = group_in_topic(broker, group, &config, config.read_queue_nums)?;
            stats.consume_tps += of_topic.consume_tps;
            stats.offset_table.extend(of_topic.offset_table);
        }
        Reply::body(&request, to_json_with_object_keys(&stats))
    })))
}

/// Code 317: the same of every group.
pub(crate) fn broker_consume_stats(request: &Command) -> Handled {
    let header: header::BrokerConsumeStats = request.header()?;
    let request = request.clone();
    Ok(Reply::Blocking(Box::new(move |broker| {
        let mut all = BrokerConsumeStats { broker_addr: broker.store_host.to_string(), ..Default::default() };
        for group in broker.groups.snapshot().subscription_group_table.into_keys() {
            let mut topics = Vec::new();
            for topic in still_subscribed(broker, &group, broker.offsets.topics_of(&group)) {
                let Some(config) = broker.topics.get(&topic) else { continue };
                if header.is_order == Some(true) && !config.order {
                    continue;
                }
                let stats = group_in_topic(broker, &group, &config, config.write_queue_nums)?;
                all.total_diff += stats.lag();
                all.total_inflight_diff += stats.in_flight();
                topics.push(stats);
            }
            all.consume_stats_list.push(BTreeMap::from([(group, topics)]));
        }
        Reply::body(&request, to_json_with_object_keys(&all))
    })))
}

/// Code 303: how old the messages are that a group has consumed, and those that it has not.
pub(crate) fn consume_time_span(request: &Command) -> Handled {
    let header::ConsumeTimeSpan { topic, group } = request.header()?;
    let request = request.clone();
    Ok(Reply::Blocking(Box::new(move |broker| {
        let config = broker.topics.get(&topic).ok_or_else(|| Refusal::no_such_topic(&topic))?;
        let spans: Result<_, ReadError> =
            (0..config.write_queue_nums).map(|queue| time_span(broker, &group, &topic, queue)).collect();
        Reply::body(&request, to_json(&ConsumeTimeSpans { consume_time_span_set: spans? }))
    })))
}

/// A group with connected members reads what those subscribe to; offsets of other topics are from its past.
fn still_subscribed(broker: &Broker, group: &str, topics: Vec<String>) -> impl Iterator<Item = String> {
    let subscribed: BTreeSet<String> = broker
        .clients
        .consumer(group, |group| group.subscriptions().map(|subscription| subscription.topic.clone()).collect())
        .unwrap_or_default();
    topics.into_iter().filter(move |topic| subscribed.is_empty() || subscribed.contains(topic))
}

pub(crate) fn group_in_topic(
    broker: &Broker,
    group: &str,
    topic: &TopicConfig,
    queues: u32,
) -> Result<ConsumeStats, ReadError> {
    let name = &*topic.topic_name;
    let mut stats =
        ConsumeStats { consume_tps: broker.stats.group_get_tps(group, name, broker.clock.now()), ..Default::default() };
    for queue in 0..queues {
        let id = QueueId(queue);
        let consumed = broker.offsets.get(group, name, id).unwrap_or(QueueOffset::ZERO);
        let row = ConsumeOffset {
            broker_offset: broker.store.queue_bounds(name, id).max.0,
            consumer_offset: consumed.0,
            last_timestamp: time_before(broker, name, id, consumed)?.unwrap_or(0),
            pull_offset: broker.stats.pulled_to(group, name, id).map_or(consumed, |pulled| pulled.max(consumed)).0,
        };
        stats.offset_table.insert(key(broker, name, queue), row);
    }
    Ok(stats)
}

fn time_span(broker: &Broker, group: &str, topic: &str, queue: u32) -> Result<QueueTimeSpan, ReadError> {
    let id = QueueId(queue);
    let bounds = broker.store.queue_bounds(topic, id);
    let consumed = broker.offsets.get(group, topic, id).unwrap_or(QueueOffset::ZERO);
    let first = time_of(broker, topic, id, bounds.min)?.unwrap_or(NO_TIME);
    let next = if consumed < bounds.max { time_of(broker, topic, id, consumed.max(bounds.min))? } else { None };
    Ok(QueueTimeSpan {
        consume_time_stamp: time_before(broker, topic, id, consumed)?.unwrap_or(first),
        delay_time: next.map_or(0, |next| (broker.clock.now().0 - next).max(0)),
        max_time_stamp: time_before(broker, topic, id, bounds.max)?.unwrap_or(NO_TIME),
        message_queue: MessageQueue {
            topic: topic.to_owned(),
            broker_name: broker.config.broker_name.clone(),
            queue_id: queue,
        },
        min_time_stamp: first,
    })
}

fn key(broker: &Broker, topic: &str, queue: u32) -> QueueKey {
    QueueKey::new(&broker.config.broker_name, topic, queue)
}

/// Store time of the message in front of `offset`.
fn time_before(broker: &Broker, topic: &str, queue: QueueId, offset: QueueOffset) -> Result<Option<i64>, ReadError> {
    match offset.0.checked_sub(1) {
        Some(before) => time_of(broker, topic, queue, QueueOffset(before)),
        None => Ok(None),
    }
}

/// Store time of a message; `None` when it is not there, or no longer.
fn time_of(broker: &Broker, topic: &str, queue: QueueId, offset: QueueOffset) -> Result<Option<i64>, ReadError> {
    let Some(entry) = broker.store.entry(topic, queue, offset)? else { return Ok(None) };
    Ok(broker.store.read(entry.log_offset)?.map(|message| message.store_timestamp.0))
}
