//! A group's reads of a topic: how much it was given, and how far into each queue.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use mq_protocol::ids::{QueueId, QueueOffset};
use parking_lot::RwLock;

use super::meter::Meter;

/// No pull yet.
const NOWHERE: u64 = u64::MAX;

pub(crate) struct Reader {
    pub(crate) meter: Meter,
    /// By queue: what the last pull was answered up to. Grows to the queues that are pulled, which the topic bounds.
    pulled_to: RwLock<Vec<AtomicU64>>,
}

impl From<Meter> for Reader {
    fn from(meter: Meter) -> Self {
        Self { meter, pulled_to: RwLock::default() }
    }
}

impl AsRef<Meter> for Reader {
    fn as_ref(&self) -> &Meter {
        &self.meter
    }
}

impl AsRef<Meter> for Meter {
    fn as_ref(&self) -> &Meter {
        self
    }
}

impl Reader {
    /// A pull of `queue` was answered up to `next`. As at Apache the last pull counts: a consumer that begins again
    /// further back has nothing in flight beyond it.
    pub(crate) fn pulled(&self, queue: QueueId, next: QueueOffset) {
        let index = queue.0 as usize;
        if let Some(known) = self.pulled_to.read().get(index) {
            return known.store(next.0, Relaxed);
        }
        let mut queues = self.pulled_to.write();
        if queues.len() <= index {
            queues.resize_with(index + 1, || AtomicU64::new(NOWHERE));
        }
        queues[index].store(next.0, Relaxed);
    }

    pub(crate) fn pulled_to(&self, queue: QueueId) -> Option<QueueOffset> {
        let offset = self.pulled_to.read().get(queue.0 as usize)?.load(Relaxed);
        (offset != NOWHERE).then_some(QueueOffset(offset))
    }
}
