//! The SDK without sockets, for simulations (the feature `simulation` only): a broker that somebody plays, a real database
//! that somebody watches, and time and ids by hand. All that lies between them is the SDK as it ships. Knows no faults: who
//! simulates is told of each step and says what becomes of it.

mod database;
mod wire;

use std::cell::Cell;
use std::sync::Arc;

use mq_client::{CheckedHalf, Verdict};
use mq_protocol::ids::UnixMillis;

pub use crate::planted::{Bug, plant};
use crate::producer::TxnProducer;
use crate::{
    database::{Database, DatabaseError},
    id::TransactionId,
    marker::MarkerOptions,
};
pub use database::{Fails, Step, Watched, WatchedTx, Watcher, at_once};
pub(crate) use wire::Producer;
pub use wire::{Played, PlayedBroker};

thread_local! {
    static NOW: Cell<Option<UnixMillis>> = const { Cell::new(None) };
    static IDS: Cell<u64> = const { Cell::new(0) };
}

/// The time of this thread's SDK from now on. `None`: the system's.
pub fn set_time(now: Option<UnixMillis>) {
    NOW.set(now);
    if now.is_none() {
        IDS.set(0);
    }
}

pub(crate) fn time() -> Option<UnixMillis> {
    NOW.get()
}

/// Ids in a row, so that two runs are equal.
pub(crate) fn next_id() -> Option<TransactionId> {
    let now = NOW.get()?;
    IDS.set(IDS.get() + 1);
    Some(TransactionId::numbered(now, IDS.get()))
}

impl<D: Database> TxnProducer<D> {
    /// A producer as the builder makes it, but for the network.
    pub async fn played(
        broker: Arc<dyn PlayedBroker>,
        group: &str,
        topics: &[&str],
        database: D,
        options: MarkerOptions,
    ) -> Result<Self, DatabaseError> {
        let producer = Producer::Played { group: group.to_owned(), broker };
        Self::on_wire(producer, topics.iter().map(|topic| (*topic).to_owned()), database, options).await
    }

    /// Settled rows are cleaned, as every few minutes.
    pub async fn cleans(&self) -> Result<u64, DatabaseError> {
        self.clean(crate::clock::now()).await
    }

    /// A broker asks.
    pub async fn asked(&self, half: CheckedHalf) -> Verdict {
        self.answer(half).await
    }
}
