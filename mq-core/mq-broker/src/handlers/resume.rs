//! RESUME_CHECK_HALF_MESSAGE (323): a half that was given up is asked about again.

use mq_protocol::command::Command;
use mq_protocol::header::ResumeCheckHalf;
use mq_protocol::ids::LogOffset;
use mq_protocol::message_id::parse_offset_id;
use txn_coordinator::{HalfOffset, StoredHalf, resumed};

use super::error::Refusal;
use super::{Handled, Reply};
use crate::broker::Broker;
use crate::connection::Connection;
use crate::operators::wait_durable;

/// The id names the copy in the topic of given-up halves.
pub(crate) fn resume(from: &Connection, request: &Command) -> Handled {
    let ResumeCheckHalf { msg_id, .. } = request.header()?;
    let (request, by) = (request.clone(), from.peer().to_string());
    Ok(Reply::Blocking(Box::new(move |broker| {
        let (_, at) = parse_offset_id(&msg_id).ok_or_else(|| Refusal::not_an_offset_id(&msg_id))?;
        again(broker, at, &by)?;
        Reply::ok(&request)
    })))
}

/// Appends the half of the copy at `at` anew; returns when it is durable and its checks begin.
pub(crate) fn again(broker: &Broker, at: LogOffset, by: &str) -> Result<HalfOffset, Refusal> {
    let parked = broker.store.read(at)?.ok_or_else(|| Refusal::no_message_at(at))?;
    let (half, new) = resumed(&parked)?;
    let appended = broker.store.append(&[[half]])?.remove(0);
    let (log_offset, queue_offset) = appended.records[0];
    wait_durable(broker, appended.end)?;
    broker.learn(vec![StoredHalf::new(new, queue_offset, appended.store_timestamp, None)]);
    broker.transactions.note_resumed(queue_offset.into(), by);
    tracing::info!(copy = %at, %log_offset, "a given-up half message is checked again");
    Ok(queue_offset.into())
}
