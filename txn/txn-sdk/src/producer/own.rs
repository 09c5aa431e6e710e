//! Transactions whose truth is not in a database of ours: a reservation in Redis, another system. The service answers
//! the checkbacks itself.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use mq_client::{Message, ReceivedMessage, Verdict};

use super::{
    TxnProducer,
    half::{Half, OnDrop},
    outcome::{Outcome, Sent, TxnError},
};
use crate::{id::TransactionId, marker::CHECK_TIMEOUT};

/// A broker asks what became of a transaction.
#[derive(Clone, Debug)]
pub struct Asked {
    pub transaction_id: TransactionId,
    /// The half message as it was sent.
    pub message: ReceivedMessage,
    /// Checks before this one. After fifteen the broker stops asking and parks the message.
    pub checked_times: u32,
}

/// The service's own answer to checkbacks.
///
/// The rules that the marker table follows hold here too. `Commit` only for what has happened for good, and `Rollback`
/// only after making sure that it cannot happen any more (fence the id off in the same atomic step); while neither is
/// sure, or the store does not answer, `Unknown`. An answer that takes longer than 30 seconds is dropped and counts as
/// `Unknown`: a check that hangs keeps no others waiting.
#[derive(Clone)]
pub struct Own {
    check: Arc<dyn Fn(Asked) -> Answering + Send + Sync>,
    within: Duration,
}

type Answering = Pin<Box<dyn Future<Output = Verdict> + Send>>;

impl Own {
    pub(crate) fn new<C, A>(check: C) -> Self
    where
        C: Fn(Asked) -> A + Send + Sync + 'static,
        A: Future<Output = Verdict> + Send + 'static,
    {
        Self { check: Arc::new(move |asked| Box::pin(check(asked))), within: CHECK_TIMEOUT }
    }

    pub(crate) async fn verdict(&self, asked: Asked) -> Verdict {
        let id = asked.transaction_id;
        tokio::time::timeout(self.within, (self.check)(asked)).await.unwrap_or_else(|_| {
            tracing::warn!(%id, "checkback answered unknown: the service's check took more than {:?}", self.within);
            Verdict::Unknown
        })
    }
}

/// A half message that waits for its verdict. Dropped, it waits for a checkback.
#[must_use = "dropped, it waits for a checkback"]
pub struct Pending {
    half: Half,
}

impl TxnProducer<Own> {
    /// Stores the half message. What follows is to be recorded under [`Pending::id`], where the check will look for it.
    pub async fn begin(&self, message: Message) -> Result<Pending, TxnError> {
        Ok(Pending { half: self.link.send_half(message, OnDrop::Leave).await? })
    }
}

impl Pending {
    pub fn id(&self) -> TransactionId {
        self.half.id()
    }

    /// It has happened: publish. Detached: dropping this future does not stop it.
    pub async fn commit(self) -> Sent {
        self.end(Verdict::Commit, Outcome::Committed).await
    }

    /// It has not happened and cannot happen any more: cancel.
    pub async fn rollback<E: Send + 'static>(self, why: E) -> Sent<E> {
        self.end(Verdict::Rollback, Outcome::RolledBack(why)).await
    }

    /// Whether it happened is not known (a timeout): the next checkback settles it.
    pub fn leave(self) -> Sent {
        self.half.sent(Outcome::InDoubt)
    }

    async fn end<E: Send + 'static>(self, verdict: Verdict, outcome: Outcome<E>) -> Sent<E> {
        let Self { mut half } = self;
        let running = half.link().running.clone();
        let in_doubt = half.in_doubt();
        let ended = running.spawn(async move {
            crate::failpoints::reach("txn-between-commit-and-end");
            half.end(verdict).await;
            crate::failpoints::reach("txn-after-end");
            half.sent(outcome)
        });
        ended.await.unwrap_or_else(|_| in_doubt.widen())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Asked {
        let message = ReceivedMessage::undelivered(Message::new("T", "x"));
        Asked { transaction_id: TransactionId::fresh(), message, checked_times: 0 }
    }

    #[tokio::test]
    async fn a_check_that_hangs_is_unknown() {
        let hanging = Own { within: Duration::from_millis(5), ..Own::new(|_| std::future::pending()) };
        assert_eq!(hanging.verdict(asked()).await, Verdict::Unknown);
        let answering = Own::new(|_| std::future::ready(Verdict::Commit));
        assert_eq!(answering.verdict(asked()).await, Verdict::Commit);
    }
}
