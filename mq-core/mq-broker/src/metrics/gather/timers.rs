//! Messages for a later time: how far linking and delivering are, and what waits.

use std::time::Duration;

use mq_protocol::ids::UnixMillis;
use mq_protocol::topic;

use super::{gauge_family, label, on_disk};
use crate::broker::Broker;
use crate::metrics::{Family, Kind, Labels};
use crate::timers::{QUEUE, Timers};

/// Nothing where timers are switched off.
pub(super) fn timers(broker: &Broker) -> Vec<Family> {
    let Ok(timers) = broker.timers() else { return Vec::new() };
    let mut families = Vec::from(progress(broker, timers, broker.clock.now()));
    families.extend(by_topic(timers));
    families
}

fn progress(broker: &Broker, timers: &Timers, now: UnixMillis) -> [Family; 5] {
    let behind = timers.behind(now);
    let stored = broker.store.queue_bounds(topic::TIMER, QUEUE).max;
    let next = broker.store.entry(topic::TIMER, QUEUE, behind.linked).ok().flatten();
    let next = next.and_then(|entry| broker.store.read(entry.log_offset).ok().flatten());
    let unlinked_for = next.map_or(Duration::ZERO, |next| now.since(next.store_timestamp));
    let pending = timers.pending(now).unwrap_or_default();
    let gauge = |name, help, value: u64| gauge_family(name, help).with(on_disk(), value);
    let mut snapshot = gauge_family(
        "rocketmq_timer_message_snapshot",
        "Messages that are due within this time, in seconds, and not within the next shorter one",
    );
    for (bound, count) in pending.iter().filter(|(bound, _)| **bound != Duration::MAX) {
        snapshot.push(with("timer_bound_s", &bound.as_secs().to_string()), *count);
    }
    [
        gauge(
            "rocketmq_timer_enqueue_lag",
            "Messages that are stored and not linked",
            stored.0 - behind.linked.0.min(stored.0),
        ),
        gauge(
            "rocketmq_timer_enqueue_latency_milliseconds",
            "How long the next message waits to be linked",
            unlinked_for.as_millis() as u64,
        ),
        gauge("rocketmq_timer_dequeue_lag", "Messages that wait for their time", pending.values().sum()),
        gauge(
            "rocketmq_timer_dequeue_latency_milliseconds",
            "How long the oldest due message waits to be delivered",
            behind.late.as_millis() as u64,
        ),
        snapshot,
    ]
}

fn with(name: &'static str, value: &str) -> Labels {
    on_disk().into_iter().chain([label(name, value)]).collect()
}

fn by_topic(timers: &Timers) -> [Family; 4] {
    let mut waiting = gauge_family("rocketmq_timing_messages", "Messages that wait for their time");
    for (topic, counted) in timers.metrics().timing_count {
        waiting.push(with("topic", &topic), u64::try_from(counted.count).unwrap_or(0));
    }
    let counter = |name, help| Family::new(Kind::Counter, name, help);
    let mut linked = counter("rocketmq_timer_enqueue", "Messages that began to wait for their time");
    let mut fired = counter("rocketmq_timer_dequeue", "Messages whose time came");
    let mut ahead = Family::new(
        Kind::Histogram,
        "rocketmq_delay_message_latency_seconds",
        "How far ahead of their time messages are sent",
    );
    for (topic, flow) in timers.flows() {
        linked.push(with("topic", &topic), flow.linked);
        fired.push(with("topic", &topic), flow.fired);
        ahead.push(with("topic", &topic), flow.ahead);
    }
    [waiting, linked, fired, ahead]
}
