//! VIEW_MESSAGE_BY_ID (33): one message by its place in the log.

use mq_protocol::codes::response;
use mq_protocol::command::Command;
use mq_protocol::header::ViewMessage;
use mq_protocol::ids::LogOffset;
use mq_protocol::record;

use super::error::Refusal;
use super::{Handled, Reply};
use crate::broker::Broker;

/// The message may be long out of memory, so it is read on the blocking lane.
pub(crate) fn view(request: &Command) -> Handled {
    let header: ViewMessage = request.header()?;
    let answer = request.response(response::SUCCESS);
    Ok(Reply::Blocking(Box::new(move |broker| Ok(Reply::Now(answer.with_body(record(broker, header.offset)?))))))
}

/// The record at this place, as it lies there.
pub(super) fn record(broker: &Broker, offset: LogOffset) -> Result<Vec<u8>, Refusal> {
    let stored = broker.store.read(offset)?.ok_or_else(|| Refusal::no_message_at(offset))?;
    let mut record = Vec::with_capacity(stored.size as usize);
    stored.message.encode(&mut record).expect("it was encoded once");
    record::stamp(&mut record, stored.queue_offset, stored.log_offset, stored.store_timestamp);
    Ok(record)
}
