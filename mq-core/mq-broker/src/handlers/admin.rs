//! Topics and groups as tools create, read and delete them, and who is connected. Changes go to disk, so they run on the
//! blocking lane.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mq_protocol::body::{
    self, DataVersion, SubscriptionGroup, SubscriptionGroups, TopicConfig, TopicConfigs, TopicList,
};
use mq_protocol::command::Command;
use mq_protocol::header::{
    ConsumerConnectionList, CreateTopic, DeleteSubscriptionGroup, GetAllSubscriptionGroup,
    GetAllSubscriptionGroupResponse, GetAllTopicConfig, GetAllTopicConfigResponse, GetTopicConfig, GroupForbidden,
    GroupName, ProducerConnectionList, TopicName,
};
use mq_protocol::pop::Mark;
use serde_json::json;

use super::error::Refusal;
use super::{Handled, Reply};
use crate::broker::Broker;
use crate::clients::Client;
use crate::topics::TopicRequest;

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
        broker.instruments.topics_created.timed(|| broker.topics.put(&[wanted], broker.clock.now()))?;
        Ok(once_routed(broker, request))
    })))
}

/// Code 18: all topics of the list, or none.
pub(crate) fn create_topics(request: &Command) -> Handled {
    let list: TopicConfigs = body::from_json("list of topics", &request.body)?;
    let request = request.clone();
    Ok(Reply::Blocking(Box::new(move |broker| {
        let attributes: Vec<String> = list.topic_config_list.iter().map(attribute_text).collect();
        let wanted: Vec<_> =
            list.topic_config_list.iter().zip(&attributes).map(|(config, text)| as_request(config, text)).collect();
        broker.instruments.topics_created.timed(|| broker.topics.put(&wanted, broker.clock.now()))?;
        Ok(once_routed(broker, request))
    })))
}

/// Success, once a client finds the topics as they are now.
fn once_routed(broker: &Arc<Broker>, request: Command) -> Reply {
    let broker = broker.clone();
    Reply::Later(Box::pin(async move {
        broker.routed().await;
        Reply::ok(&request)
    }))
}

/// The signed form of code 17. A key without a sign is set: it comes from a table that was read before.
fn attribute_text(config: &TopicConfig) -> String {
    let signed = |(key, value): (&String, &String)| match key.as_bytes().first() {
        Some(b'-') => key.clone(),
        Some(b'+') => format!("{key}={value}"),
        _ => format!("+{key}={value}"),
    };
    config.attributes.iter().map(signed).collect::<Vec<_>>().join(",")
}

fn as_request<'r>(config: &'r TopicConfig, attributes: &'r str) -> TopicRequest<'r> {
    TopicRequest {
        topic: &config.topic_name,
        read_queues: config.read_queue_nums.into(),
        write_queues: config.write_queue_nums.into(),
        perm: config.perm.into(),
        filter_type: Some(&config.topic_filter_type),
        sys_flag: config.topic_sys_flag,
        order: config.order,
        attributes,
    }
}

/// Code 215. The topic's messages and offsets go with it.
pub(crate) fn delete_topic(request: &Command) -> Handled {
    let TopicName { topic } = request.header()?;
    let request = request.clone();
    Ok(Reply::Blocking(Box::new(move |broker| {
        let groups = broker.offsets.groups_of(&topic);
        delete(broker, &topic)?;
        for retries in groups.iter().flat_map(|group| Mark::RETRIES.map(|mark| mark.topic(&topic, group))) {
            if broker.topics.get(&retries).is_some() {
                delete(broker, &retries)?;
            }
        }
        Reply::ok(&request)
    })))
}

fn delete(broker: &Broker, topic: &str) -> Result<(), Refusal> {
    broker.topics.delete(topic, broker.clock.now(), || {
        broker.offsets.forget_topic(topic);
        broker.stats.forget_topic(topic);
        broker.store.delete_topic(topic).map_err(Refusal::from)
    })
}

/// Code 21: all topics, or a page of them.
pub(crate) fn all_topics(broker: &Broker, request: &Command) -> Handled {
    let GetAllTopicConfig { topic_seq, max_topic_num, data_version } = request.header()?;
    let mut table = broker.topics.snapshot();
    let total_topic_num = count(table.topic_config_table.len());
    let page = Page::new(topic_seq, max_topic_num, data_version.as_deref(), table.data_version);
    table.topic_config_table = page.of(table.topic_config_table);
    table.mapping_data_version = Some(body::DataVersion::default());
    table.topic_queue_mapping_detail_map = Some(json!({}));
    let reply = Reply::body(request, body::to_json(&table))?;
    Ok(reply.with_header(&GetAllTopicConfigResponse { total_topic_num: Some(total_topic_num) }))
}

fn count(of: usize) -> i32 {
    i32::try_from(of).unwrap_or(i32::MAX)
}

/// The part of a table, in the order of its names, that the client asks for.
struct Page {
    from: usize,
    most: usize,
}

impl Page {
    /// A reader of a table that has changed since its last page starts again.
    fn new(from: Option<i32>, most: Option<i32>, seen: Option<&str>, version: DataVersion) -> Self {
        let size = |number: i32| usize::try_from(number).unwrap_or(0);
        let seen = seen.and_then(|text| body::from_json::<DataVersion>("data version", text.as_bytes()).ok());
        let changed = seen.is_some_and(|seen| seen != version);
        Self {
            from: from.filter(|_| !changed).map_or(0, size),
            most: most.map(size).filter(|most| *most > 0).unwrap_or(usize::MAX),
        }
    }

    fn of<V>(&self, table: BTreeMap<String, V>) -> BTreeMap<String, V> {
        table.into_iter().skip(self.from).take(self.most).collect()
    }
}

/// Code 351.
pub(crate) fn topic(broker: &Broker, request: &Command) -> Handled {
    let GetTopicConfig { topic, .. } = request.header()?;
    let config = broker.topics.get(&topic).ok_or_else(|| Refusal::no_such_topic(&topic))?;
    Reply::body(request, body::to_json(&*config))
}

/// Code 200.
pub(crate) fn put_group(request: &Command) -> Handled {
    let config: SubscriptionGroup = body::from_json("subscription group", &request.body)?;
    let request = request.clone();
    Ok(Reply::Blocking(Box::new(move |broker| {
        broker.instruments.groups_created.timed(|| broker.groups.put(vec![config], broker.clock.now()))?;
        Reply::ok(&request)
    })))
}

/// Code 207.
pub(crate) fn delete_group(request: &Command) -> Handled {
    let DeleteSubscriptionGroup { group_name, clean_offset } = request.header()?;
    let request = request.clone();
    Ok(Reply::Blocking(Box::new(move |broker| {
        broker.groups.delete(&group_name, broker.clock.now())?;
        broker.stats.forget_group(&group_name);
        if clean_offset == Some(true) {
            broker.offsets.forget_group(&group_name);
        }
        Reply::ok(&request)
    })))
}

/// Code 225: all groups of the list, or none.
pub(crate) fn put_groups(request: &Command) -> Handled {
    let list: SubscriptionGroups = body::from_json("list of subscription groups", &request.body)?;
    let request = request.clone();
    Ok(Reply::Blocking(Box::new(move |broker| {
        let groups = list.group_config_list;
        broker.instruments.groups_created.timed(|| broker.groups.put(groups, broker.clock.now()))?;
        Reply::ok(&request)
    })))
}

/// Code 201: all groups, or a page of them.
pub(crate) fn all_groups(broker: &Broker, request: &Command) -> Handled {
    let GetAllSubscriptionGroup { group_seq, max_group_num, data_version } = request.header()?;
    let mut table = broker.groups.snapshot();
    let total_group_num = count(table.subscription_group_table.len());
    let page = Page::new(group_seq, max_group_num, data_version.as_deref(), table.data_version);
    table.subscription_group_table = page.of(table.subscription_group_table);
    let reply = Reply::body(request, body::to_json(&table))?;
    Ok(reply.with_header(&GetAllSubscriptionGroupResponse { total_group_num: Some(total_group_num) }))
}

/// Code 352.
pub(crate) fn group(broker: &Broker, request: &Command) -> Handled {
    let GroupName { group } = request.header()?;
    let config = broker.groups.get(&group).ok_or_else(|| Refusal::no_such_group(&group))?;
    Reply::body(request, body::to_json(&*config))
}

/// Code 353: whether a group may read a topic; changed first when the request says how.
pub(crate) fn group_forbidden(request: &Command) -> Handled {
    let GroupForbidden { group, topic, readable } = request.header()?;
    let request = request.clone();
    Ok(Reply::Blocking(Box::new(move |broker| {
        broker.groups.get(&group).ok_or_else(|| Refusal::no_such_group(&group))?;
        broker.topics.get(&topic).ok_or_else(|| Refusal::no_such_topic(&topic))?;
        if let Some(readable) = readable {
            broker.groups.set_readable(&group, &topic, readable, broker.clock.now())?;
        }
        let readable = broker.groups.may_read(&group, &topic);
        Reply::body(&request, body::to_json(&json!({ "group": &*group, "readable": readable, "topic": &*topic })))
    })))
}

/// Code 300: who consumes a topic, connected or not.
pub(crate) fn groups_of_topic(broker: &Broker, request: &Command) -> Handled {
    let TopicName { topic } = request.header()?;
    let connected = broker.clients.groups_of_topic(&topic);
    let groups: BTreeSet<String> = broker.offsets.groups_of(&topic).into_iter().chain(connected).collect();
    Reply::body(request, body::to_json(&json!({ "groupList": groups })))
}

/// Code 343: what a group has consumed.
pub(crate) fn topics_of_group(broker: &Broker, request: &Command) -> Handled {
    let GroupName { group } = request.header()?;
    let topic_list = broker.offsets.topics_of(&group);
    Reply::body(request, body::to_json(&TopicList { broker_addr: None, topic_list }))
}

/// Code 203.
pub(crate) fn consumer_connections(broker: &Broker, request: &Command) -> Handled {
    let ConsumerConnectionList { consumer_group } = request.header()?;
    let body = broker.clients.consumer(&consumer_group, |group| body::ConsumerConnections {
        connection_set: connections(&group.members()),
        consume_from_where: group.from_where,
        consume_type: group.consume_type,
        message_model: group.model,
        subscription_table: group.subscriptions().map(|one| (one.topic.clone(), one.clone())).collect(),
    });
    let body = body.ok_or_else(|| Refusal::not_online(&consumer_group))?;
    Reply::body(request, body::to_json(&body))
}

/// Code 204.
pub(crate) fn producer_connections(broker: &Broker, request: &Command) -> Handled {
    let ProducerConnectionList { producer_group } = request.header()?;
    let members = broker.clients.producers(&producer_group);
    if members.is_empty() {
        return Err(Refusal::nobody_of(&producer_group));
    }
    Reply::body(request, body::to_json(&body::ProducerConnections { connection_set: connections(&members) }))
}

fn connections(members: &[Client]) -> Vec<body::Connection> {
    let row = |member: &Client| body::Connection {
        client_addr: member.connection.peer().to_string(),
        client_id: member.id.to_string(),
        language: member.language.name().to_owned(),
        version: member.version,
    };
    members.iter().map(row).collect()
}
