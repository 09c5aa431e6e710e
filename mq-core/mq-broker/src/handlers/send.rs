//! SEND_MESSAGE (10, 310) and SEND_BATCH_MESSAGE (320): from a request to messages that are ready to be appended.
//!
//! Nothing is written here; `sending` appends all sends of one read together and answers them.

use std::sync::Arc;

use mq_protocol::ByteString;
use mq_protocol::body::{TopicConfig, perm};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{Header, HeaderError, SendMessage};
use mq_protocol::ids::{LogOffset, QueueId};
use mq_protocol::properties::MAX_PROPERTIES_BYTES;
use mq_protocol::recall::RecallHandle;
use mq_protocol::record::Message;
use mq_protocol::{batch, sys_flag, topic};
use tokio::runtime::{Handle, RuntimeFlavor};
use txn_coordinator::half_of;

use super::error::Refusal;
use crate::broker::Broker;
use crate::connection::Connection;
use crate::delay_levels::queue_of;
use crate::incoming::{Changes, RealPlace, Wishes};
use crate::limits::MAX_BATCH_MESSAGES;
use crate::sending::{Group, Kind, Prepared};
use crate::timers::{self, TimerWish};

/// Where a send goes after the topic rules.
struct Target {
    topic: ByteString,
    queue_id: QueueId,
    /// The last queue for sends.
    last_queue: u32,
    /// The retries are used up.
    dead_letter: bool,
    /// Made by this send.
    is_new: bool,
}

pub(crate) fn is_send(code: i32) -> bool {
    matches!(code, request::SEND_MESSAGE | request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE)
}

pub(crate) fn prepare(broker: &Broker, from: &Connection, request: &Command) -> Result<Prepared, Refusal> {
    let header = header(request)?;
    if request.body.len() > broker.config.max_message_bytes {
        return Err(Refusal::body_too_large(request.body.len(), broker.config.max_message_bytes));
    }
    let target = target(broker, &header)?;
    let is_new = target.is_new;
    let prepared = if request.code == request::SEND_BATCH_MESSAGE || header.batch == Some(true) {
        prepare_batch(broker, from, request, &header, target)
    } else {
        prepare_one(broker, from, request, &header, target)
    };
    Ok(prepared?.with_new_topic(is_new))
}

pub(crate) fn header(request: &Command) -> Result<SendMessage, HeaderError> {
    match request.code {
        request::SEND_MESSAGE | request::SEND_REPLY_MESSAGE => SendMessage::decode(&request.ext),
        _ => SendMessage::decode_v2(&request.ext),
    }
}

/// Java reads the ext fields of a send's answer without looking whether there are any.
pub(crate) fn refuse(broker: &Broker, refusal: Refusal, request: &Command) -> Command {
    let mut answer = refusal.answer(request);
    broker.mark_send_answer(&mut answer);
    answer
}

fn target(broker: &Broker, header: &SendMessage) -> Result<Target, Refusal> {
    let held = broker.topics.get(&header.topic);
    let is_new = held.is_none();
    let config = match held {
        Some(config) => config,
        None => aside(|| create_topic(broker, header))?,
    };
    if !topic::is_writable_by_clients(&header.topic) {
        return Err(Refusal::system_topic(&header.topic));
    }
    if !perm::writable(config.perm) || (!perm::writable(broker.live().permission) && config.order) {
        return Err(Refusal::not_writable(&header.topic));
    }
    let queues = config.read_queue_nums.max(config.write_queue_nums);
    if header.queue_id >= 0 && header.queue_id as u32 >= queues {
        return Err(Refusal::no_such_queue(&header.topic, header.queue_id, queues));
    }
    if let Some(group) = header.topic.strip_prefix(topic::RETRY_PREFIX)
        && retries_are_used_up(broker, group, header)?
    {
        let dead_letters = aside(|| broker.topics.dead_letter(group, broker.clock.now()))?;
        let topic = dead_letters.topic_name.as_str().into();
        return Ok(Target { topic, queue_id: QueueId(0), last_queue: 0, dead_letter: true, is_new });
    }
    let queue_id = pick_queue(header.queue_id, &config);
    let last_queue = config.write_queue_nums.saturating_sub(1);
    Ok(Target { topic: header.topic.clone(), queue_id, last_queue, dead_letter: false, is_new })
}

fn create_topic(broker: &Broker, header: &SendMessage) -> Result<Arc<TopicConfig>, Refusal> {
    topic::check_topic(&header.topic)?;
    if !topic::is_writable_by_clients(&header.topic) {
        return Err(Refusal::system_topic(&header.topic));
    }
    let now = broker.clock.now();
    if let Some(group) = header.topic.strip_prefix(topic::RETRY_PREFIX) {
        broker.groups.get(group).ok_or_else(|| Refusal::no_such_group(group))?;
        return Ok(broker.topics.retry(group, 1, now)?);
    }
    let seed = header.default_topic.as_deref().unwrap_or_default();
    let queues = header.default_topic_queue_nums.and_then(|queues| u32::try_from(queues).ok()).unwrap_or(0);
    Ok(broker.topics.for_send(&header.topic, seed, queues, now)?)
}

/// A new topic is written to disk before its first message: rare, and in order with the connection's other sends. The
/// runtime's other connections move to another thread meanwhile.
fn aside<T>(work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}

fn retries_are_used_up(broker: &Broker, group: &str, header: &SendMessage) -> Result<bool, Refusal> {
    let config = broker.groups.get(group).ok_or_else(|| Refusal::no_such_group(group))?;
    let limit = header.max_reconsume_times.unwrap_or(config.retry_max_times);
    Ok(header.reconsume_times.unwrap_or(0) > limit || broker.locks.holds_any(group, broker.clock.now()))
}

fn pick_queue(asked: i32, config: &TopicConfig) -> QueueId {
    match u32::try_from(asked) {
        Ok(asked) => QueueId(asked),
        Err(_) => QueueId(rand::random_range(0..config.write_queue_nums.max(1))),
    }
}

fn prepare_one(
    broker: &Broker,
    from: &Connection,
    request: &Command,
    header: &SendMessage,
    mut target: Target,
) -> Result<Prepared, Refusal> {
    let sent = header.properties.as_deref().unwrap_or_default();
    let wishes = Wishes::of(sent);
    let priority = wishes.plain_priority();
    if let Some(priority) = priority {
        target.queue_id = QueueId(priority.min(target.last_queue));
    }
    let delay = if target.dead_letter { None } else { broker.delay_levels.clamp(wishes.delay_level) };
    // A committed message that is tried again still says that it was transactional.
    let is_retry = header.reconsume_times.unwrap_or(0) > 0 && (wishes.delay_level > 0 || target.dead_letter);
    let half = wishes.half && !is_retry;
    if half && broker.live().reject_transactions {
        return Err(Refusal::new(
            response::NO_PERMISSION,
            "transactional messages are switched off here (rejectTransactionMessage=true); send an ordinary message",
        ));
    }
    if half {
        order(broker, &wishes, &mut target)?;
    }
    let wish = wishes.timer.filter(|_| !half && delay.is_none() && !wishes.waited && !target.dead_letter);
    let slot = match wish {
        Some(wish) => broker.timer_slot(wish, wishes.takes_back)?,
        None => None,
    };
    let made = wishes.unique_key.is_none().then(|| broker.unique_keys.next(broker.clock.now()));
    let delay = delay.filter(|_| !half);
    let changes = Changes {
        unique_key: made.as_deref(),
        real_place: (delay.is_some() || slot.is_some())
            .then(|| RealPlace { topic: &target.topic, queue_id: target.queue_id.0 }),
        slot,
        drop_timers: wishes.delay_level > 0,
        drop_delay: target.dead_letter,
        drop_priority: wishes.priority.is_some() && priority.is_none(),
    };
    let (topic, queue_id) = match (delay, slot) {
        (Some(level), _) => (ByteString::from_static(topic::SCHEDULE), queue_of(level)),
        (None, Some(_)) => (ByteString::from_static(topic::TIMER), timers::QUEUE),
        (None, None) => (target.topic.clone(), target.queue_id),
    };
    let message = Message {
        topic,
        queue_id,
        flag: header.flag,
        sys_flag: without_transaction(header),
        born_timestamp: header.born_timestamp,
        born_host: from.peer(),
        store_host: broker.store_host,
        reconsume_times: header.reconsume_times.unwrap_or(0),
        prepared_transaction_offset: LogOffset::ZERO,
        properties: checked(broker.stamp.apply(sent, wishes.stays, changes))?,
        body: request.body.clone(),
    };
    let unique_key: ByteString = match (&header.properties, wishes.unique_key) {
        (Some(sent), Some(key)) => sent.slice_ref(key),
        _ => made.unwrap_or_default().into(),
    };
    let handle = slot.filter(|_| !topic::is_retry(&target.topic)).map(|slot| {
        let (topic, broker_name) = (target.topic.clone(), broker.config.broker_name.as_str().into());
        RecallHandle { topic, broker_name, deliver_ms: slot.0 + 1, unique_key: unique_key.clone() }.encode()
    });
    let (message, kind) = if half {
        let (message, half) = half_of(message)?;
        broker.transactions.fits(&half, message.record_bytes())?;
        mq_store::failpoint("half-parsed");
        (message, Kind::Half { group: header.producer_group.clone(), half })
    } else {
        (message, Kind::Plain { wait: !wishes.no_wait })
    };
    let prepared = Prepared::new(request, target.queue_id, Some(unique_key), kind, Group::One(message));
    Ok(prepared.with_recall_handle(handle))
}

/// What a half asks for its commit: whether that can be promised is said now.
fn order(broker: &Broker, wishes: &Wishes<'_>, target: &mut Target) -> Result<(), Refusal> {
    if let Some(key) = wishes.order_key {
        target.queue_id = QueueId(crc32fast::hash(key.as_bytes()) % (target.last_queue + 1));
    }
    if let Some(delay_ms) = wishes.delay_from_commit {
        broker.timer_rules().slot(TimerWish::InMillis(delay_ms), false, broker.clock.now())?;
    }
    Ok(())
}

fn prepare_batch(
    broker: &Broker,
    from: &Connection,
    request: &Command,
    header: &SendMessage,
    target: Target,
) -> Result<Prepared, Refusal> {
    if topic::is_retry(&header.topic) {
        return Err(Refusal::illegal("a batch cannot go to a retry topic; send its messages one by one"));
    }
    let items = batch::decode(&request.body)?;
    if items.is_empty() {
        return Err(Refusal::illegal("the batch is empty"));
    }
    if items.len() > MAX_BATCH_MESSAGES {
        let items = items.len();
        return Err(Refusal::illegal(format!(
            "the batch has {items} messages, the limit is {MAX_BATCH_MESSAGES}; send it in parts"
        )));
    }
    let outer = Wishes::of(header.properties.as_deref().unwrap_or_default());
    let mut messages = Vec::with_capacity(items.len());
    for item in items {
        let wishes = Wishes::of(&item.properties);
        if outer.half || outer.delay_level > 0 || wishes.half || wishes.delay_level > 0 || wishes.timer.is_some() {
            return Err(Refusal::illegal(
                "a batch cannot hold transactional or delayed messages; send them one by one",
            ));
        }
        let made = wishes.unique_key.is_none().then(|| broker.unique_keys.next(broker.clock.now()));
        let changes = Changes { unique_key: made.as_deref(), ..Changes::default() };
        messages.push(Message {
            topic: target.topic.clone(),
            queue_id: target.queue_id,
            flag: item.flag,
            sys_flag: without_transaction(header),
            born_timestamp: header.born_timestamp,
            born_host: from.peer(),
            store_host: broker.store_host,
            reconsume_times: header.reconsume_times.unwrap_or(0),
            prepared_transaction_offset: LogOffset::ZERO,
            properties: checked(broker.stamp.apply(&item.properties, wishes.stays, changes))?,
            body: item.body,
        });
    }
    let unique_key = outer.unique_key.map(ByteString::from);
    let kind = Kind::Plain { wait: !outer.no_wait };
    Ok(Prepared::new(request, target.queue_id, unique_key, kind, Group::Many(messages)))
}

/// Only the property says that a message is a half. A record with the flag but without the property would be stored and
/// never be seen.
fn without_transaction(header: &SendMessage) -> i32 {
    sys_flag::with_transaction_bits(header.sys_flag, sys_flag::TRANSACTION_NONE)
}

fn checked(properties: ByteString) -> Result<ByteString, Refusal> {
    if properties.len() > MAX_PROPERTIES_BYTES {
        return Err(Refusal::illegal(format!(
            "the properties take {} bytes with the broker's own, the limit is {MAX_PROPERTIES_BYTES}",
            properties.len()
        )));
    }
    Ok(properties)
}
