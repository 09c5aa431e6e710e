//! CONSUMER_SEND_MSG_BACK (36): a message that a consumer could not process comes again later, or goes to the dead
//! letters.

use std::sync::Arc;
use std::time::Duration;

use mq_protocol::ByteString;
use mq_protocol::body::{RetryPolicy, SubscriptionGroup, perm};
use mq_protocol::codes::response;
use mq_protocol::command::Command;
use mq_protocol::header::ConsumerSendMsgBack;
use mq_protocol::ids::{LogOffset, QueueId};
use mq_protocol::message_id::offset_id;
use mq_protocol::properties::{Properties, name};
use mq_protocol::record::Message;
use mq_protocol::topic;

use super::error::Refusal;
use super::{Handled, Reply};
use crate::broker::Broker;
use crate::delay_levels::queue_of;
use crate::timers::{self, TimerWish};

/// The level of the first retry: 10 s.
const FIRST_RETRY_LEVEL: u32 = 3;

/// Reads a message that may be long out of memory, so it runs on the blocking lane.
pub(crate) fn send_back(request: &Command) -> Handled {
    let header: ConsumerSendMsgBack = request.header()?;
    let request = request.response(response::SUCCESS);
    Ok(Reply::Blocking(Box::new(move |broker| store_again(broker, &header, request))))
}

fn store_again(broker: &Arc<Broker>, header: &ConsumerSendMsgBack, answer: Command) -> Handled {
    let group = broker.groups.get(&header.group).ok_or_else(|| Refusal::no_such_group(&header.group))?;
    if !perm::writable(broker.live().permission) {
        return Err(Refusal::broker_not_writable());
    }
    if group.retry_queue_nums == 0 {
        return Ok(Reply::Now(answer));
    }
    let retries = broker.topics.retry(&header.group, group.retry_queue_nums, broker.clock.now())?;
    if !perm::writable(retries.perm) {
        return Err(Refusal::not_writable(&retries.topic_name));
    }
    let stored = broker.store.read(header.offset)?.ok_or_else(|| Refusal::no_message_at(header.offset))?;
    let mut properties = stored.message.parsed_properties();
    if properties.get(name::RETRY_TOPIC).is_none() {
        properties.set(name::RETRY_TOPIC, stored.message.topic.clone());
    }
    if properties.get(name::ORIGIN_MESSAGE_ID).is_none() {
        properties.set(name::ORIGIN_MESSAGE_ID, offset_id(stored.message.store_host, stored.log_offset));
    }
    broker.stats.sent_back(
        &header.group,
        properties.get(name::RETRY_TOPIC).unwrap_or(&stored.message.topic),
        &*broker.clock,
    );
    let tries = stored.message.reconsume_times;
    let limit = header.max_reconsume_times.unwrap_or(group.retry_max_times);
    let copy = Message {
        sys_flag: stored.message.sys_flag,
        store_host: broker.store_host,
        reconsume_times: tries.saturating_add(1),
        prepared_transaction_offset: LogOffset::ZERO,
        ..stored.message
    };
    let copy = if tries >= limit || header.delay_level < 0 {
        let dead_letters = broker.topics.dead_letter(&header.group, broker.clock.now())?;
        properties.remove(name::DELAY);
        Message {
            topic: dead_letters.topic_name.as_str().into(),
            queue_id: QueueId(0),
            properties: properties.encode(),
            ..copy
        }
    } else {
        let queue_id = QueueId(rand::random_range(0..retries.write_queue_nums.max(1)));
        let copy = Message { topic: retries.topic_name.as_str().into(), queue_id, ..copy };
        match Rest::of(&group, header.delay_level, tries) {
            Rest::Level(level) => delayed(broker, level, copy, properties),
            Rest::Time { time, .. } if broker.timer_rules().enabled => resting(broker, time, copy, properties),
            Rest::Time { level, .. } => delayed(broker, level, copy, properties),
        }
    };
    let appended = broker.store.append(&[[copy]])?;
    let at = appended[0].end;
    Ok(if broker.answers_wait { Reply::Durable { at, answer } } else { Reply::Now(answer) })
}

/// How long a message rests before it is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    Level(u32),
    /// Without timers as long as this level says.
    Time {
        time: Duration,
        level: u32,
    },
}

impl Rest {
    /// A consumer that chose a level gets it. Else the group's own retry policy decides, where its settings name one;
    /// Apache's broker looks at levels alone.
    fn of(group: &SubscriptionGroup, chosen_level: i32, tries: i32) -> Self {
        if let Some(level) = u32::try_from(chosen_level).ok().filter(|level| *level > 0) {
            return Self::Level(level);
        }
        let level = FIRST_RETRY_LEVEL.saturating_add(u32::try_from(tries).unwrap_or(0));
        match RetryPolicy::of(&group.group_retry_policy) {
            Some(policy) => Self::Time { time: policy.next_delay(tries), level },
            None => Self::Level(level),
        }
    }
}

/// The message as the timers keep it; at most as long as any message may wait.
fn resting(broker: &Broker, rest: Duration, message: Message, mut properties: Properties) -> Message {
    let (rules, now) = (broker.timer_rules(), broker.clock.now());
    let at = now.plus(rest.min(rules.max_delay)).to_string();
    properties.remove(name::DELAY);
    let message = Message { properties: properties.encode(), ..message };
    match rules.slot(TimerWish::At(&at), false, now) {
        Ok(Some(slot)) => timers::waiting(message, slot),
        // It rests for no time at all.
        _ => message,
    }
}

/// The message as the schedule topic keeps it until its time.
fn delayed(broker: &Broker, level: u32, message: Message, mut properties: Properties) -> Message {
    match broker.delay_levels.clamp(level) {
        None => Message { properties: properties.encode(), ..message },
        Some(level) => {
            properties.set(name::DELAY, level.to_string());
            properties.set(name::REAL_TOPIC, message.topic);
            properties.set(name::REAL_QUEUE_ID, message.queue_id.to_string());
            Message {
                topic: ByteString::from_static(topic::SCHEDULE),
                queue_id: queue_of(level),
                properties: properties.encode(),
                ..message
            }
        }
    }
}
