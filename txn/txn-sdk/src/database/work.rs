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

use super::{Begin, CommitError, Database, DatabaseError, Dialect, Durably, Mark, said};
use crate::{
    failpoints::{is_armed, reach},
    planted::{Bug, planted},
};

/// A connection that was used so lately needs no ping.
const FRESH: Duration = Duration::from_secs(1);
/// Where the user's transactions begin. Cheap to clone.
pub(crate) struct Workplace<D: Database>(Arc<Shared<D>>);

struct Shared<D: Database> {
    database: D,
    dialect: &'static Dialect,
    /// How on a connection that was kept.
    durably: Durably,
    kept: Mutex<Kept<D::Idle>>,
    /// As many as the pool has connections: who has one finds a connection at hand or in the pool, and nobody waits there.
    places: Option<(Arc<Semaphore>, Duration)>,
    /// One at a time: waiting here is a queue, waiting for SQLite's lock is polling.
    turns: Option<Arc<Semaphore>>,
}

/// Connections between two transactions, the last one used at the end.
struct Kept<I> {
    idle: Vec<(I, Instant)>,
    /// Somebody looks after those that nobody uses.
    swept: bool,
}

impl<D: Database> Workplace<D> {
    pub(crate) async fn new(database: D) -> Result<Self, DatabaseError> {
        let dialect = database.dialect()?;
        let durably = durably(&database, dialect).await?;
        let turns = dialect.one_writer.then(|| Arc::new(Semaphore::new(1)));
        let kept = Mutex::new(Kept { idle: Vec::new(), swept: false });
        let places = database.places().map(|(count, patience)| (Arc::new(Semaphore::new(count)), patience));
        Ok(Self(Arc::new(Shared { database, dialect, durably, kept, places, turns })))
    }

    pub(crate) fn database(&self) -> &D {
        &self.0.database
    }

    /// With its markers in it.
    pub(crate) async fn begin(&self, marks: &[Mark<'_>]) -> Result<Work<D>, CommitError> {
        let turn = match &self.0.turns {
            Some(turns) => wait_for_turn(turns, D::TURN).await,
            None => None,
        };
        let place = match &self.0.places {
            Some((places, patience)) => Some(wait_for_place(places, *patience).await.map_err(CommitError::Refused)?),
            None => None,
        };
        let tx = self.begin_tx(marks).await?;
        Ok(Work { tx, place, turn, workplace: self.clone() })
    }

    async fn begin_tx(&self, marks: &[Mark<'_>]) -> Result<D::Tx, CommitError> {
        let dialect = self.0.dialect;
        let kept = self.0.kept.lock().take();
        if let Some(idle) = kept.filter(|_| !is_armed("txn-begun")) {
            let begun = D::begin_saying(idle, &(dialect.marks)(marks, self.0.durably)).await;
            match begun.map_err(|error| CommitError::of(dialect, error)) {
                // It broke meanwhile, and has begun nothing.
                Err(CommitError::Unknown(error)) if error.is_of_the_connection(dialect) => {}
                begun => return begun,
            }
        }
        let mut tx = self.0.database.begin().await.map_err(CommitError::Refused)?;
        reach("txn-begun");
        match said::<D>(&mut tx, &(dialect.marks)(marks, Durably::Looks)).await {
            Err(CommitError::Fenced(_)) if planted(Bug::TombstoneIgnored) => Ok(tx),
            marked => marked.map(|()| tx),
        }
    }

    fn keep(&self, idle: D::Idle) {
        let mut kept = self.0.kept.lock();
        kept.idle.push((idle, Instant::now()));
        if !std::mem::replace(&mut kept.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(&self.0)));
        }
    }
}

/// Asks in a session of the user's.
async fn durably<D: Database>(database: &D, dialect: &Dialect) -> Result<Durably, DatabaseError> {
    let Some(setting) = &dialect.setting else { return Ok(Durably::Looks) };
    let mut tx = database.begin_as(Begin::Look).await?;
    let which = D::row::<1>(&mut tx, setting.which, &[]).await?.and_then(|[which]| which).unwrap_or_default();
    D::rollback(tx).await?;
    Ok(Durably::Sets(setting.sets[usize::from(which == 1)]))
}

async fn wait_for_place(places: &Arc<Semaphore>, patience: Duration) -> Result<OwnedSemaphorePermit, DatabaseError> {
    let waited = timeout(patience, places.clone().acquire_owned()).await;
    waited.ok().and_then(Result::ok).ok_or(DatabaseError::Sqlx(sqlx::Error::PoolTimedOut))
}

/// `None`: its time is over.
async fn wait_for_turn(turns: &Arc<Semaphore>, patience: Duration) -> Option<OwnedSemaphorePermit> {
    match turns.clone().try_acquire_owned() {
        Ok(turn) => Some(turn),
        Err(_) => timeout(patience, turns.clone().acquire_owned()).await.ok()?.ok(),
    }
}

impl<I> Kept<I> {
    fn take(&mut self) -> Option<I> {
        self.idle.pop().filter(|(_, used)| used.elapsed() < FRESH).map(|(idle, _)| idle)
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
    // The order of the fields counts: the next one has its place and its turn after the rollback.
    pub(crate) tx: D::Tx,
    place: Option<OwnedSemaphorePermit>,
    turn: Option<OwnedSemaphorePermit>,
    workplace: Workplace<D>,
}

impl<D: Database> Work<D> {
    pub(crate) async fn commit(self) -> Result<(), CommitError> {
        let Self { tx, place, turn, workplace } = self;
        if let Some(idle) = D::commit_and_keep(tx).await? {
            workplace.keep(idle);
        }
        drop((place, turn));
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
