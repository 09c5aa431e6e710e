//! A database in memory that does what PostgreSQL does with the SDK's statements: a key that another transaction is just
//! inserting is waited for (here, until the lock timeout), a failed statement aborts its transaction, and COMMIT of an
//! aborted one rolls back and calls that a success. It outlives the processes that use it; a dead one's transactions are
//! rolled back.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::wire::Played;
use crate::database::{
    Begin, Cells, CommitError, Database, DatabaseError, Dialect, Numbers, POSTGRES, PoolSize, Value, sealed,
};

/// What a service's transaction is about to do, or has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Begin,
    Marker,
    InboxRow,
    /// A statement of the user's.
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

type Key = (&'static str, Vec<u8>);
/// `(state, mode)` of a marker; of other rows, nothing that matters.
type Row = (i64, i64);

#[derive(Default)]
struct Tables {
    rows: BTreeMap<Key, Row>,
    /// Keys that open transactions hold: their number, and their process.
    held: BTreeMap<Key, (u64, u64)>,
    horizon_ms: i64,
    transactions: u64,
}

/// As one process sees it.
#[derive(Clone)]
pub struct SimulatedDatabase {
    tables: Arc<Mutex<Tables>>,
    process: u64,
    watcher: Option<Arc<dyn Watcher>>,
}

pub struct SimulatedTx {
    database: SimulatedDatabase,
    number: u64,
    /// The user's, not the SDK's own: its steps are told.
    work: bool,
    aborted: bool,
    written: BTreeMap<Key, Row>,
}

const MARKER: &str = "marker";
const INBOX: &str = "inbox";

impl Default for SimulatedDatabase {
    fn default() -> Self {
        Self::new()
    }
}

impl SimulatedDatabase {
    #[must_use]
    pub fn new() -> Self {
        Self { tables: Arc::default(), process: 0, watcher: None }
    }

    /// The same tables, used by a process.
    #[must_use]
    pub fn used_by(&self, process: u64, watcher: Arc<dyn Watcher>) -> Self {
        Self { tables: self.tables.clone(), process, watcher: Some(watcher) }
    }

    /// A process is dead: its open transactions are rolled back.
    pub fn roll_back_all_of(&self, process: u64) {
        self.tables.lock().held.retain(|_, (_, holder)| *holder != process);
    }

    /// The committed keys of a user's table.
    #[must_use]
    pub fn keys(&self, table: &str) -> Vec<String> {
        let tables = self.tables.lock();
        let of_table = tables.rows.keys().filter(|(name, _)| *name == table);
        of_table.map(|(_, key)| String::from_utf8_lossy(key).into_owned()).collect()
    }

    /// Whether the transaction's own marker is committed. False: a tombstone stands there. `None`: nothing.
    #[must_use]
    pub fn marker(&self, id: crate::TransactionId) -> Option<bool> {
        let row = self.tables.lock().rows.get(&(MARKER, id.as_bytes().to_vec())).copied();
        row.map(|(state, _)| state == crate::decision::Row::COMMITTED.state)
    }

    async fn told_before(&self, work: bool, step: Step) -> Result<(), DatabaseError> {
        match self.watcher.as_ref().filter(|_| work) {
            Some(watcher) => watcher.before(step).await.map_err(|Fails| failed()),
            None => Ok(()),
        }
    }

    async fn told_after(&self, work: bool, step: Step) -> Result<(), DatabaseError> {
        match self.watcher.as_ref().filter(|_| work) {
            Some(watcher) => watcher.after(step).await.map_err(|Fails| failed()),
            None => Ok(()),
        }
    }
}

fn failed() -> DatabaseError {
    DatabaseError::Sqlx(sqlx::Error::Io(io::Error::other("as the simulation wants")))
}

impl SimulatedTx {
    /// A statement of the user's: a row under a key of its own.
    pub async fn insert(&mut self, table: &'static str, key: &str) -> Result<(), String> {
        self.told_before(Step::Effect).await.map_err(|error| error.to_string())?;
        let inserted = self.put((table, key.as_bytes().to_vec()), (0, 0)).map_err(|error| error.to_string())?;
        if !inserted {
            self.aborted = true;
            return Err(format!("{key} is there already"));
        }
        self.told_after(Step::Effect).await.map_err(|error| error.to_string())
    }

    /// A statement of the user's that the database refuses.
    pub fn refused(&mut self) -> Result<(), String> {
        self.aborted = true;
        Err("refused".into())
    }

    async fn told_before(&mut self, step: Step) -> Result<(), DatabaseError> {
        let told = self.database.told_before(self.work, step).await;
        self.aborted |= told.is_err();
        told
    }

    async fn told_after(&mut self, step: Step) -> Result<(), DatabaseError> {
        let told = self.database.told_after(self.work, step).await;
        self.aborted |= told.is_err();
        told
    }

    /// False: the key is taken.
    fn put(&mut self, key: Key, row: Row) -> Result<bool, DatabaseError> {
        if self.aborted {
            return Err(failed());
        }
        let mut tables = self.database.tables.lock();
        match tables.held.get(&key) {
            Some((holder, _)) if *holder != self.number => {
                // The other one does not end while this one waits for it.
                self.aborted = true;
                return Err(failed());
            }
            _ if tables.rows.contains_key(&key) || self.written.contains_key(&key) => return Ok(false),
            _ => {}
        }
        tables.held.insert(key.clone(), (self.number, self.database.process));
        self.written.insert(key, row);
        Ok(true)
    }

    fn get(&self, key: &Key) -> Option<Row> {
        self.written.get(key).copied().or_else(|| self.database.tables.lock().rows.get(key).copied())
    }

    fn end(&mut self, commits: bool) {
        let mut tables = self.database.tables.lock();
        let dead = self.written.keys().any(|key| tables.held.get(key).is_none_or(|(tx, _)| *tx != self.number));
        for (key, row) in std::mem::take(&mut self.written) {
            if commits && !self.aborted && !dead {
                tables.rows.insert(key.clone(), row);
            }
            if tables.held.get(&key).is_some_and(|(tx, _)| *tx == self.number) {
                tables.held.remove(&key);
            }
        }
    }
}

impl Drop for SimulatedTx {
    fn drop(&mut self) {
        self.end(false);
    }
}

impl sealed::Sealed for SimulatedDatabase {}

impl Database for SimulatedDatabase {
    type Tx = SimulatedTx;
    type Handle<'t> = &'t mut SimulatedTx;

    fn with_own_pool(&self, _: PoolSize) -> Self {
        self.clone()
    }

    fn dialect(&self) -> Result<&'static Dialect, DatabaseError> {
        Ok(&POSTGRES)
    }

    fn dialect_of(_: &SimulatedTx) -> &'static Dialect {
        &POSTGRES
    }

    async fn set_up(&self) -> Result<(), DatabaseError> {
        Ok(())
    }

    async fn begin_as(&self, begin: Begin) -> Result<SimulatedTx, DatabaseError> {
        let work = begin == Begin::Work;
        self.told_before(work, Step::Begin).await?;
        let number = {
            let mut tables = self.tables.lock();
            tables.transactions += 1;
            tables.transactions
        };
        let tx = SimulatedTx { database: self.clone(), number, work, aborted: false, written: BTreeMap::new() };
        self.told_after(work, Step::Begin).await?;
        Ok(tx)
    }

    fn handle(tx: &mut SimulatedTx) -> &mut SimulatedTx {
        tx
    }

    async fn execute(tx: &mut SimulatedTx, sql: &'static str, values: &[Value<'_>]) -> Result<u64, DatabaseError> {
        let statement = Statement::of(sql);
        let step = match statement {
            Statement::InsertMarker => Step::Marker,
            Statement::InsertInbox => Step::InboxRow,
            Statement::LockTimeout => return Ok(1),
            other => panic!("{other:?} changes nothing"),
        };
        tx.told_before(step).await?;
        let inserted = match (statement, values) {
            (Statement::InsertMarker, [Value::Bytes(id), _, _, Value::Number(state), Value::Number(mode), _]) => {
                tx.put((MARKER, id.to_vec()), (*state, *mode))
            }
            (_, [key @ .., _]) => tx.put((INBOX, joined(key)), (0, 0)),
            _ => panic!("other values: {values:?}"),
        }?;
        tx.told_after(step).await?;
        Ok(u64::from(inserted))
    }

    async fn rows<const B: usize, const N: usize>(
        _: &mut SimulatedTx,
        sql: &'static str,
        _: &[Value<'_>],
    ) -> Result<Vec<Cells<B, N>>, DatabaseError> {
        panic!("the simulation has no outbox: {sql}")
    }

    async fn row<const N: usize>(
        tx: &mut SimulatedTx,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Option<Numbers<N>>, DatabaseError> {
        if tx.aborted {
            return Err(failed());
        }
        let mut numbers = [None; N];
        let found = match (Statement::of(sql), values) {
            (Statement::Look, [Value::Bytes(id)]) => {
                let row = tx.get(&(MARKER, id.to_vec()));
                let horizon_ms = tx.database.tables.lock().horizon_ms;
                vec![Some(horizon_ms), row.map(|(state, _)| state), row.map(|(_, mode)| mode)]
            }
            (Statement::LookInbox, key) => match tx.get(&(INBOX, joined(key))) {
                Some(_) => vec![Some(1)],
                None => return Ok(None),
            },
            (Statement::Weakness, _) => vec![Some(0)],
            (Statement::Version, _) => vec![i64::try_from(POSTGRES.migrations.len()).ok()],
            (other, _) => panic!("{other:?} shows nothing"),
        };
        numbers.copy_from_slice(&found[..N]);
        Ok(Some(numbers))
    }

    async fn commit(mut tx: SimulatedTx) -> Result<(), CommitError> {
        let work = tx.work;
        tx.told_before(Step::Commit).await.map_err(CommitError::Unknown)?;
        tx.end(true);
        let database = tx.database.clone();
        drop(tx);
        database.told_after(work, Step::Commit).await.map_err(CommitError::Unknown)
    }

    async fn rollback(tx: SimulatedTx) -> Result<(), DatabaseError> {
        drop(tx);
        Ok(())
    }

    async fn close(&self) {}
}

fn joined(values: &[Value<'_>]) -> Vec<u8> {
    let parts: Vec<&[u8]> =
        values.iter().map(|value| if let Value::Bytes(bytes) = value { *bytes } else { &[][..] }).collect();
    parts.join(&0)
}

/// The SDK's statements that a simulation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Statement {
    InsertMarker,
    Look,
    InsertInbox,
    LookInbox,
    LockTimeout,
    Weakness,
    Version,
}

impl Statement {
    fn of(sql: &'static str) -> Self {
        match sql {
            sql if sql == POSTGRES.insert_marker => Self::InsertMarker,
            sql if sql == POSTGRES.look => Self::Look,
            sql if sql == POSTGRES.insert_inbox => Self::InsertInbox,
            sql if sql == POSTGRES.look_inbox => Self::LookInbox,
            sql if Some(sql) == POSTGRES.lock_timeout => Self::LockTimeout,
            sql if sql == POSTGRES.weakness => Self::Weakness,
            "SELECT version FROM checkback_schema" => Self::Version,
            other => panic!("no simulation runs this statement yet: {other}"),
        }
    }
}
