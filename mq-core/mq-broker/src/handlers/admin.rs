//! Topics and groups as tools create, read and delete them, and who is connected. Changes go to disk, so they run on the
//! blocking lane.

use std::collections::BTreeSet;

use bytes::Bytes;
use mq_protocol::body::{self, SubscriptionGroup, TopicList};
use mq_protocol::codes::response;
use mq_protocol::command::Command;
use mq_protocol::header::{
    ConsumerConnectionList, CreateTopic, DeleteSubscriptionGroup, GetTopicConfig, GroupName, ProducerConnectionList,
    TopicName,
};
use serde_json::{Value, json};

use super::error::Refusal;
use super::{Handled, Reply};
use crate::broker::Broker;
use crate::clients::Client;
use crate::topics::TopicRequest;

fn with_body(request: &Command, body: Bytes) -> Handled {
    Ok(Reply::Now(request.response(response::SUCCESS).with_body(body)))
}

/// Code 17.
pub(crate) fn create_topic(request: &Command) -> Handled {
    let header: CreateTopic = request.header()?;
    let request = request.clone();
    Ok(Reply::Blocking(Box::new(move |broker| {
        let wanted = TopicRequest {
            topic: &header.topic,
            read_queues: header.read_queue_nums.into(),
            write_queues: header.write_queue_nums.into(),
            perm: header.perm.into(),
            filter_type: header.topic_filter_type.as_deref(),
            sys_flag: header.topic_sys_flag.unwrap_or(0),
            order: header.order.unwrap_or(false),
            attributes: header.attributes.as_deref().unwrap_or_default(),
        };
        broker.topics.put(&wanted, broker.clock.now())?;
        Reply::ok(&request)
    })))
}

/// Code 215. The topic's messages and offsets go with it.
pub(crate) fn delete_topic(request: &Command) -> Handled {
    let TopicName { topic } = request.header()?;
    let request = request.clone();
    Ok(Reply::Blocking(Box::new(move |broker| {
        broker.topics.delete(&topic, broker.clock.now(), || {
            broker.offsets.forget_topic(&topic);
            broker.store.delete_topic(&topic).map_err(Refusal::from)
        })?;
        Reply::ok(&request)
    })))
}

/// Code 21.
pub(crate) fn all_topics(broker: &Broker, request: &Command) -> Handled {
    let mut table = broker.topics.snapshot();
    table.mapping_data_version = Some(body::DataVersion::default());
    table.topic_queue_mapping_detail_map = Some(json!({}));
    with_body(request, body::to_json(&table))
}

/// Code 351.
pub(crate) fn topic(broker: &Broker, request: &Command) -> Handled {
    let GetTopicConfig { topic, .. } = request.header()?;
    let config = broker.topics.get(&topic).ok_or_else(|| Refusal::no_such_topic(&topic))?;
    with_body(request, body::to_json(&*config))
}

/// Code 200.
pub(crate) fn put_group(request: &Command) -> Handled {
    let config: SubscriptionGroup = body::from_json("subscription group", &request.body)?;
    let request = request.clone();
    Ok(Reply::Blocking(Box::new(move |broker| {
        broker.groups.put(config, broker.clock.now())?;
        Reply::ok(&request)
    })))
}

/// Code 207.
pub(crate) fn delete_group(request: &Command) -> Handled {
    let DeleteSubscriptionGroup { group_name, clean_offset } = request.header()?;
    let request = request.clone();
    Ok(Reply::Blocking(Box::new(move |broker| {
        broker.groups.delete(&group_name, broker.clock.now())?;
        if clean_offset == Some(true) {
            broker.offsets.forget_group(&group_name);
        }
        Reply::ok(&request)
    })))
}

/// Code 201.
pub(crate) fn all_groups(broker: &Broker, request: &Command) -> Handled {
    with_body(request, body::to_json(&broker.groups.snapshot()))
}

/// Code 352.
pub(crate) fn group(broker: &Broker, request: &Command) -> Handled {
    let GroupName { group } = request.header()?;
    let config = broker.groups.get(&group).ok_or_else(|| Refusal::no_such_group(&group))?;
    with_body(request, body::to_json(&*config))
}

/// Code 300: who consumes a topic, connected or not.
pub(crate) fn groups_of_topic(broker: &Broker, request: &Command) -> Handled {
    let TopicName { topic } = request.header()?;
    let connected = broker.clients.groups_of_topic(&topic);
    let groups: BTreeSet<String> = broker.offsets.groups_of(&topic).into_iter().chain(connected).collect();
    with_body(request, body::to_json(&json!({ "groupList": groups })))
}

/// Code 343: what a group has consumed.
pub(crate) fn topics_of_group(broker: &Broker, request: &Command) -> Handled {
    let GroupName { group } = request.header()?;
    let topic_list = broker.offsets.topics_of(&group);
    with_body(request, body::to_json(&TopicList { broker_addr: None, topic_list }))
}

/// Code 203.
pub(crate) fn consumer_connections(broker: &Broker, request: &Command) -> Handled {
    let ConsumerConnectionList { consumer_group } = request.header()?;
    let body = broker.clients.consumer(&consumer_group, |group| {
        let subscriptions: serde_json::Map<String, Value> =
            group.subscriptions().map(|subscription| (subscription.topic.clone(), json!(subscription))).collect();
        json!({
            "connectionSet": connections(&group.members()),
            "consumeFromWhere": group.from_where,
            "consumeType": group.consume_type,
            "messageModel": group.model,
            "subscriptionTable": subscriptions,
        })
    });
    let body = body.ok_or_else(|| Refusal::not_online(&consumer_group))?;
    with_body(request, body::to_json(&body))
}

/// Code 204.
pub(crate) fn producer_connections(broker: &Broker, request: &Command) -> Handled {
    let ProducerConnectionList { producer_group } = request.header()?;
    let members = broker.clients.producers(&producer_group);
    if members.is_empty() {
        return Err(Refusal::nobody_of(&producer_group));
    }
    with_body(request, body::to_json(&json!({ "connectionSet": connections(&members) })))
}

fn connections(members: &[Client]) -> Vec<Value> {
    let row = |member: &Client| {
        json!({
            "clientAddr": member.connection.peer().to_string(),
            "clientId": member.id,
            "language": member.language.name(),
            "version": member.version,
        })
    };
    members.iter().map(row).collect()
}
