//! A database transaction with a message tied to it: the guard form, and the closure form over it.

use mq_client::{Message, Verdict};
use tracing::Instrument;

use super::{
    TxnProducer,
    half::{Begun, Half},
    outcome::{Outcome, Sent, TxnError},
};
use crate::{
    database::{Database, DatabaseError, Mark, Work},
    decision::{Ending, Row},
    failpoints::{during, reach},
    id::TransactionId,
    marker::{self, MarkError, MarkerOwner, Markers},
    outbox,
    planted::{Bug, planted},
    trace::{TraceContext, span},
};

/// An open transaction whose message is published if and only if it commits. Dropped, it is rolled back and its half
/// message cancelled.
#[must_use = "dropped, it is rolled back"]
pub struct Transaction<D: Database> {
    // The order of the fields counts: a dropped transaction is rolled back before the broker is told so.
    work: Work<D>,
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
        self.begin(message).await?.run(work).await
    }

    /// The same with several messages, on one topic or several: all of them become visible at once, or none. On a cluster
    /// of Checkback's only ([`TxnError::NotOffered`]), and never by the outbox.
    pub async fn send_all<F, E>(&self, messages: Vec<Message>, work: F) -> Result<Sent<E>, TxnError>
    where
        F: for<'t> AsyncFnOnce(D::Handle<'t>) -> Result<(), E>,
    {
        let begun = self.link.begin_all(messages).await?;
        self.in_transaction(begun).await?.run(work).await
    }

    /// The half messages of [`TxnProducer::send_all`], then a transaction with their marker as the first row.
    pub async fn begin_all(&self, messages: Vec<Message>) -> Result<Transaction<D>, TxnError> {
        self.in_transaction(self.link.begin_all(messages).await?).await
    }

    /// The half message, then a transaction with its marker as the first row.
    pub async fn begin(&self, message: Message) -> Result<Transaction<D>, TxnError> {
        self.in_transaction(self.link.begin(message).await?).await
    }

    async fn in_transaction(&self, begun: Begun) -> Result<Transaction<D>, TxnError> {
        match self.open(&begun).await {
            Ok(work) => Ok(Transaction { work, half: begun.half }),
            Err(error) => Err(begun.half.give_up(error)),
        }
    }

    async fn open(&self, begun: &Begun) -> Result<Work<D>, MarkError> {
        let mut work = self.verdicts.begin(&[begun.mark()]).await?;
        begun.store::<D>(&mut work.tx).await?;
        reach("txn-marked");
        Ok(work)
    }
}

impl Begun {
    /// In outbox mode, the message into its transaction.
    async fn store<D: Database>(&self, tx: &mut D::Tx) -> Result<(), DatabaseError> {
        match &self.outboxed {
            Some(message) => outbox::store::<D>(tx, self.half.id(), self.half.link().producer.group(), message).await,
            None => Ok(()),
        }
    }

    /// What a transaction needs before it has an effect of its own.
    pub(crate) async fn enter<D: Database>(&self, tx: &mut D::Tx) -> Result<(), MarkError> {
        Markers::<D>::mark_all(tx, &[self.mark()]).await?;
        Ok(self.store::<D>(tx).await?)
    }

    /// The row that says that its transaction has committed.
    fn mark(&self) -> Mark<'_> {
        let owner = MarkerOwner { group: self.half.link().producer.group(), topic: &self.topic };
        let row = if self.outboxed.is_some() { Row::OUTBOXED } else { Row::COMMITTED };
        Mark { id: self.half.id(), owner, row }
    }
}

impl<D: Database> Transaction<D> {
    pub fn id(&self) -> TransactionId {
        self.half.id()
    }

    /// What your statements run on. Do not commit or roll back through it.
    pub fn handle(&mut self) -> D::Handle<'_> {
        D::handle(&mut self.work.tx)
    }

    async fn run<F, E>(mut self, work: F) -> Result<Sent<E>, TxnError>
    where
        F: for<'t> AsyncFnOnce(D::Handle<'t>) -> Result<(), E>,
    {
        let (span, context) = span!("txn.local", self.half.trace(), id = %self.id());
        match TraceContext::around(context, work(self.handle())).instrument(span).await {
            Ok(()) => Ok(self.commit().await?.widen()),
            Err(why) => Ok(self.roll_back_because(why).await),
        }
    }

    /// Commits, then publishes. Both run detached: dropping this future stops neither.
    pub async fn commit(self) -> Result<Sent, TxnError> {
        let Self { work, half } = self;
        let link = half.link().clone();
        let in_doubt = half.in_doubt();
        match link.running.spawn(commit_and_publish(work, half).in_current_span()).await {
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
        let Self { work, mut half } = self;
        if let Err(error) = work.rollback().await {
            tracing::debug!(id = %half.id(), %error, "rolled back by closing the connection");
        }
        half.end(Verdict::Rollback).await;
        half.sent(Outcome::RolledBack(why))
    }
}

async fn commit_and_publish<D: Database>(work: Work<D>, mut half: Half) -> Result<Sent, TxnError> {
    reach("txn-after-rows");
    half.leave();
    if planted(Bug::EndBeforeCommit) {
        half.end(Verdict::Commit).await;
    }
    let ending = marker::ending(during("txn-commit-sent", work.commit()).await);
    if let Some(verdict) = ending.verdict() {
        reach("txn-between-commit-and-end");
        during("txn-end-sent", half.end(verdict)).await;
        reach("txn-after-end");
    }
    match ending {
        Ending::Committed => Ok(half.sent(Outcome::Committed)),
        Ending::Refused(error) => {
            half.link().counters.refused.add_one();
            Err(TxnError::CommitRefused(error))
        }
        Ending::Fenced => {
            half.link().counters.refused.add_one();
            Err(TxnError::Fenced)
        }
        Ending::Ended => {
            tracing::error!(id = %half.id(), "in doubt: something ended the transaction before its commit");
            Ok(half.sent(Outcome::InDoubt))
        }
        Ending::Unknown(error) => {
            tracing::error!(id = %half.id(), %error, "commit in doubt: the checkback will settle it");
            Ok(half.sent(Outcome::InDoubt))
        }
    }
}
