//! The tables of the SDK in the user's database, and their migrations. Knows no row's meaning.
//!
//! ```text
//! checkback_marker   tx_id -> what became of a transaction   (written inside the user's transaction, or as a tombstone)
//! checkback_horizon  one row: below this time of birth, marker rows may have been cleaned
//! checkback_inbox    messages whose effect is in this database (written inside the consumer's transaction)
//! checkback_schema   one row: how many of MIGRATIONS have run
//! ```

use std::time::Duration;

use backon::{ConstantBuilder, Retryable};
use sqlx::{ConnectOptions, Connection, SqliteConnection, SqlitePool};

use crate::database::{Database, DatabaseError};

/// How long the start may wait for writers of the same file (another instance that migrates, a running service).
const MIGRATION_LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Only ever appended to. Keys are binary: no collation, no trailing-blank rule makes two of them one.
const MIGRATIONS: &[&str] = &[
    "CREATE TABLE checkback_marker (
        tx_id          BLOB    NOT NULL PRIMARY KEY,
        producer_group TEXT    NOT NULL,
        topic          TEXT    NOT NULL,
        state          INTEGER NOT NULL,
        mode           INTEGER NOT NULL,
        created_ms     INTEGER NOT NULL
    ) WITHOUT ROWID",
    "CREATE TABLE checkback_horizon (
        one        INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
        horizon_ms INTEGER NOT NULL
    )",
    "INSERT INTO checkback_horizon (one, horizon_ms) VALUES (1, 0)",
    "CREATE TABLE checkback_inbox (
        consumer_group BLOB    NOT NULL,
        topic          BLOB    NOT NULL,
        tag            BLOB    NOT NULL,
        message_key    BLOB    NOT NULL,
        created_ms     INTEGER NOT NULL,
        PRIMARY KEY (consumer_group, topic, tag, message_key)
    )",
    "CREATE INDEX checkback_inbox_age ON checkback_inbox (created_ms)",
];

/// Brings the tables up to date and makes sure that what this database calls committed survives a power cut.
pub(crate) async fn prepare<D: Database>(database: &D) -> Result<(), DatabaseError> {
    let pool = database.sqlite_pool()?;
    migrate(pool).await?;
    let mut tx = database.begin().await?;
    let synchronous = synchronous::<D>(&mut tx).await?;
    D::rollback(tx).await?;
    if synchronous < 2 { Err(DatabaseError::NotDurable(synchronous)) } else { Ok(()) }
}

/// 2 is FULL, 3 is EXTRA; below, a power cut can take back what was committed.
pub(crate) async fn synchronous<D: Database>(tx: &mut D::Tx) -> Result<i64, DatabaseError> {
    Ok(D::number(tx, "SELECT synchronous FROM pragma_synchronous", &[]).await?.unwrap_or_default())
}

async fn migrate(pool: &SqlitePool) -> Result<(), DatabaseError> {
    let options = (*pool.connect_options()).clone().busy_timeout(MIGRATION_LOCK_TIMEOUT);
    // SQLite does not always wait for the lock that this one pragma needs.
    let patience = ConstantBuilder::default().with_delay(Duration::from_millis(50)).with_max_times(100);
    let mode = (|| switch_to_wal(&options)).retry(patience).await?;
    if mode != "wal" {
        return Err(DatabaseError::NotWal(mode));
    }
    let mut connection = options.connect().await?;
    run_migrations(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

async fn switch_to_wal(options: &sqlx::sqlite::SqliteConnectOptions) -> Result<String, sqlx::Error> {
    let mut connection = options.connect().await?;
    let mode = sqlx::query_scalar("PRAGMA journal_mode = WAL").fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(mode)
}

async fn run_migrations(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query(
        "CREATE TABLE IF NOT EXISTS checkback_schema (one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER)",
    )
    .execute(&mut *tx)
    .await?;
    let version: Option<i64> =
        sqlx::query_scalar("SELECT version FROM checkback_schema").fetch_optional(&mut *tx).await?;
    let done = usize::try_from(version.unwrap_or(0)).unwrap_or(0);
    for migration in MIGRATIONS.iter().skip(done) {
        sqlx::query(*migration).execute(&mut *tx).await?;
    }
    sqlx::query(
        "INSERT INTO checkback_schema VALUES (1, ?1) ON CONFLICT (one) DO UPDATE SET version = max(version, ?1)",
    )
    .bind(i64::try_from(MIGRATIONS.len()).expect("a handful"))
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}
