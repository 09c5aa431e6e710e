//! The user's transactions: on connections that stay at hand between two of them, and in turns where a database has one
//! writer.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};

use super::{CommitError, Database, DatabaseError};

/// A connection that was used so lately needs no ping.
const FRESH: Duration = Duration::from_secs(1);
/// How long a transaction waits for its turn. Then it begins all the same and the database decides, as it does for
/// writers in other processes: one that waits for itself (begun within another's work) gets the database's error.
const TURN: Duration = Duration::from_secs(5);

/// Where the user's transactions begin. Cheap to clone.
pub(crate) struct Workplace<D: Database>(Arc<Shared<D>>);

struct Shared<D: Database> {
    database: D,
    kept: Mutex<Kept<D::Idle>>,
    /// One at a time: waiting here is a queue, waiting for SQLite's lock is polling.
    turns: Option<Arc<Semaphore>>,
}

/// Connections between two transactions, the last one used at the end.
struct Kept<I> {
    idle: Vec<(I, Instant)>,
    /// Transactions that wait for a connection of the pool: nothing is kept from them.
    waiting: usize,
    /// Somebody looks after those that nobody uses.
    swept: bool,
}

impl<D: Database> Workplace<D> {
    pub(crate) fn new(database: D) -> Result<Self, DatabaseError> {
        let turns = database.dialect()?.one_writer.then(|| Arc::new(Semaphore::new(1)));
        let kept = Mutex::new(Kept { idle: Vec::new(), waiting: 0, swept: false });
        Ok(Self(Arc::new(Shared { database, kept, turns })))
    }

    pub(crate) fn database(&self) -> &D {
        &self.0.database
    }

    pub(crate) async fn begin(&self) -> Result<Work<D>, DatabaseError> {
        let turn = match &self.0.turns {
            Some(turns) => wait_for_turn(turns).await,
            None => None,
        };
        let tx = self.begin_tx().await?;
        Ok(Work { tx, turn, place: self.clone() })
    }

    async fn begin_tx(&self) -> Result<D::Tx, DatabaseError> {
        let kept = self.0.kept.lock().take();
        // One that broke meanwhile has begun nothing.
        if let Some(idle) = kept
            && let Ok(tx) = D::begin_on(idle).await
        {
            return Ok(tx);
        }
        let _waits = Waits::new(&self.0);
        self.0.database.begin().await
    }

    fn keep(&self, idle: D::Idle) {
        let mut kept = self.0.kept.lock();
        if kept.waiting > 0 {
            drop(kept);
            return drop(idle);
        }
        kept.idle.push((idle, Instant::now()));
        if !std::mem::replace(&mut kept.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(&self.0)));
        }
    }
}

/// `None`: its time is over.
async fn wait_for_turn(turns: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    match turns.clone().try_acquire_owned() {
        Ok(turn) => Some(turn),
        Err(_) => timeout(patience(), turns.clone().acquire_owned()).await.ok()?.ok(),
    }
}

fn patience() -> Duration {
    // Whoever has the turn does not go on while a simulation moves another one.
    #[cfg(feature = "simulation")]
    if crate::simulation::time().is_some() {
        return Duration::ZERO;
    }
    TURN
}

impl<I> Kept<I> {
    fn take(&mut self) -> Option<I> {
        self.idle.pop().filter(|(_, used)| used.elapsed() < FRESH).map(|(idle, _)| idle)
    }
}

struct Waits<'s, D: Database>(&'s Shared<D>);

impl<'s, D: Database> Waits<'s, D> {
    /// What is kept goes back to the pool, to whoever is first there.
    fn new(shared: &'s Shared<D>) -> Self {
        let mut kept = shared.kept.lock();
        kept.waiting += 1;
        let idle = std::mem::take(&mut kept.idle);
        drop(kept);
        drop(idle);
        Self(shared)
    }
}

impl<D: Database> Drop for Waits<'_, D> {
    fn drop(&mut self) {
        self.0.kept.lock().waiting -= 1;
    }
}

/// Gives back to the pool what nobody has used for a while, until nothing is left.
async fn sweep<D: Database>(shared: Weak<Shared<D>>) {
    loop {
        sleep(FRESH).await;
        let Some(shared) = shared.upgrade() else { return };
        let mut kept = shared.kept.lock();
        let used_lately = kept.idle.partition_point(|(_, used)| used.elapsed() >= FRESH);
        let old: Vec<_> = kept.idle.drain(..used_lately).collect();
        kept.swept = !kept.idle.is_empty();
        let goes_on = kept.swept;
        drop(kept);
        drop(old);
        if !goes_on {
            return;
        }
    }
}

/// An open transaction. Dropped, it is rolled back.
pub(crate) struct Work<D: Database> {
    // The order of the fields counts: the next one has its turn after the rollback.
    pub(crate) tx: D::Tx,
    turn: Option<OwnedSemaphorePermit>,
    place: Workplace<D>,
}

impl<D: Database> Work<D> {
    pub(crate) async fn commit(self) -> Result<(), CommitError> {
        let Self { tx, turn, place } = self;
        let idle = D::commit_and_keep(tx).await?;
        if let Some(idle) = idle {
            place.keep(idle);
        }
        drop(turn);
        Ok(())
    }

    pub(crate) async fn rollback(self) -> Result<(), DatabaseError> {
        D::rollback(self.tx).await
    }
}

impl<D: Database> Clone for Workplace<D> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<D: Database> fmt::Debug for Workplace<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workplace").field("takes_turns", &self.0.turns.is_some()).finish_non_exhaustive()
    }
}
