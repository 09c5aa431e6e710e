//! One connection per address, opened when first needed, reopened with growing pauses.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use mq_protocol::ByteString;
use parking_lot::{Mutex, RwLock};
use tokio::time::{Instant, sleep_until};

use super::connection::{Connection, Inbound};
use crate::error::RequestError;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// With its jitter (up to as much again) shorter than a send may take: a send to a broker that is back finds it.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What to do while an address that just failed is left alone for a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Fail at once: there is another address to try.
    Fail,
    /// Keep trying until then.
    Until(Instant),
}

pub(crate) struct Pool {
    slots: RwLock<HashMap<ByteString, Arc<Slot>>>,
    inbound: Weak<dyn Inbound>,
    connect_timeout: Duration,
}

struct Slot {
    address: ByteString,
    live: ArcSwapOption<Connection>,
    pauses: Mutex<Pauses>,
    /// Held by the one caller that connects; the others wait for its result.
    connecting: tokio::sync::Mutex<()>,
}

struct Pauses {
    growing: ExponentialBackoff,
    not_before: Instant,
    last: Option<RequestError>,
}

impl Pool {
    pub(crate) fn new(inbound: Weak<dyn Inbound>, connect_timeout: Duration) -> Self {
        Self { slots: RwLock::default(), inbound, connect_timeout }
    }

    pub(crate) async fn get(&self, address: &ByteString, patience: Patience) -> Result<Arc<Connection>, RequestError> {
        let slot = self.slot(address);
        if let Some(live) = slot.live() {
            return Ok(live);
        }
        slot.connect(self, patience).await
    }

    /// The connection, if there is one now.
    pub(crate) fn existing(&self, address: &ByteString) -> Option<Arc<Connection>> {
        self.slots.read().get(address).and_then(|slot| slot.live())
    }

    pub(crate) fn live(&self) -> Vec<Arc<Connection>> {
        self.slots.read().values().filter_map(|slot| slot.live()).collect()
    }

    /// Forgets an address and closes its connection.
    pub(crate) fn forget(&self, address: &ByteString) {
        let slot = self.slots.write().remove(address);
        if let Some(live) = slot.and_then(|slot| slot.live()) {
            live.close();
        }
    }

    pub(crate) fn close(&self) {
        for connection in self.live() {
            connection.close();
        }
    }

    fn slot(&self, address: &ByteString) -> Arc<Slot> {
        if let Some(slot) = self.slots.read().get(address) {
            return slot.clone();
        }
        self.slots.write().entry(address.clone()).or_insert_with(|| Slot::new(address.clone())).clone()
    }
}

impl Slot {
    fn new(address: ByteString) -> Arc<Self> {
        let pauses = Pauses { growing: growing_pauses(), not_before: Instant::now(), last: None };
        Arc::new(Self { address, live: ArcSwapOption::empty(), pauses: pauses.into(), connecting: ().into() })
    }

    fn live(&self) -> Option<Arc<Connection>> {
        self.live.load_full().filter(|connection| !connection.is_closed())
    }

    async fn connect(&self, pool: &Pool, patience: Patience) -> Result<Arc<Connection>, RequestError> {
        loop {
            self.pause(patience).await?;
            let _turn = self.connecting.lock().await;
            if let Some(live) = self.live() {
                return Ok(live);
            }
            if self.must_pause().is_some() {
                continue;
            }
            let opened = self.open(pool).await;
            let mut pauses = self.pauses.lock();
            match opened {
                Ok(connection) => {
                    pauses.growing = growing_pauses();
                    pauses.last = None;
                    self.live.store(Some(connection.clone()));
                    return Ok(connection);
                }
                Err(error) => {
                    pauses.not_before = Instant::now() + pauses.growing.next().unwrap_or(LONGEST_PAUSE);
                    pauses.last = Some(error);
                }
            }
        }
    }

    /// Waits until the address may be tried again, or says how the last try failed.
    async fn pause(&self, patience: Patience) -> Result<(), RequestError> {
        match self.must_pause() {
            Some((until, _)) if patience.outlasts(until) => sleep_until(until).await,
            Some((_, last)) => return Err(last),
            None => {}
        }
        Ok(())
    }

    fn must_pause(&self) -> Option<(Instant, RequestError)> {
        let pauses = self.pauses.lock();
        pauses.last.clone().filter(|_| pauses.not_before > Instant::now()).map(|last| (pauses.not_before, last))
    }

    async fn open(&self, pool: &Pool) -> Result<Arc<Connection>, RequestError> {
        let closed = || RequestError::Connect { address: self.address.clone(), reason: "the client is closed".into() };
        let inbound = pool.inbound.upgrade().ok_or_else(closed)?;
        let connection = Connection::open(self.address.clone(), pool.connect_timeout, pool.inbound.clone()).await?;
        let unfinished = connection.clone().close_on_drop();
        inbound.greet(connection.clone()).await;
        unfinished.disarm();
        Ok(Arc::new(connection))
    }
}

impl Patience {
    fn outlasts(self, moment: Instant) -> bool {
        matches!(self, Self::Until(deadline) if deadline > moment)
    }
}

fn growing_pauses() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .with_jitter()
        .without_max_times()
        .build()
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close();
    }
}
