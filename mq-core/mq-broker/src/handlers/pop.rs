//! POP_MESSAGE (200050) and what is asked beside it: NOTIFICATION (200054), PEEK_MESSAGE (200052), POLLING_INFO (200055),
//! POP_ROLLBACK (200056).

use std::sync::Arc;
use std::time::Duration;

use mq_protocol::ByteString;
use mq_protocol::body::{self, Subscription, perm};
use mq_protocol::codes::response;
use mq_protocol::command::Command;
use mq_protocol::header::{
    Notification, NotificationResponse, PeekMessage, PollingInfo, PollingInfoResponse, PopMessage, PopMessageResponse,
};
use mq_protocol::ids::{QueueId, QueueOffset, UnixMillis};
use mq_protocol::pop::{MAX_MESSAGES, ORDERLY, msg_offset_info, start_offset_info};
use tokio::time::Instant;

use super::error::Refusal;
use super::pull::check_switch;
use super::{Handled, Reply};
use crate::broker::Broker;
use crate::connection::Connection;
use crate::limits::{MAX_EXPRESSION_BYTES, MAX_INVISIBLE, MAX_POLL};
use crate::pop::{self, Ask, HeldPoll, Lane, Place, Poll, PopTerms, Taken};
use crate::selection::Selection;

/// A request that comes so much later than its client waits for it is not worked on.
const TOO_LATE: Duration = Duration::from_millis(500);
const FOUND: ByteString = ByteString::from_static("FOUND");
const NOTHING: ByteString = ByteString::from_static("NO_MESSAGE_IN_QUEUE");

pub(crate) fn pop(broker: &Arc<Broker>, from: &Connection, request: &Command) -> Handled {
    let header: PopMessage = request.header()?;
    let patience = Patience::new(broker, header.born_time, header.poll_time);
    if patience.is_too_late() {
        return Err(Refusal::poll_too_late());
    }
    if usize::try_from(header.max_msg_nums).is_ok_and(|messages| messages > MAX_MESSAGES) {
        return Err(Refusal::too_many_to_pop(header.max_msg_nums));
    }
    admit(broker, &header.consumer_group, &header.topic, header.queue_id)?;
    let ask = Ask {
        order: header.order.unwrap_or(false),
        attempt_id: header.attempt_id.as_ref().map(own),
        pop: Some(PopTerms {
            max_messages: usize::try_from(header.max_msg_nums).unwrap_or(0).max(1),
            invisible_time: admit_invisible_time(header.invisible_time)?,
            from_last: header.init_mode != PopMessage::INIT_AT_FIRST,
            selection: selection(broker, &header)?,
        }),
        ..asked_of(&header.topic, &header.consumer_group, header.queue_id)
    };
    work(broker, from, request, ask, patience)
}

pub(crate) fn notification(broker: &Arc<Broker>, from: &Connection, request: &Command) -> Handled {
    let header: Notification = request.header()?;
    admit(broker, &header.consumer_group, &header.topic, header.queue_id)?;
    let ask = Ask {
        order: header.order.unwrap_or(false),
        attempt_id: header.attempt_id.as_ref().map(own),
        ..asked_of(&header.topic, &header.consumer_group, header.queue_id)
    };
    work(broker, from, request, ask, Patience::new(broker, header.born_time, header.poll_time))
}

/// Nothing is taken and nothing waits. Records may be long out of memory, so it runs on the blocking lane.
pub(crate) fn peek(request: &Command) -> Handled {
    let header: PeekMessage = request.header()?;
    let answer = request.response(response::SUCCESS);
    Ok(Reply::Blocking(Box::new(move |broker| {
        admit(broker, &header.consumer_group, &header.topic, header.queue_id)?;
        let ask = asked_of(&header.topic, &header.consumer_group, header.queue_id);
        let messages = usize::try_from(header.max_msg_nums).unwrap_or(0).clamp(1, MAX_MESSAGES);
        let (slices, bytes, rest) = pop::peek(broker, &ask, messages)?;
        let (code, remark) =
            if slices.is_empty() { (response::PULL_NOT_FOUND, NOTHING) } else { (response::SUCCESS, FOUND) };
        let head = Command { code, remark: Some(remark), ..answer }.with_header(&PopMessageResponse {
            pop_time: broker.clock.now(),
            invisible_time: 0,
            revive_qid: 0,
            rest_num: rest,
            start_offset_info: None,
            msg_offset_info: None,
            order_count_info: None,
        });
        Ok(Reply::Slices { head, slices, bytes })
    })))
}

/// Code 7006, ours: whether a group has a message in its hands. The records are read up to now, so it touches the disk.
pub(crate) fn is_popped(request: &Command) -> Handled {
    let body::IsPopped { group, topic, queue_id, offset } = body::from_json("place of a message", &request.body)?;
    let request = request.clone();
    Ok(Reply::Blocking(Box::new(move |broker| {
        broker.pops.catch_up(&broker.offsets)?;
        let place = Place { topic: topic.into(), group: group.into(), queue_id: QueueId(queue_id) };
        let held = broker.pops.held(&place, QueueOffset(offset));
        let answer = body::Popped {
            popped_at: held.map(|(popped_at, _)| popped_at.0),
            until: held.and_then(|(_, until)| until).map(|until| until.0),
        };
        Reply::body(&request, body::to_json(&answer))
    })))
}

pub(crate) fn polling_info(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: PollingInfo = request.header()?;
    admit(broker, &header.consumer_group, &header.topic, header.queue_id)?;
    let queue = PopMessage::queue(header.queue_id);
    let waiting = broker.pops.polls.waiting(&header.topic, &header.consumer_group, queue);
    let header = PollingInfoResponse { polling_num: u32::try_from(waiting).unwrap_or(u32::MAX) };
    Ok(Reply::Now(request.response(response::SUCCESS).with_header(&header)))
}

/// Apache moves the state of pops from its RocksDB back to the log. Here it never left it.
pub(crate) fn rollback(request: &Command) -> Handled {
    Reply::ok(request)
}

/// Whether something is there, in no order.
fn asked_of(topic: &ByteString, group: &ByteString, queue_id: i32) -> Ask {
    let (topic, group, queue_id) = (own(topic), own(group), PopMessage::queue(queue_id));
    Ask { topic, group, queue_id, order: false, attempt_id: None, pop: None }
}

/// The rules that pops share with what is asked about them.
fn admit(broker: &Broker, group: &str, topic: &str, queue_id: i32) -> Result<(), Refusal> {
    if !perm::readable(broker.live().permission) {
        return Err(Refusal::broker_not_readable());
    }
    let config = broker.topics.get(topic).ok_or_else(|| Refusal::no_such_topic(topic))?;
    if !perm::readable(config.perm) {
        return Err(Refusal::not_readable(topic));
    }
    if PopMessage::queue(queue_id).is_some_and(|QueueId(queue)| queue >= config.read_queue_nums) {
        return Err(Refusal::no_such_queue(topic, queue_id, config.read_queue_nums));
    }
    match broker.groups.get(group) {
        None => Err(Refusal::no_such_group(group)),
        Some(settings) if !settings.consume_enable => Err(Refusal::group_may_not_consume(group)),
        Some(_) if !broker.groups.may_read(group, topic) => Err(Refusal::group_may_not_read(group, topic)),
        Some(_) => Ok(()),
    }
}

pub(super) fn admit_invisible_time(millis: i64) -> Result<i64, Refusal> {
    let admitted = u64::try_from(millis).is_ok_and(|millis| Duration::from_millis(millis) <= MAX_INVISIBLE);
    if admitted { Ok(millis) } else { Err(Refusal::invisible_time(millis, MAX_INVISIBLE)) }
}

fn selection(broker: &Broker, header: &PopMessage) -> Result<Arc<Selection>, Refusal> {
    let expression = header.exp.as_deref().unwrap_or_default();
    if expression.len() > MAX_EXPRESSION_BYTES {
        return Err(Refusal::expression_too_long(expression.len(), MAX_EXPRESSION_BYTES));
    }
    let mut subscription = Subscription::tags(&header.topic, expression, 0);
    subscription.expression_type = header.exp_type.as_deref().unwrap_or(Subscription::TAG).to_owned();
    check_switch(broker, &subscription)?;
    Ok(Arc::new(broker.filters.select(subscription)?))
}

/// Copied: what is held must not keep the buffer that it was read from.
fn own(text: &ByteString) -> ByteString {
    ByteString::from(&**text)
}

/// How long a client waits.
struct Patience {
    left: Duration,
    late: Duration,
}

impl Patience {
    fn new(broker: &Broker, born: Option<i64>, poll_millis: i64) -> Self {
        let now = broker.clock.now();
        let born = born.filter(|born| *born != 0).map_or(now, UnixMillis);
        let poll = Duration::from_millis(u64::try_from(poll_millis).unwrap_or(0));
        let end = born.plus(poll);
        Self { left: end.since(now).min(poll).min(MAX_POLL), late: now.since(end) }
    }

    fn is_too_late(&self) -> bool {
        self.late > TOO_LATE
    }
}

fn work(broker: &Arc<Broker>, from: &Connection, request: &Command, ask: Ask, patience: Patience) -> Handled {
    // Nobody would hear the answer of a one-way request; a held one no longer knows that.
    let since = Instant::now();
    let until = (!patience.left.is_zero() && !request.is_oneway()).then(|| since + patience.left);
    Ok(woken(broker, from, Poll { answer: request.response(response::SUCCESS), ask, since, until }))
}

/// Answers a poll that is new, or whose wait has ended, or that may be luckier now.
pub(crate) fn woken(broker: &Arc<Broker>, from: &Connection, poll: Poll) -> Reply {
    // An error of the disk shows again where it can be told.
    if poll.ask.pop.is_some() && pop::looks_at_disk(broker, &poll.ask).unwrap_or(true) {
        let from = from.clone();
        return Reply::Blocking(Box::new(move |broker| Ok(answer(broker, &from, poll, Lane::Disk))));
    }
    answer(broker, from, poll, Lane::Memory)
}

/// The answer, or nothing yet: then the poll is held.
fn answer(broker: &Arc<Broker>, from: &Connection, mut poll: Poll, lane: Lane) -> Reply {
    loop {
        if let Some(reply) = attempt(broker, &poll, lane) {
            return reply;
        }
        let Some(until) = poll.until.filter(|until| *until > Instant::now()) else {
            return nothing(broker, &poll, response::POLLING_TIMEOUT, NOTHING);
        };
        let ask = poll.ask.clone();
        let held = HeldPoll { connection: from.clone(), poll: Box::new(poll) };
        let id = match broker.pops.polls.hold(held, until) {
            Ok(id) => id,
            Err((full, refused)) => {
                return nothing(broker, &refused.poll, response::POLLING_FULL, full.to_string().into());
            }
        };
        // A message may have come between the look at the queues and the hold.
        if !pop::has_message(broker, &ask) {
            return Reply::None;
        }
        match broker.pops.polls.take(&ask, id) {
            Some(held) => poll = *held.poll,
            None => return Reply::None,
        }
    }
}

/// `None`: there is nothing to tell yet.
fn attempt(broker: &Arc<Broker>, poll: &Poll, lane: Lane) -> Option<Reply> {
    let Some(terms) = &poll.ask.pop else {
        return pop::has_message(broker, &poll.ask).then(|| notified(poll, true, false));
    };
    if let Some(limit) = broker.pops.refuses(&poll.ask.group) {
        return Some(nothing(broker, poll, response::POLLING_FULL, limit.to_string().into()));
    }
    match pop::take(broker, &poll.ask, terms, lane) {
        Err(refusal) => {
            let remark = Some(refusal.remark.as_ref().into());
            Some(Reply::Now(Command { code: refusal.code, remark, ..poll.answer.clone() }))
        }
        Ok(taken) if taken.shares.is_empty() => None,
        Ok(taken) => {
            if taken.rest > 0 {
                broker.pops.polls.wake(&poll.ask.topic, &poll.ask.group, poll.ask.queue_id);
            }
            Some(found(broker, poll, terms, taken))
        }
    }
}

fn found(broker: &Arc<Broker>, poll: &Poll, terms: &PopTerms, taken: Taken) -> Reply {
    let answer = Command { remark: Some(FOUND), ..poll.answer.clone() };
    let head = answer.with_header(&PopMessageResponse {
        pop_time: taken.pop_time,
        invisible_time: terms.invisible_time,
        revive_qid: taken.revive_qid,
        rest_num: taken.rest,
        start_offset_info: Some(start_offset_info(&taken.shares).into()),
        msg_offset_info: Some(msg_offset_info(&taken.shares).into()),
        order_count_info: poll.ask.order.then(|| taken.order_count_info.as_str().into()),
    });
    let (slices, bytes) = (taken.slices, taken.bytes);
    match taken.waits_for.filter(|_| broker.answers_wait) {
        None => Reply::Slices { head, slices, bytes },
        Some(at) => Reply::Durable { at, answer: head.with_body(slices.concat()) },
    }
}

/// Clients read these fields of an answer without messages too.
fn nothing(broker: &Broker, poll: &Poll, code: i32, remark: ByteString) -> Reply {
    let Some(terms) = &poll.ask.pop else {
        return notified(poll, false, code == response::POLLING_FULL);
    };
    let answer = Command { code, remark: Some(remark), ..poll.answer.clone() };
    Reply::Now(answer.with_header(&PopMessageResponse {
        pop_time: broker.clock.now(),
        invisible_time: terms.invisible_time,
        revive_qid: if poll.ask.order { ORDERLY } else { 0 },
        rest_num: 0,
        start_offset_info: Some(ByteString::new()),
        msg_offset_info: Some(ByteString::new()),
        order_count_info: poll.ask.order.then(ByteString::new),
    }))
}

fn notified(poll: &Poll, has_msg: bool, polling_full: bool) -> Reply {
    Reply::Now(poll.answer.clone().with_header(&NotificationResponse { has_msg, polling_full }))
}
