//! Pops and notifications that found nothing and wait: long polling, with limits for each queue, each
//! connection and all.
//!
//! An arrival, or the end of their time, hands them back to their connection, which asks again. Nothing here reads the
//! store.

use std::sync::Arc;

use bytestring::ByteString;
use mq_protocol::command::Command;
use mq_protocol::ids::QueueId;
use mq_protocol::pop::Mark;
use tokio::time::Instant;

use crate::connection::{Connection, ConnectionId, Mail, Woken};
use crate::limits::MAX_HELD_PER_CONNECTION;
use crate::selection::Selection;
use crate::waiters::{Place, Table, WaitId, Waiter, Waiters};

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

impl Waiter for HeldPoll {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn wake(self) {
        self.connection.clone().answer(Mail::Woken(Woken::Poll(self.poll)));
    }
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
}

impl Place for Key {
    /// The topics whose arrivals are looked at.
    fn watches(&self) -> Vec<ByteString> {
        [Mark::Normal, Mark::RetryV1, Mark::RetryV2].map(|mark| mark.topic(&self.topic, &self.group).into()).into()
    }
}

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
    waiters: Waiters<Key, HeldPoll>,
    most_of_queue: usize,
    most: usize,
}

impl Polls {
    pub(crate) fn new(most_of_queue: usize, most: usize) -> Self {
        Self { waiters: Waiters::default(), most_of_queue, most }
    }

    /// Holds until `until`. The caller then looks once more, because a message may have come before.
    pub(crate) fn hold(&self, held: HeldPoll, until: Instant) -> Result<WaitId, (Full, HeldPoll)> {
        let (key, connection) = (Key::of(&held.poll.ask), held.connection.clone());
        let place = key.clone();
        let admit = |table: &Table<_, _>| match () {
            () if table.len() >= self.most => Err(Full::Broker(self.most)),
            () if table.at(&place).len() >= self.most_of_queue => Err(Full::Queue(self.most_of_queue)),
            () if table.of_connection(&connection) >= MAX_HELD_PER_CONNECTION => {
                Err(Full::Connection(MAX_HELD_PER_CONNECTION))
            }
            () => Ok(()),
        };
        self.waiters.hold(key, held, until, admit)
    }

    /// Takes one back; `None` when it was woken meanwhile.
    pub(crate) fn take(&self, ask: &Ask, id: WaitId) -> Option<HeldPoll> {
        self.waiters.take(&Key::of(ask), id)
    }

    pub(crate) fn forget(&self, connection: ConnectionId) {
        self.waiters.forget(connection);
    }

    /// A message of any topic is visible.
    pub(crate) fn arrived(&self, topic: &ByteString, queue_id: QueueId, tags_code: i64) {
        if self.waiters.is_empty() {
            return;
        }
        self.waiters.change(|table| {
            let concerns = |key: &&Key| key.topic != *topic || key.queue_id.is_none_or(|queue| queue == queue_id);
            let keys: Vec<Key> = table.watching(topic).iter().filter(concerns).cloned().collect();
            for key in keys {
                // What was tried before is wanted again whatever its tag.
                let is_retry = key.topic != *topic;
                wake(table, &key, |ask| is_retry || ask.wants(tags_code));
            }
        });
    }

    /// Messages of a topic may be had again, or are left: one pop of the group is asked again.
    pub(crate) fn wake(&self, topic: &ByteString, group: &ByteString, queue_id: Option<QueueId>) {
        if self.waiters.is_empty() {
            return;
        }
        self.waiters.change(|table| {
            for (queue_id, pops) in [(None, true), (queue_id, true), (None, false), (queue_id, false)] {
                wake(table, &Key { topic: topic.clone(), group: group.clone(), queue_id, pops }, |_| true);
            }
        });
    }

    /// How many pops wait for a queue, or for any.
    pub(crate) fn waiting(&self, topic: &ByteString, group: &ByteString, queue_id: Option<QueueId>) -> usize {
        let key = Key { topic: topic.clone(), group: group.clone(), queue_id, pops: true };
        self.waiters.waiting(&key)
    }

    /// Hands back those whose time is over, for as long as it is polled.
    pub(crate) async fn expire(&self) {
        self.waiters.expire().await;
    }
}

/// Wakes the pop that has waited longest and is still connected; of notifications all, since they take nothing.
fn wake(table: &mut Table<Key, HeldPoll>, key: &Key, wants: impl Fn(&Ask) -> bool) {
    loop {
        let wanting = table.at(key).find(|(_, held)| wants(&held.poll.ask)).map(|(id, _)| id);
        let Some(held) = wanting.and_then(|id| table.remove(key, id)) else { return };
        let was_heard = !held.connection.is_closed();
        held.wake();
        if key.pops && was_heard {
            return;
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
        assert!(polls.waiters.is_empty() && polls.waiters.change(|table| table.is_bare()));
    }
}
