//! The broker's side of a transaction: the half message and its end. Knows no database.

use std::{collections::HashSet, sync::Arc};

use mq_client::{HalfReceipt, Message, Verdict};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tracing::Instrument;

use super::{
    outcome::{Outcome, Sent, TxnError},
    wire::Producer,
};
use crate::{
    counters::Counters,
    failpoints::reach,
    id::{TRANSACTION_ID_PROPERTY, TransactionId},
};

/// What all transactions of a producer share.
pub(crate) struct Link {
    pub(crate) producer: Producer,
    pub(crate) topics: HashSet<String>,
    pub(crate) counters: Arc<Counters>,
    /// Detached ends, and open transactions: shutdown waits for them.
    pub(crate) running: TaskTracker,
    pub(crate) stopped: CancellationToken,
}

impl Link {
    pub(crate) async fn send_half(self: &Arc<Self>, message: Message, on_drop: OnDrop) -> Result<Half, TxnError> {
        let begun = self.try_send_half(message, on_drop).await;
        if begun.is_err() {
            self.counters.refused.add_one();
        }
        begun
    }

    async fn try_send_half(self: &Arc<Self>, message: Message, on_drop: OnDrop) -> Result<Half, TxnError> {
        if self.stopped.is_cancelled() {
            return Err(TxnError::ShuttingDown);
        }
        if !self.topics.contains(message.topic()) {
            return Err(TxnError::UnknownTopic(message.topic().to_owned()));
        }
        let running = self.running.token();
        let id = TransactionId::fresh();
        reach("txn-before-half");
        let span = tracing::info_span!("txn.half", %id, topic = message.topic());
        let message = message.property(TRANSACTION_ID_PROPERTY, id.to_string());
        let receipt = self.producer.send_half(message).instrument(span).await.map_err(|error| {
            if error.may_be_stored() {
                TxnError::HalfUnknown(Box::new(error))
            } else {
                TxnError::HalfRefused(Box::new(error))
            }
        })?;
        reach("txn-after-half");
        Ok(Half { link: self.clone(), receipt, id, on_drop, _running: running })
    }

    /// Tells the broker how it ended. When that fails the checkback will: the verdict source knows.
    async fn end(&self, receipt: &HalfReceipt, id: TransactionId, verdict: Verdict) {
        let span = tracing::info_span!("txn.end", %id, ?verdict);
        if let Err(error) = self.producer.end(receipt, verdict).instrument(span).await {
            self.counters.end_lost.add_one();
            tracing::warn!(%id, ?verdict, %error, "the broker was not told how a transaction ended; its checkback will");
        }
    }
}

/// What a half that nobody ended tells the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnDrop {
    /// It cannot commit any more: cancel it.
    Rollback,
    /// Somebody else may know better: wait to be asked.
    Leave,
}

/// A stored half message.
pub(crate) struct Half {
    link: Arc<Link>,
    receipt: HalfReceipt,
    id: TransactionId,
    on_drop: OnDrop,
    _running: TaskTrackerToken,
}

impl Half {
    pub(crate) fn id(&self) -> TransactionId {
        self.id
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// From here on only the verdict source knows the outcome.
    pub(crate) fn leave(&mut self) {
        self.on_drop = OnDrop::Leave;
    }

    pub(crate) async fn end(&mut self, verdict: Verdict) {
        self.link.end(&self.receipt, self.id, verdict).await;
        self.leave();
    }

    /// Tells the broker in the background. Without a runtime there is nobody to tell it; the checkback will find no row.
    pub(crate) fn cancel_detached(&mut self) {
        self.leave();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (link, receipt, id) = (self.link.clone(), self.receipt.clone(), self.id);
            self.link.running.spawn_on(async move { link.end(&receipt, id, Verdict::Rollback).await }, &runtime);
        }
    }

    /// What the caller hears if the task that ends it is lost.
    pub(crate) fn in_doubt(&self) -> Sent {
        Sent { outcome: Outcome::InDoubt, transaction_id: self.id, message_id: self.receipt.message_id.to_string() }
    }

    pub(crate) fn sent<E>(&self, outcome: Outcome<E>) -> Sent<E> {
        let counters = &self.link.counters;
        match outcome {
            Outcome::Committed => counters.committed.add_one(),
            Outcome::RolledBack(_) => counters.rolled_back.add_one(),
            Outcome::InDoubt => counters.left_in_doubt(self.id),
        }
        Sent { outcome, transaction_id: self.id, message_id: self.receipt.message_id.to_string() }
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        if self.on_drop == OnDrop::Rollback {
            self.link.counters.rolled_back.add_one();
            self.cancel_detached();
        }
    }
}

/// Stops the housekeeping when the last handle of the producer goes.
impl Drop for Link {
    fn drop(&mut self) {
        self.stopped.cancel();
    }
}
