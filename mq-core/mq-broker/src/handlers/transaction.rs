//! END_TRANSACTION (37): a producer's verdict on its half message.

use std::sync::Arc;

use mq_protocol::codes::response;
use mq_protocol::command::Command;
use mq_protocol::header::EndTransaction;
use txn_coordinator::EndRequest;

use super::{Handled, Reply};
use crate::broker::Broker;

/// Both kinds of answer wait: a repeated verdict must not be acknowledged before the first one is durable.
pub(crate) fn end(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: EndTransaction = request.header()?;
    let ended = broker.transactions.end(&EndRequest::from_header(&header)?)?;
    let answer = request.response(response::SUCCESS);
    Ok(Reply::Durable { at: ended.durable_at, answer })
}
