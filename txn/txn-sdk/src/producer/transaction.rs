//! A database transaction with a message tied to it: the guard form, and the closure form over it.

use mq_client::{Message, Verdict};
use tracing::Instrument;

use super::{
    TxnProducer,
    half::{Half, OnDrop},
    outcome::{Outcome, Sent, TxnError},
};
use crate::{
    database::{CommitError, Database},
    failpoints::reach,
    id::TransactionId,
    marker::{MarkError, MarkerOwner, Markers, Seal},
    planted::{Bug, planted},
};

/// An open transaction whose message is published if and only if it commits. Dropped, it is rolled back and its half
/// message cancelled.
#[must_use = "dropped, it is rolled back"]
pub struct Transaction<D: Database> {
    // The order of the fields counts: a dropped transaction is rolled back before the broker is told so.
    tx: D::Tx,
    half: Half,
}

impl<D: Database> TxnProducer<D> {
    /// Sends `message` if and only if `work` returns `Ok` and its transaction commits.
    ///
    /// `work` gets the transaction: `&DatabaseTransaction` with sea-orm, `&mut SqliteConnection` with sqlx. Its error
    /// comes back as [`Outcome::RolledBack`]. A dropped call (a client that hung up) is rolled back, unless the commit
    /// had begun: then commit and publication run to their end without it.
    pub async fn send<F, E>(&self, message: Message, work: F) -> Result<Sent<E>, TxnError>
    where
        F: for<'t> AsyncFnOnce(D::Handle<'t>) -> Result<(), E>,
    {
        let mut transaction = self.begin(message).await?;
        let span = tracing::info_span!("txn.local", id = %transaction.id());
        match work(transaction.handle()).instrument(span).await {
            Ok(()) => Ok(transaction.commit().await?.widen()),
            Err(why) => Ok(transaction.roll_back_because(why).await),
        }
    }

    /// The half message, then a transaction with its marker as the first row.
    pub async fn begin(&self, message: Message) -> Result<Transaction<D>, TxnError> {
        let topic = message.topic().to_owned();
        let half = self.link.send_half(message, OnDrop::Rollback).await?;
        match self.begin_marked(half.id(), &topic).await {
            Ok(tx) => Ok(Transaction { tx, half }),
            Err(error) => Err(self.give_up(half, error)),
        }
    }

    async fn begin_marked(&self, id: TransactionId, topic: &str) -> Result<D::Tx, MarkError> {
        let mut tx = self.verdicts.database().begin().await?;
        let owner = MarkerOwner { group: self.link.producer.group(), topic };
        Markers::<D>::mark(&mut tx, id, owner).await?;
        Ok(tx)
    }

    fn give_up(&self, mut half: Half, error: MarkError) -> TxnError {
        self.link.counters.refused.add_one();
        match error {
            // The checkback that fenced it off has told the broker.
            MarkError::Fenced => {
                half.leave();
                TxnError::Fenced
            }
            MarkError::Database(error) => {
                half.cancel_detached();
                TxnError::Database(error)
            }
        }
    }
}

impl<D: Database> Transaction<D> {
    pub fn id(&self) -> TransactionId {
        self.half.id()
    }

    /// What your statements run on. Do not commit or roll back through it.
    pub fn handle(&mut self) -> D::Handle<'_> {
        D::handle(&mut self.tx)
    }

    /// Commits, then publishes. Both run detached: dropping this future stops neither.
    pub async fn commit(self) -> Result<Sent, TxnError> {
        let Self { tx, half } = self;
        let link = half.link().clone();
        let in_doubt = half.in_doubt();
        match link.running.spawn(commit_and_publish::<D>(tx, half).in_current_span()).await {
            Ok(done) => done,
            // The runtime is going down, or the database driver panicked: nobody knows how far it came.
            Err(_) => {
                link.counters.left_in_doubt(in_doubt.transaction_id);
                Ok(in_doubt)
            }
        }
    }

    /// Rolls back and cancels the half message.
    pub async fn rollback(self) {
        let _: Sent<()> = self.roll_back_because(()).await;
    }

    async fn roll_back_because<E>(self, why: E) -> Sent<E> {
        let Self { tx, mut half } = self;
        if let Err(error) = D::rollback(tx).await {
            tracing::debug!(id = %half.id(), %error, "rolled back by closing the connection");
        }
        half.end(Verdict::Rollback).await;
        half.sent(Outcome::RolledBack(why))
    }
}

async fn commit_and_publish<D: Database>(mut tx: D::Tx, mut half: Half) -> Result<Sent, TxnError> {
    reach("txn-after-rows");
    half.leave();
    if planted(Bug::EndBeforeCommit) {
        half.end(Verdict::Commit).await;
    }
    let committed = match Markers::<D>::seal(&mut tx, half.id()).await {
        Ok(Seal::Sealed) => D::commit(tx).await,
        // No commit was asked for, so there will be none.
        Err(error) => {
            drop(tx);
            Err(CommitError::Refused(error))
        }
        Ok(Seal::Fenced) => {
            half.link().counters.refused.add_one();
            return Err(TxnError::Fenced);
        }
        Ok(Seal::Ended) => {
            tracing::error!(id = %half.id(), "in doubt: something ended the transaction before its commit");
            return Ok(half.sent(Outcome::InDoubt));
        }
    };
    match committed {
        Err(CommitError::Unknown(error)) if planted(Bug::UnknownIsRefused) => {
            half.end(Verdict::Rollback).await;
            Err(TxnError::CommitRefused(error))
        }
        Ok(()) => {
            reach("txn-between-commit-and-end");
            half.end(Verdict::Commit).await;
            reach("txn-after-end");
            Ok(half.sent(Outcome::Committed))
        }
        Err(CommitError::Refused(error)) => {
            half.end(Verdict::Rollback).await;
            half.link().counters.refused.add_one();
            Err(TxnError::CommitRefused(error))
        }
        Err(CommitError::Unknown(error)) => {
            tracing::error!(id = %half.id(), %error, "commit in doubt: the checkback will settle it");
            Ok(half.sent(Outcome::InDoubt))
        }
    }
}
