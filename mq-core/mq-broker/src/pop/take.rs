//! One pop: which queues it looks at, what it takes of each, and the record that makes it so.

use bytes::Bytes;
use bytestring::ByteString;
use mq_protocol::body::{CheckpointRecord, TopicConfig};
use mq_protocol::ids::{LogOffset, QueueId, QueueOffset, UnixMillis};
use mq_protocol::pop::{Handle, Mark, ORDERLY, QueueShare};
use mq_protocol::properties::name;
use mq_protocol::record::{self, QUEUE_OFFSET_AT, StoredMessage};
use mq_store::{PullLimits, PullStatus, Pulled, ReadError, Wanted};
use parking_lot::MutexGuard;

use super::{Ask, Attempts, Place, PopTerms};
use crate::broker::Broker;
use crate::handlers::error::Refusal;
use crate::handlers::offset::starts_young;
use crate::handlers::pull::{is_cold, touch};
use crate::limits::MAX_PULL_BYTES;
use crate::start;

/// What a pop took.
pub(crate) struct Taken {
    pub(crate) pop_time: UnixMillis,
    pub(crate) revive_qid: u32,
    pub(crate) shares: Vec<QueueShare>,
    pub(crate) slices: Vec<Bytes>,
    pub(crate) bytes: usize,
    /// Messages that are left in the queues that were looked at.
    pub(crate) rest: u64,
    pub(crate) order_count_info: String,
    /// What has to be on disk before this is told.
    pub(crate) waits_for: Option<LogOffset>,
    messages: usize,
}

/// Takes up to as many messages as the terms say. An orderly pop looks at its topic only, any other at the retry topics
/// too: mostly after the topic, now and then before it, so that neither can starve the other.
pub(crate) fn take(broker: &Broker, ask: &Ask, terms: &PopTerms, lane: Lane) -> Result<Taken, Refusal> {
    let revive_qid = if ask.order { ORDERLY } else { broker.pops.pick_revive_queue().0 };
    let mut taken = Taken {
        pop_time: broker.clock.now(),
        revive_qid,
        shares: Vec::new(),
        slices: Vec::new(),
        bytes: 0,
        rest: 0,
        order_count_info: String::new(),
        waits_for: None,
        messages: 0,
    };
    let retries_first = rand::random_range(0..100) < broker.pops.config.retry_first_percent;
    for (mark, place) in places(broker, ask, retries_first) {
        let result = Visit { broker, ask, terms, lane, mark, place: &place }.take(&mut taken);
        if let Err(refusal) = result {
            // What other queues gave is recorded already, so it has to be told.
            if taken.messages == 0 {
                return Err(refusal);
            }
            tracing::warn!(topic = %place.topic, queue = %place.queue_id, "not popped: {}", refusal.remark);
        }
    }
    Ok(taken)
}

/// Whether a pop would look at messages that are long out of memory.
pub(crate) fn looks_at_disk(broker: &Broker, ask: &Ask) -> Result<bool, ReadError> {
    for (_, Place { topic, group, queue_id }) in places(broker, ask, false) {
        let place = Place { topic, group, queue_id };
        let Some(position) = broker.pops.position(&place, &broker.offsets) else { continue };
        let entry = broker.store.entry(&place.topic, queue_id, position)?;
        if entry.is_some_and(|entry| is_cold(broker, entry.log_offset)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a pop would look at something.
pub(crate) fn has_message(broker: &Broker, ask: &Ask) -> bool {
    let waits = |place: &Place| {
        let position = open_position(broker, ask, place)?;
        let bounds = broker.store.queue_bounds(&place.topic, place.queue_id);
        Some(bounds.max > position.unwrap_or(bounds.min))
    };
    places(broker, ask, false).iter().any(|(_, place)| waits(place) == Some(true))
}

/// What the next pop would see, without taking it. Gives the messages and how many there are behind them.
pub(crate) fn peek(broker: &Broker, ask: &Ask, max_messages: usize) -> Result<(Vec<Bytes>, usize, u64), ReadError> {
    let (mut slices, mut bytes, mut messages, mut rest) = (Vec::new(), 0, 0, 0);
    for (_, place) in places(broker, ask, false) {
        let bounds = broker.store.queue_bounds(&place.topic, place.queue_id);
        let from = broker.pops.position(&place, &broker.offsets).unwrap_or(bounds.min).clamp(bounds.min, bounds.max);
        rest += bounds.max.0 - from.0;
        if messages < max_messages && bytes < MAX_PULL_BYTES {
            let limits = PullLimits { messages: max_messages - messages, bytes: MAX_PULL_BYTES - bytes };
            let pulled = broker.store.pull(&place.topic, place.queue_id, from, limits, &|_| true)?;
            bytes += pulled.bytes;
            messages += pulled.messages;
            slices.extend(pulled.slices);
        }
    }
    Ok((slices, bytes, rest))
}

/// The queues of a pop, in the order in which it looks at them.
fn places(broker: &Broker, ask: &Ask, retries_first: bool) -> Vec<(Mark, Place)> {
    let all_queues = |mark: Mark, config: &TopicConfig| {
        let queues = config.read_queue_nums.max(1);
        let first = rand::random_range(0..queues);
        let topic = ByteString::from(config.topic_name.as_str());
        let place = |queue_id| (mark, Place { topic: topic.clone(), group: ask.group.clone(), queue_id });
        (0..queues).map(|at| place(QueueId((first + at) % queues))).collect::<Vec<_>>()
    };
    let own = match (ask.queue_id, broker.topics.get(&ask.topic)) {
        (Some(queue_id), _) => {
            vec![(Mark::of(&ask.topic), Place { topic: ask.topic.clone(), group: ask.group.clone(), queue_id })]
        }
        (None, Some(config)) => all_queues(Mark::of(&ask.topic), &config),
        (None, None) => Vec::new(),
    };
    let marks: &[Mark] = match &broker.pops.config {
        _ if ask.order => &[],
        config if config.retry_topic_v2 && config.read_retry_topic_v1 => &[Mark::RetryV2, Mark::RetryV1],
        config if config.retry_topic_v2 => &[Mark::RetryV2],
        _ => &[Mark::RetryV1],
    };
    let retry =
        |mark: &Mark| broker.topics.get(&mark.topic(&ask.topic, &ask.group)).map(|config| all_queues(*mark, &config));
    let retries: Vec<_> = marks.iter().filter_map(retry).flatten().collect();
    if retries_first { [retries, own].concat() } else { [own, retries].concat() }
}

/// Where a queue would be popped; `None`: it gives nothing now. The inner `None`: the group is new here.
fn open_position(broker: &Broker, ask: &Ask, place: &Place) -> Option<Option<QueueOffset>> {
    let pops = &broker.pops;
    if ask.order && pops.orders().is_blocked(place, ask.attempt_id.as_deref(), broker.clock.now()) {
        return None;
    }
    let full = |limit: usize| !ask.order && pops.in_flight(place) > limit;
    if pops.config.queue_threshold.is_some_and(full) {
        return None;
    }
    Some(pops.position(place, &broker.offsets))
}

/// Where a pop runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// On a thread of the runtime: all is in memory, as far as one can know.
    Memory,
    /// On the blocking lane.
    Disk,
}

/// How often a pop reads what lies at its queue's position before its turn, when others move the position meanwhile.
const LOOKS_AHEAD: usize = 4;

/// One queue of one pop.
struct Visit<'v> {
    broker: &'v Broker,
    ask: &'v Ask,
    terms: &'v PopTerms,
    lane: Lane,
    mark: Mark,
    place: &'v Place,
}

impl Visit<'_> {
    /// One pop of a queue at a time. What has to come from the disk is read before it is its turn: others of this queue,
    /// and some of others, wait for the lock.
    fn lock(&self, taken: &Taken) -> MutexGuard<'_, ()> {
        let Self { broker, place, .. } = *self;
        if self.lane == Lane::Memory || !self.has_room(taken) {
            return broker.pops.lock(place);
        }
        let mut read_at = None;
        for _ in 0..LOOKS_AHEAD {
            let lock = broker.pops.lock(place);
            let next = broker.pops.position(place, &broker.offsets).filter(|next| read_at != Some(*next));
            let Some(next) = next else { return lock };
            drop(lock);
            if let Err(error) = self.pull(next, taken) {
                tracing::debug!(%error, "it shows again in its turn");
            }
            read_at = Some(next);
        }
        broker.pops.lock(place)
    }

    fn has_room(&self, taken: &Taken) -> bool {
        taken.messages < self.terms.max_messages && taken.bytes < MAX_PULL_BYTES
    }

    fn take(&self, taken: &mut Taken) -> Result<(), Refusal> {
        let Self { broker, place, .. } = *self;
        let _one_at_a_time = self.lock(taken);
        if let Some(to) = broker.offsets.take_redirection(&place.group, &place.topic, place.queue_id) {
            broker.pops.go_to(place, to, &broker.offsets);
        }
        let bounds = broker.store.queue_bounds(&place.topic, place.queue_id);
        let from = match open_position(broker, self.ask, place) {
            None => return Ok(()),
            Some(Some(known)) => known,
            Some(None) => self.start_here()?,
        };
        if !self.has_room(taken) {
            taken.rest += bounds.max.0.saturating_sub(from.0);
            return Ok(());
        }
        let mut start = from;
        let mut pulled = self.pull(start, taken)?;
        if matches!(pulled.status, PullStatus::OffsetTooSmall | PullStatus::OffsetOverflowBadly) {
            broker.pops.go_to(place, pulled.next, &broker.offsets);
            start = pulled.next;
            pulled = self.pull(start, taken)?;
        }
        taken.rest += pulled.max.0.saturating_sub(pulled.next.0);
        if pulled.messages == 0 {
            if pulled.next > start {
                broker.pops.skip_to(place, pulled.next, &broker.offsets);
            }
            return Ok(());
        }
        self.give(start, pulled, taken)
    }

    fn pull(&self, from: QueueOffset, taken: &Taken) -> Result<Pulled, ReadError> {
        let limits =
            PullLimits { messages: self.terms.max_messages - taken.messages, bytes: MAX_PULL_BYTES - taken.bytes };
        self.pull_up_to(limits, from)
    }

    fn pull_up_to(&self, limits: PullLimits, from: QueueOffset) -> Result<Pulled, ReadError> {
        // Retried messages were wanted once; they are wanted again whatever the filter says now.
        let (is_retry, selection) = (self.mark != Mark::Normal, &self.terms.selection);
        let accepts = |tags_code| is_retry || selection.may_match(tags_code);
        let matches = |record: &[u8]| selection.matches(record);
        let wanted = Wanted { entry: &accepts, record: (!is_retry && selection.reads_records()).then_some(&matches) };
        let Place { topic, queue_id, .. } = self.place;
        let pulled = self.broker.store.pull_wanted(topic, *queue_id, from, limits, wanted)?;
        if !pulled.starts.first().is_some_and(|first| is_cold(self.broker, *first)) {
            return Ok(pulled);
        }
        // From the disk: none that is not as it was written, and one by one, so that those before the damage come through.
        match self.broker.store.check(&pulled) {
            Err(_) if pulled.messages > 1 => {
                let pulled = self.broker.store.pull_wanted(
                    topic,
                    *queue_id,
                    from,
                    PullLimits { messages: 1, ..limits },
                    wanted,
                )?;
                self.broker.store.check(&pulled).map(|()| pulled)
            }
            checked => checked.map(|()| {
                touch(&pulled.slices);
                pulled
            }),
        }
    }

    /// The first pop of a group decides where it starts, for good.
    fn start_here(&self) -> Result<QueueOffset, Refusal> {
        let Self { broker, place, .. } = *self;
        if let Some(start) = broker.groups.start_of(&place.group) {
            return start::begin(broker, start, &place.group, &place.topic, place.queue_id);
        }
        let bounds = broker.store.queue_bounds(&place.topic, place.queue_id);
        let young = || {
            Ok::<_, Refusal>(
                broker.pops.config.start_of_young_queues && starts_young(broker, &place.topic, place.queue_id)?,
            )
        };
        let start = if !self.terms.from_last || self.mark != Mark::Normal || young()? {
            bounds.min
        } else {
            QueueOffset(bounds.max.0.saturating_sub(1)).max(bounds.min)
        };
        broker.offsets.admit(&place.group, &place.topic, place.queue_id)?;
        broker.offsets.commit(&place.group, &place.topic, place.queue_id, start, bounds.max);
        Ok(start)
    }

    fn give(&self, start: QueueOffset, pulled: Pulled, taken: &mut Taken) -> Result<(), Refusal> {
        let slices = match self.mark {
            Mark::Normal => Ok(pulled.slices.clone()),
            _ => pulled.slices.iter().map(|slice| self.renamed(slice, start, taken)).collect::<Result<Vec<_>, _>>(),
        };
        if slices.is_err() && pulled.messages > 1 {
            // Those before the damage come through, one by one.
            let first = self.pull_up_to(PullLimits { messages: 1, bytes: MAX_PULL_BYTES }, start)?;
            return if first.messages == 1 { self.give(start, first, taken) } else { slices.map(drop) };
        }
        let offsets: Vec<QueueOffset> = pulled.slices.iter().flat_map(|slice| queue_offsets(slice)).collect();
        if self.ask.order {
            self.note_order(&offsets, taken);
        } else {
            taken.waits_for = Some(self.record(start, &offsets, pulled.next, taken)?);
        }
        // A single one that is damaged counts as given: its time will be over.
        let slices = slices?;
        taken.messages += pulled.messages;
        let Self { broker, place, .. } = *self;
        let reader = broker.stats.reader(&place.group, &place.topic, &*broker.clock);
        broker.stats.gave(reader.as_deref(), pulled.messages, pulled.bytes);
        taken.bytes += slices.iter().map(Bytes::len).sum::<usize>();
        taken.slices.extend(slices);
        let (mark, queue_id) = (self.mark, self.place.queue_id);
        taken.shares.push(QueueShare { mark, queue_id, start_offset: start, offsets });
        Ok(())
    }

    fn record(
        &self,
        start: QueueOffset,
        offsets: &[QueueOffset],
        next: QueueOffset,
        taken: &Taken,
    ) -> Result<LogOffset, Refusal> {
        let record = CheckpointRecord {
            start_offset: start,
            pop_time: taken.pop_time,
            invisible_time: self.terms.invisible_time,
            bit_map: 0,
            num: offsets.len() as i8,
            queue_id: self.place.queue_id,
            topic: self.place.topic.to_string(),
            consumer_group: self.place.group.to_string(),
            revive_offset: 0,
            diffs: offsets.iter().map(|offset| (offset.0 - start.0) as u32).collect(),
            broker_name: Some(self.broker.config.broker_name.clone()),
            re_put_times: None,
            from: None,
        };
        let queue = QueueId(taken.revive_qid);
        Ok(self.broker.pops.write_checkpoint(self.place, &record, queue, next, taken.pop_time)?)
    }

    fn note_order(&self, offsets: &[QueueOffset], taken: &mut Taken) {
        let attempt_id = self.ask.attempt_id.as_deref();
        let invisible_time = self.terms.invisible_time;
        let Attempts { of_offsets, least } =
            self.broker.pops.orders().popped(self.place, attempt_id, offsets, taken.pop_time, invisible_time);
        let (mark, queue) = (self.mark, self.place.queue_id);
        let each = of_offsets.iter().map(|(offset, times)| format!("{mark} qo{queue}%{offset} {times}"));
        for count in each.chain([format!("{mark} {queue} {least}")]) {
            if !taken.order_count_info.is_empty() {
                taken.order_count_info.push(';');
            }
            taken.order_count_info.push_str(&count);
        }
        // Its time has to be looked at.
        self.broker.pops.bell.ring();
    }

    /// Messages of a retry topic under the name of their own topic, with their handles: a client knows only that topic.
    fn renamed(&self, slice: &Bytes, start: QueueOffset, taken: &Taken) -> Result<Bytes, Refusal> {
        let mut out = Vec::with_capacity(slice.len() + 256);
        for stored in record::decode_all(slice).map_err(Refusal::damaged)? {
            let StoredMessage { mut message, queue_offset, log_offset, store_timestamp, .. } = stored;
            let handle = Handle {
                start_offset: start,
                pop_time: taken.pop_time,
                invisible_time: self.terms.invisible_time,
                revive_qid: taken.revive_qid,
                mark: self.mark,
                broker_name: self.broker.config.broker_name.clone(),
                queue_id: self.place.queue_id,
                offset: Some(queue_offset),
            };
            let mut properties = message.parsed_properties();
            properties.set(name::POP_CK, handle.to_string());
            message.properties = properties.encode();
            message.topic = self.ask.topic.clone();
            let at = out.len();
            message.encode(&mut out).map_err(Refusal::damaged)?;
            record::stamp(&mut out[at..], queue_offset, log_offset, store_timestamp);
        }
        Ok(out.into())
    }
}

/// The queue offsets of records that stand one behind the other.
fn queue_offsets(records: &[u8]) -> impl Iterator<Item = QueueOffset> + '_ {
    let mut rest = records;
    std::iter::from_fn(move || {
        let size = u32::from_be_bytes(*rest.first_chunk()?) as usize;
        let offset = u64::from_be_bytes(*rest.get(QUEUE_OFFSET_AT..)?.first_chunk()?);
        rest = rest.get(size.max(1)..)?;
        Some(QueueOffset(offset))
    })
}
