//! Pop consumption: messages that the broker gives out for a time, and takes back when nobody acknowledges them.
//!
//! The revive topic is the journal. Handlers append records to it (`records`), and what stands in it, read back in its
//! order, is all that the `engine` knows: a restart reads the same records and knows the same. A group's offset moves
//! with the record of the pop, never before it. Pops in order are `order`'s; waiting ones `polls`'.

mod engine;
mod figures;
mod order;
mod polls;
mod records;
pub(crate) mod revive;
mod take;

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytestring::ByteString;
use mq_protocol::body::{AckRecord, CheckpointRecord};
use mq_protocol::ids::{LogOffset, QueueId, QueueOffset, UnixMillis};
use mq_protocol::record::{self, Message, StoredMessage};
use mq_protocol::topic;
use mq_store::{AppendError, PullLimits, ReadError, Store};
use parking_lot::{Mutex, MutexGuard};
use tracing::{error, warn};

use crate::bell::Bell;
use crate::config::{BrokerConfig, PopConfig};
use crate::config_file::{ConfigFile, SaveError};
use crate::offsets::OffsetTable;
use engine::{CheckpointId, Engine, Lapsed, RecordAt};
use figures::Flows;
use order::{Orders, OrdersFile};
use records::{Record, Writer, apaches_acks_come_until};

pub(crate) use engine::Place;
pub(crate) use order::{Acked, Attempts};
pub(crate) use polls::{Ask, HeldPoll, Poll, Polls, PopTerms};
pub(crate) use take::{Lane, Taken, has_message, looks_at_disk, peek, take};

/// Ours, beside Apache's group of the revive topic: how far the engine had read when the offsets were saved, so that an
/// offset which an operator set back later is not moved on again by older records.
const TAIL_GROUP: &str = "CID_RMQ_SYS_REVIVE_TAIL";
/// Records of one look at a revive queue.
const LOOK: PullLimits = PullLimits { messages: 512, bytes: 1 << 20 };
const LOOK_AT_ONE: PullLimits = PullLimits { messages: 1, ..LOOK };
/// Queues that are popped at the same time without waiting for each other, by and large.
const LOCKS: usize = 64;

pub(crate) struct Pops {
    pub(crate) config: PopConfig,
    pub(crate) polls: Arc<Polls>,
    /// Rung when the revive topic grew, or an orderly queue began to wait.
    pub(crate) bell: Arc<Bell>,
    store: Store,
    writer: Writer,
    started_at: UnixMillis,
    revive_queues: u32,
    next_revive_queue: AtomicU32,
    journal: Mutex<Journal>,
    /// Where pops go on whose records the engine has yet to read.
    cursors: Mutex<HashMap<Place, Cursor>>,
    flows: Flows,
    orders: Mutex<Orders>,
    orders_file: ConfigFile,
    /// One pop of a queue at a time.
    locks: Vec<Mutex<()>>,
    hasher: std::collections::hash_map::RandomState,
}

/// The engine, and how far it has read each revive queue.
struct Journal {
    engine: Engine,
    next: Vec<QueueOffset>,
    /// What the saved offsets know of.
    known_to_offsets: Vec<QueueOffset>,
    reviving: Option<Reviving>,
}

/// What was due at a time comes again once all is read that consumers had said until then. Its end stays where it is while
/// others write on, and no consumer changes the time of these messages any more.
#[derive(Clone, Copy)]
struct Reviving {
    due_until: UnixMillis,
    end: LogOffset,
}

struct Cursor {
    next: QueueOffset,
    unread: usize,
}

impl Pops {
    /// Reads what the revive topic says. `offsets` moves on where its file is older than the records.
    pub(crate) fn open(
        config: &BrokerConfig,
        store: Store,
        store_host: SocketAddr,
        revive_queues: u32,
        offsets: &OffsetTable,
        now: UnixMillis,
    ) -> Result<Self, OpenError> {
        let revive_topic = topic::revive_topic(&config.cluster_name);
        let orders_file = ConfigFile::new(&config.config_directory(), "consumerOrderInfo.json");
        let orders = Orders::load(orders_file.load::<OrdersFile>()?.unwrap_or_default());
        let queues = || (0..revive_queues).map(QueueId);
        let saved = |group, queue| offsets.get(group, &revive_topic, queue);
        let journal = Journal {
            engine: Engine::default(),
            // Apache keeps the last offset that is done with.
            next: queues()
                .map(|queue| saved(topic::REVIVE_GROUP, queue).map_or(QueueOffset::ZERO, |done| done.plus(1)))
                .collect(),
            reviving: None,
            known_to_offsets: queues().map(|queue| saved(TAIL_GROUP, queue).unwrap_or_default()).collect(),
        };
        let pops = Self {
            polls: Arc::new(Polls::new(config.pop.polling_size, config.pop.max_polling_size)),
            config: config.pop.clone(),
            bell: Arc::default(),
            store,
            writer: Writer { topic: revive_topic.into(), broker_name: config.broker_name.clone(), store_host },
            started_at: now,
            revive_queues,
            next_revive_queue: AtomicU32::new(0),
            journal: Mutex::new(journal),
            cursors: Mutex::default(),
            flows: Flows::default(),
            orders: Mutex::new(orders),
            orders_file,
            locks: (0..LOCKS).map(|_| Mutex::default()).collect(),
            hasher: std::collections::hash_map::RandomState::new(),
        };
        pops.catch_up(offsets)?;
        Ok(pops)
    }

    pub(crate) fn revive_topic(&self) -> &ByteString {
        &self.writer.topic
    }

    /// The revive queue of the next pop. Its acknowledgements go to the same one, and so come behind it.
    fn pick_revive_queue(&self) -> QueueId {
        QueueId(self.next_revive_queue.fetch_add(1, Ordering::Relaxed) % self.revive_queues)
    }

    pub(crate) fn is_revive_queue(&self, queue: u32) -> bool {
        queue < self.revive_queues
    }

    /// Takes in what became visible of the revive topic.
    pub(crate) fn catch_up(&self, offsets: &OffsetTable) -> Result<(), ReadError> {
        self.read_on(&mut self.journal.lock(), offsets)
    }

    fn read_on(&self, journal: &mut Journal, offsets: &OffsetTable) -> Result<(), ReadError> {
        for queue_id in (0..self.revive_queues).map(QueueId) {
            let index = queue_id.0 as usize;
            // Damaged records take none of their neighbours along.
            let mut one_by_one_until = QueueOffset::ZERO;
            loop {
                let from = journal.next[index];
                let look = if from < one_by_one_until { LOOK_AT_ONE } else { LOOK };
                let pulled = self.store.pull(&self.writer.topic, queue_id, from, look, &|_| true)?;
                let decoded: Result<Vec<_>, _> = pulled.slices.iter().map(record::decode_all).collect();
                match decoded {
                    Ok(records) => records.iter().flatten().for_each(|stored| {
                        let at = RecordAt { queue_id, offset: stored.queue_offset };
                        self.learn(journal, stored, at, offsets);
                    }),
                    Err(_) if pulled.messages > 1 => {
                        one_by_one_until = pulled.next;
                        continue;
                    }
                    Err(error) => error!(%error, %queue_id, %from, "a record of a pop is damaged and passed over"),
                }
                journal.next[index] = pulled.next;
                if pulled.next == from {
                    break;
                }
            }
        }
        Ok(())
    }

    fn learn(&self, journal: &mut Journal, stored: &StoredMessage, at: RecordAt, offsets: &OffsetTable) {
        match Record::read(&stored.message) {
            Ok(Some(Record::Checkpoint(record))) => {
                self.flows.read(&record.topic, &record.consumer_group, at.queue_id, false);
                let not_before = apaches_acks_come_until(stored, self.started_at);
                journal.engine.checkpoint(&record, at, not_before);
                // Apache moves the offset with the pop, long before its record comes.
                let moves = record.from.is_none() && not_before.is_none();
                if moves && at.offset >= journal.known_to_offsets[at.queue_id.0 as usize] {
                    self.move_offset(&record, offsets);
                }
            }
            Ok(Some(Record::Ack(record))) => {
                self.flows.read(&record.topic, &record.consumer_group, at.queue_id, true);
                journal.engine.ack(&record);
            }
            Ok(None) => {}
            Err(error) => warn!(%error, queue = %at.queue_id, offset = %at.offset, "a record of a pop is passed over"),
        }
    }

    /// The group has been given these messages: it goes on behind them.
    fn move_offset(&self, record: &CheckpointRecord, offsets: &OffsetTable) {
        let CheckpointRecord { topic, consumer_group: group, queue_id, .. } = record;
        let Some(last) = record.offsets().last() else { return };
        let place = Place { topic: topic.as_str().into(), group: group.as_str().into(), queue_id: *queue_id };
        let mut cursors = self.cursors.lock();
        let mut next = Some(last.plus(1));
        if let Some(cursor) = cursors.get_mut(&place) {
            cursor.unread -= 1;
            if cursor.unread == 0 {
                // Also where nothing was given out behind these messages, and where the group was moved meanwhile.
                next = Some(cursor.next);
                cursors.remove(&place);
            } else if cursor.next <= last {
                next = None;
            }
        }
        if let Some(next) = next {
            let end = self.store.queue_bounds(topic, *queue_id).max;
            offsets.commit(group, topic, *queue_id, next, end);
        }
    }

    /// An operator sends the group elsewhere: its next pop starts there, and an orderly one waits for nothing. One step
    /// for whoever pops, acknowledges or saves meanwhile.
    pub(crate) fn reset(&self, place: &Place, to: QueueOffset, offsets: &OffsetTable) {
        let _no_pop = self.lock(place);
        self.go_to(place, to, offsets);
    }

    /// The same for who holds the lock of the place.
    fn go_to(&self, place: &Place, to: QueueOffset, offsets: &OffsetTable) {
        let mut journal = self.journal.lock();
        if let Err(error) = self.read_on(&mut journal, offsets) {
            warn!(%error, "a group goes elsewhere while records of pops cannot be read");
        }
        // These records are older than the move: no start is to go by them again.
        self.note_tails(&journal, offsets);
        if let Some(cursor) = self.cursors.lock().get_mut(place) {
            cursor.next = to;
        }
        let mut orders = self.orders.lock();
        orders.forget(place);
        offsets.reset(&place.group, &place.topic, place.queue_id, to);
    }

    /// Where the group's next pop of a queue starts, if it has popped or been given an offset before.
    fn position(&self, place: &Place, offsets: &OffsetTable) -> Option<QueueOffset> {
        let cursor = self.cursors.lock().get(place).map(|cursor| cursor.next);
        cursor.or_else(|| offsets.get(&place.group, &place.topic, place.queue_id))
    }

    /// Goes on at `next` without a record: nothing was given out.
    fn skip_to(&self, place: &Place, next: QueueOffset, offsets: &OffsetTable) {
        if let Some(cursor) = self.cursors.lock().get_mut(place) {
            cursor.next = next;
            return;
        }
        let end = self.store.queue_bounds(&place.topic, place.queue_id).max;
        offsets.commit(&place.group, &place.topic, place.queue_id, next, end);
    }

    /// Records a pop; its messages are the group's once this is on disk.
    fn write_checkpoint(
        &self,
        place: &Place,
        record: &CheckpointRecord,
        revive_queue: QueueId,
        next: QueueOffset,
        now: UnixMillis,
    ) -> Result<LogOffset, AppendError> {
        let before = {
            let mut cursors = self.cursors.lock();
            let cursor = cursors.entry(place.clone()).or_insert(Cursor { next, unread: 0 });
            cursor.unread += 1;
            std::mem::replace(&mut cursor.next, next)
        };
        let written = self.append(vec![self.writer.checkpoint(record, revive_queue, now)]);
        if written.is_ok() {
            self.flows.wrote(&place.topic, &place.group, 1, 0);
        } else {
            let mut cursors = self.cursors.lock();
            if let Some(cursor) = cursors.get_mut(place) {
                cursor.unread -= 1;
                cursor.next = before;
                if cursor.unread == 0 {
                    cursors.remove(place);
                }
            }
        }
        written
    }

    /// What to append when a consumer is done with messages of a checkpoint.
    pub(crate) fn ack(&self, record: &AckRecord, revive_queue: QueueId, now: UnixMillis) -> Message {
        self.flows.wrote(&record.topic, &record.consumer_group, 0, 1);
        self.writer.ack(record, revive_queue, now)
    }

    /// A consumer wants a message of a checkpoint at another time: the new checkpoint, and the old one's acknowledgement
    /// for a broker that does not know of `from`. `None`: too late, the message is about to come again.
    pub(crate) fn write_change(
        &self,
        record: &CheckpointRecord,
        old: &AckRecord,
        revive_queue: QueueId,
        now: UnixMillis,
    ) -> Result<Option<LogOffset>, AppendError> {
        let place = Place {
            topic: old.topic.as_str().into(),
            group: old.consumer_group.as_str().into(),
            queue_id: old.queue_id,
        };
        let id = CheckpointId { place: Arc::new(place), start: old.start_offset, pop_time: old.pop_time };
        let journal = self.journal.lock();
        if journal.engine.is_lapsed(&id, journal.reviving.map(|reviving| reviving.due_until)) {
            return Ok(None);
        }
        let records = [self.writer.checkpoint(record, revive_queue, now), self.writer.ack(old, revive_queue, now)];
        let end = self.append(records.into())?;
        self.flows.wrote(&old.topic, &old.consumer_group, 1, 1);
        Ok(Some(end))
    }

    /// What lapsed; `None`: what consumers said until now is not all read yet.
    fn lapsed(
        &self,
        now: UnixMillis,
        messages: usize,
        offsets: &OffsetTable,
    ) -> Result<Option<Vec<Lapsed>>, ReadError> {
        let mut journal = self.journal.lock();
        let Reviving { due_until, end } =
            *journal.reviving.get_or_insert_with(|| Reviving { due_until: now, end: self.store.end() });
        if self.store.visible() < end && self.store.poisoned().is_none() {
            return Ok(None);
        }
        self.read_on(&mut journal, offsets)?;
        let lapsed = journal.engine.lapsed(due_until, messages);
        if journal.engine.next_due().is_none_or(|due| due > due_until) {
            journal.reviving = None;
        }
        Ok(Some(lapsed))
    }

    /// Writes records as one group; gives the end that has to become durable.
    fn append(&self, records: Vec<Message>) -> Result<LogOffset, AppendError> {
        let appended = self.store.append(&[records])?;
        Ok(appended[0].end)
    }

    fn lock(&self, place: &Place) -> MutexGuard<'_, ()> {
        self.locks[self.hasher.hash_one(place) as usize % LOCKS].lock()
    }

    pub(crate) fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock()
    }

    /// Messages that a group was given and has not acknowledged.
    pub(crate) fn in_flight(&self, place: &Place) -> usize {
        let popped = self.journal.lock().engine.in_flight(place);
        popped + self.orders.lock().in_flight(place)
    }

    /// When a message was popped that is not acknowledged, and when it is given out again.
    pub(crate) fn held(&self, place: &Place, offset: QueueOffset) -> Option<(UnixMillis, Option<UnixMillis>)> {
        let popped = self.journal.lock().engine.held(place, offset);
        popped.or_else(|| self.orders.lock().held(place, offset))
    }

    /// The same of all groups.
    pub(crate) fn in_flight_in_total(&self) -> usize {
        self.journal.lock().engine.in_flight_in_total()
    }

    /// A message that could not be revived is looked at again at `until`.
    fn postpone(&self, id: &CheckpointId, until: UnixMillis) {
        self.journal.lock().engine.postpone(id, until);
    }

    /// Which limit a group has reached, if it has.
    pub(crate) fn refuses(&self, group: &str) -> Option<TooMany> {
        let journal = self.journal.lock();
        let of_group = journal.engine.in_flight_of_group(group);
        if of_group >= self.config.max_in_flight_of_group {
            return Some(TooMany::OfGroup { count: of_group, limit: self.config.max_in_flight_of_group });
        }
        let count = journal.engine.in_flight_in_total();
        (count >= self.config.max_in_flight).then_some(TooMany::OfBroker { count, limit: self.config.max_in_flight })
    }

    /// How far the revive topic is read and done with goes into the table of offsets, to be saved with them.
    pub(crate) fn note_progress(&self, offsets: &OffsetTable) {
        let mut journal = self.journal.lock();
        // What it has yet to read would move offsets at the next start, also those that were set back meanwhile.
        if let Err(error) = self.read_on(&mut journal, offsets) {
            warn!(%error, "the records of pops are saved as far as they were read");
        }
        self.note_tails(&journal, offsets);
        for queue_id in (0..self.revive_queues).map(QueueId) {
            let next = journal.next[queue_id.0 as usize];
            let done = journal.engine.first_open(queue_id).unwrap_or(next);
            if let Some(last) = done.0.checked_sub(1) {
                let end = self.store.queue_bounds(&self.writer.topic, queue_id).max;
                offsets.commit(topic::REVIVE_GROUP, &self.writer.topic, queue_id, QueueOffset(last), end);
            }
        }
    }

    /// The groups' offsets know of all that is read.
    fn note_tails(&self, journal: &Journal, offsets: &OffsetTable) {
        for (queue, next) in (0..).zip(&journal.next).filter(|(_, next)| **next > QueueOffset::ZERO) {
            let end = self.store.queue_bounds(&self.writer.topic, QueueId(queue)).max;
            offsets.commit(TAIL_GROUP, &self.writer.topic, QueueId(queue), *next, end);
        }
    }

    pub(crate) fn save_orders(&self, now: UnixMillis, exists: impl Fn(&Place) -> bool) -> Result<(), SaveError> {
        let file = self.orders.lock().take_unsaved(now, exists);
        match file {
            Some(file) => self.orders_file.save(&file).inspect_err(|_| self.orders.lock().not_saved()),
            None => Ok(()),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// A limit of unacknowledged messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooMany {
    #[error("the group has {count} messages that it did not acknowledge, its limit is {limit}; acknowledge some first")]
    OfGroup { count: usize, limit: usize },
    #[error(
        "{count} popped messages of this broker are not acknowledged, its limit is {limit}; acknowledge some first"
    )]
    OfBroker { count: usize, limit: usize },
}

#[cfg(test)]
mod tests;
