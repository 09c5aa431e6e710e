//! The databases of a run: SQLite as services use it, in files that begin as copies of one with all tables, and what is
//! committed there, as a stranger reads it.

use std::cell::{Ref, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use mq_protocol::ids::UnixMillis;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{ConnectOptions, SqliteConnection, SqlitePool};
use tempfile::TempDir;
use txn_sdk::simulation::{Watched, WatchedTx, at_once};
use txn_sdk::{Inbox, TransactionId};

use super::process::{Process, Steps};

pub(crate) type Database = Watched<SqlitePool>;
pub(crate) type Tx = WatchedTx<SqlitePool>;

/// Nobody waits for a lock: who holds it does not go on meanwhile.
const LOCK_TIMEOUT: Duration = Duration::ZERO;
/// Only a bug waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A database's file.
pub(crate) struct File {
    options: SqliteConnectOptions,
    reader: RefCell<(SqliteConnection, Committed)>,
}

#[derive(Default)]
pub(crate) struct Committed {
    version: Option<i64>,
    /// The keys of the user's rows.
    pub(crate) rows: BTreeSet<String>,
    /// Markers of older transactions may have been cleaned.
    pub(crate) horizon: UnixMillis,
    /// Whether it is the transaction's own marker; false: a tombstone.
    pub(crate) markers: BTreeMap<TransactionId, bool>,
    /// Messages in the outbox: their transaction, topic and properties.
    pub(crate) waiting: BTreeMap<TransactionId, (String, String)>,
}

/// Where files cost no disk, if there is such a place.
pub(crate) fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a directory for databases")
}

fn options(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .busy_timeout(LOCK_TIMEOUT)
        .disable_statement_logging()
}

fn pool(options: SqliteConnectOptions) -> SqlitePool {
    let pool = SqlitePoolOptions::new().max_connections(8).idle_timeout(None).max_lifetime(None);
    pool.connect_lazy_with(options)
}

/// All tables, as the SDK makes them, and the user's.
fn with_tables() -> &'static [u8] {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(|| {
        let directory = directory();
        let file = directory.path().join("template");
        let made = async {
            let pool = pool(options(&file).busy_timeout(PATIENCE));
            Inbox::new(pool.clone()).prepare().await?;
            sqlx::query("CREATE TABLE effects (key TEXT NOT NULL PRIMARY KEY)").execute(&pool).await?;
            // The SDK's own connections may still be closing, so the end of this pool need not be that of the log.
            let busy: i64 = sqlx::query_scalar("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&pool).await?;
            anyhow::ensure!(busy == 0, "somebody still uses the log of the tables");
            pool.close().await;
            Ok(())
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(made).expect("the tables are made");
        drop(runtime);
        std::fs::read(&file).expect("the file of the tables")
    })
}

impl File {
    pub(crate) fn new(file: &Path) -> Self {
        std::fs::write(file, with_tables()).expect("a copy of the tables");
        let options = options(file);
        let reader = at_once(options.connect()).expect("a reader");
        let file = Self { options, reader: RefCell::new((reader, Committed::default())) };
        // The first one that reads makes the log's index, alone.
        drop(file.committed());
        file
    }

    /// As a process uses it.
    pub(crate) fn used_by(&self, process: &Process) -> Database {
        Watched::new(pool(self.options.clone()), Steps::of(process))
    }

    pub(crate) fn committed(&self) -> Ref<'_, Committed> {
        {
            let (reader, seen) = &mut *self.reader.borrow_mut();
            at_once(seen.look(reader)).expect("the database can be read");
        }
        Ref::map(self.reader.borrow(), |(_, seen)| seen)
    }
}

impl Committed {
    /// Whether nobody can know any more how it ended.
    pub(crate) fn has_forgotten(&self, transaction: TransactionId) -> bool {
        transaction.born() < self.horizon && !self.markers.contains_key(&transaction)
    }

    /// Under this key, or one that begins with it.
    pub(crate) fn has_row(&self, key: &str) -> bool {
        self.rows.contains(key)
            || self.rows.range(format!("{key}/")..).next().is_some_and(|row| row.split('/').next() == Some(key))
    }

    /// Reads again what somebody has changed.
    async fn look(&mut self, reader: &mut SqliteConnection) -> sqlx::Result<()> {
        let version = sqlx::query_scalar("PRAGMA data_version").fetch_one(&mut *reader).await?;
        let version = Some(version);
        if version == self.version {
            return Ok(());
        }
        let rows: Vec<String> = sqlx::query_scalar("SELECT key FROM effects").fetch_all(&mut *reader).await?;
        let markers: Vec<(Vec<u8>, bool)> =
            sqlx::query_as("SELECT tx_id, state = 1 FROM checkback_marker").fetch_all(&mut *reader).await?;
        let cleaned: Option<i64> =
            sqlx::query_scalar("SELECT max(horizon_ms) FROM checkback_cleaned").fetch_one(&mut *reader).await?;
        let horizon = UnixMillis(cleaned.unwrap_or_default());
        let waiting: Vec<(Vec<u8>, String, Vec<u8>)> =
            sqlx::query_as("SELECT tx_id, CAST(topic AS TEXT), properties FROM checkback_outbox")
                .fetch_all(&mut *reader)
                .await?;
        let message = |(id, topic, properties): (Vec<u8>, String, Vec<u8>)| {
            let properties = String::from_utf8_lossy(&properties).into_owned();
            Some((TransactionId::try_from(&*id).ok()?, (topic, properties)))
        };
        let id = |(id, own): (Vec<u8>, bool)| Some((TransactionId::try_from(&*id).ok()?, own));
        *self = Self {
            version,
            horizon,
            rows: rows.into_iter().collect(),
            markers: markers.into_iter().filter_map(id).collect(),
            waiting: waiting.into_iter().filter_map(message).collect(),
        };
        Ok(())
    }
}

/// A row of the user's, under a key of its own.
pub(crate) async fn insert(tx: &mut Tx, key: &str) -> Result<(), String> {
    let insert = async |connection: &mut SqliteConnection| {
        sqlx::query("INSERT INTO effects VALUES (?)").bind(key.to_owned()).execute(connection).await.map(drop)
    };
    tx.effect(insert).await
}

/// A statement fails so that the database rolls the transaction back; whoever does this does not mind, and begins anew.
pub(crate) async fn begin_anew(tx: &mut Tx, key: &str) -> Result<(), String> {
    let begin_anew = async |connection: &mut SqliteConnection| {
        for (sql, fails) in [("INSERT OR ROLLBACK INTO effects VALUES (NULL)", true), ("BEGIN IMMEDIATE", false)] {
            assert_eq!(sqlx::query(sql).execute(&mut *connection).await.is_err(), fails, "{sql}");
        }
        Ok::<_, String>(())
    };
    tx.effect(begin_anew).await?;
    insert(tx, key).await
}
