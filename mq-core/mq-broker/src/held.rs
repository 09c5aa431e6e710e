//! Pulls that found nothing and wait for a message: long polling.
//!
//! An arrival that a held pull may want, or the end of its time, hands it back to its connection, which asks the store
//! again. Nothing here reads the store.

use std::sync::Arc;

use mq_protocol::ByteString;
use mq_protocol::ids::{QueueId, QueueOffset};
use mq_store::Arrival;
use tokio::time::Instant;

use crate::connection::{Connection, ConnectionId, Mail, Woken};
use crate::limits::{MAX_HELD_PER_CONNECTION, MAX_HELD_PULLS};
use crate::pulling::Pull;
use crate::waiters::{Place, Table, WaitId, Waiter, Waiters};

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
}

impl Waiter for HeldPull {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn wake(self) {
        self.connection.clone().answer(Mail::Woken(Woken::Pull(self.pull)));
    }
}

impl Place for QueueKey {}

#[derive(Default)]
pub(crate) struct HeldPulls(Waiters<QueueKey, HeldPull>);

impl HeldPulls {
    /// Holds until `deadline`; gives the pull back when too many are held already, of its connection or at all. The
    /// caller then looks at the queue once more, because a message may have come before the pull was held.
    pub(crate) fn hold(&self, held: HeldPull, deadline: Instant) -> Result<WaitId, HeldPull> {
        let (key, connection) = (held.pull.key(), held.connection.clone());
        let admit = |table: &Table<_, _>| {
            let has_room = table.len() < MAX_HELD_PULLS && table.of_connection(&connection) < MAX_HELD_PER_CONNECTION;
            has_room.then_some(()).ok_or(())
        };
        self.0.hold(key, held, deadline, admit).map_err(|((), held)| held)
    }

    /// Takes a pull back; `None` when it was woken meanwhile.
    pub(crate) fn take(&self, key: &QueueKey, id: WaitId) -> Option<HeldPull> {
        self.0.take(key, id)
    }

    pub(crate) fn forget(&self, connection: ConnectionId) {
        self.0.forget(connection);
    }

    /// Ends the waits at a queue, for a reason that is no message.
    pub(crate) fn release(&self, topic: &ByteString, queue_id: QueueId) {
        self.wake_where(topic, queue_id, |_| true);
    }

    /// Messages are visible. All pulls of a connection that want one of them wake it once.
    pub(crate) fn arrived(&self, arrivals: &[Arrival]) {
        if self.0.is_empty() {
            return;
        }
        let mut woken = Vec::new();
        self.0.change(|table| {
            for Arrival { topic, queue_id, next, tags_code, .. } in arrivals {
                take_where(table, topic, *queue_id, |held| held.wants(*next, *tags_code), &mut woken);
            }
        });
        wake_all(woken);
    }

    fn wake_where(&self, topic: &ByteString, queue_id: QueueId, wants: impl Fn(&HeldPull) -> bool) {
        let mut woken = Vec::new();
        self.0.change(|table| take_where(table, topic, queue_id, wants, &mut woken));
        wake_all(woken);
    }

    /// Hands back the pulls whose time is over, for as long as it is polled.
    pub(crate) async fn expire(self: Arc<Self>) {
        self.0.expire().await;
    }
}

fn take_where(
    table: &mut Table<QueueKey, HeldPull>,
    topic: &ByteString,
    queue_id: QueueId,
    wants: impl Fn(&HeldPull) -> bool,
    into: &mut Vec<HeldPull>,
) {
    let key = &(topic.clone(), queue_id);
    let wanting: Vec<WaitId> = table.at(key).filter(|(_, held)| wants(held)).map(|(id, _)| id).collect();
    into.extend(wanting.into_iter().map(|id| table.remove(key, id).expect("found above")));
}

fn wake_all(mut woken: Vec<HeldPull>) {
    woken.sort_by_key(|held| held.connection.id());
    let mut woken = woken.into_iter().peekable();
    while let Some(HeldPull { connection, pull }) = woken.next() {
        let others = std::iter::from_fn(|| woken.next_if(|held| held.connection == connection));
        let pulls = std::iter::once(pull).chain(others.map(|held| held.pull));
        connection.answer_all(pulls.map(|pull| Mail::Woken(Woken::Pull(pull))));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mq_protocol::body::Subscription;
    use mq_protocol::command::Command;
    use mq_protocol::ids::{LogOffset, UnixMillis};
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

    fn arrival(queue: u32) -> Arrival {
        Arrival {
            topic: "T".into(),
            queue_id: QueueId(queue),
            next: QueueOffset(1),
            tags_code: 0,
            log_offset: LogOffset::ZERO,
            size: 0,
            store_timestamp: UnixMillis(0),
        }
    }

    #[test]
    fn each_pull_that_wants_an_arrival_is_handed_back_to_its_own_connection() {
        let connection = |id| Connection::new(ConnectionId(id), ([127, 0, 0, 1], 1).into());
        let (one, other, pulls) = (connection(1), connection(2), HeldPulls::default());
        for (connection, queue) in [(&one, 0), (&other, 0), (&one, 1), (&other, 2), (&one, 3)] {
            assert!(hold(&pulls, connection, queue));
        }
        pulls.arrived(&[arrival(0), arrival(1), arrival(0), arrival(2), arrival(9)]);
        let queues = |connection: &Connection| {
            let queue = |mail| match mail {
                Mail::Woken(Woken::Pull(pull)) => pull.queue_id.0,
                _ => panic!("only pulls were held"),
            };
            connection.take_posted().into_iter().map(queue).collect::<Vec<_>>()
        };
        assert_eq!((queues(&one), queues(&other)), (vec![0, 1], vec![0, 2]));
        pulls.arrived(&[arrival(3)]);
        assert_eq!((queues(&one), queues(&other)), (vec![3], vec![]));
    }

    #[test]
    fn a_connection_holds_so_many_pulls_and_takes_them_along() {
        let connection = |id| Connection::new(ConnectionId(id), ([127, 0, 0, 1], 1).into());
        let (greedy, other, pulls) = (connection(1), connection(2), HeldPulls::default());
        assert!((0..MAX_HELD_PER_CONNECTION as u32).all(|queue| hold(&pulls, &greedy, queue)));
        assert!(!hold(&pulls, &greedy, 0), "one more than the limit");
        assert!(hold(&pulls, &other, 0), "the others are not concerned");
        pulls.arrived(&[arrival(0)]);
        assert!((greedy.take_posted().len(), other.take_posted().len()) == (1, 1) && hold(&pulls, &greedy, 0));
        greedy.close();
        pulls.forget(greedy.id());
        assert!(hold(&pulls, &greedy, 0), "nobody is there to be told");
        assert!(pulls.0.is_empty() && pulls.0.change(|table| table.is_bare()));
    }
}
