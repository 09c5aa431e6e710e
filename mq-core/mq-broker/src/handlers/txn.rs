//! Our own requests about transactions (7001 to 7005, 7007), for operators: read and settled on the blocking lane.

use mq_protocol::command::Command;

use super::error::Refusal;
use super::{Handled, Reply};
use crate::connection::Connection;

pub(crate) fn operate(from: &Connection, request: &Command) -> Handled {
    let (request, from) = (request.clone(), from.peer());
    Ok(Reply::Blocking(Box::new(move |broker| {
        let answer = broker.operate(request.code, &request.body, from);
        Reply::body(&request, answer.map_err(|refused| Refusal::new(refused.code, refused.reason))?)
    })))
}
