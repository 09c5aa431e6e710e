//! RESUME_CHECK_HALF_MESSAGE (323): a half that was given up is asked about again.

use std::time::Duration;

use mq_protocol::codes::response;
use mq_protocol::command::Command;
use mq_protocol::header::ResumeCheckHalf;
use mq_protocol::message_id::parse_offset_id;
use mq_store::WaitError;
use txn_coordinator::{StoredHalf, resumed};

use super::error::Refusal;
use super::{Handled, Reply};
use crate::connection::Connection;

/// A disk that takes longer is as good as gone; the half stands in the log all the same.
const PATIENCE: Duration = Duration::from_secs(30);

/// The id names the copy in the topic of given-up halves.
pub(crate) fn resume(from: &Connection, request: &Command) -> Handled {
    let ResumeCheckHalf { msg_id, .. } = request.header()?;
    let (request, by) = (request.clone(), from.peer().to_string());
    Ok(Reply::Blocking(Box::new(move |broker| {
        let (_, at) = parse_offset_id(&msg_id).ok_or_else(|| Refusal::not_an_offset_id(&msg_id))?;
        let parked = broker.store.read(at)?.ok_or_else(|| Refusal::no_message_at(at))?;
        let (half, new) = resumed(&parked)?;
        let appended = broker.store.append(&[[half]])?.remove(0);
        let (log_offset, queue_offset) = appended.records[0];
        broker.hurry();
        broker.store.wait_durable(appended.end, PATIENCE).map_err(|error| match error {
            WaitError::Poisoned(_) => Refusal::new(response::SERVICE_NOT_AVAILABLE, error.to_string()),
            WaitError::TimedOut(_) => Refusal::new(response::FLUSH_DISK_TIMEOUT, error.to_string()),
        })?;
        broker.learn(vec![StoredHalf::new(new, queue_offset, appended.store_timestamp, None)]);
        broker.transactions.note_resumed(queue_offset.into(), &by);
        tracing::info!(%msg_id, %log_offset, "a given-up half message is checked again");
        Reply::ok(&request)
    })))
}
