//! What consumers say of popped messages: done (ACK_MESSAGE 200051, BATCH_ACK_MESSAGE 200151), or at another time
//! (CHANGE_MESSAGE_INVISIBLETIME 200053).
//!
//! A handle that no longer names anything in flight is answered like any other: the record is written and changes nothing.

use std::sync::Arc;

use mq_protocol::ByteString;
use mq_protocol::body::{self, AckRecord, BatchAck, BatchAcks, CheckpointRecord, TakenFrom};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{AckMessage, ChangeInvisibleTime, ChangeInvisibleTimeResponse};
use mq_protocol::ids::{QueueId, QueueOffset, UnixMillis};
use mq_protocol::pop::{Handle, MAX_MESSAGES, Mark, ORDERLY};
use mq_protocol::record::Message as Record;

use super::error::Refusal;
use super::pop::admit_invisible_time;
use super::{Handled, Reply};
use crate::broker::Broker;
use crate::pop::{Acked, Place};
use crate::sending::{Group, Prepared};

/// Messages of all its entries: what so many pops give out at most. A record names each.
const MAX_BATCH_OFFSETS: usize = MAX_BATCH_ENTRIES * MAX_MESSAGES;
/// Entries of one batch, each of a pop of a queue and a record of its own in the revive topic.
const MAX_BATCH_ENTRIES: usize = 1024;

pub(crate) fn is_ack(code: i32) -> bool {
    matches!(code, request::ACK_MESSAGE | request::BATCH_ACK_MESSAGE)
}

/// Its records, to be appended with all others of a read; `None` when there is nothing to write.
pub(crate) fn prepare(broker: &Broker, request: &Command) -> Result<Option<Prepared>, Refusal> {
    let mut records =
        if request.code == request::ACK_MESSAGE { ack(broker, request) } else { batch_ack(broker, request) }?;
    Ok(match records.len() {
        0 => None,
        1 => records.pop().map(|record| Prepared::record(request, Group::One(record))),
        _ => Some(Prepared::record(request, Group::Many(records))),
    })
}

fn ack(broker: &Broker, request: &Command) -> Result<Vec<Record>, Refusal> {
    let header: AckMessage = request.header()?;
    let message = Message::find(broker, &header.consumer_group, &header.topic, header.queue_id, header.offset)?;
    let handle: Handle = header.extra_info.parse()?;
    if handle.revive_qid == ORDERLY {
        ack_in_order(broker, &message.place, message.offset, handle.pop_time)?;
        return Ok(Vec::new());
    }
    let queue = revive_queue(broker, handle.revive_qid)?;
    Ok(vec![broker.pops.ack(&message.ack_record(&handle), queue, broker.clock.now())])
}

fn batch_ack(broker: &Broker, request: &Command) -> Result<Vec<Record>, Refusal> {
    let batch: BatchAcks = body::from_json("batch of acknowledgements", &request.body)?;
    if batch.acks.is_empty() {
        return Err(Refusal::nothing_to_acknowledge());
    }
    if batch.acks.len() > MAX_BATCH_ENTRIES {
        return Err(Refusal::too_many_acknowledgements(batch.acks.len(), MAX_BATCH_ENTRIES));
    }
    // No more are counted than it takes to refuse them.
    let offsets = batch.acks.iter().flat_map(|acks| acks.bits.iter()).take(MAX_BATCH_OFFSETS + 1).count();
    if offsets > MAX_BATCH_OFFSETS {
        return Err(Refusal::too_many_acknowledged(MAX_BATCH_OFFSETS));
    }
    let records = batch.acks.iter().map(|acks| ack_some(broker, acks));
    records.filter_map(Result::transpose).collect()
}

/// Offsets that the queue does not have are passed over, as Apache does.
fn ack_some(broker: &Broker, acks: &BatchAck) -> Result<Option<Record>, Refusal> {
    let mark: Mark = acks.retry.parse().map_err(|()| Refusal::unknown_mark(&acks.retry))?;
    let place = Place {
        topic: mark.topic(&acks.topic, &acks.consumer_group).into(),
        group: acks.consumer_group.as_str().into(),
        queue_id: acks.queue_id,
    };
    let bounds = broker.store.queue_bounds(&place.topic, place.queue_id);
    let offsets = acks.bits.iter().filter_map(|bit| acks.start_offset.0.checked_add(bit));
    let known = |offset: &QueueOffset| (bounds.min..bounds.max).contains(offset);
    let offsets: Vec<QueueOffset> = offsets.map(QueueOffset).filter(known).collect();
    if acks.revive_qid == ORDERLY {
        for offset in offsets {
            ack_in_order(broker, &place, offset, acks.pop_time)?;
        }
        return Ok(None);
    }
    if offsets.is_empty() {
        return Ok(None);
    }
    let record = AckRecord {
        ack_offset: -1,
        start_offset: acks.start_offset,
        consumer_group: acks.consumer_group.clone(),
        topic: place.topic.to_string(),
        queue_id: place.queue_id,
        pop_time: acks.pop_time,
        broker_name: Some(broker.config.broker_name.clone()),
        ack_offsets: offsets,
    };
    let queue = revive_queue(broker, acks.revive_qid)?;
    Ok(Some(broker.pops.ack(&record, queue, broker.clock.now())))
}

pub(crate) fn change_invisible_time(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: ChangeInvisibleTime = request.header()?;
    let message = Message::find(broker, &header.consumer_group, &header.topic, header.queue_id, header.offset)?;
    let handle: Handle = header.extra_info.parse()?;
    let (now, invisible_time) = (broker.clock.now(), admit_invisible_time(header.invisible_time)?);
    let answer = request.response(response::SUCCESS);
    if handle.revive_qid == ORDERLY {
        let visible_at = UnixMillis(now.0.saturating_add(invisible_time));
        broker.pops.orders().change(&message.place, message.offset, handle.pop_time, visible_at);
        broker.pops.bell.ring();
        let invisible_time = visible_at.0.saturating_sub(handle.pop_time.0);
        let header = ChangeInvisibleTimeResponse { pop_time: handle.pop_time, invisible_time, revive_qid: ORDERLY };
        return Ok(Reply::Now(answer.with_header(&header)));
    }
    // Later than the old one, so that the two handles differ.
    let pop_time = now.max(UnixMillis(handle.pop_time.0.saturating_add(1)));
    let record = CheckpointRecord {
        start_offset: message.offset,
        pop_time,
        invisible_time,
        bit_map: 0,
        num: 1,
        queue_id: message.place.queue_id,
        topic: message.place.topic.to_string(),
        consumer_group: message.place.group.to_string(),
        revive_offset: 0,
        diffs: vec![0],
        broker_name: Some(handle.broker_name.clone()),
        re_put_times: None,
        from: Some(TakenFrom { start_offset: handle.start_offset, pop_time: handle.pop_time }),
    };
    let queue = revive_queue(broker, handle.revive_qid)?;
    let at = broker.pops.write_change(&record, &message.ack_record(&handle), queue, now)?;
    let at = at.ok_or_else(|| Refusal::comes_again(&message.place.topic, message.offset))?;
    let header = ChangeInvisibleTimeResponse { pop_time, invisible_time, revive_qid: handle.revive_qid };
    let answer = answer.with_header(&header);
    Ok(if broker.answers_wait { Reply::Durable { at, answer } } else { Reply::Now(answer) })
}

/// A message that a request names.
struct Message {
    place: Place,
    offset: QueueOffset,
}

impl Message {
    fn find(broker: &Broker, group: &str, topic: &str, queue_id: i32, offset: i64) -> Result<Self, Refusal> {
        let config = broker.topics.get(topic).ok_or_else(|| Refusal::no_such_topic(topic))?;
        let queue = u32::try_from(queue_id).ok().filter(|queue| *queue < config.read_queue_nums).map(QueueId);
        let queue_id =
            queue.ok_or_else(|| Refusal::no_queue_to_acknowledge(topic, queue_id, config.read_queue_nums))?;
        let bounds = broker.store.queue_bounds(topic, queue_id);
        let known = u64::try_from(offset).ok().map(QueueOffset).filter(|o| (bounds.min..bounds.max).contains(o));
        let offset = known.ok_or_else(|| Refusal::no_message_in_queue(topic, queue_id, offset, bounds))?;
        Ok(Self { place: Place { topic: ByteString::from(topic), group: ByteString::from(group), queue_id }, offset })
    }

    fn ack_record(&self, handle: &Handle) -> AckRecord {
        AckRecord {
            ack_offset: i64::try_from(self.offset.0).unwrap_or(i64::MAX),
            start_offset: handle.start_offset,
            consumer_group: self.place.group.to_string(),
            topic: self.place.topic.to_string(),
            queue_id: self.place.queue_id,
            pop_time: handle.pop_time,
            broker_name: Some(handle.broker_name.clone()),
            ack_offsets: Vec::new(),
        }
    }
}

/// The group's offset moves up to the first message that is still open; the queue goes on when none is.
fn ack_in_order(broker: &Broker, place: &Place, offset: QueueOffset, pop_time: UnixMillis) -> Result<(), Refusal> {
    let Place { topic, group, queue_id } = place;
    if broker.offsets.get(group, topic, *queue_id).is_some_and(|done| offset < done) {
        return Ok(());
    }
    // Held to the end: a reset comes before the acknowledgement, which is of an older pop then, or takes back its offset.
    let mut orders = broker.pops.orders();
    match orders.ack(place, offset, pop_time) {
        Acked::Stale => {}
        Acked::Unknown => return Err(Refusal::not_of_that_pop(topic, *queue_id, offset)),
        Acked::UpTo(next) => {
            let end = broker.store.queue_bounds(topic, *queue_id).max;
            broker.offsets.commit(group, topic, *queue_id, next, end);
            let is_blocked = orders.is_blocked(place, None, broker.clock.now());
            drop(orders);
            if !is_blocked {
                broker.pops.polls.wake(topic, group, Some(*queue_id));
            }
        }
    }
    Ok(())
}

fn revive_queue(broker: &Broker, queue: u32) -> Result<QueueId, Refusal> {
    if broker.pops.is_revive_queue(queue) { Ok(QueueId(queue)) } else { Err(Refusal::no_revive_queue(queue)) }
}
