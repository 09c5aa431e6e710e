//! One queue that this consumer reads now: its position, its place in the group's plan, and its lock.

use std::sync::Arc;
use std::time::Duration;

use mq_protocol::body::MessageQueue;
use mq_protocol::ids::QueueOffset;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::in_flight::{FlowLimits, InFlight};
use crate::message::ReceivedMessage;

/// How long a lock is trusted after the broker granted it; there it lives for 60 s.
const LOCK_TRUSTED: Duration = Duration::from_secs(30);
/// What a message costs in memory beside its body.
const MESSAGE_OVERHEAD_BYTES: usize = 512;

pub(super) struct Assigned {
    pub(super) queue: Arc<MessageQueue>,
    in_flight: Mutex<InFlight>,
    /// Something was settled.
    settled: Notify,
    /// The queue belongs to somebody else now; what is still being handled does not count any more.
    pub(super) dropped: CancellationToken,
    locked_until: Mutex<Option<Instant>>,
    lock_changed: Notify,
}

impl Assigned {
    pub(super) fn new(queue: Arc<MessageQueue>, position: QueueOffset) -> Self {
        Self {
            queue,
            in_flight: Mutex::new(InFlight::new(position)),
            settled: Notify::new(),
            dropped: CancellationToken::new(),
            locked_until: Mutex::new(None),
            lock_changed: Notify::new(),
        }
    }

    pub(super) fn next(&self) -> QueueOffset {
        self.in_flight.lock().next()
    }

    pub(super) fn pulled(&self, messages: &[ReceivedMessage], next: QueueOffset) {
        let sizes = messages.iter().map(|message| (message.queue_offset, message.body.len() + MESSAGE_OVERHEAD_BYTES));
        self.in_flight.lock().pulled(sizes, next);
    }

    pub(super) fn settle(&self, messages: &[ReceivedMessage]) {
        let mut in_flight = self.in_flight.lock();
        for message in messages {
            in_flight.settle(message.queue_offset);
        }
        drop(in_flight);
        self.settled.notify_one();
    }

    /// Forgets what was pulled and goes on from here.
    pub(super) fn restart_at(&self, position: QueueOffset) {
        *self.in_flight.lock() = InFlight::new(position);
    }

    /// Forgets what was pulled and not settled; it is pulled again.
    pub(super) fn restart(&self) {
        let mut in_flight = self.in_flight.lock();
        *in_flight = InFlight::new(in_flight.committable());
    }

    pub(super) async fn room(&self, limits: FlowLimits) {
        while !self.in_flight.lock().has_room(limits) {
            self.settled.notified().await;
        }
    }

    /// Everything before it is settled.
    pub(super) fn committable(&self) -> QueueOffset {
        self.in_flight.lock().committable()
    }

    pub(super) fn set_locked(&self, locked: bool) {
        *self.locked_until.lock() = locked.then(|| Instant::now() + LOCK_TRUSTED);
        self.lock_changed.notify_one();
    }

    pub(super) fn is_locked(&self) -> bool {
        self.locked_until.lock().is_some_and(|until| until > Instant::now())
    }

    pub(super) async fn locked(&self) {
        while !self.is_locked() {
            self.lock_changed.notified().await;
        }
    }
}
