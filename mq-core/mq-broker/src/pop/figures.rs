//! What metrics tell of pops: how far the journal is read, and what went through it by group and topic.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytestring::ByteString;
use mq_protocol::ids::{QueueId, UnixMillis};
use parking_lot::Mutex;

use super::Pops;

/// Pairs of topic and group that are counted each for itself.
const MAX_FLOWS: usize = 20_000;

/// One addition for each pop or acknowledgement, which appends a record anyway.
#[derive(Default)]
pub(super) struct Flows(Mutex<HashMap<(ByteString, ByteString), Flow>>);

/// Records of one topic and group, since the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flow {
    pub(crate) checkpoints_written: u64,
    pub(crate) acks_written: u64,
    /// By revive queue: checkpoints and acknowledgements.
    pub(crate) read: BTreeMap<u32, [u64; 2]>,
    /// Messages that came again.
    pub(crate) revived: u64,
}

pub(crate) struct ReviveQueue {
    pub(crate) queue_id: QueueId,
    /// Records that are not read.
    pub(crate) unread: u64,
    /// How long the first of them waits.
    pub(crate) late: Duration,
}

pub(crate) struct Figures {
    pub(crate) queues: Vec<ReviveQueue>,
    pub(crate) cursors: u64,
    pub(crate) checkpoints: u64,
    pub(crate) flows: Vec<((ByteString, ByteString), Flow)>,
}

impl Flows {
    pub(super) fn wrote(&self, topic: &str, group: &str, checkpoints: u64, acks: u64) {
        self.with(topic, group, |flow| {
            flow.checkpoints_written += checkpoints;
            flow.acks_written += acks;
        });
    }

    pub(super) fn read(&self, topic: &str, group: &str, queue_id: QueueId, is_ack: bool) {
        self.with(topic, group, |flow| flow.read.entry(queue_id.0).or_default()[usize::from(is_ack)] += 1);
    }

    pub(super) fn revived(&self, topic: &str, group: &str) {
        self.with(topic, group, |flow| flow.revived += 1);
    }

    fn with(&self, topic: &str, group: &str, add: impl FnOnce(&mut Flow)) {
        let key = (topic.into(), group.into());
        let mut flows = self.0.lock();
        if flows.len() < MAX_FLOWS || flows.contains_key(&key) {
            add(flows.entry(key).or_default());
        }
    }
}

impl Pops {
    /// Looks at the first unread record of each revive queue.
    pub(crate) fn figures(&self, now: UnixMillis) -> Figures {
        let (next, checkpoints) = {
            let journal = self.journal.lock();
            (journal.next.clone(), journal.engine.open_checkpoints())
        };
        let queues = next.into_iter().zip(0..).map(|(next, queue)| {
            let queue_id = QueueId(queue);
            let end = self.store.queue_bounds(&self.writer.topic, queue_id).max;
            let entry = self.store.entry(&self.writer.topic, queue_id, next).ok().flatten();
            let first = entry.and_then(|entry| self.store.read(entry.log_offset).ok().flatten());
            let late = first.map_or(Duration::ZERO, |first| now.since(first.store_timestamp));
            ReviveQueue { queue_id, unread: end.0.saturating_sub(next.0), late }
        });
        let flows = self.flows.0.lock().iter().map(|(key, flow)| (key.clone(), flow.clone())).collect();
        let cursors = self.cursors.lock().len() as u64;
        Figures { queues: queues.collect(), cursors, checkpoints: checkpoints as u64, flows }
    }
}
