//! Slots that hold as many messages as they may (`timerCongestNumEachSlot`): what is sent for one of them is refused.
//!
//! The driver puts down what it linked. What is stored and not linked yet is not counted, so that a slot may hold a
//! little more than the limit.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use mq_protocol::ids::UnixMillis;
use parking_lot::RwLock;

use super::TimerRefusal;

/// What a slot's count can say on disk, and Apache's default: no limit is set.
pub(crate) const UNLIMITED: u64 = i32::MAX as u64;

pub(crate) struct Congestion {
    limit: AtomicU64,
    /// How many slots are full: mostly none, and then no send looks.
    count: AtomicUsize,
    full: RwLock<HashMap<UnixMillis, u64>>,
}

impl Congestion {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit: AtomicU64::new(limit), count: AtomicUsize::new(0), full: RwLock::default() }
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit.load(Relaxed)
    }

    /// Counts from the driver's next turn on.
    pub(crate) fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Relaxed);
    }

    /// Whether a slot takes one more.
    pub(crate) fn admit(&self, slot: UnixMillis) -> Result<(), TimerRefusal> {
        if self.count.load(Relaxed) == 0 {
            return Ok(());
        }
        match self.full.read().get(&slot) {
            Some(messages) => Err(TimerRefusal::SlotFull { messages: *messages, limit: self.limit() }),
            None => Ok(()),
        }
    }

    /// So many messages wait in a slot now.
    pub(super) fn holds(&self, slot: UnixMillis, messages: u64) {
        if messages < self.limit() && self.count.load(Relaxed) == 0 {
            return;
        }
        let mut full = self.full.write();
        if messages >= self.limit() {
            full.insert(slot, messages);
        } else {
            full.remove(&slot);
        }
        self.count.store(full.len(), Relaxed);
    }

    pub(super) fn forget_all(&self) {
        self.full.write().clear();
        self.count.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_refused_while_it_is_full_and_no_longer() {
        let congestion = Congestion::new(3);
        let (slot, other) = (UnixMillis(5000), UnixMillis(6000));
        for (messages, free) in [(2, true), (3, false), (7, false), (2, true), (3, false), (0, true)] {
            congestion.holds(slot, messages);
            let refused = TimerRefusal::SlotFull { messages, limit: 3 };
            assert_eq!(congestion.admit(slot), if free { Ok(()) } else { Err(refused) }, "{messages}");
            assert_eq!(congestion.admit(other), Ok(()));
        }
    }
}
