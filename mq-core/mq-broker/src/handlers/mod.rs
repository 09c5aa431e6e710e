//! From a request to its handler by code. A handler translates: header in, call on the tables, reply out.

mod admin;
mod assignment;
mod cleaning;
mod client;
mod config;
pub(crate) mod error;
mod inspect;
mod message;
pub(crate) mod offset;
pub(crate) mod pop;
pub(crate) mod pop_ack;
mod progress;
pub(crate) mod pull;
mod query;
mod queue;
mod recall;
mod refused;
mod relay;
mod reply;
mod reset;
pub(crate) mod resume;
mod runtime;
pub(crate) mod send;
mod send_back;
mod timer;
pub(crate) mod transaction;
mod txn;

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::frame::MAX_FRAME_BYTES;
use mq_protocol::header::Header;
use mq_protocol::ids::LogOffset;

use crate::broker::Broker;
use crate::connection::Connection;
use error::Refusal;

/// The rest of an answer's frame is for its header.
const MAX_BODY_BYTES: usize = MAX_FRAME_BYTES - (64 << 10);

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

    /// Success with a body, if a frame can hold it.
    pub(crate) fn body(request: &Command, body: Bytes) -> Handled {
        if body.len() > MAX_BODY_BYTES {
            return Err(Refusal::answer_too_large(body.len(), MAX_BODY_BYTES));
        }
        Ok(Self::Now(request.response(response::SUCCESS).with_body(body)))
    }

    /// Adds fields to an answer that is ready.
    fn with_header(self, header: &impl Header) -> Self {
        match self {
            Self::Now(answer) => Self::Now(answer.with_header(header)),
            other => other,
        }
    }
}

pub(crate) fn dispatch(broker: &Arc<Broker>, from: &Connection, command: &Command) -> Handled {
    match command.code {
        request::PULL_MESSAGE | request::LITE_PULL_MESSAGE => pull::pull(broker, from, command),
        request::RESUME_CHECK_HALF_MESSAGE => resume::resume(from, command),
        request::RECALL_MESSAGE => recall::recall(from, command),
        request::CONSUMER_SEND_MSG_BACK => send_back::send_back(command),
        request::SEND_REPLY_MESSAGE | request::SEND_REPLY_MESSAGE_V2 => reply::reply(broker, from, command),
        request::QUERY_MESSAGE => query::query(broker, command),
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
        request::GET_ALL_DELAY_OFFSET => offset::delays(command),
        request::GET_TIMER_CHECK_POINT => timer::checkpoint(command),
        request::GET_TIMER_METRICS => timer::metrics(command),
        request::CLONE_GROUP_OFFSET => offset::clone_group(broker, command),
        request::QUERY_CORRECTION_OFFSET => offset::correction(broker, command),
        request::INVOKE_BROKER_TO_RESET_OFFSET => reset::reset(command),
        request::INVOKE_BROKER_TO_GET_CONSUMER_STATUS => relay::positions(broker, command),
        request::GET_CONSUMER_RUNNING_INFO => relay::running_info(broker, command),
        request::CONSUME_MESSAGE_DIRECTLY => relay::consume_directly(command),
        request::UPDATE_AND_CREATE_TOPIC_LIST => admin::create_topics(command),
        request::CLEAN_EXPIRED_CONSUMEQUEUE => cleaning::expired_queues(command),
        request::CLEAN_UNUSED_TOPIC => cleaning::unused_topics(command),
        request::DELETE_EXPIRED_COMMITLOG => cleaning::expired_log(command),
        request::UPDATE_AND_CREATE_TOPIC => admin::create_topic(command),
        request::DELETE_TOPIC_IN_BROKER => admin::delete_topic(command),
        request::GET_ALL_TOPIC_CONFIG => admin::all_topics(broker, command),
        request::GET_TOPIC_CONFIG => admin::topic(broker, command),
        request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP => admin::put_group(command),
        request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST => admin::put_groups(command),
        request::DELETE_SUBSCRIPTIONGROUP => admin::delete_group(command),
        request::GET_ALL_SUBSCRIPTIONGROUP_CONFIG => admin::all_groups(broker, command),
        request::GET_SUBSCRIPTIONGROUP_CONFIG => admin::group(broker, command),
        request::UPDATE_AND_GET_GROUP_FORBIDDEN => admin::group_forbidden(command),
        // A slave's master tells it how far it may read; a master, as at Apache, has nothing to set.
        request::RESET_MASTER_FLUSH_OFFSET => Reply::ok(command),
        request::GET_CONSUMER_CONNECTION_LIST => admin::consumer_connections(broker, command),
        request::QUERY_TOPIC_CONSUME_BY_WHO => admin::groups_of_topic(broker, command),
        request::QUERY_TOPICS_BY_CONSUMER => admin::topics_of_group(broker, command),
        request::GET_PRODUCER_CONNECTION_LIST => admin::producer_connections(broker, command),
        request::UPDATE_BROKER_CONFIG => config::update(command),
        request::GET_BROKER_CONFIG => config::get(broker, command),
        request::GET_BROKER_RUNTIME_INFO => runtime::info(command),
        request::VIEW_BROKER_STATS_DATA => runtime::named_stats(broker, command),
        request::GET_TOPIC_STATS_INFO => progress::topic_stats(command),
        request::GET_CONSUME_STATS => progress::consume_stats(command),
        request::GET_BROKER_CONSUME_STATS => progress::broker_consume_stats(command),
        request::QUERY_CONSUME_TIME_SPAN => progress::consume_time_span(command),
        request::QUERY_CONSUME_QUEUE => inspect::consume_queue(command),
        request::QUERY_SUBSCRIPTION_BY_CONSUMER => inspect::subscription(broker, command),
        request::GET_ALL_PRODUCER_INFO => inspect::producers(broker, command),
        request::GET_SYSTEM_TOPIC_LIST_FROM_BROKER => inspect::system_topics(broker, command),
        request::POP_MESSAGE => pop::pop(broker, from, command),
        request::NOTIFICATION => pop::notification(broker, from, command),
        request::PEEK_MESSAGE => pop::peek(command),
        request::POLLING_INFO => pop::polling_info(broker, command),
        request::POP_ROLLBACK => pop::rollback(command),
        request::CHANGE_MESSAGE_INVISIBLETIME => pop_ack::change_invisible_time(broker, command),
        request::QUERY_ASSIGNMENT => assignment::query(broker, command),
        request::SET_MESSAGE_REQUEST_MODE => assignment::set_mode(command),
        request::GET_ALL_MESSAGE_REQUEST_MODE => assignment::all_modes(broker, command),
        request::TXN_LIST
        | request::TXN_SHOW
        | request::TXN_CHECK
        | request::TXN_RESOLVE
        | request::TXN_RESUME
        | request::TXN_RESUME_ALL => txn::operate(from, command),
        request::IS_POPPED => pop::is_popped(command),
        code => Err(refused::refusal(code)),
    }
}
