//! The transaction of one delivery: the handler's rows, and the messages that it publishes with them. Knows no broker but
//! through the producer's half messages.

use std::sync::Arc;

use futures_util::future::join_all;
use mq_client::{Message, Verdict};

use super::DeliveryError;
use crate::{
    database::Database,
    decision::Ending,
    failpoints::{during, reach},
    id::TransactionId,
    marker,
    planted::{Bug, planted},
    producer::{Half, Link, Outcome, TxnError},
};

/// What a handler of [`Consumer::on_emitting`](super::Consumer::on_emitting) works in: its rows and the messages that it
/// [emits](Effect::emit) are committed together with the inbox row, or not at all.
pub struct Effect<D: Database> {
    // The order of the fields counts: a dropped transaction is rolled back before the broker is told so.
    tx: D::Tx,
    emitted: Vec<Half>,
    link: Option<Arc<Link>>,
}

impl<D: Database> Effect<D> {
    pub(super) fn new(tx: D::Tx, link: Option<Arc<Link>>) -> Self {
        Self { tx, emitted: Vec::new(), link }
    }

    /// What your statements run on. Do not commit or roll back through it.
    pub fn handle(&mut self) -> D::Handle<'_> {
        D::handle(&mut self.tx)
    }

    /// Publishes `message` if and only if this delivery commits: once, however often the message that it handles comes.
    ///
    /// Each call stores a half message and writes its marker into this transaction; a crash at any point is settled by
    /// the producer's checkback. After an error nothing of `message` is published: pass the error on. (On PostgreSQL a
    /// failed marker ends the delivery anyway.)
    pub async fn emit(&mut self, message: Message) -> Result<TransactionId, TxnError> {
        let link = self.link.clone().ok_or(TxnError::NothingToEmitWith)?;
        let begun = link.begin(message).await?;
        match begun.enter::<D>(&mut self.tx).await {
            Ok(()) => {
                let id = begun.half.id();
                self.emitted.push(begun.half);
                Ok(id)
            }
            Err(error) => Err(begun.half.give_up(error)),
        }
    }

    /// Commits, then publishes. With something to publish both run detached: a consumer that is dropped stops neither.
    pub(super) async fn commit(self) -> Result<(), DeliveryError> {
        match &self.link {
            Some(link) if !self.emitted.is_empty() => {
                let running = link.running.clone();
                running.spawn(self.finish()).await.unwrap_or(Err(DeliveryError::Panic))
            }
            _ => self.finish().await,
        }
    }

    async fn finish(self) -> Result<(), DeliveryError> {
        let Self { tx, mut emitted, .. } = self;
        emitted.iter_mut().for_each(Half::leave);
        if planted(Bug::EmitBeforeCommit) {
            join_all(emitted.iter_mut().map(|half| half.end(Verdict::Commit))).await;
        }
        let committed = during("inbox-commit-sent", D::commit_work(tx)).await;
        let ending = marker::ending(committed);
        if let Some(verdict) = ending.verdict() {
            reach("inbox-between-commit-and-end");
            join_all(emitted.iter_mut().map(|half| half.end(verdict))).await;
        }
        for half in &emitted {
            match ending.verdict() {
                Some(Verdict::Commit) => drop(half.sent::<()>(Outcome::Committed)),
                Some(_) => drop(half.sent(Outcome::RolledBack(()))),
                None => drop(half.sent::<()>(Outcome::InDoubt)),
            }
        }
        match ending {
            Ending::Committed => Ok(()),
            Ending::Ended => Err(DeliveryError::Ended),
            Ending::Fenced => Err(DeliveryError::Fenced),
            // If it did commit, the redelivery meets its row.
            Ending::Refused(error) | Ending::Unknown(error) => Err(DeliveryError::Commit(error)),
        }
    }
}
