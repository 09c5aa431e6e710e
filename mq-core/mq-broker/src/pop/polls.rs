//! Pops and notifications that found nothing and wait: long polling, with limits for each queue, each
//! connection and all.
//!
//! An arrival, or the end of their time, hands them back to their connection, which asks again. Nothing here reads the
//! store.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use bytestring::ByteString;
use mq_protocol::command::Command;
use mq_protocol::ids::QueueId;
use mq_protocol::pop::Mark;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::connection::{Connection, ConnectionId, Mail, Woken};
use crate::limits::MAX_HELD_PER_CONNECTION;
use crate::selection::Selection;

/// What is asked for, again and again until something is there. Owns its texts: it may be held for long.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) topic: ByteString,
    pub(crate) group: ByteString,
    /// `None`: any.
    pub(crate) queue_id: Option<QueueId>,
    pub(crate) order: bool,
    pub(crate) attempt_id: Option<ByteString>,
    /// `None`: only whether something is there (200054).
    pub(crate) pop: Option<PopTerms>,
}

/// How a pop takes messages.
#[derive(Clone, Debug)]
pub(crate) struct PopTerms {
    pub(crate) max_messages: usize,
    pub(crate) invisible_time: i64,
    /// A group without an offset starts at the last message, not at the first.
    pub(crate) from_last: bool,
    pub(crate) selection: Arc<Selection>,
}

impl Ask {
    fn wants(&self, tags_code: i64) -> bool {
        self.pop.as_ref().is_none_or(|terms| terms.selection.may_match(tags_code))
    }
}

pub(crate) struct Poll {
    /// The answer without its fields.
    pub(crate) answer: Command,
    pub(crate) ask: Ask,
    pub(crate) since: Instant,
    /// `None`: it does not wait.
    pub(crate) until: Option<Instant>,
}

pub(crate) struct HeldPoll {
    pub(crate) connection: Connection,
    pub(crate) poll: Box<Poll>,
}

/// Who waits for the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    topic: ByteString,
    group: ByteString,
    queue_id: Option<QueueId>,
    pops: bool,
}

impl Key {
    fn of(ask: &Ask) -> Self {
        let Ask { topic, group, queue_id, .. } = ask.clone();
        Self { topic, group, queue_id, pops: ask.pop.is_some() }
    }

    /// The topics whose arrivals are looked at.
    fn topics(&self) -> [ByteString; 3] {
        [Mark::Normal, Mark::RetryV1, Mark::RetryV2].map(|mark| mark.topic(&self.topic, &self.group).into())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PollId(u64);

/// Too many wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Full {
    #[error("{0} requests wait for this queue, its limit (popPollingSize); ask again later")]
    Queue(usize),
    #[error("{0} pops and notifications of this connection wait, its limit; ask again later")]
    Connection(usize),
    #[error("{0} pops and notifications wait on this broker, its limit (maxPopPollingSize); ask again later")]
    Broker(usize),
}

pub(crate) struct Polls {
    /// Lets an arrival pass without a lock while nobody waits.
    count: AtomicUsize,
    table: Mutex<Table>,
    earlier: Notify,
    most_of_queue: usize,
    most: usize,
}

#[derive(Default)]
struct Table {
    held: HashMap<Key, BTreeMap<PollId, (Instant, HeldPoll)>>,
    watched: HashMap<ByteString, Vec<Key>>,
    deadlines: BTreeMap<(Instant, PollId), Key>,
    by_connection: HashMap<ConnectionId, BTreeMap<PollId, Key>>,
    next: u64,
}

impl Polls {
    pub(crate) fn new(most_of_queue: usize, most: usize) -> Self {
        Self { count: AtomicUsize::new(0), table: Mutex::default(), earlier: Notify::new(), most_of_queue, most }
    }

    /// Holds until `until`. The caller then looks once more, because a message may have come before.
    pub(crate) fn hold(&self, held: HeldPoll, until: Instant) -> Result<PollId, (Full, HeldPoll)> {
        let key = Key::of(&held.poll.ask);
        let mut table = self.table.lock();
        if table.deadlines.len() >= self.most {
            return Err((Full::Broker(self.most), held));
        }
        if table.held.get(&key).is_some_and(|waiting| waiting.len() >= self.most_of_queue) {
            return Err((Full::Queue(self.most_of_queue), held));
        }
        let connection = held.connection.id();
        if table.by_connection.get(&connection).is_some_and(|waiting| waiting.len() >= MAX_HELD_PER_CONNECTION) {
            return Err((Full::Connection(MAX_HELD_PER_CONNECTION), held));
        }
        let id = PollId(table.next);
        table.next += 1;
        if held.connection.is_closed() {
            // It is forgotten already, and nobody would hear the answer.
            return Ok(id);
        }
        let is_first = table.deadlines.first_key_value().is_none_or(|((first, _), _)| until < *first);
        table.insert(key, id, until, held);
        self.count.store(table.deadlines.len(), Ordering::SeqCst);
        drop(table);
        // As with held pulls: the caller looks at the queues after this, an arrival at the count after it moved a queue.
        fence(Ordering::SeqCst);
        if is_first {
            self.earlier.notify_one();
        }
        Ok(id)
    }

    /// Takes one back; `None` when it was woken meanwhile.
    pub(crate) fn take(&self, ask: &Ask, id: PollId) -> Option<HeldPoll> {
        self.change(|table| table.remove(&Key::of(ask), id))
    }

    /// Nobody is there to be answered any more.
    pub(crate) fn forget(&self, connection: ConnectionId) {
        self.change(|table| {
            for (id, key) in table.by_connection.remove(&connection).unwrap_or_default() {
                table.remove(&key, id);
            }
        });
    }

    /// A message of any topic is visible.
    pub(crate) fn arrived(&self, topic: &ByteString, queue_id: QueueId, tags_code: i64) {
        fence(Ordering::SeqCst);
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        self.change(|table| {
            let Some(keys) = table.watched.get(topic) else { return };
            let concerns = |key: &&Key| key.topic != *topic || key.queue_id.is_none_or(|queue| queue == queue_id);
            let keys: Vec<Key> = keys.iter().filter(concerns).cloned().collect();
            for key in keys {
                // What was tried before is wanted again whatever its tag.
                let is_retry = key.topic != *topic;
                table.wake(&key, |ask| is_retry || ask.wants(tags_code));
            }
        });
    }

    /// Messages of a topic may be had again, or are left: one pop of the group is asked again.
    pub(crate) fn wake(&self, topic: &ByteString, group: &ByteString, queue_id: Option<QueueId>) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        self.change(|table| {
            for (queue_id, pops) in [(None, true), (queue_id, true), (None, false), (queue_id, false)] {
                table.wake(&Key { topic: topic.clone(), group: group.clone(), queue_id, pops }, |_| true);
            }
        });
    }

    /// How many pops wait for a queue, or for any.
    pub(crate) fn waiting(&self, topic: &ByteString, group: &ByteString, queue_id: Option<QueueId>) -> usize {
        let key = Key { topic: topic.clone(), group: group.clone(), queue_id, pops: true };
        self.table.lock().held.get(&key).map_or(0, BTreeMap::len)
    }

    /// Hands back those whose time is over, for as long as it is polled.
    pub(crate) async fn expire(&self) {
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
        self.change(|table| {
            while let Some(((deadline, id), key)) = table.deadlines.first_key_value()
                && *deadline <= now
            {
                let (id, key) = (*id, key.clone());
                wake_one(table.remove(&key, id).expect("every deadline has its poll"));
            }
        });
    }

    fn change<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        let mut table = self.table.lock();
        let result = change(&mut table);
        self.count.store(table.deadlines.len(), Ordering::SeqCst);
        result
    }
}

fn wake_one(held: HeldPoll) {
    held.connection.clone().answer(Mail::Woken(Woken::Poll(held.poll)));
}

impl Table {
    fn insert(&mut self, key: Key, id: PollId, until: Instant, held: HeldPoll) {
        if !self.held.contains_key(&key) {
            for topic in key.topics() {
                self.watched.entry(topic).or_default().push(key.clone());
            }
        }
        self.deadlines.insert((until, id), key.clone());
        self.by_connection.entry(held.connection.id()).or_default().insert(id, key.clone());
        self.held.entry(key).or_default().insert(id, (until, held));
    }

    fn remove(&mut self, key: &Key, id: PollId) -> Option<HeldPoll> {
        let waiting = self.held.get_mut(key)?;
        let (until, held) = waiting.remove(&id)?;
        self.deadlines.remove(&(until, id)).expect("every poll has its deadline");
        if let Entry::Occupied(mut of_connection) = self.by_connection.entry(held.connection.id()) {
            of_connection.get_mut().remove(&id);
            if of_connection.get().is_empty() {
                of_connection.remove();
            }
        }
        if waiting.is_empty() {
            self.held.remove(key);
            for topic in key.topics() {
                if let Some(keys) = self.watched.get_mut(&topic) {
                    keys.retain(|watching| watching != key);
                    if keys.is_empty() {
                        self.watched.remove(&topic);
                    }
                }
            }
        }
        Some(held)
    }

    /// Wakes the pop that has waited longest and is still connected; of notifications all, since they take nothing.
    fn wake(&mut self, key: &Key, wants: impl Fn(&Ask) -> bool) {
        loop {
            let Some(waiting) = self.held.get(key) else { return };
            let Some(id) = waiting.iter().find(|(_, (_, held))| wants(&held.poll.ask)).map(|(id, _)| *id) else {
                return;
            };
            let held = self.remove(key, id).expect("found above");
            let was_heard = !held.connection.is_closed();
            wake_one(held);
            if key.pops && was_heard {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn hold(polls: &Polls, connection: &Connection, group: &str) -> Option<Full> {
        let ask =
            Ask { topic: "T".into(), group: group.into(), queue_id: None, order: false, attempt_id: None, pop: None };
        let poll = Box::new(Poll { answer: Command::request(0), ask, since: Instant::now(), until: None });
        let held = HeldPoll { connection: connection.clone(), poll };
        polls.hold(held, Instant::now() + Duration::from_secs(20)).err().map(|(full, _)| full)
    }

    #[test]
    fn a_connection_holds_so_many_polls_and_takes_them_along() {
        let connection = |id| Connection::new(ConnectionId(id), ([127, 0, 0, 1], 1).into());
        let (greedy, other, polls) = (connection(1), connection(2), Polls::new(MAX_HELD_PER_CONNECTION, 100_000));
        for nth in 0..MAX_HELD_PER_CONNECTION {
            assert_eq!(hold(&polls, &greedy, &format!("g{}", nth % 100)), None);
        }
        assert_eq!(hold(&polls, &greedy, "g0"), Some(Full::Connection(MAX_HELD_PER_CONNECTION)));
        assert_eq!(hold(&polls, &other, "g0"), None, "the others are not concerned");
        polls.wake(&"T".into(), &"g0".into(), None);
        assert_eq!((hold(&polls, &greedy, "g0"), other.take_posted().len()), (None, 1), "what is answered makes room");
        greedy.close();
        polls.forget(greedy.id());
        assert_eq!(hold(&polls, &greedy, "g0"), None, "nobody is there to be told");
        let table = polls.table.lock();
        assert!(table.held.is_empty() && table.watched.is_empty());
        assert!(table.deadlines.is_empty() && table.by_connection.is_empty());
        assert_eq!(polls.count.load(Ordering::SeqCst), 0);
    }
}
