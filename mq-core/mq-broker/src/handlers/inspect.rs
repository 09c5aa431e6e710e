//! What tools look at when something is odd: the entries of a queue (321), what a group wants of a topic (345), all
//! producers (328), the topics of the system (305).

use mq_protocol::body::{
    ConsumeQueueEntry, ConsumeQueueView, ProducerInfo, ProducerTable, Subscription, SubscriptionOfGroup, TopicList,
    to_json,
};
use mq_protocol::codes::response;
use mq_protocol::command::Command;
use mq_protocol::header::{QueryConsumeQueue, QuerySubscription};
use mq_protocol::ids::QueueOffset;

use super::error::Refusal;
use super::{Handled, Reply};
use crate::broker::Broker;
use crate::clients::Client;
use crate::topics;

/// Entries of one answer to 321; `mqadmin` asks for 10.
const MAX_ENTRIES: u64 = 4096;

/// Code 321.
pub(crate) fn consume_queue(request: &Command) -> Handled {
    let header: QueryConsumeQueue = request.header()?;
    let request = request.clone();
    Ok(Reply::Blocking(Box::new(move |broker| {
        let QueryConsumeQueue { topic, queue_id, .. } = &header;
        let there = broker.topics.get(topic).filter(|at| queue_id.0 < at.read_queue_nums.max(at.write_queue_nums));
        there.ok_or_else(|| Refusal::new(response::SYSTEM_ERROR, format!("{queue_id}@{topic} is not exist!")))?;
        let subscription = header.consumer_group.as_deref().map(|group| broker.clients.subscription(group, topic));
        let bounds = broker.store.queue_bounds(topic, *queue_id);
        let from = QueueOffset(u64::try_from(header.index).unwrap_or(0)).max(bounds.min);
        let count = u64::try_from(header.count).unwrap_or(0).min(MAX_ENTRIES);
        let mut queue_data = Vec::new();
        for offset in from.0..from.0.saturating_add(count).min(bounds.max.0) {
            let Some(entry) = broker.store.entry(topic, *queue_id, QueueOffset(offset))? else { break };
            let wanted = subscription.as_ref().and_then(Option::as_ref);
            queue_data.push(ConsumeQueueEntry {
                eval: wanted.is_some_and(|wanted| wanted.may_match(entry.tags_code)),
                physic_offset: entry.log_offset.0,
                physic_size: entry.size,
                tags_code: entry.tags_code,
            });
        }
        let group = header.consumer_group.as_deref().unwrap_or_default();
        let view = ConsumeQueueView {
            filter_data: subscription.as_ref().map(|known| match known {
                Some(_) => "null".to_owned(),
                None => format!("{group}@{topic} is not online!"),
            }),
            max_queue_index: bounds.max.0,
            min_queue_index: bounds.min.0,
            queue_data,
            subscription_data: subscription.flatten().map(|known| Subscription::clone(&known)),
        };
        Reply::body(&request, to_json(&view))
    })))
}

/// Code 345.
pub(crate) fn subscription(broker: &Broker, request: &Command) -> Handled {
    let QuerySubscription { group, topic } = request.header()?;
    let topic = topic.unwrap_or_default();
    let known = broker.clients.subscription(&group, &topic);
    let answer = SubscriptionOfGroup {
        group: group.into(),
        subscription_data: known.map(|known| Subscription::clone(&known)),
        topic: topic.into(),
    };
    Reply::body(request, to_json(&answer))
}

/// Code 328.
pub(crate) fn producers(broker: &Broker, request: &Command) -> Handled {
    let info = |client: &Client| ProducerInfo {
        client_id: client.id.clone(),
        language: client.language.name().to_owned(),
        last_update_timestamp: client.heard.0,
        remote_ip: client.connection.peer().ip().to_string(),
        version: client.version,
    };
    let groups = broker.clients.all_producers().into_iter();
    let data = groups.map(|(group, members)| (group, members.iter().map(info).collect())).collect();
    Reply::body(request, to_json(&ProducerTable { data }))
}

/// Code 305.
pub(crate) fn system_topics(broker: &Broker, request: &Command) -> Handled {
    let topic_list = topics::system_names(&broker.config).into_iter().collect();
    Reply::body(request, to_json(&TopicList { broker_addr: None, topic_list }))
}
