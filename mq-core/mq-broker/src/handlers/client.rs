//! Heartbeats and what follows from them: members of groups, their queue locks, and who has left.

use std::sync::Arc;

use bytestring::ByteString;
use mq_protocol::body::{self, CheckClientConfig, ConsumerIds, HeartbeatData, LockBatch, LockedQueues, MessageQueue};
use mq_protocol::codes::response;
use mq_protocol::command::Command;
use mq_protocol::header::{GetConsumerList, HeartbeatResponse, UnregisterClient};
use mq_protocol::topic;

use super::error::Refusal;
use super::{Handled, Reply};
use crate::broker::Broker;
use crate::clients::{self, ConsumerGroup, Heartbeat};
use crate::connection::Connection;
use crate::groups::GroupError;
use crate::selection;

/// What this broker can do beyond Apache's, for the SDK that asks.
const CAPABILITIES: &str = "end-transaction-answer,checkback-topics,first-verdict,shared-verdict,delay-from-commit,\
                            commit-order,max-checks";

/// Code 34. Groups and retry topics that are new are written to disk first, on the blocking lane.
pub(crate) fn heartbeat(broker: &Arc<Broker>, from: &Connection, request: &Command) -> Handled {
    let data: HeartbeatData = body::from_json("heartbeat", &request.body)?;
    clients::check(&data, request.body.len())?;
    let has_retries = |group: &str| !sends_back(group) || broker.topics.get(&topic::retry_topic(group)).is_some();
    let known = |group: &str| broker.groups.get(group).is_some() && has_retries(group);
    if data.consumer_data_set.iter().all(|consumer| known(&consumer.group_name)) {
        return register(broker, from, request, data);
    }
    let (from, request) = (from.clone(), request.clone());
    Ok(Reply::Blocking(Box::new(move |broker| register(broker, &from, &request, data))))
}

/// Tools only look: who reads a message once must not leave a topic behind.
fn sends_back(group: &str) -> bool {
    group != topic::TOOLS_GROUP
}

fn register(broker: &Arc<Broker>, from: &Connection, request: &Command, mut data: HeartbeatData) -> Handled {
    let now = broker.clock.now();
    let mut unknown = None;
    let mut known = Vec::with_capacity(data.consumer_data_set.len());
    for consumer in std::mem::take(&mut data.consumer_data_set) {
        match broker.groups.for_consumer(&consumer.group_name, now) {
            Ok(group) => {
                if sends_back(&consumer.group_name) {
                    broker.topics.retry(&consumer.group_name, group.retry_queue_nums, now)?;
                }
                known.push(consumer);
            }
            // The client's other groups live on; its pulls for this one are refused by name.
            Err(error @ GroupError::NotExist(_)) => unknown = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    data.consumer_data_set = known;
    let known_before = broker.clients.knows_subscriptions(from.id(), &data);
    let (language, version) = (request.language, request.version);
    let changed = broker.clients.heartbeat(&Heartbeat { connection: from, language, version, data: &data, now })?;
    if from.is_closed() {
        // It went while the disk was written: nobody else will take it out again.
        broker.disconnected(from);
        return Ok(Reply::None);
    }
    broker.tell(&changed);
    broker.announcements.again(changed);
    if let (Some(error), true) = (unknown, data.consumer_data_set.is_empty() && data.producer_data_set.is_empty()) {
        return Err(error.into());
    }
    let light = data.heartbeat_fingerprint != 0 && (known_before || !data.without_sub);
    let header = HeartbeatResponse {
        supports_v2: Some(true),
        subscription_changed: Some(!light),
        capabilities: Some(ByteString::from_static(CAPABILITIES)),
    };
    Ok(Reply::Now(request.response(response::SUCCESS).with_header(&header)))
}

/// Code 35.
pub(crate) fn unregister(broker: &Broker, from: &Connection, request: &Command) -> Handled {
    let UnregisterClient { client_id, producer_group, consumer_group } = request.header()?;
    if let Some(group) = producer_group {
        broker.clients.unregister_producer(&group, from.id());
    }
    if let Some(group) = consumer_group {
        // First, so that those who are told find the queues free.
        broker.locks.leave(&group, &client_id);
        if broker.clients.unregister_consumer(&group, from.id()) {
            broker.tell(&[group.to_string()]);
        }
    }
    Reply::ok(request)
}

/// Code 38. Never an empty list: a client would give up its queues.
pub(crate) fn consumer_list(broker: &Broker, request: &Command) -> Handled {
    let GetConsumerList { consumer_group } = request.header()?;
    let ids = broker.clients.consumer(&consumer_group, ConsumerGroup::client_ids).unwrap_or_default();
    if ids.is_empty() {
        return Err(Refusal::nobody_of(&consumer_group));
    }
    let body = body::to_json(&ConsumerIds { consumer_id_list: ids });
    Ok(Reply::Now(request.response(response::SUCCESS).with_body(body)))
}

/// Code 46. Sent before a consumer starts with a filter that is not a tag expression.
pub(crate) fn check_config(broker: &Broker, request: &Command) -> Handled {
    let config: CheckClientConfig = body::from_json("client configuration", &request.body)?;
    if !config.subscription_data.is_tag() && !broker.live().property_filter {
        return Err(Refusal::filter_unsupported());
    }
    selection::compile(&config.subscription_data)?;
    Reply::ok(request)
}

/// Code 41.
pub(crate) fn lock(broker: &Broker, request: &Command) -> Handled {
    let wanted = read_lock(request)?;
    broker.groups.get(&wanted.consumer_group).ok_or_else(|| Refusal::no_such_group(&wanted.consumer_group))?;
    let queues = wanted.mq_set.into_iter().filter(|queue| exists(broker, queue)).collect();
    let locked = broker.locks.lock(&wanted.consumer_group, &wanted.client_id, queues, broker.clock.now());
    let body = body::to_json(&LockedQueues { locked });
    Ok(Reply::Now(request.response(response::SUCCESS).with_body(body)))
}

/// Code 42.
pub(crate) fn unlock(broker: &Broker, request: &Command) -> Handled {
    let freed = read_lock(request)?;
    broker.locks.unlock(&freed.consumer_group, &freed.client_id, &freed.mq_set);
    Reply::ok(request)
}

fn read_lock(request: &Command) -> Result<LockBatch, Refusal> {
    let batch: LockBatch = body::from_json("list of queues to lock", &request.body)?;
    if batch.client_id.is_empty() || batch.consumer_group.is_empty() {
        return Err(Refusal::lock_without_owner());
    }
    Ok(batch)
}

/// Only queues of this broker can be locked here.
fn exists(broker: &Broker, queue: &MessageQueue) -> bool {
    let here = queue.broker_name == broker.config.broker_name;
    here && broker.topics.get(&queue.topic).is_some_and(|topic| queue.queue_id < topic.read_queue_nums)
}
