//! Queues shared out by the broker: QUERY_ASSIGNMENT (400), and whether a group pulls or pops:
//! SET_MESSAGE_REQUEST_MODE (401), GET_ALL_MESSAGE_REQUEST_MODE (402).

use std::collections::BTreeSet;
use std::sync::Arc;

use mq_protocol::body::{
    self, AssignedQueue, MessageModel, MessageQueue, MessageRequestMode, QueryAssignment, QueueAssignment,
    QueueAssignments, RequestMode,
};
use mq_protocol::codes::response;
use mq_protocol::command::Command;
use mq_protocol::topic;

use super::error::Refusal;
use super::{Handled, Reply};
use crate::assignment::{Strategy, to_pop, to_pull};
use crate::broker::Broker;
use crate::clients::ConsumerGroup;

/// Asks a name server for the topic's other brokers, so it runs on the blocking lane.
pub(crate) fn query(_: &Arc<Broker>, request: &Command) -> Handled {
    let query: QueryAssignment = body::from_json("question for an assignment", &request.body)?;
    let answer = request.response(response::SUCCESS);
    Ok(Reply::Blocking(Box::new(move |broker| {
        let mode = mode_of(broker, &query);
        let assigned = assign(broker, &query, &mode).map(|queues| {
            queues.into_iter().map(|message_queue| QueueAssignment { message_queue, mode: mode.mode }).collect()
        });
        let body = QueueAssignments { message_queue_assignments: assigned };
        Ok(Reply::Now(answer.with_body(body::to_json(&body))))
    })))
}

fn mode_of(broker: &Broker, query: &QueryAssignment) -> MessageRequestMode {
    let config = &broker.config.pop;
    broker.request_modes.get(&query.topic, &query.consumer_group).unwrap_or_else(|| MessageRequestMode {
        consumer_group: query.consumer_group.clone(),
        // What was sent back is pulled; pops find theirs by themselves.
        mode: if topic::is_retry(&query.topic) { RequestMode::Pull } else { config.default_mode },
        pop_share_queue_num: config.default_share_queues,
        topic: query.topic.clone(),
    })
}

/// `None`: the client keeps what it has.
fn assign(broker: &Broker, query: &QueryAssignment, mode: &MessageRequestMode) -> Option<Vec<AssignedQueue>> {
    let queues = queues(broker, &query.topic)?;
    if query.message_model == MessageModel::Broadcasting {
        return Some(queues.iter().map(AssignedQueue::from).collect());
    }
    let members = broker.clients.consumer(&query.consumer_group, ConsumerGroup::client_ids)?;
    let (members, client) = (members.into_iter().collect(), &query.client_id);
    let strategy = Strategy::named(&query.strategy_name)?;
    Some(match mode.mode {
        RequestMode::Pull => to_pull(strategy, &queues, &members, client),
        RequestMode::Pop => to_pop(strategy, &queues, &members, client, mode.pop_share_queue_num),
    })
}

/// The topic's queues on all brokers. While the name servers cannot be asked nobody's queues change.
fn queues(broker: &Broker, topic: &str) -> Option<BTreeSet<MessageQueue>> {
    let own = || {
        let config = broker.topics.get(topic)?;
        let broker_name = &broker.config.broker_name;
        let queue = |queue_id| MessageQueue { topic: topic.into(), broker_name: broker_name.clone(), queue_id };
        Some((0..config.read_queue_nums).map(queue).collect())
    };
    if broker.routes.is_alone() {
        return own();
    }
    broker.routes.queues(topic).ok()?.or_else(own)
}

/// Written to disk, so it runs on the blocking lane.
pub(crate) fn set_mode(request: &Command) -> Handled {
    let mode: MessageRequestMode = body::from_json("request mode", &request.body)?;
    let answer = request.response(response::SUCCESS);
    Ok(Reply::Blocking(Box::new(move |broker| {
        if topic::is_retry(&mode.topic) {
            return Err(Refusal::retry_topics_are_pulled(&mode.topic));
        }
        broker.topics.get(&mode.topic).ok_or_else(|| Refusal::no_such_topic(&mode.topic))?;
        broker.groups.get(&mode.consumer_group).ok_or_else(|| Refusal::no_such_group(&mode.consumer_group))?;
        broker.request_modes.set(mode)?;
        Ok(Reply::Now(answer))
    })))
}

pub(crate) fn all_modes(broker: &Broker, request: &Command) -> Handled {
    let body = body::to_json(&broker.request_modes.all());
    Ok(Reply::Now(request.response(response::SUCCESS).with_body(body)))
}
