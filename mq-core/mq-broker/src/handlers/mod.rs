//! From a request to its handler by code. A handler translates: header in, call on the tables, reply out.

pub(crate) mod error;
mod message;
pub(crate) mod pull;
mod queue;
pub(crate) mod send;
mod send_back;
mod transaction;

use std::sync::Arc;

use bytes::Bytes;
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::ids::LogOffset;

use crate::broker::Broker;
use crate::connection::Connection;
use error::Refusal;

/// What becomes of a request.
pub(crate) enum Reply {
    /// Nothing now: the answer comes later by the connection's handle, or nobody wants one.
    None,
    Now(Command),
    /// To be sent once the log is durable up to `at`.
    Durable {
        at: LogOffset,
        answer: Command,
    },
    /// An answer whose body lies in the log, or wherever `slices` point to; it is not copied.
    Slices {
        head: Command,
        slices: Vec<Bytes>,
        bytes: usize,
    },
    /// Work that may touch the disk for long. It runs on the blocking lane, its outcome is the reply.
    Blocking(Job),
}

pub(crate) type Job = Box<dyn FnOnce(&Arc<Broker>) -> Handled + Send>;
pub(crate) type Handled = Result<Reply, Refusal>;

impl Reply {
    /// Success without fields.
    pub(crate) fn ok(request: &Command) -> Handled {
        Ok(Self::Now(request.response(response::SUCCESS)))
    }
}

pub(crate) fn dispatch(broker: &Arc<Broker>, from: &Connection, command: &Command) -> Handled {
    match command.code {
        request::PULL_MESSAGE | request::LITE_PULL_MESSAGE => pull::pull(broker, from, command),
        request::END_TRANSACTION => transaction::end(broker, command),
        request::CONSUMER_SEND_MSG_BACK => send_back::send_back(command),
        request::VIEW_MESSAGE_BY_ID => message::view(command),
        request::GET_MAX_OFFSET => queue::max_offset(broker, command),
        request::GET_MIN_OFFSET => queue::min_offset(broker, command),
        request::SEARCH_OFFSET_BY_TIMESTAMP => queue::offset_by_time(command),
        request::GET_EARLIEST_MSG_STORETIME => queue::earliest_store_time(command),
        code => Err(Refusal::unsupported(code)),
    }
}
