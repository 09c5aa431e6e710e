//! Which queue a send goes to. Pure: a route's queues, whom to avoid, and a number that turns.

use std::sync::Arc;

use mq_protocol::body::MessageQueue;
use mq_protocol::java;

/// Round robin over brokers that are well; a retry leaves the broker that just failed; someone always gets it.
pub(crate) fn by_turn<'q>(
    queues: &'q [Arc<MessageQueue>],
    turn: usize,
    failed_broker: Option<&str>,
    available: impl Fn(&str) -> bool,
) -> Option<&'q Arc<MessageQueue>> {
    let in_turn = || (0..queues.len()).map(|step| &queues[(turn.wrapping_add(step)) % queues.len()]);
    let other = |queue: &&Arc<MessageQueue>| failed_broker != Some(queue.broker_name.as_str());
    in_turn()
        .find(|queue| other(queue) && available(&queue.broker_name))
        .or_else(|| in_turn().find(other))
        .or_else(|| in_turn().next())
}

/// The queue of a key, the same one as Java's hash selector takes.
pub(crate) fn by_hash<'q>(queues: &'q [Arc<MessageQueue>], key: &str) -> Option<&'q Arc<MessageQueue>> {
    let length = i32::try_from(queues.len()).ok().filter(|length| *length > 0)?;
    queues.get((java::string_hash(key) % length).unsigned_abs() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(names: &[&str]) -> Vec<Arc<MessageQueue>> {
        let queue = |(id, broker): (usize, &&str)| MessageQueue {
            topic: "T".into(),
            broker_name: (*broker).into(),
            queue_id: id as u32,
        };
        names.iter().enumerate().map(queue).map(Arc::new).collect()
    }

    #[test]
    fn turns_avoid_the_failed_and_the_slow_but_never_refuse() {
        for (brokers, turn, failed, slow, chosen) in [
            (&["a", "a", "b", "b"][..], 0, None, "", Some(0)),
            (&["a", "a", "b", "b"], 5, None, "", Some(1)),
            (&["a", "a", "b", "b"], 0, Some("a"), "", Some(2)),
            (&["a", "a", "b", "b"], 0, None, "a", Some(2)),
            (&["a", "a", "b", "b"], 0, Some("a"), "b", Some(2)),
            (&["a", "a"], 1, Some("a"), "a", Some(1)),
            (&["a"], usize::MAX, None, "", Some(0)),
            (&[], 3, None, "", None),
        ] {
            let queues = queues(brokers);
            let queue = by_turn(&queues, turn, failed, |broker| broker != slow);
            assert_eq!(queue.map(|queue| queue.queue_id), chosen, "{brokers:?} {turn} {failed:?} {slow}");
        }
    }

    #[test]
    fn hashes_select_as_java_does() {
        let queues = queues(&["a"; 4]);
        // String.hashCode: "" is 0, "d" 100, "TagA" 2598919, and the last one i32::MIN.
        for (key, queue) in [("", 0), ("d", 0), ("TagA", 3), ("polygenelubricants", 0)] {
            assert_eq!(by_hash(&queues, key).map(|queue| queue.queue_id), Some(queue), "{key}");
        }
        assert!(by_hash(&[], "k").is_none());
    }
}
