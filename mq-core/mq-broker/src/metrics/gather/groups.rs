//! What waits for each group that has consumed before, and what it has in its hands.

use mq_protocol::ids::{QueueId, QueueOffset, UnixMillis};

use super::{gauge_family, of_group};
use crate::broker::Broker;
use crate::metrics::Family;
use crate::pop::Place;

/// Of one group in one topic.
#[derive(Default)]
struct Backlog {
    unconsumed: u64,
    in_flight: u64,
    ready: u64,
    /// Store time of the oldest message that is not consumed, and of the oldest that nobody was given.
    unconsumed_since: Option<UnixMillis>,
    ready_since: Option<UnixMillis>,
}

/// Reads a message or two of each queue that is behind.
pub(super) fn backlogs(broker: &Broker) -> [Family; 5] {
    let mut lag = gauge_family("rocketmq_consumer_lag_messages", "Messages that a group has not consumed");
    let mut latency = gauge_family(
        "rocketmq_consumer_lag_latency_milliseconds",
        "Age of the oldest message that a group has not consumed",
    );
    let mut in_flight =
        gauge_family("rocketmq_consumer_inflight_messages", "Messages that a group was given and has not consumed");
    let mut queueing = gauge_family(
        "rocketmq_consumer_queueing_latency_milliseconds",
        "Age of the oldest message that a group was not given",
    );
    let mut ready = gauge_family("rocketmq_consumer_ready_messages", "Messages that a group was not given yet");
    let now = broker.clock.now();
    let age = |since: Option<UnixMillis>| since.map_or(0, |since| now.since(since).as_millis() as u64);
    for (key, queues) in broker.offsets.snapshot().offset_table {
        let Some((topic, group)) = key.split_once('@') else { continue };
        let mut backlog = Backlog::default();
        for (queue, offset) in queues {
            backlog.add(broker, topic, group, QueueId(queue), QueueOffset(offset));
        }
        for (family, value) in [
            (&mut lag, backlog.unconsumed),
            (&mut latency, age(backlog.unconsumed_since)),
            (&mut in_flight, backlog.in_flight),
            (&mut queueing, age(backlog.ready_since)),
            (&mut ready, backlog.ready),
        ] {
            family.push(of_group(group, topic), value);
        }
    }
    [lag, latency, in_flight, queueing, ready]
}

impl Backlog {
    /// A group that pops stands behind what it was given; one that pulls, before it.
    fn add(&mut self, broker: &Broker, topic: &str, group: &str, queue_id: QueueId, position: QueueOffset) {
        let bounds = broker.store.queue_bounds(topic, queue_id);
        let place = Place { topic: topic.into(), group: group.into(), queue_id };
        let popped = broker.pops.in_flight(&place) as u64;
        let position = position.max(bounds.min).min(bounds.max);
        let given = broker.stats.pulled_to(group, topic, queue_id).map_or(position, |pulled| pulled.max(position));
        let given = given.min(bounds.max);
        let consumed = QueueOffset(position.0.saturating_sub(popped)).max(bounds.min);
        self.unconsumed += bounds.max.0 - position.0 + popped;
        self.in_flight += given.0 - position.0 + popped;
        self.ready += bounds.max.0 - given.0;
        let stored = |at: QueueOffset| {
            let entry = broker.store.entry(topic, queue_id, at).ok().flatten()?;
            Some(broker.store.read(entry.log_offset).ok().flatten()?.store_timestamp)
        };
        if consumed < bounds.max {
            self.unconsumed_since = self.unconsumed_since.into_iter().chain(stored(consumed)).min();
        }
        if given < bounds.max {
            self.ready_since = self.ready_since.into_iter().chain(stored(given)).min();
        }
    }
}
