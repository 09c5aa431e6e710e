//! Pulls that found nothing and wait for a message: long polling.
//!
//! An arrival that a held pull may want, or the end of its time, hands it back to its connection, which asks the store
//! again. Nothing here reads the store.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use mq_protocol::ByteString;
use mq_protocol::ids::{QueueId, QueueOffset};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::connection::{Connection, Mail};
use crate::limits::MAX_HELD_PULLS;
use crate::pulling::Pull;

pub(crate) type QueueKey = (ByteString, QueueId);

/// A pull and where its answer goes.
pub(crate) struct HeldPull {
    pub(crate) connection: Connection,
    pub(crate) pull: Box<Pull>,
}

impl HeldPull {
    fn wants(&self, next: QueueOffset, tags_code: i64) -> bool {
        next > self.pull.from && self.pull.wants(tags_code)
    }

    fn wake(self) {
        self.connection.clone().answer(Mail::Pull(self.pull));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct HoldId(u64);

#[derive(Default)]
pub(crate) struct HeldPulls {
    /// Lets an arrival pass without a lock while nobody waits.
    count: AtomicUsize,
    table: Mutex<Table>,
    earlier: Notify,
}

#[derive(Default)]
struct Table {
    queues: HashMap<QueueKey, BTreeMap<HoldId, (Instant, HeldPull)>>,
    deadlines: BTreeMap<(Instant, HoldId), QueueKey>,
    next: u64,
}

impl HeldPulls {
    /// Holds until `deadline`; gives the pull back when too many are held already. The caller then looks at the queue
    /// once more, because a message may have come before the pull was held.
    pub(crate) fn hold(&self, held: HeldPull, deadline: Instant) -> Result<HoldId, HeldPull> {
        let key = held.pull.key();
        let mut table = self.table.lock();
        if table.deadlines.len() >= MAX_HELD_PULLS {
            return Err(held);
        }
        let id = HoldId(table.next);
        table.next += 1;
        let is_first = table.deadlines.first_key_value().is_none_or(|((first, _), _)| deadline < *first);
        table.deadlines.insert((deadline, id), key.clone());
        table.queues.entry(key).or_default().insert(id, (deadline, held));
        self.count.store(table.deadlines.len(), Ordering::SeqCst);
        drop(table);
        // The caller looks at the queue after this, an arrival looks at the count after it moved the queue: with a full
        // fence on both sides at least one of them sees the other.
        fence(Ordering::SeqCst);
        if is_first {
            self.earlier.notify_one();
        }
        Ok(id)
    }

    /// Takes a pull back; `None` when it was woken meanwhile.
    pub(crate) fn take(&self, key: &QueueKey, id: HoldId) -> Option<HeldPull> {
        let mut table = self.table.lock();
        let held = table.remove(key, id);
        self.count.store(table.deadlines.len(), Ordering::SeqCst);
        held
    }

    /// Ends the waits at a queue, for a reason that is no message.
    pub(crate) fn release(&self, topic: &ByteString, queue_id: QueueId) {
        let key = &(topic.clone(), queue_id);
        let mut table = self.table.lock();
        let waiting: Vec<HoldId> =
            table.queues.get(key).into_iter().flat_map(|waiting| waiting.keys().copied()).collect();
        for id in waiting {
            table.remove(key, id).expect("found above").wake();
        }
        self.count.store(table.deadlines.len(), Ordering::SeqCst);
    }

    /// A message is visible: `next` is the offset behind it.
    pub(crate) fn arrived(&self, topic: &ByteString, queue_id: QueueId, next: QueueOffset, tags_code: i64) {
        fence(Ordering::SeqCst);
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let key = &(topic.clone(), queue_id);
        let mut table = self.table.lock();
        let Some(waiting) = table.queues.get(key) else { return };
        let wanting: Vec<HoldId> =
            waiting.iter().filter(|(_, (_, held))| held.wants(next, tags_code)).map(|(id, _)| *id).collect();
        for id in wanting {
            table.remove(key, id).expect("found above").wake();
        }
        self.count.store(table.deadlines.len(), Ordering::SeqCst);
    }

    /// Hands back the pulls whose time is over, for as long as it is polled.
    pub(crate) async fn expire(self: Arc<Self>) {
        loop {
            let first = self.table.lock().deadlines.first_key_value().map(|((deadline, _), _)| *deadline);
            match first {
                None => self.earlier.notified().await,
                Some(deadline) => tokio::select! {
                    () = sleep_until(deadline) => self.wake_until(Instant::now()),
                    () = self.earlier.notified() => {}
                },
            }
        }
    }

    fn wake_until(&self, now: Instant) {
        let mut table = self.table.lock();
        while let Some(((deadline, id), key)) = table.deadlines.first_key_value()
            && *deadline <= now
        {
            let (id, key) = (*id, key.clone());
            table.remove(&key, id).expect("every deadline has its pull").wake();
        }
        self.count.store(table.deadlines.len(), Ordering::SeqCst);
    }
}

impl Table {
    fn remove(&mut self, key: &QueueKey, id: HoldId) -> Option<HeldPull> {
        let waiting = self.queues.get_mut(key)?;
        let (deadline, held) = waiting.remove(&id)?;
        if waiting.is_empty() {
            self.queues.remove(key);
        }
        self.deadlines.remove(&(deadline, id)).expect("every pull has its deadline");
        Some(held)
    }
}
