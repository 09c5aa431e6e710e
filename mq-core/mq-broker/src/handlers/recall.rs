//! RECALL_MESSAGE (370): a message that waits for its time is taken back, by a message that waits for the same slot.

use std::sync::Arc;

use mq_protocol::ByteString;
use mq_protocol::codes::response;
use mq_protocol::command::Command;
use mq_protocol::header::{RecallMessage, RecallMessageResponse};
use mq_protocol::ids::{LogOffset, QueueId};
use mq_protocol::recall::RecallHandle;
use mq_protocol::record::Message;

use super::error::Refusal;
use super::{Handled, Reply};
use crate::broker::{Broker, REGION};
use crate::connection::Connection;
use crate::timers::{self, TimerWish};

pub(crate) fn recall(from: &Connection, request: &Command) -> Handled {
    let header: RecallMessage = request.header()?;
    let (peer, request) = (from.peer(), request.clone());
    Ok(Reply::Blocking(Box::new(move |broker| {
        let (handle, message) = prepare(broker, &header, peer)?;
        let appended = broker.store.append(&[[message]])?;
        let region = Some(ByteString::from_static(REGION));
        let header = RecallMessageResponse { msg_id: handle.unique_key, region };
        let answer = request.response(response::SUCCESS).with_header(&header);
        let at = appended[0].end;
        Ok(if broker.answers_wait { Reply::Durable { at, answer } } else { Reply::Now(answer) })
    })))
}

fn prepare(
    broker: &Arc<Broker>,
    header: &RecallMessage,
    peer: std::net::SocketAddr,
) -> Result<(RecallHandle, Message), Refusal> {
    if !broker.config.recall {
        return Err(Refusal::recall_forbidden());
    }
    broker.topics.get(&header.topic).ok_or_else(|| Refusal::no_such_topic(&header.topic))?;
    let handle = RecallHandle::decode(&header.recall_handle)?;
    if handle.topic != header.topic {
        return Err(Refusal::not_recallable(format!("the handle is of topic[{}]", handle.topic)));
    }
    if handle.broker_name != broker.config.broker_name.as_str() {
        return Err(Refusal::not_recallable(format!("the message waits at broker {}", handle.broker_name)));
    }
    let now = broker.clock.now();
    let wish = handle.deliver_ms.to_string();
    let rules = broker.timer_rules();
    let slot = rules
        .slot(TimerWish::At(&wish), true, now)
        .ok()
        .flatten()
        .ok_or_else(|| Refusal::not_recallable("its time is over, or further ahead than any message may wait"))?;
    let like = Message {
        topic: handle.topic.clone(),
        queue_id: QueueId(0),
        flag: 0,
        sys_flag: 0,
        born_timestamp: now,
        born_host: peer,
        store_host: broker.store_host,
        reconsume_times: 0,
        prepared_transaction_offset: LogOffset::ZERO,
        properties: ByteString::new(),
        body: bytes::Bytes::new(),
    };
    let message = timers::recall(&handle, header.producer_group.as_deref(), slot, like);
    Ok((handle, message))
}
