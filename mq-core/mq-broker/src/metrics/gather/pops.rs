//! Pop consumption: the journal of what was given out and came back, and how far the broker has read it.

use super::{gauge, gauge_family, label};
use crate::broker::Broker;
use crate::metrics::{Family, Kind, Labels};

pub(super) fn pops(broker: &Broker) -> Vec<Family> {
    let figures = broker.pops.figures(broker.clock.now());
    let mut behind = gauge_family(
        "rocketmq_pop_revive_lag_milliseconds",
        "Records of pops that are not read (a number of records; the name is Apache's)",
    );
    let mut late =
        gauge_family("rocketmq_pop_revive_latency_milliseconds", "How long the next record of a pop waits to be read");
    for queue in &figures.queues {
        let labels = || vec![label("queue_id", queue.queue_id)];
        behind.push(labels(), queue.unread);
        late.push(labels(), queue.late.as_millis() as u64);
    }
    let counter = |name, help| Family::new(Kind::Counter, name, help);
    let mut written = counter("rocketmq_pop_revive_in_message", "Records of pops that were written");
    let mut read = counter("rocketmq_pop_revive_out_message", "Records of pops that were read");
    let mut again =
        counter("rocketmq_pop_revive_retry_messages", "Messages that came again because nobody acknowledged them");
    for ((topic, group), flow) in figures.flows {
        let of = |more: &[(&'static str, &str)]| -> Labels {
            let more = more.iter().map(|(name, value)| label(name, value));
            [label("consumer_group", &group), label("topic", &topic)].into_iter().chain(more).collect()
        };
        for (kind, count) in [("CK", flow.checkpoints_written), ("ACK", flow.acks_written)] {
            written.push(of(&[("revive_message_type", kind), ("put_status", "PUT_OK")]), count);
        }
        for (queue, [checkpoints, acks]) in flow.read {
            let queue = queue.to_string();
            for (kind, count) in [("CK", checkpoints), ("ACK", acks)] {
                read.push(of(&[("revive_message_type", kind), ("queue_id", &queue)]), count);
            }
        }
        again.push(of(&[("put_status", "PUT_OK")]), flow.revived);
    }
    vec![
        behind,
        late,
        gauge("rocketmq_pop_offset_buffer_size", "Queues whose last pops are not read back yet", figures.cursors),
        gauge("rocketmq_pop_checkpoint_buffer_size", "Pops that are not acknowledged whole", figures.checkpoints),
        written,
        read,
        again,
    ]
}
