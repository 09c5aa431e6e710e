//! The transactional producer: a half message, a marker row in the user's transaction, and an end that follows the commit.

mod builder;
mod half;
mod outcome;
mod own;
mod transaction;
mod wire;

use std::{future::Future, sync::Arc, time::Duration};

use mq_client::Verdict;

use crate::{
    counters::Sample,
    database::Database,
    id::DATABASE_PROPERTY,
    marker::{MarkerOwner, Markers},
};
pub(crate) use half::{Half, Link, OnDrop};

pub use builder::{BuildError, TxnProducerBuilder, Unsourced};
pub use outcome::{Outcome, Sent, TxnError};
pub use own::{Asked, Own, Pending};
pub use transaction::Transaction;

/// Sends messages that are published if and only if a transaction commits. A cheap handle: clone it into handlers.
///
/// `S` says where the truth is: a [`Database`] (`TxnProducer<sea_orm::DatabaseConnection>`,
/// `TxnProducer<sqlx::SqlitePool>`) or the service [itself](Own).
pub struct TxnProducer<S: Source> {
    link: Arc<Link>,
    verdicts: S::Verdicts,
}

impl<S: Source> Clone for TxnProducer<S> {
    fn clone(&self) -> Self {
        Self { link: self.link.clone(), verdicts: self.verdicts.clone() }
    }
}

/// Where the truth about a transaction is.
pub trait Source: sealed::Sealed {
    #[doc(hidden)]
    type Verdicts: Verdicts;
}

/// Answers checkbacks.
#[doc(hidden)]
pub trait Verdicts: Clone + Send + Sync + 'static {
    fn verdict(&self, group: &str, asked: Asked) -> impl Future<Output = Verdict> + Send;
}

mod sealed {
    pub trait Sealed {}
    impl<D: crate::Database> Sealed for D {}
    impl Sealed for super::Own {}
}

impl<D: Database> Source for D {
    type Verdicts = Markers<D>;
}

impl<D: Database> Verdicts for Markers<D> {
    async fn verdict(&self, group: &str, asked: Asked) -> Verdict {
        let (id, ours) = (asked.transaction_id, self.database_name());
        let theirs = asked.message.property(DATABASE_PROPERTY).filter(|theirs| **theirs != *ours);
        let owner = MarkerOwner { group, topic: &asked.message.topic };
        let verdict = self.verdict_of(id, owner, theirs.is_none()).await;
        if let Some(theirs) = theirs.filter(|_| verdict == Verdict::Unknown) {
            tracing::error!(
                %id, group, theirs, ours,
                "checkback answered unknown: it is a transaction of another database, or this one was given a new name. \
                 Instances of one producer group share one database; a service with another one needs a group of its own"
            );
        }
        verdict
    }
}

impl Source for Own {
    type Verdicts = Self;
}

impl Verdicts for Own {
    async fn verdict(&self, _group: &str, asked: Asked) -> Verdict {
        Self::verdict(self, asked).await
    }
}

impl TxnProducer<Own> {
    /// `name_servers` as in `NAMESRV_ADDR`; of Checkback or of an Apache RocketMQ cluster.
    pub fn builder(name_servers: impl Into<String>) -> TxnProducerBuilder<Unsourced> {
        TxnProducerBuilder::new(name_servers.into())
    }
}

impl<D: Database> TxnProducer<D> {
    pub(crate) fn database(&self) -> &D {
        self.verdicts.database()
    }

    pub(crate) fn link(&self) -> Arc<Link> {
        self.link.clone()
    }
}

impl<S: Source> TxnProducer<S> {
    /// The plain producer underneath, for messages without a transaction.
    #[must_use]
    pub fn producer(&self) -> &mq_client::Producer {
        &self.link.producer
    }

    /// Whether brokers know this instance and can ask it about half messages: a readiness check.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.link.producer.is_registered()
    }

    /// Returns once brokers can ask this instance: what a start waits for before it says "ready".
    pub async fn registered(&self) {
        const POLL: Duration = Duration::from_millis(50);
        while !self.is_registered() {
            tokio::time::sleep(POLL).await;
        }
    }

    /// `txn_outcome_total`, `txn_check_total`, `txn_in_doubt`; with an outbox `outbox_pending` and its totals.
    #[must_use]
    pub fn counters(&self) -> Vec<Sample> {
        let mut samples = self.link.counters.of_producer();
        if let Some(outbox) = &self.link.outbox {
            samples.extend(self.link.counters.of_outbox(outbox.waiting()));
        }
        samples
    }

    /// Refuses new transactions, waits for the open ones and their ends, answers checkbacks until then.
    pub async fn shutdown(&self) {
        self.link.stopped.cancel();
        self.link.running.close();
        self.link.running.wait().await;
        self.link.producer.close().await;
    }
}
