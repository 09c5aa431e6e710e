//! From a request to its handler by code. A handler translates: header in, call on the tables, reply out.

mod admin;
mod client;
pub(crate) mod error;
mod message;
mod offset;
pub(crate) mod pull;
mod queue;
mod reply;
pub(crate) mod send;
mod send_back;
mod transaction;

use std::pin::Pin;
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
    /// Work that waits for another client. Its outcome is the reply.
    Later(Later),
}

pub(crate) type Job = Box<dyn FnOnce(&Arc<Broker>) -> Handled + Send>;
pub(crate) type Later = Pin<Box<dyn Future<Output = Handled> + Send>>;
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
        request::SEND_REPLY_MESSAGE | request::SEND_REPLY_MESSAGE_V2 => reply::reply(broker, from, command),
        request::VIEW_MESSAGE_BY_ID => message::view(command),
        request::GET_MAX_OFFSET => queue::max_offset(broker, command),
        request::GET_MIN_OFFSET => queue::min_offset(broker, command),
        request::SEARCH_OFFSET_BY_TIMESTAMP => queue::offset_by_time(command),
        request::GET_EARLIEST_MSG_STORETIME => queue::earliest_store_time(command),
        request::HEART_BEAT => client::heartbeat(broker, from, command),
        request::UNREGISTER_CLIENT => client::unregister(broker, from, command),
        request::GET_CONSUMER_LIST_BY_GROUP => client::consumer_list(broker, command),
        request::CHECK_CLIENT_CONFIG => client::check_config(broker, command),
        request::LOCK_BATCH_MQ => client::lock(broker, command),
        request::UNLOCK_BATCH_MQ => client::unlock(broker, command),
        request::QUERY_CONSUMER_OFFSET => offset::query(broker, command),
        request::UPDATE_CONSUMER_OFFSET => offset::update(broker, from, command),
        request::GET_ALL_CONSUMER_OFFSET => offset::all(broker, command),
        request::UPDATE_AND_CREATE_TOPIC => admin::create_topic(command),
        request::DELETE_TOPIC_IN_BROKER => admin::delete_topic(command),
        request::GET_ALL_TOPIC_CONFIG => admin::all_topics(broker, command),
        request::GET_TOPIC_CONFIG => admin::topic(broker, command),
        request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP => admin::put_group(command),
        request::DELETE_SUBSCRIPTIONGROUP => admin::delete_group(command),
        request::GET_ALL_SUBSCRIPTIONGROUP_CONFIG => admin::all_groups(broker, command),
        request::GET_SUBSCRIPTIONGROUP_CONFIG => admin::group(broker, command),
        request::GET_CONSUMER_CONNECTION_LIST => admin::consumer_connections(broker, command),
        request::QUERY_TOPIC_CONSUME_BY_WHO => admin::groups_of_topic(broker, command),
        request::QUERY_TOPICS_BY_CONSUMER => admin::topics_of_group(broker, command),
        request::GET_PRODUCER_CONNECTION_LIST => admin::producer_connections(broker, command),
        code => Err(Refusal::unsupported(code)),
    }
}
