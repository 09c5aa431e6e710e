//! Requests that wait: by what they wait for, in their order, each with its deadline and its connection. Behind the held
//! pulls and the waiting pops; knows neither.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use mq_protocol::ByteString;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::connection::{Connection, ConnectionId};

/// What somebody waits for.
pub(crate) trait Place: Clone + Eq + Hash {
    /// Names under which the place is found too.
    fn watches(&self) -> Vec<ByteString> {
        Vec::new()
    }
}

pub(crate) trait Waiter {
    fn connection(&self) -> &Connection;
    /// Hands it back to its connection.
    fn wake(self);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct WaitId(u64);

pub(crate) struct Waiters<P, W> {
    /// Lets an arrival pass without a lock while nobody waits.
    count: AtomicUsize,
    table: Mutex<Table<P, W>>,
    earlier: Notify,
}

pub(crate) struct Table<P, W> {
    places: HashMap<P, BTreeMap<WaitId, (Instant, W)>>,
    watched: HashMap<ByteString, Vec<P>>,
    deadlines: BTreeMap<(Instant, WaitId), P>,
    by_connection: HashMap<ConnectionId, BTreeMap<WaitId, P>>,
    next: u64,
}

impl<P, W> Default for Waiters<P, W> {
    fn default() -> Self {
        let table = Table {
            places: HashMap::new(),
            watched: HashMap::new(),
            deadlines: BTreeMap::new(),
            by_connection: HashMap::new(),
            next: 0,
        };
        Self { count: AtomicUsize::new(0), table: Mutex::new(table), earlier: Notify::new() }
    }
}

impl<P: Place, W: Waiter> Waiters<P, W> {
    /// Holds until `until`, if there is room as `admit` sees it; else gives the waiter back. The caller then looks once
    /// more at what it waits for, because it may have come before.
    pub(crate) fn hold<E>(
        &self,
        place: P,
        waiter: W,
        until: Instant,
        admit: impl FnOnce(&Table<P, W>) -> Result<(), E>,
    ) -> Result<WaitId, (E, W)> {
        let mut table = self.table.lock();
        if let Err(full) = admit(&table) {
            return Err((full, waiter));
        }
        let id = WaitId(table.next);
        table.next += 1;
        if waiter.connection().is_closed() {
            // It is forgotten already, and nobody would hear the answer.
            return Ok(id);
        }
        let is_first = table.deadlines.first_key_value().is_none_or(|((first, _), _)| until < *first);
        table.insert(place, id, until, waiter);
        self.count.store(table.len(), Ordering::SeqCst);
        drop(table);
        // The caller looks after this, an arrival looks at the count after it moved its queue: with a full fence on both
        // sides at least one of them sees the other.
        fence(Ordering::SeqCst);
        if is_first {
            self.earlier.notify_one();
        }
        Ok(id)
    }

    /// Takes one back; `None` when it was woken meanwhile.
    pub(crate) fn take(&self, place: &P, id: WaitId) -> Option<W> {
        self.change(|table| table.remove(place, id))
    }

    /// Nobody is there to be answered any more.
    pub(crate) fn forget(&self, connection: ConnectionId) {
        self.change(|table| {
            for (id, place) in table.by_connection.remove(&connection).unwrap_or_default() {
                table.remove(&place, id);
            }
        });
    }

    /// For an arrival, after it moved its queue.
    pub(crate) fn is_empty(&self) -> bool {
        fence(Ordering::SeqCst);
        self.count.load(Ordering::SeqCst) == 0
    }

    pub(crate) fn waiting(&self, place: &P) -> usize {
        self.table.lock().places.get(place).map_or(0, BTreeMap::len)
    }

    /// Hands back those whose time is over, for as long as it is polled.
    pub(crate) async fn expire(&self) {
        loop {
            let first = self.table.lock().deadlines.first_key_value().map(|((deadline, _), _)| *deadline);
            match first {
                None => self.earlier.notified().await,
                Some(deadline) => tokio::select! {
                    () = sleep_until(deadline) => self.wake_until(Instant::now()),
                    () = self.earlier.notified() => {}
                },
            }
        }
    }

    fn wake_until(&self, now: Instant) {
        self.change(|table| {
            while let Some(((deadline, id), place)) = table.deadlines.first_key_value()
                && *deadline <= now
            {
                let (id, place) = (*id, place.clone());
                table.remove(&place, id).expect("every deadline has its waiter").wake();
            }
        });
    }

    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Table<P, W>) -> T) -> T {
        let mut table = self.table.lock();
        let result = change(&mut table);
        self.count.store(table.len(), Ordering::SeqCst);
        result
    }
}

impl<P: Place, W: Waiter> Table<P, W> {
    pub(crate) fn len(&self) -> usize {
        self.deadlines.len()
    }

    pub(crate) fn of_connection(&self, connection: &Connection) -> usize {
        self.by_connection.get(&connection.id()).map_or(0, BTreeMap::len)
    }

    /// Those at a place, the longest first.
    pub(crate) fn at(&self, place: &P) -> impl ExactSizeIterator<Item = (WaitId, &W)> {
        self.places.get(place).map(BTreeMap::iter).unwrap_or_default().map(|(id, (_, waiter))| (*id, waiter))
    }

    /// The places that are found under a name too.
    pub(crate) fn watching(&self, name: &ByteString) -> &[P] {
        self.watched.get(name).map_or(&[], Vec::as_slice)
    }

    fn insert(&mut self, place: P, id: WaitId, until: Instant, waiter: W) {
        self.deadlines.insert((until, id), place.clone());
        self.by_connection.entry(waiter.connection().id()).or_default().insert(id, place.clone());
        match self.places.entry(place) {
            Entry::Occupied(mut waiting) => {
                waiting.get_mut().insert(id, (until, waiter));
            }
            Entry::Vacant(nobody) => {
                for name in nobody.key().watches() {
                    self.watched.entry(name).or_default().push(nobody.key().clone());
                }
                nobody.insert(BTreeMap::from([(id, (until, waiter))]));
            }
        }
    }

    pub(crate) fn remove(&mut self, place: &P, id: WaitId) -> Option<W> {
        let waiting = self.places.get_mut(place)?;
        let (until, waiter) = waiting.remove(&id)?;
        if waiting.is_empty() {
            self.places.remove(place);
            for name in place.watches() {
                if let Entry::Occupied(mut places) = self.watched.entry(name) {
                    places.get_mut().retain(|watching| watching != place);
                    if places.get().is_empty() {
                        places.remove();
                    }
                }
            }
        }
        self.deadlines.remove(&(until, id)).expect("every waiter has its deadline");
        if let Entry::Occupied(mut of_connection) = self.by_connection.entry(waiter.connection().id()) {
            of_connection.get_mut().remove(&id);
            if of_connection.get().is_empty() {
                of_connection.remove();
            }
        }
        Some(waiter)
    }

    #[cfg(test)]
    pub(crate) fn is_bare(&self) -> bool {
        let Self { places, watched, deadlines, by_connection, .. } = self;
        places.is_empty() && watched.is_empty() && deadlines.is_empty() && by_connection.is_empty()
    }
}
