//! PULL_MESSAGE (11) and LITE_PULL_MESSAGE (361): messages as they lie in the log, or a wait for the next one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mq_protocol::ByteString;
use mq_protocol::body::{Subscription, perm};
use mq_protocol::codes::response;
use mq_protocol::command::Command;
use mq_protocol::header::{PullMessage, PullMessageResponse};
use mq_protocol::ids::{LogOffset, QueueOffset};
use mq_protocol::sys_flag::pull as flag;
use mq_store::{PullLimits, PullStatus, Pulled, ReadError, Wanted};
use tokio::time::Instant;
use tracing::error;

use super::error::Refusal;
use super::{Handled, Reply};
use crate::broker::Broker;
use crate::connection::Connection;
use crate::held::HeldPull;
use crate::limits::{MAX_EXPRESSION_BYTES, MAX_HOLD, MAX_PULL_BYTES, MAX_PULL_MESSAGES};
use crate::pulling::Pull;
use crate::selection::{self, Selection};

/// The smallest page of the machines this runs on.
const PAGE_BYTES: usize = 4096;
/// A hold where long polling is switched off.
const SHORT_HOLD: Duration = Duration::from_secs(1);

pub(crate) fn pull(broker: &Arc<Broker>, from: &Connection, request: &Command) -> Handled {
    let header: PullMessage = request.header()?;
    let selection = admit(broker, &header)?;
    if let Some(offset) = broker.offsets.take_redirection(&header.consumer_group, &header.topic, header.queue_id)
        && u64::try_from(header.queue_offset) != Ok(offset.0)
    {
        return Ok(elsewhere(broker, request, &header, "OFFSET_RESET", offset));
    }
    if header.sys_flag & flag::COMMIT_OFFSET != 0
        && let Ok(offset) = u64::try_from(header.commit_offset)
        // A name that nobody created must not grow the table, and the file, of offsets.
        && broker.groups.get(&header.consumer_group).is_some()
    {
        let end = broker.store.queue_bounds(&header.topic, header.queue_id).max;
        broker.offsets.commit(&header.consumer_group, &header.topic, header.queue_id, QueueOffset(offset), end);
    }
    let Ok(queue_offset) = u64::try_from(header.queue_offset) else {
        return before_the_queue(broker, request, &header);
    };
    let pull = Pull {
        answer: request.response(response::SUCCESS),
        // Copied: a held pull must not keep the whole read buffer alive.
        topic: ByteString::from(&*header.topic),
        queue_id: header.queue_id,
        from: QueueOffset(queue_offset),
        limits: PullLimits {
            messages: usize::try_from(header.max_msg_nums).unwrap_or(0).clamp(1, MAX_PULL_MESSAGES),
            bytes: header
                .max_msg_bytes
                .and_then(|bytes| usize::try_from(bytes).ok())
                .unwrap_or(MAX_PULL_BYTES)
                .min(MAX_PULL_BYTES),
        },
        selection,
        reader: broker.stats.reader(&header.consumer_group, &header.topic, &*broker.clock),
        // Nobody would hear the answer; a held pull no longer knows that.
        hold: if request.is_oneway() { Duration::ZERO } else { hold(broker, &header) },
        until: None,
    };
    if is_cold_scan(broker, &pull)? {
        let from = from.clone();
        return Ok(Reply::Blocking(Box::new(move |broker| Ok(answer(broker, &from, pull)))));
    }
    Ok(answer(broker, from, pull))
}

/// The rules before the store is asked; gives what the reader wants.
fn admit(broker: &Broker, header: &PullMessage) -> Result<Arc<Selection>, Refusal> {
    if !perm::readable(broker.live().permission) {
        return Err(Refusal::broker_not_readable());
    }
    // A reader that brings its subscription along needs no heartbeat, where groups come into being by themselves.
    let may_be_unknown = broker.live().auto_create_group && header.sys_flag & flag::SUBSCRIPTION != 0;
    match broker.groups.get(&header.consumer_group) {
        Some(group) if !group.consume_enable => return Err(Refusal::group_may_not_consume(&header.consumer_group)),
        None if !may_be_unknown => return Err(Refusal::no_such_group(&header.consumer_group)),
        _ => {}
    }
    let topic = broker.topics.get(&header.topic).ok_or_else(|| Refusal::no_such_topic(&header.topic))?;
    if !perm::readable(topic.perm) {
        return Err(Refusal::not_readable(&header.topic));
    }
    if !broker.groups.may_read(&header.consumer_group, &header.topic) {
        return Err(Refusal::group_may_not_read(&header.consumer_group, &header.topic));
    }
    if header.queue_id.0 >= topic.read_queue_nums {
        return Err(Refusal::no_such_queue(&header.topic, header.queue_id.0 as i32, topic.read_queue_nums));
    }
    let selection = if header.sys_flag & flag::SUBSCRIPTION != 0 {
        let expression = header.subscription.as_deref().unwrap_or_default();
        if expression.len() > MAX_EXPRESSION_BYTES {
            return Err(Refusal::expression_too_long(expression.len(), MAX_EXPRESSION_BYTES));
        }
        let mut inline = Subscription::tags(&header.topic, expression, header.sub_version);
        inline.expression_type = header.expression_type.as_deref().unwrap_or(Subscription::TAG).to_owned();
        check_switch(broker, &inline)?;
        Arc::new(broker.filters.select(inline)?)
    } else {
        let known = broker.clients.subscription(&header.consumer_group, &header.topic);
        let known = known.ok_or_else(|| Refusal::not_subscribed(&header.consumer_group, &header.topic))?;
        if known.sub_version < header.sub_version {
            return Err(Refusal::subscription_not_latest(&header.consumer_group, &header.topic));
        }
        check_switch(broker, &known)?;
        if !known.is_usable() {
            let reason = selection::compile(&known).err().map(|error| error.to_string()).unwrap_or_default();
            return Err(Refusal::no_filter(&header.consumer_group, &header.topic, &reason));
        }
        known
    };
    Ok(selection)
}

pub(crate) fn check_switch(broker: &Broker, subscription: &Subscription) -> Result<(), Refusal> {
    if subscription.is_tag() || broker.live().property_filter { Ok(()) } else { Err(Refusal::filter_unsupported()) }
}

/// A filter that reads records far behind the end of the log may have to wait for the disk.
fn is_cold_scan(broker: &Broker, pull: &Pull) -> Result<bool, ReadError> {
    if !pull.selection.reads_records() {
        return Ok(false);
    }
    let first = broker.store.entry(&pull.topic, pull.queue_id, pull.from)?;
    Ok(first.is_some_and(|entry| is_cold(broker, entry.log_offset)))
}

pub(crate) fn is_cold(broker: &Broker, at: LogOffset) -> bool {
    broker.store.end().0.saturating_sub(at.0) > broker.hot_bytes
}

fn hold(broker: &Broker, header: &PullMessage) -> Duration {
    if header.sys_flag & flag::SUSPEND == 0 {
        return Duration::ZERO;
    }
    let asked = Duration::from_millis(u64::try_from(header.suspend_timeout_millis).unwrap_or(0));
    let longest = if broker.live().long_polling { MAX_HOLD } else { SHORT_HOLD };
    asked.min(longest)
}

/// The answer from the store, or nothing yet: then the pull is held.
fn answer(broker: &Arc<Broker>, from: &Connection, pull: Pull) -> Reply {
    let pulled = match ask_store(broker, &pull) {
        Ok(pulled) => pulled,
        Err(error) => return refuse(pull, error),
    };
    if may_wait(&pull, &pulled) { wait(broker, from, pull, pulled) } else { reply(broker, pull, pulled) }
}

/// Holds a pull that found nothing.
fn wait(broker: &Broker, from: &Connection, mut pull: Pull, mut pulled: Pulled) -> Reply {
    loop {
        let (key, offset) = (pull.key(), pull.from);
        let until = *pull.until.get_or_insert_with(|| Instant::now() + pull.hold);
        let held = HeldPull { connection: from.clone(), pull: Box::new(pull) };
        let id = match broker.held.hold(held, until) {
            // As many as may wait do wait: this one is told that there is nothing, as if its time were over.
            Err(refused) => return reply(broker, *refused.pull, pulled),
            Ok(id) => id,
        };
        // A message may have come between the look at the store and the hold.
        let missed = broker.store.queue_bounds(&key.0, key.1).max > offset;
        let Some(held) = missed.then(|| broker.held.take(&key, id)).flatten() else { return Reply::None };
        pull = *held.pull;
        pulled = match ask_store(broker, &pull) {
            Ok(pulled) => pulled,
            Err(error) => return refuse(pull, error),
        };
        if !waits_on(&mut pull, &pulled) {
            return reply(broker, pull, pulled);
        }
    }
}

/// Answers a held pull with what the store has now; one whose filter reads records may go on waiting.
pub(crate) fn woken(broker: &Broker, from: &Connection, mut pull: Pull) -> Reply {
    match ask_store(broker, &pull) {
        Ok(pulled) if waits_on(&mut pull, &pulled) => wait(broker, from, pull, pulled),
        Ok(pulled) => reply(broker, pull, pulled),
        Err(error) => refuse(pull, error),
    }
}

/// What woke a pull may be nothing for it: only the record tells, and the store's thread does not read records. The
/// wait goes on behind what was looked at, until its time is over.
fn waits_on(pull: &mut Pull, pulled: &Pulled) -> bool {
    let in_vain = pulled.status == PullStatus::NoMatchedMessage && pull.selection.reads_records();
    let waits = in_vain && pull.until.is_some_and(|until| Instant::now() < until);
    if waits {
        pull.from = pulled.next;
    }
    waits
}

fn refuse(pull: Pull, error: ReadError) -> Reply {
    let refusal = Refusal::from(error);
    Reply::Now(Command { code: refusal.code, remark: Some(refusal.remark.as_ref().into()), ..pull.answer })
}

fn ask_store(broker: &Broker, pull: &Pull) -> Result<Pulled, ReadError> {
    let accepts = |tags_code| pull.wants(tags_code);
    let matches = |record: &[u8]| pull.selection.matches(record);
    let wanted = Wanted { entry: &accepts, record: pull.selection.reads_records().then_some(&matches) };
    let pulled = broker.store.pull_wanted(&pull.topic, pull.queue_id, pull.from, pull.limits, wanted)?;
    if let Some(reader) = &pull.reader {
        reader.pulled(pull.queue_id, pulled.next);
    }
    Ok(pulled)
}

fn may_wait(pull: &Pull, pulled: &Pulled) -> bool {
    !pull.hold.is_zero() && code_of(pulled.status, pull.from) == response::PULL_NOT_FOUND
}

fn code_of(status: PullStatus, from: QueueOffset) -> i32 {
    match status {
        PullStatus::Found => response::SUCCESS,
        PullStatus::NoMatchedMessage | PullStatus::MessageWasRemoving => response::PULL_RETRY_IMMEDIATELY,
        PullStatus::OffsetOverflowOne => response::PULL_NOT_FOUND,
        PullStatus::NoMessageInQueue | PullStatus::NoMatchedLogicQueue if from == QueueOffset::ZERO => {
            response::PULL_NOT_FOUND
        }
        PullStatus::NoMessageInQueue
        | PullStatus::NoMatchedLogicQueue
        | PullStatus::OffsetOverflowBadly
        | PullStatus::OffsetTooSmall => response::PULL_OFFSET_MOVED,
    }
}

fn reply(broker: &Broker, pull: Pull, pulled: Pulled) -> Reply {
    let cold = pulled.starts.first().is_some_and(|first| is_cold(broker, *first));
    // What was read ahead, or lately by another reader, needs no other thread.
    if cold && !broker.store.is_at_hand(&pulled) {
        Reply::Blocking(Box::new(move |broker| Ok(from_disk(broker, pull, pulled))))
    } else {
        sent(broker, pull, pulled)
    }
}

/// Reads the messages here, not on a thread that serves connections, and sends none that are not as they were written.
fn from_disk(broker: &Broker, pull: Pull, pulled: Pulled) -> Reply {
    match broker.store.check(&pulled) {
        Ok(()) => {
            touch(&pulled.slices);
            sent(broker, pull, pulled)
        }
        // One by one, so that those before the damage come through.
        Err(_) if pulled.messages > 1 => {
            let one = Pull { limits: PullLimits { messages: 1, ..pull.limits }, ..pull };
            match ask_store(broker, &one) {
                Ok(pulled) => from_disk(broker, one, pulled),
                Err(error) => refuse(one, error),
            }
        }
        Err(error) => {
            error!(topic = %pull.topic, queue = pull.queue_id.0, offset = pull.from.0, %error, "a message is damaged");
            refuse(pull, error)
        }
    }
}

fn sent(broker: &Broker, pull: Pull, pulled: Pulled) -> Reply {
    broker.stats.gave(pull.reader.as_deref(), pulled.messages, pulled.bytes);
    let head = Command {
        code: code_of(pulled.status, pull.from),
        remark: Some(ByteString::from_static(name_of(pulled.status))),
        ..pull.answer
    };
    let head = head.with_header(&PullMessageResponse {
        suggest_which_broker_id: 0,
        next_begin_offset: pulled.next,
        min_offset: pulled.min,
        max_offset: pulled.max,
        offset_delta: None,
        topic_sys_flag: Some(0),
        group_sys_flag: Some(0),
        forbidden_type: None,
    });
    Reply::Slices { head, slices: pulled.slices, bytes: pulled.bytes }
}

/// Reads a byte of each page, for those that have no checksum.
pub(crate) fn touch(slices: &[Bytes]) {
    let pages = slices.iter().flat_map(|slice| slice.iter().step_by(PAGE_BYTES));
    std::hint::black_box(pages.fold(0u8, |sum, byte| sum ^ byte));
}

/// Java's name of the status, which tools show.
fn name_of(status: PullStatus) -> &'static str {
    match status {
        PullStatus::Found => "FOUND",
        PullStatus::NoMatchedMessage => "NO_MATCHED_MESSAGE",
        PullStatus::MessageWasRemoving => "MESSAGE_WAS_REMOVING",
        PullStatus::OffsetOverflowOne => "OFFSET_OVERFLOW_ONE",
        PullStatus::OffsetOverflowBadly => "OFFSET_OVERFLOW_BADLY",
        PullStatus::OffsetTooSmall => "OFFSET_TOO_SMALL",
        PullStatus::NoMatchedLogicQueue => "NO_MATCHED_LOGIC_QUEUE",
        PullStatus::NoMessageInQueue => "NO_MESSAGE_IN_QUEUE",
    }
}

/// Tools ask for offset -1: like any offset below the first, it moves to the first.
fn before_the_queue(broker: &Broker, request: &Command, header: &PullMessage) -> Handled {
    let first = broker.store.queue_bounds(&header.topic, header.queue_id).min;
    Ok(elsewhere(broker, request, header, name_of(PullStatus::OffsetTooSmall), first))
}

/// Sends the reader to another place of its queue.
fn elsewhere(
    broker: &Broker,
    request: &Command,
    header: &PullMessage,
    status: &'static str,
    next: QueueOffset,
) -> Reply {
    let bounds = broker.store.queue_bounds(&header.topic, header.queue_id);
    let answer = request.error(response::PULL_OFFSET_MOVED, status);
    Reply::Now(answer.with_header(&PullMessageResponse {
        suggest_which_broker_id: 0,
        next_begin_offset: next,
        min_offset: bounds.min,
        max_offset: bounds.max,
        offset_delta: None,
        topic_sys_flag: Some(0),
        group_sys_flag: Some(0),
        forbidden_type: None,
    }))
}
