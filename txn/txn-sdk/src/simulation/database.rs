//! A real database, watched: the implementation that ships, with its own statements, locks and commits, and somebody who
//! is told of each step of the user's transactions, and may fail it or lose its answer. What is asked of the database is
//! waited for on the spot, so that whoever moves the simulation finds it done or not begun, never half-way.
//!
//! Processes die, the database lives on: what a dead one had open is rolled back.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_executor::block_on;
use parking_lot::Mutex;
use tokio::task::unconstrained;

use super::wire::Played;
use crate::database::{Begin, Cells, CommitError, Database, DatabaseError, Dialect, Numbers, PoolSize, Value, sealed};

/// What a service's transaction is about to do, or has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Begin,
    Marker,
    InboxRow,
    /// What the user does.
    Effect,
    Commit,
}

/// The step fails; after it was done, its answer is lost.
#[derive(Clone, Copy, Debug)]
pub struct Fails;

/// Is told of each step. A process that dies there never gets its answer.
pub trait Watcher: Send + Sync + 'static {
    fn before(&self, step: Step) -> Played<Result<(), Fails>>;
    fn after(&self, step: Step) -> Played<Result<(), Fails>>;
}

/// A transaction of the database's, until it ends or its process dies.
type Slot<D> = Mutex<Option<<D as Database>::Tx>>;

/// A database as one process uses it.
pub struct Watched<D: Database> {
    database: D,
    watcher: Arc<dyn Watcher>,
    open: Arc<Mutex<Vec<Weak<Slot<D>>>>>,
}

pub struct WatchedTx<D: Database> {
    slot: Arc<Slot<D>>,
    dialect: &'static Dialect,
    /// Of the user's transactions, not of the SDK's own.
    watcher: Option<Arc<dyn Watcher>>,
}

impl<D: Database> Clone for Watched<D> {
    fn clone(&self) -> Self {
        Self { database: self.database.clone(), watcher: self.watcher.clone(), open: self.open.clone() }
    }
}

impl<D: Database> Watched<D> {
    pub fn new(database: D, watcher: Arc<dyn Watcher>) -> Self {
        Self { database, watcher, open: Arc::default() }
    }

    fn is_open(&self, slot: &Arc<Slot<D>>) {
        let mut open = self.open.lock();
        open.retain(|slot| slot.strong_count() > 0);
        open.push(Arc::downgrade(slot));
    }

    /// Its process is dead: the database rolls back what it had open.
    pub fn dies(&self) {
        for slot in self.open.lock().drain(..) {
            roll_back::<D>(slot.upgrade().and_then(|slot| slot.lock().take()));
        }
    }
}

/// Waits here until it is done.
pub fn at_once<T>(work: impl Future<Output = T>) -> T {
    block_on(unconstrained(work))
}

fn roll_back<D: Database>(tx: Option<D::Tx>) {
    if let Some(tx) = tx {
        // A transaction that the database has ended already says so.
        let _ = at_once(D::rollback(tx));
    }
}

fn failed() -> DatabaseError {
    DatabaseError::Sqlx(sqlx::Error::Io(io::Error::other("as the simulation wants")))
}

impl<D: Database> WatchedTx<D> {
    /// What the user does.
    pub async fn effect<E>(
        &mut self,
        work: impl for<'t> AsyncFnOnce(D::Handle<'t>) -> Result<(), E>,
    ) -> Result<(), String>
    where
        E: ToString,
    {
        self.before(Step::Effect).await.map_err(|error| error.to_string())?;
        match self.slot.lock().as_mut() {
            Some(tx) => at_once(work(D::handle(tx))).map_err(|error| error.to_string())?,
            None => return Err(failed().to_string()),
        }
        self.after(Step::Effect).await.map_err(|error| error.to_string())
    }

    async fn before(&self, step: Step) -> Result<(), DatabaseError> {
        match &self.watcher {
            Some(watcher) => watcher.before(step).await.map_err(|Fails| failed()),
            None => Ok(()),
        }
    }

    async fn after(&self, step: Step) -> Result<(), DatabaseError> {
        match &self.watcher {
            Some(watcher) => watcher.after(step).await.map_err(|Fails| failed()),
            None => Ok(()),
        }
    }

    fn step(&self, sql: &'static str) -> Option<Step> {
        match sql {
            sql if sql == self.dialect.insert_inbox => Some(Step::InboxRow),
            _ => None,
        }
    }
}

/// `$work` with the transaction in `$slot`.
macro_rules! within {
    ($slot:expr, |$tx:ident| $work:expr) => {
        match $slot.lock().as_mut() {
            Some($tx) => at_once($work),
            None => Err(failed()),
        }
    };
}

impl<D: Database> Drop for WatchedTx<D> {
    fn drop(&mut self) {
        roll_back::<D>(self.slot.lock().take());
    }
}

impl<D: Database> sealed::Sealed for Watched<D> {}

impl<D: Database> Database for Watched<D> {
    type Tx = WatchedTx<D>;
    type Idle = Infallible;
    type Handle<'t> = &'t mut WatchedTx<D>;
    /// Whoever has the turn does not go on while the simulation moves another one.
    const TURN: Duration = Duration::ZERO;

    fn with_own_pool(&self, size: PoolSize) -> Self {
        Self { database: self.database.with_own_pool(size), ..self.clone() }
    }

    fn dialect(&self) -> Result<&'static Dialect, DatabaseError> {
        self.database.dialect()
    }

    fn dialect_of(tx: &WatchedTx<D>) -> &'static Dialect {
        tx.dialect
    }

    async fn set_up(&self) -> Result<(), DatabaseError> {
        self.database.set_up().await
    }

    async fn begin_as(&self, begin: Begin) -> Result<WatchedTx<D>, DatabaseError> {
        let mut tx = WatchedTx { slot: Arc::default(), dialect: self.database.dialect()?, watcher: None };
        tx.watcher = (begin == Begin::Work).then(|| self.watcher.clone());
        tx.before(Step::Begin).await?;
        *tx.slot.lock() = Some(self.database.begin_as(begin).await?);
        self.is_open(&tx.slot);
        tx.after(Step::Begin).await?;
        Ok(tx)
    }

    async fn begin_saying(idle: Infallible, _words: &str) -> Result<WatchedTx<D>, DatabaseError> {
        match idle {}
    }

    fn handle(tx: &mut WatchedTx<D>) -> &mut WatchedTx<D> {
        tx
    }

    async fn execute(tx: &mut WatchedTx<D>, sql: &'static str, values: &[Value<'_>]) -> Result<u64, DatabaseError> {
        let step = tx.step(sql);
        if let Some(step) = step {
            tx.before(step).await?;
        }
        let rows = within!(tx.slot, |tx| D::execute(tx, sql, values))?;
        if let Some(step) = step {
            tx.after(step).await?;
        }
        Ok(rows)
    }

    async fn row<const N: usize>(
        tx: &mut WatchedTx<D>,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Option<Numbers<N>>, DatabaseError> {
        within!(tx.slot, |tx| D::row(tx, sql, values))
    }

    async fn rows<const B: usize, const N: usize>(
        tx: &mut WatchedTx<D>,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<Cells<B, N>>, DatabaseError> {
        within!(tx.slot, |tx| D::rows(tx, sql, values))
    }

    async fn say(tx: &mut WatchedTx<D>, words: &str) -> Result<(), DatabaseError> {
        let marks = words.contains("checkback_marker");
        if marks {
            tx.before(Step::Marker).await?;
        }
        within!(tx.slot, |tx| D::say(tx, words))?;
        if marks {
            tx.after(Step::Marker).await?;
        }
        Ok(())
    }

    async fn commit(tx: WatchedTx<D>) -> Result<(), CommitError> {
        tx.before(Step::Commit).await.map_err(CommitError::Unknown)?;
        let inner = tx.slot.lock().take();
        let committed = match inner {
            Some(tx) => at_once(D::commit(tx)),
            None => Err(CommitError::Unknown(failed())),
        };
        tx.after(Step::Commit).await.map_err(CommitError::Unknown)?;
        committed
    }

    async fn rollback(tx: WatchedTx<D>) -> Result<(), DatabaseError> {
        let inner = tx.slot.lock().take();
        inner.map_or(Ok(()), |tx| at_once(D::rollback(tx)))
    }

    async fn close(&self) {
        self.database.close().await;
    }
}
