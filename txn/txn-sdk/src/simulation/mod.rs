//! The SDK without sockets, for simulations (the feature `simulation` only): a broker that somebody plays, a real database
//! that somebody watches, and time and ids by hand. All that lies between them is the SDK as it ships. Knows no faults: who
//! simulates is told of each step and says what becomes of it.

mod database;
mod wire;

use std::cell::Cell;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mq_client::{CheckedHalf, Verdict};
use mq_protocol::ids::UnixMillis;
use tokio::sync::Mutex;
use tokio::time::Instant;

pub use crate::planted::{Bug, plant};
use crate::producer::TxnProducer;
use crate::{
    database::{Database, DatabaseError},
    housekeeping::Housekeeper,
    id::TransactionId,
    marker::MarkerOptions,
    outbox::{OutboxOptions, Relay},
};
pub use database::{Fails, Step, Watched, WatchedTx, Watcher, at_once};
pub(crate) use wire::Producer;
pub use wire::{Played, PlayedBroker};

thread_local! {
    static NOW: Cell<Option<Time>> = const { Cell::new(None) };
    static IDS: Cell<u64> = const { Cell::new(0) };
}

/// What the wall clock says, and how long the clock runs that nobody sets.
#[derive(Clone, Copy, Debug)]
pub struct Time {
    pub wall: UnixMillis,
    pub uptime: Duration,
}

/// The time of this thread's SDK from now on. `None`: the system's.
pub fn set_time(now: Option<Time>) {
    NOW.set(now);
    if now.is_none() {
        IDS.set(0);
    }
}

pub(crate) fn time() -> Option<UnixMillis> {
    Some(NOW.get()?.wall)
}

pub(crate) fn instant() -> Option<Instant> {
    static ZERO: OnceLock<Instant> = OnceLock::new();
    Some(*ZERO.get_or_init(Instant::now) + NOW.get()?.uptime)
}

/// Ids in a row, so that two runs are equal.
pub(crate) fn next_id() -> Option<TransactionId> {
    let now = time()?;
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
        outbox: Option<OutboxOptions>,
    ) -> Result<Self, DatabaseError> {
        let producer = Producer::Played { group: group.to_owned(), broker };
        Self::on_wire(producer, topics.iter().map(|topic| (*topic).to_owned()), database, options, outbox).await
    }

    /// What runs beside the producer, to be run by hand.
    pub fn beside(&self) -> Result<Beside<D>, DatabaseError> {
        let (housekeeper, relay) = (self.housekeeper(), self.new_relay()?);
        Ok(Beside { housekeeper: Arc::new(Mutex::new(housekeeper)), relay: Arc::new(Mutex::new(relay)) })
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

/// A producer's housekeeper and its relay, each of which does one thing at a time.
#[derive(Clone)]
pub struct Beside<D: Database> {
    housekeeper: Arc<Mutex<Housekeeper<D>>>,
    relay: Arc<Mutex<Relay<D>>>,
}

impl<D: Database> Beside<D> {
    /// A round of the housekeeper's, by a clock that it does not trust. Says how many rows went.
    pub async fn cleans(&self) -> Result<u64, DatabaseError> {
        match self.housekeeper.try_lock() {
            Ok(mut housekeeper) => housekeeper.round(crate::clock::now(), crate::clock::instant()).await,
            Err(_) => Ok(0),
        }
    }

    /// The relay looks at the outbox. Whether there is more to do at once.
    pub async fn relays(&self) -> Result<bool, DatabaseError> {
        match self.relay.try_lock() {
            Ok(mut relay) => relay.passes().await,
            Err(_) => Ok(false),
        }
    }
}
