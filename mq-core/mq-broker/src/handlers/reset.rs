//! INVOKE_BROKER_TO_RESET_OFFSET (222): a group goes to another place of a topic.
//!
//! As Apache 5.x: the broker sets its own offsets, and each consumer hears of it from its next pull (21), or is given
//! what lies there by its next pop; waiting ones do not delay it. With `useServerSideResetOffset=false`, as before 5.x, connected consumers are told instead (220).

use std::collections::BTreeMap;

use mq_protocol::ByteString;
use mq_protocol::body::{self, QueueKey, QueueOffsetList, QueueOffsets, TopicConfig};
use mq_protocol::codes::request;
use mq_protocol::command::{Command, Language};
use mq_protocol::header::ResetOffset;
use mq_protocol::ids::{QueueId, QueueOffset, UnixMillis};
use mq_store::Boundary;

use super::error::Refusal;
use super::{Handled, Reply};
use crate::broker::Broker;
use crate::clients::ConsumerGroup;

type Targets = BTreeMap<QueueId, QueueOffset>;

/// Looks for store times, so it runs on the blocking lane.
pub(crate) fn reset(request: &Command) -> Handled {
    let header: ResetOffset = request.header()?;
    let request = request.clone();
    Ok(Reply::Blocking(Box::new(move |broker| {
        let topic = broker.topics.get(&header.topic).ok_or_else(|| Refusal::no_such_topic(&header.topic))?;
        let offsets = if broker.live().server_side_reset {
            redirect(broker, &header, &topic)?
        } else {
            tell_consumers(broker, &header, &topic)?
        };
        Reply::body(&request, body::to_json_with_object_keys(&offsets))
    })))
}

fn redirect(broker: &Broker, header: &ResetOffset, topic: &TopicConfig) -> Result<QueueOffsets, Refusal> {
    broker.groups.get(&header.group).ok_or_else(|| Refusal::no_such_group(&header.group))?;
    let targets = targets(broker, header, topic)?;
    let (name, group) = (ByteString::from(&*header.topic), ByteString::from(&*header.group));
    for queue in targets.keys() {
        broker.offsets.admit(&group, &name, *queue)?;
    }
    for (queue, offset) in &targets {
        broker.offsets.redirect(&group, &name, *queue, *offset);
        broker.held.release(&name, *queue);
        broker.pops.polls.wake(&name, &group, Some(*queue));
    }
    tracing::info!(group = %header.group, topic = %header.topic, queues = targets.len(), "offsets reset");
    Ok(as_body(broker, &header.topic, &targets))
}

/// The members go where they are told; a group without members cannot be told.
fn tell_consumers(broker: &Broker, header: &ResetOffset, topic: &TopicConfig) -> Result<QueueOffsets, Refusal> {
    let mut targets = targets(broker, header, topic)?;
    for (queue, target) in &mut targets {
        let held = broker.offsets.get(&header.group, &header.topic, *queue);
        let held = held.ok_or_else(|| Refusal::no_offset(&header.group, &header.topic))?;
        if header.is_force != Some(true) {
            *target = held.min(*target);
        }
    }
    let members = broker.clients.consumer(&header.group, ConsumerGroup::members).unwrap_or_default();
    if members.is_empty() {
        return Err(Refusal::not_online(&header.group));
    }
    for (queue, offset) in &targets {
        // What they commit from there must not look like a step back.
        broker.reset_offset(&header.group, &header.topic, *queue, *offset);
    }
    let offsets = as_body(broker, &header.topic, &targets);
    for member in members {
        let body = match member.language {
            Language::CPP => body::to_json(&QueueOffsetList::from(&offsets)),
            _ => body::to_json_with_object_keys(&offsets),
        };
        let told = Command::request_with(request::RESET_CONSUMER_CLIENT_OFFSET, header).with_body(body).oneway();
        if member.connection.send(told).is_err() {
            tracing::warn!(group = %header.group, client = member.id, "not told of the reset: it takes nothing");
        }
    }
    Ok(offsets)
}

/// One queue when the request names one, else all; an offset that is given, else the first message of that time. A time
/// below 0 is the end.
fn targets(broker: &Broker, header: &ResetOffset, topic: &TopicConfig) -> Result<Targets, Refusal> {
    let by_time = |queue| match header.timestamp {
        UnixMillis(..0) => Ok(broker.store.queue_bounds(&header.topic, queue).max),
        time => broker.store.offset_by_time(&header.topic, queue, time, Boundary::Lower),
    };
    let queues = topic.read_queue_nums;
    let Some(queue) = header.queue_id.and_then(|queue| u32::try_from(queue).ok()) else {
        return (0..queues).map(QueueId).map(|queue| Ok((queue, by_time(queue)?))).collect();
    };
    if queue >= queues {
        return Err(Refusal::no_such_queue(&header.topic, i32::try_from(queue).unwrap_or(i32::MAX), queues));
    }
    let queue = QueueId(queue);
    let offset = match header.offset.filter(|offset| *offset != -1) {
        None => by_time(queue)?,
        Some(offset) => {
            let bounds = broker.store.queue_bounds(&header.topic, queue);
            let within = |offset: &QueueOffset| (bounds.min..=bounds.max).contains(offset);
            let offset = u64::try_from(offset).ok().map(QueueOffset).filter(within);
            offset.ok_or_else(|| Refusal::outside_queue(header.offset.unwrap_or(-1), bounds.min, bounds.max))?
        }
    };
    Ok(Targets::from([(queue, offset)]))
}

fn as_body(broker: &Broker, topic: &str, targets: &Targets) -> QueueOffsets {
    let broker_name = &broker.config.broker_name;
    let entry = |(queue, offset): (&QueueId, &QueueOffset)| {
        (QueueKey::new(broker_name, topic, queue.0), i64::try_from(offset.0).unwrap_or(i64::MAX))
    };
    QueueOffsets { offset_table: targets.iter().map(entry).collect() }
}
