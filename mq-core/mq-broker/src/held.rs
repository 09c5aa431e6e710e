//! Pulls that found nothing and wait for a message: long polling.
//!
//! An arrival that a held pull may want, or the end of its time, hands it back to its connection, which asks the store
//! again. Nothing here reads the store.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use mq_protocol::ByteString;
use mq_protocol::ids::{QueueId, QueueOffset};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::connection::{Connection, ConnectionId, Mail, Woken};
use crate::limits::{MAX_HELD_PER_CONNECTION, MAX_HELD_PULLS};
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
        self.connection.clone().answer(Mail::Woken(Woken::Pull(self.pull)));
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
    by_connection: HashMap<ConnectionId, BTreeMap<HoldId, QueueKey>>,
    next: u64,
}

impl HeldPulls {
    /// Holds until `deadline`; gives the pull back when too many are held already, of its connection or at all. The
    /// caller then looks at the queue once more, because a message may have come before the pull was held.
    pub(crate) fn hold(&self, held: HeldPull, deadline: Instant) -> Result<HoldId, HeldPull> {
        let key = held.pull.key();
        let mut table = self.table.lock();
        if table.deadlines.len() >= MAX_HELD_PULLS || !table.has_room_for(&held.connection) {
            return Err(held);
        }
        let id = HoldId(table.next);
        table.next += 1;
        let is_first = table.deadlines.first_key_value().is_none_or(|((first, _), _)| deadline < *first);
        table.deadlines.insert((deadline, id), key.clone());
        table.by_connection.entry(held.connection.id()).or_default().insert(id, key.clone());
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

    /// Nobody is there to be answered any more.
    pub(crate) fn forget(&self, connection: ConnectionId) {
        let mut table = self.table.lock();
        for (id, key) in table.by_connection.remove(&connection).unwrap_or_default() {
            table.remove(&key, id);
        }
        self.count.store(table.deadlines.len(), Ordering::SeqCst);
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
    /// None for one that has gone: it is forgotten already.
    fn has_room_for(&self, connection: &Connection) -> bool {
        let held = self.by_connection.get(&connection.id()).map_or(0, BTreeMap::len);
        held < MAX_HELD_PER_CONNECTION && !connection.is_closed()
    }

    fn remove(&mut self, key: &QueueKey, id: HoldId) -> Option<HeldPull> {
        let waiting = self.queues.get_mut(key)?;
        let (deadline, held) = waiting.remove(&id)?;
        if waiting.is_empty() {
            self.queues.remove(key);
        }
        self.deadlines.remove(&(deadline, id)).expect("every pull has its deadline");
        if let Entry::Occupied(mut of_connection) = self.by_connection.entry(held.connection.id()) {
            of_connection.get_mut().remove(&id);
            if of_connection.get().is_empty() {
                of_connection.remove();
            }
        }
        Some(held)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mq_protocol::body::Subscription;
    use mq_protocol::command::Command;
    use mq_store::PullLimits;

    use super::*;
    use crate::selection::Selection;

    fn hold(pulls: &HeldPulls, connection: &Connection, queue: u32) -> bool {
        let pull = Pull {
            answer: Command::request(0),
            topic: "T".into(),
            queue_id: QueueId(queue),
            from: QueueOffset::ZERO,
            limits: PullLimits { messages: 1, bytes: 1 },
            selection: Arc::new(Selection::new(Subscription::tags("T", "*", 0))),
            hold: Duration::from_secs(20),
            until: None,
            reader: None,
        };
        let held = HeldPull { connection: connection.clone(), pull: Box::new(pull) };
        pulls.hold(held, Instant::now() + Duration::from_secs(20)).is_ok()
    }

    #[test]
    fn a_connection_holds_so_many_pulls_and_takes_them_along() {
        let connection = |id| Connection::new(ConnectionId(id), ([127, 0, 0, 1], 1).into());
        let (greedy, other, pulls) = (connection(1), connection(2), HeldPulls::default());
        assert!((0..MAX_HELD_PER_CONNECTION as u32).all(|queue| hold(&pulls, &greedy, queue)));
        assert!(!hold(&pulls, &greedy, 0), "one more than the limit");
        assert!(hold(&pulls, &other, 0), "the others are not concerned");
        pulls.arrived(&"T".into(), QueueId(0), QueueOffset(1), 0);
        assert!((greedy.take_posted().len(), other.take_posted().len()) == (1, 1) && hold(&pulls, &greedy, 0));
        greedy.close();
        pulls.forget(greedy.id());
        assert!(!hold(&pulls, &greedy, 0), "nobody is there to be answered");
        let table = pulls.table.lock();
        assert!(table.queues.is_empty() && table.deadlines.is_empty() && table.by_connection.is_empty());
    }
}
