//! Queue locks: one client of a group at a time consumes a queue in order.

use std::collections::HashMap;
use std::time::Duration;

use mq_protocol::body::MessageQueue;
use mq_protocol::ids::UnixMillis;
use parking_lot::Mutex;

/// A lock that is not renewed for this long is free; clients renew every 20 s.
const LIFETIME: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(crate) struct QueueLocks(Mutex<HashMap<String, HashMap<MessageQueue, Lock>>>);

struct Lock {
    client: String,
    renewed: UnixMillis,
}

impl Lock {
    fn is_live(&self, now: UnixMillis) -> bool {
        now.since(self.renewed) <= LIFETIME
    }
}

impl QueueLocks {
    /// Locks or renews; returns the queues that are the client's now.
    pub(crate) fn lock(
        &self,
        group: &str,
        client: &str,
        queues: Vec<MessageQueue>,
        now: UnixMillis,
    ) -> Vec<MessageQueue> {
        let mut groups = self.0.lock();
        let locks = groups.entry(group.to_owned()).or_default();
        let free =
            |queue: &MessageQueue| locks.get(queue).is_none_or(|lock| lock.client == client || !lock.is_live(now));
        let granted: Vec<_> = queues.into_iter().filter(free).collect();
        for queue in &granted {
            locks.insert(queue.clone(), Lock { client: client.to_owned(), renewed: now });
        }
        granted
    }

    /// Frees the queues that are this client's.
    pub(crate) fn unlock(&self, group: &str, client: &str, queues: &[MessageQueue]) {
        let mut groups = self.0.lock();
        let Some(locks) = groups.get_mut(group) else { return };
        for queue in queues {
            if locks.get(queue).is_some_and(|lock| lock.client == client) {
                locks.remove(queue);
            }
        }
    }

    /// Frees all that a client holds in a group that it leaves. A broken connection is no such word: its client may be
    /// back before the locks run out, with a batch in hand.
    pub(crate) fn leave(&self, group: &str, client: &str) {
        if let Some(locks) = self.0.lock().get_mut(group) {
            locks.retain(|_, lock| lock.client != client);
        }
    }

    /// Whether the group consumes in order now: a retry of it would break the order and goes to the dead letters.
    pub(crate) fn holds_any(&self, group: &str, now: UnixMillis) -> bool {
        self.0.lock().get(group).is_some_and(|locks| locks.values().any(|lock| lock.is_live(now)))
    }

    /// Forgets what has run out.
    pub(crate) fn expire(&self, now: UnixMillis) {
        self.0.lock().retain(|_, locks| {
            locks.retain(|_, lock| lock.is_live(now));
            !locks.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(queue_id: u32) -> MessageQueue {
        MessageQueue { topic: "t".into(), broker_name: "b".into(), queue_id }
    }

    const NONE: [u32; 0] = [];

    fn seconds(seconds: i64) -> UnixMillis {
        UnixMillis(seconds * 1000)
    }

    #[test]
    fn a_queue_is_one_clients_until_it_is_freed_or_not_renewed() {
        let locks = QueueLocks::default();
        let take = |group, client, queues: &[u32], at| -> Vec<u32> {
            let queues = queues.iter().copied().map(queue).collect();
            locks.lock(group, client, queues, seconds(at)).iter().map(|queue| queue.queue_id).collect()
        };
        assert_eq!(take("g", "one", &[0, 1], 0), [0, 1]);
        assert_eq!(take("g", "two", &[1, 2], 1), [2]);
        assert_eq!(take("g", "one", &[0, 1], 2), [0, 1], "re-entrant, and renewed");
        assert_eq!(take("other group", "two", &[0], 2), [0]);
        locks.unlock("g", "two", &[queue(0)]);
        assert_eq!(take("g", "two", &[0], 3), NONE, "not the owner's to free");
        locks.unlock("g", "one", &[queue(0)]);
        assert_eq!(take("g", "two", &[0], 3), [0]);
        locks.leave("g", "two");
        locks.leave("other group", "nobody");
        assert_eq!(take("g", "three", &[0, 1, 2], 3), [0, 2], "all of the one that left, none of the others'");
        assert_eq!(take("other group", "three", &[0], 3), NONE);
        locks.leave("g", "three");
        assert_eq!(take("g", "two", &[1], 62), NONE, "sixty seconds after its renewal it lives");
        assert_eq!(take("g", "two", &[1], 63), [1]);
    }

    #[test]
    fn a_group_holds_locks_only_while_one_lives() {
        let locks = QueueLocks::default();
        assert!(!locks.holds_any("g", seconds(0)));
        locks.lock("g", "one", vec![queue(0)], seconds(0));
        assert!(locks.holds_any("g", seconds(60)));
        assert!(!locks.holds_any("g", seconds(61)));
        locks.expire(seconds(61));
        assert!(locks.0.lock().is_empty());
    }
}
