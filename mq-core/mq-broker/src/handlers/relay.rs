//! What tools ask of one consumer goes to it and its answer comes back unchanged: 307, 309. Of all members: 223.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mq_protocol::ByteString;
use mq_protocol::body::{self, ConsumerPositions, QueueKey};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{ConsumeMessageDirectly, ConsumerRunningInfo, ConsumerStatus};
use mq_protocol::message_id::parse_offset_id;
use tokio::task::JoinSet;

use super::error::Refusal;
use super::{Handled, Reply, message};
use crate::broker::Broker;
use crate::clients::{Client, ConsumerGroup};
use crate::connection::Unanswered;
use crate::limits::CLIENT_ANSWERS_WITHIN;

/// For the positions of one member.
const POSITIONS_WITHIN: Duration = Duration::from_secs(5);

/// Code 307.
pub(crate) fn running_info(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: ConsumerRunningInfo = request.header()?;
    let member = member(broker, &header.consumer_group, &header.client_id)?;
    let question = Command { ext: request.ext.clone(), ..Command::request(request::GET_CONSUMER_RUNNING_INFO) };
    Ok(relayed(member, &header.consumer_group, question, request))
}

/// Code 309. The message may be long out of memory, so it is read on the blocking lane.
pub(crate) fn consume_directly(request: &Command) -> Handled {
    let header: ConsumeMessageDirectly = request.header()?;
    let request = request.clone();
    Ok(Reply::Blocking(Box::new(move |broker| {
        let client_id = header.client_id.as_deref().unwrap_or_default();
        let member = member(broker, &header.consumer_group, client_id)?;
        let id = header.msg_id.as_deref().unwrap_or_default();
        let (_, offset) = parse_offset_id(id).ok_or_else(|| Refusal::not_an_offset_id(id))?;
        let mut question =
            Command::request(request::CONSUME_MESSAGE_DIRECTLY).with_body(message::record(broker, offset)?);
        for (name, value) in request.ext.iter().filter(|(name, _)| **name != *"brokerName") {
            question.ext.push(name.clone(), value.clone());
        }
        question.ext.push(ByteString::from_static("brokerName"), broker.config.broker_name.as_str());
        Ok(relayed(member, &header.consumer_group, question, &request))
    })))
}

/// Code 223: the positions of each member, by client id. A member that does not answer is left out.
pub(crate) fn positions(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: ConsumerStatus = request.header()?;
    let wanted = header.client_addr.as_deref().unwrap_or_default().trim().to_owned();
    let mut members = broker.clients.consumer(&header.group, ConsumerGroup::members).unwrap_or_default();
    if members.is_empty() {
        return Err(Refusal::nobody_of(&header.group));
    }
    members.retain(|member| wanted.is_empty() || member.id == wanted);
    let question = Command::request_with(request::GET_CONSUMER_STATUS_FROM_CLIENT, &header);
    let request = request.clone();
    Ok(Reply::Later(Box::pin(async move {
        let mut asked: JoinSet<_> = members.into_iter().map(|member| positions_of(member, question.clone())).collect();
        let mut consumer_table = BTreeMap::new();
        while let Some(answered) = asked.join_next().await {
            consumer_table.extend(answered.ok().flatten());
        }
        let positions = ConsumerPositions { consumer_table, ..ConsumerPositions::default() };
        Reply::body(&request, body::to_json_with_object_keys(&positions))
    })))
}

async fn positions_of(member: Client, question: Command) -> Option<(String, BTreeMap<QueueKey, i64>)> {
    let answer = member.connection.ask(question, POSITIONS_WITHIN).await.ok()?;
    let positions: ConsumerPositions = body::from_json("consumer's positions", &answer.body).ok()?;
    Some((member.id, positions.message_queue_table))
}

fn member(broker: &Broker, group: &str, client_id: &str) -> Result<Client, Refusal> {
    let members = broker.clients.consumer(group, ConsumerGroup::members).unwrap_or_default();
    let found = members.into_iter().find(|member| member.id == client_id);
    found.ok_or_else(|| Refusal::member_not_online(group, client_id))
}

fn relayed(member: Client, group: &str, question: Command, request: &Command) -> Reply {
    let (answer, group) = (request.response(response::SUCCESS), group.to_owned());
    Reply::Later(Box::pin(async move {
        let answered = member.connection.ask(question, CLIENT_ANSWERS_WITHIN).await.map_err(|error| match error {
            Unanswered::Late(within) => Refusal::member_is_late(&group, &member.id, within),
            Unanswered::Closed(_) => Refusal::member_not_online(&group, &member.id),
        })?;
        let Command { code, remark, ext, body, .. } = answered;
        Ok(Reply::Now(Command { code, remark, ext, body, ..answer }))
    }))
}
