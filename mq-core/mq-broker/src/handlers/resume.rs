//! RESUME_CHECK_HALF_MESSAGE (323): a half that was given up is asked about again.

use mq_protocol::command::Command;
use mq_protocol::header::ResumeCheckHalf;
use mq_protocol::message_id::parse_offset_id;
use mq_protocol::topic;
use txn_coordinator::{ParkedError, ResumeError};

use super::error::Refusal;
use super::{Handled, Reply};
use crate::connection::Connection;
use crate::operators;

/// The id names the copy in the topic of given-up halves.
pub(crate) fn resume(from: &Connection, request: &Command) -> Handled {
    let ResumeCheckHalf { msg_id, .. } = request.header()?;
    let (request, peer) = (request.clone(), from.peer());
    Ok(Reply::Blocking(Box::new(move |broker| {
        let (_, at) = parse_offset_id(&msg_id).ok_or_else(|| Refusal::not_an_offset_id(&msg_id))?;
        let copy = broker.store.read(at)?.ok_or_else(|| Refusal::no_message_at(at))?;
        if copy.message.topic != topic::CHECK_MAX_TIME {
            return Err(ParkedError::from(ResumeError::NotParked(copy.message.topic.to_string())).into());
        }
        operators::resume_unconfirmed(broker, copy.queue_offset, peer)?;
        Reply::ok(&request)
    })))
}
