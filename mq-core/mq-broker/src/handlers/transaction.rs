//! END_TRANSACTION (37): a producer's verdict on its half message.

use std::sync::Arc;

use mq_protocol::codes::response;
use mq_protocol::command::Command;
use mq_protocol::header::EndTransaction;
use txn_coordinator::{EndError, EndRequest, Refusal as Refused};

use super::error::Refusal;
use super::{Handled, Reply};
use crate::broker::Broker;

/// Whatever names a verdict waits until that verdict is durable: the one that was just given, the same one given before,
/// and the one that a contrary request is refused for.
pub(crate) fn end(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: EndTransaction = request.header()?;
    match broker.transactions.end(&EndRequest::from_header(&header)?) {
        Ok(ended) => Ok(Reply::Durable { at: ended.durable_at, answer: request.response(response::SUCCESS) }),
        Err(error @ EndError::Refused(Refused::Contrary(_))) => {
            Ok(Reply::Durable { at: broker.store.end(), answer: Refusal::from(error).answer(request) })
        }
        Err(error) => Err(error.into()),
    }
}
