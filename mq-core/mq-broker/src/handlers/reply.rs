//! SEND_REPLY_MESSAGE (324, 325): the answer to a request that somebody sent as a message. It is pushed to the client
//! that waits for it (326) and, as at Apache, stored in the cluster's reply topic too.

use std::sync::Arc;

use bytes::Bytes;
use mq_protocol::ByteString;
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{PushReplyMessage, SendMessage, SendMessageResponse};
use mq_protocol::ids::{QueueId, QueueOffset};
use mq_protocol::properties::{Properties, name};

use super::error::Refusal;
use super::{Handled, Reply, send};
use crate::broker::Broker;
use crate::connection::Connection;
use crate::limits::CLIENT_ANSWERS_WITHIN;
use crate::sending::{Prepared, Sends};

pub(crate) fn reply(broker: &Arc<Broker>, from: &Connection, request: &Command) -> Handled {
    let request = own(request);
    match prepare(broker, from, &request) {
        Ok((prepared, push)) => {
            let (broker, from) = (broker.clone(), from.clone());
            Ok(Reply::Later(Box::pin(async move {
                let pushed = push_to_requester(&broker, push).await;
                Ok(outcome(&broker, &from, &request, prepared, pushed))
            })))
        }
        Err(refusal) => Ok(Reply::Now(send::refuse(broker, refusal, &request))),
    }
}

/// Copied: what waits for its requester must not keep the buffer that it was read from.
fn own(request: &Command) -> Command {
    let mut copy = Command { body: Bytes::copy_from_slice(&request.body), ..request.clone() };
    copy.ext = request.ext.iter().map(|(key, value)| (ByteString::from(&**key), ByteString::from(&**value))).collect();
    copy
}

/// What goes to the requester, and who that is.
struct Push {
    client_id: String,
    command: Command,
}

fn prepare(
    broker: &Arc<Broker>,
    from: &Connection,
    request: &Command,
) -> Result<(Prepared, Result<Push, Refusal>), Refusal> {
    let prepared = send::prepare(broker, from, request)?;
    if prepared.is_half() {
        return Err(Refusal::reply_is_half());
    }
    Ok((prepared, push(broker, from, request, send::header(request)?)))
}

fn push(broker: &Broker, from: &Connection, request: &Command, header: SendMessage) -> Result<Push, Refusal> {
    let mut properties = Properties::parse(&header.properties.unwrap_or_default());
    let Some(client_id) = properties.get(name::REPLY_TO_CLIENT).map(ToString::to_string) else {
        return Err(Refusal::nobody_to_reply_to());
    };
    let now = broker.clock.now();
    properties.set(name::PUSH_REPLY_TIME, now.0.to_string());
    let pushed = PushReplyMessage {
        producer_group: header.producer_group,
        topic: header.topic,
        default_topic: Some(header.default_topic.unwrap_or_default()),
        default_topic_queue_nums: Some(header.default_topic_queue_nums.unwrap_or(0)),
        queue_id: header.queue_id,
        sys_flag: header.sys_flag,
        born_timestamp: header.born_timestamp,
        flag: header.flag,
        properties: Some(properties.encode()),
        reconsume_times: header.reconsume_times,
        unit_mode: header.unit_mode,
        born_host: from.peer().to_string().into(),
        store_host: broker.store_host.to_string().into(),
        store_timestamp: now,
    };
    let command = Command::request_with(request::PUSH_REPLY_MESSAGE_TO_CLIENT, &pushed).with_body(request.body.clone());
    Ok(Push { client_id, command })
}

async fn push_to_requester(broker: &Broker, push: Result<Push, Refusal>) -> Result<(), Refusal> {
    let Push { client_id, command } = push?;
    let Some(requester) = broker.clients.by_id(&client_id) else {
        return Err(Refusal::requester_is_gone(&client_id));
    };
    match requester.ask(command, CLIENT_ANSWERS_WITHIN).await {
        Ok(answer) if answer.code == response::SUCCESS => Ok(()),
        Ok(answer) => Err(Refusal::reply_not_taken(&client_id, &answer.remark.unwrap_or_default())),
        Err(error) => Err(Refusal::reply_not_taken(&client_id, &error.to_string())),
    }
}

/// Whether the requester has it decides; what became of the stored copy is a detail of the answer.
fn outcome(
    broker: &Broker,
    from: &Connection,
    request: &Command,
    prepared: Prepared,
    pushed: Result<(), Refusal>,
) -> Reply {
    let mut stored = None;
    if broker.live().store_replies {
        let mut sends = Sends::default();
        sends.push(prepared);
        sends.append(broker, from, |sent| stored = sent.answer.map(|answer| (answer.into_command(), sent.waits_until)));
    }
    match (pushed, stored) {
        (Err(refusal), _) => {
            tracing::debug!(remark = %refusal.remark, "a reply that its requester does not get");
            Reply::Now(send::refuse(broker, refusal, request))
        }
        (Ok(()), Some((answer, Some(at)))) if answer.code == response::SUCCESS => Reply::Durable { at, answer },
        (Ok(()), Some((answer, None))) if answer.code == response::SUCCESS => Reply::Now(answer),
        (Ok(()), not_stored) => {
            if let Some((answer, _)) = not_stored {
                tracing::warn!(remark = ?answer.remark, "a reply is delivered and not stored");
            }
            Reply::Now(delivered(broker, request))
        }
    }
}

/// The answer for a reply that is nowhere in the log, in the shape that clients read.
fn delivered(broker: &Broker, request: &Command) -> Command {
    let mut answer = request.response(response::SUCCESS).with_header(&SendMessageResponse {
        msg_id: ByteString::from_static("0"),
        queue_id: QueueId(0),
        queue_offset: QueueOffset(0),
        transaction_id: None,
        batch_uniq_id: None,
        recall_handle: None,
        region: None,
        trace_on: None,
    });
    broker.mark_send_answer(&mut answer);
    answer
}
