//! Connections: frames in and out, requests matched with their answers, reconnecting. Knows no topic and no group.

mod connection;
mod pool;

use mq_protocol::ByteString;
use mq_protocol::body;
use mq_protocol::command::Command;
use serde::de::DeserializeOwned;

use crate::error::CallError;

pub(crate) use connection::{Connection, Gather, Inbound};
pub(crate) use pool::{Patience, Pool};

/// The JSON body of an answer from `address`; `what` names it where it cannot be read.
pub(crate) fn json_body<T: DeserializeOwned>(
    what: &'static str,
    address: &ByteString,
    request: i32,
    answer: &Command,
) -> Result<T, CallError> {
    body::from_json(what, &answer.body).map_err(|error| CallError::unreadable(address, request, error))
}
