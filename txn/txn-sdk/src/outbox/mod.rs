//! The outbox: what a transaction publishes while no broker takes half messages. Its marker says so, its message lies in
//! a table until the [relay](relay::Relay) has delivered it. Knows when it is used and how much may wait; no database.

mod relay;
mod row;

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use mq_client::{CallError, SendFailure};
use mq_protocol::{codes::response, ids::UnixMillis};
use tokio::sync::Notify;

use crate::{decision::Fault, producer::TxnError};
pub(crate) use relay::Relay;
pub(crate) use row::store;

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
    broker_down_until: AtomicI64,
    /// A row has come.
    pub(crate) stored: Notify,
}

impl Outbox {
    pub(crate) fn new(options: OutboxOptions) -> Self {
        Self { options, waiting: AtomicU64::new(0), broker_down_until: AtomicI64::new(i64::MIN), stored: Notify::new() }
    }

    pub(crate) fn tries_broker(&self, now: UnixMillis) -> bool {
        now.0 >= self.broker_down_until.load(Ordering::Relaxed)
    }

    pub(crate) fn broker_is_down(&self, now: UnixMillis) {
        self.broker_down_until.store(now.plus(self.options.retry_broker_after).0, Ordering::Relaxed);
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

    fn counted(&self, waiting: u64) {
        self.waiting.store(waiting, Ordering::Relaxed);
    }
}

/// Whose fault it is that a half message was not acknowledged.
pub(crate) fn fault_of(error: &TxnError) -> Fault {
    match error {
        TxnError::HalfRefused(error) | TxnError::HalfUnknown(error) => match &*error.reason {
            SendFailure::Invalid(_) => Fault::Message,
            SendFailure::Call(CallError::Refused(said)) if said.code == response::MESSAGE_ILLEGAL => Fault::Message,
            _ => Fault::Broker,
        },
        TxnError::UnknownTopic(_) | TxnError::NotOffered { .. } => Fault::Message,
        _ => Fault::Broker,
    }
}
