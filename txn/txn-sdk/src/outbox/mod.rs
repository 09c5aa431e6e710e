//! The outbox: what a transaction publishes while no broker takes half messages. Its marker says so, its message lies in
//! a table until the [relay](relay::Relay) has delivered it. Knows when it is used and how much may wait; no database.

mod relay;
mod row;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use mq_client::{CallError, Message, SendFailure, property};
use mq_protocol::codes::response;
use tokio::{sync::Notify, time::Instant};

use crate::{
    clock,
    decision::Fault,
    planted::{Bug, planted},
    producer::TxnError,
};
pub(crate) use relay::Relay;
pub(crate) use row::{relayed, store};

/// What a producer does when no broker takes its half messages; without an outbox it refuses the transaction.
#[derive(Clone, Copy, Debug)]
pub struct OutboxOptions {
    /// Messages that may wait, about: beyond it transactions are refused. Each instance counts its own, and all of them
    /// every few seconds.
    pub limit: u64,
    /// After a failed half message transactions go to the outbox at once for so long, then one of them tries again.
    pub retry_broker_after: Duration,
}

impl Default for OutboxOptions {
    fn default() -> Self {
        Self { limit: 100_000, retry_broker_after: Duration::from_secs(1) }
    }
}

/// What the transactions of a producer and its relay know of each other.
pub(crate) struct Outbox {
    options: OutboxOptions,
    /// Rows that wait, as the relay last counted them, and those written since.
    waiting: AtomicU64,
    /// For a half message; so long the one that tries the broker again is waited for.
    send_timeout: Duration,
    began: Instant,
    /// So many milliseconds after `began` a transaction tries the broker again. [`UP`]: all of them do.
    tries_at_ms: AtomicU64,
    /// A row has come.
    pub(crate) stored: Notify,
}

const UP: u64 = 0;

impl Outbox {
    pub(crate) fn new(options: OutboxOptions, send_timeout: Duration) -> Self {
        Self {
            options,
            waiting: AtomicU64::new(0),
            send_timeout,
            began: clock::instant(),
            tries_at_ms: AtomicU64::new(UP),
            stored: Notify::new(),
        }
    }

    /// While the broker is down: true for one transaction, and for the next one only when that has not come back in time.
    pub(crate) fn tries_broker(&self) -> bool {
        match self.tries_at_ms.load(Ordering::Relaxed) {
            UP => true,
            at if at > self.in_ms(Duration::ZERO) => false,
            at => {
                let next = self.in_ms(self.send_timeout);
                self.tries_at_ms.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            }
        }
    }

    pub(crate) fn broker_is_up(&self) {
        if self.tries_at_ms.load(Ordering::Relaxed) != UP {
            self.tries_at_ms.store(UP, Ordering::Relaxed);
        }
    }

    pub(crate) fn broker_is_down(&self) {
        self.tries_at_ms.store(self.in_ms(self.options.retry_broker_after), Ordering::Relaxed);
    }

    /// Never [`UP`].
    fn in_ms(&self, after: Duration) -> u64 {
        u64::try_from((clock::instant() - self.began + after).as_millis()).unwrap_or(u64::MAX).max(1)
    }

    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether one more may wait.
    pub(crate) fn admit(&self) -> Result<(), TxnError> {
        let (waiting, limit) = (self.waiting(), self.options.limit);
        if waiting >= limit { Err(TxnError::OutboxFull { waiting, limit }) } else { Ok(()) }
    }

    pub(crate) fn row_came(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.stored.notify_one();
    }

    fn rows_went(&self, rows: u64) {
        let less = |waiting: u64| Some(waiting.saturating_sub(rows));
        let _ = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    fn counted(&self, waiting: u64) {
        self.waiting.store(waiting, Ordering::Relaxed);
    }
}

/// Whether a message can wait at all. In commit order it cannot: it would be relayed in the order of the begins, and be
/// overtaken by those of its key that go directly.
pub(crate) fn can_wait(message: &Message) -> bool {
    message.properties().get(property::ORDER_KEY).is_none() || planted(Bug::OrderedWaits)
}

/// Whose fault it is that a half message was not acknowledged.
pub(crate) fn fault_of(error: &TxnError) -> Fault {
    match error {
        TxnError::HalfRefused(error) | TxnError::HalfUnknown(error) => match &*error.reason {
            SendFailure::Invalid(_) => Fault::Message,
            SendFailure::Call(CallError::Refused(said)) if said.code == response::MESSAGE_ILLEGAL => Fault::Message,
            _ => Fault::Broker,
        },
        TxnError::UnknownTopic(_)
        | TxnError::Reserved { .. }
        | TxnError::NotOffered { .. }
        | TxnError::UnreadableRow => Fault::Message,
        _ => Fault::Broker,
    }
}
