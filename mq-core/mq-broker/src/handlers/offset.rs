//! How far consumers have come: reading and writing it.

use std::collections::BTreeMap;

use mq_protocol::body::{self, CorrectionOffsets};
use mq_protocol::codes::response;
use mq_protocol::command::Command;
use mq_protocol::header::{
    CloneGroupOffset, CorrectionOffset, OffsetResponse, QueryConsumerOffset, UpdateConsumerOffset,
};
use mq_protocol::ids::{QueueId, QueueOffset};
use mq_protocol::topic;

use super::error::Refusal;
use super::{Handled, Reply};
use crate::broker::Broker;
use crate::connection::Connection;
use crate::schedule_progress;
use crate::start::{self, Start};

/// Code 14. A group that has no offset yet starts where its settings say. Without such, it starts at 0 on a queue whose
/// first message is still young, wherever the consumer says it wants to start: nothing that was sent while it was being
/// set up is passed over.
pub(crate) fn query(broker: &Broker, request: &Command) -> Handled {
    let header: QueryConsumerOffset = request.header()?;
    let QueryConsumerOffset { consumer_group, topic, queue_id, set_zero_if_not_found, .. } = &header;
    let answer = |offset| Ok(Reply::Now(request.response(response::SUCCESS).with_header(&OffsetResponse { offset })));
    if let Some(offset) = broker.offsets.get(consumer_group, topic, *queue_id) {
        return answer(offset);
    }
    if *set_zero_if_not_found == Some(false) {
        return Err(Refusal::no_offset(consumer_group, topic));
    }
    if let Some(start) = broker.groups.start_of(consumer_group).filter(|_| has_queue(broker, topic, *queue_id)) {
        return Ok(begin(request, header, start));
    }
    if starts_young(broker, topic, *queue_id)? {
        return answer(QueueOffset::ZERO);
    }
    Err(Refusal::no_offset(consumer_group, topic))
}

fn begin(request: &Command, header: QueryConsumerOffset, start: Start) -> Reply {
    let answer = request.response(response::SUCCESS);
    Reply::Blocking(Box::new(move |broker| {
        let offset = start::begin(broker, start, &header.consumer_group, &header.topic, header.queue_id)?;
        Ok(Reply::Now(answer.with_header(&OffsetResponse { offset })))
    }))
}

fn has_queue(broker: &Broker, topic: &str, queue: QueueId) -> bool {
    broker.topics.get(topic).is_some_and(|config| queue.0 < config.read_queue_nums)
}

/// Whether offset 0 is there and among the bytes that the machine's memory may still hold.
pub(crate) fn starts_young(broker: &Broker, topic: &str, queue: QueueId) -> Result<bool, Refusal> {
    if broker.store.queue_bounds(topic, queue).min > QueueOffset::ZERO {
        return Ok(false);
    }
    let first = broker.store.entry(topic, queue, QueueOffset::ZERO)?;
    Ok(first.is_some_and(|first| broker.store.visible().0.saturating_sub(first.log_offset.0) <= broker.hot_bytes))
}

/// Code 15. A consumer only moves forward; who is not of the group, and waits for the answer, is a tool that resets it.
pub(crate) fn update(broker: &Broker, from: &Connection, request: &Command) -> Handled {
    let header: UpdateConsumerOffset = request.header()?;
    let UpdateConsumerOffset { consumer_group: group, topic, queue_id, commit_offset, .. } = &header;
    broker.groups.get(group).ok_or_else(|| Refusal::no_such_group(group))?;
    let config = broker.topics.get(topic).ok_or_else(|| Refusal::no_such_topic(topic))?;
    let queues = config.read_queue_nums.max(config.write_queue_nums);
    if queue_id.0 >= queues {
        return Err(Refusal::no_such_queue(topic, i32::try_from(queue_id.0).unwrap_or(i32::MAX), queues));
    }
    broker.offsets.admit(group, topic, *queue_id)?;
    // Go's client commits -1 for a queue that it has not read from.
    if let Ok(offset) = u64::try_from(*commit_offset) {
        if request.is_oneway() || broker.clients.is_member(group, from.id()) {
            let end = broker.store.queue_bounds(topic, *queue_id).max;
            broker.offsets.commit(group, topic, *queue_id, QueueOffset(offset), end);
        } else {
            let request = request.clone();
            return Ok(Reply::Blocking(Box::new(move |broker| {
                let UpdateConsumerOffset { consumer_group: group, topic, queue_id, .. } = &header;
                broker.reset_offset(group, topic, *queue_id, QueueOffset(offset));
                Reply::ok(&request)
            })));
        }
    }
    Reply::ok(request)
}

/// Code 43: all offsets, for tools.
pub(crate) fn all(broker: &Broker, request: &Command) -> Handled {
    Reply::body(request, body::to_json(&broker.offsets.snapshot()))
}

/// Code 45: how far each delay level is delivered, as last saved.
pub(crate) fn delays(request: &Command) -> Handled {
    let request = request.clone();
    Ok(Reply::Blocking(Box::new(move |broker| {
        Reply::body(&request, body::to_json(&schedule_progress::saved(&broker.config.config_directory())))
    })))
}

/// Code 314: a group starts where another one is.
pub(crate) fn clone_group(broker: &Broker, request: &Command) -> Handled {
    let CloneGroupOffset { src_group, dest_group, topic, offline } = request.header()?;
    topic::check_group(&dest_group)?;
    let named = topic.filter(|topic| !topic.trim().is_empty()).map(|topic| vec![topic.to_string()]);
    let subscribed = broker.clients.consumer(&src_group, |group| {
        group.subscriptions().map(|subscription| subscription.topic.clone()).collect::<Vec<_>>()
    });
    for topic in named.unwrap_or_else(|| broker.offsets.topics_of(&src_group)) {
        // What a connected group does not subscribe to any more is its past, unless the tool says that it is offline.
        let past = subscribed.as_ref().is_some_and(|topics| !topics.contains(&topic));
        if broker.topics.get(&topic).is_some() && (offline == Some(true) || !past) {
            broker.offsets.copy(&src_group, &dest_group, &topic)?;
        }
    }
    Reply::ok(request)
}

/// Code 308: by queue, the slowest of a topic's other groups; `i64::MAX` where the compared group is not ahead of it.
pub(crate) fn correction(broker: &Broker, request: &Command) -> Handled {
    let CorrectionOffset { filter_groups, compare_group, topic } = request.header()?;
    let left_out: Vec<&str> = filter_groups.as_deref().unwrap_or_default().split(',').map(str::trim).collect();
    let mut slowest: BTreeMap<QueueId, QueueOffset> = BTreeMap::new();
    for group in broker.offsets.groups_of(&topic).iter().filter(|group| !left_out.contains(&group.as_str())) {
        for (queue, offset) in broker.offsets.of(group, &topic) {
            slowest.entry(queue).and_modify(|least| *least = offset.min(*least)).or_insert(offset);
        }
    }
    let compared = broker.offsets.of(&compare_group, &topic);
    let corrected = |(queue, least): (QueueId, QueueOffset)| {
        let ahead = compared.get(&queue).is_none_or(|offset| least <= *offset);
        (queue.0, if ahead { i64::try_from(least.0).unwrap_or(i64::MAX) } else { i64::MAX })
    };
    let correction_offsets = slowest.into_iter().map(corrected).collect();
    Reply::body(request, body::to_json(&CorrectionOffsets { correction_offsets }))
}
