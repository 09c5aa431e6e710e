//! SQLite, in a file. One writer at a time, which holds the lock from its `BEGIN IMMEDIATE`; a commit is in the
//! write-ahead log before others see it.

use std::time::Duration;

use backon::{ConstantBuilder, Retryable};
use sqlx::{
    ConnectOptions, Connection, SqlitePool,
    error::DatabaseError as Said,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteSynchronous},
};

use super::{
    Begin, Closing, DatabaseError, Dialect, Mark, PoolSize,
    dialect::{Durably, MarkWords},
    own_pool,
};

macro_rules! sign {
    () => {
        "SAVEPOINT checkback"
    };
}

pub(super) static SQLITE: Dialect = Dialect {
    one_writer: true,
    begin: |begin| match begin {
        Begin::Work => concat!("BEGIN IMMEDIATE; ", sign!()),
        Begin::Write => "BEGIN IMMEDIATE",
        Begin::Look => "BEGIN",
    },
    lock_timeout: None,
    insert_marker: "
        INSERT INTO checkback_marker (tx_id, producer_group, topic, state, mode, created_ms)
        SELECT ?1, ?2, ?3, ?4, ?5, ?6
        WHERE (SELECT synchronous FROM pragma_synchronous) >= 2
        ON CONFLICT (tx_id) DO NOTHING",
    sign: sign!(),
    marks,
    setting: None,
    still: "RELEASE checkback",
    look: "
        SELECT c.horizon_ms, m.state, m.mode
        FROM checkback_cleaned c LEFT JOIN checkback_marker m ON m.tx_id = ?2
        WHERE c.producer_group = ?1",
    insert_inbox: "
        INSERT INTO checkback_inbox (consumer_group, topic, tag, message_key, created_ms)
        SELECT ?1, ?2, ?3, ?4, ?5
        WHERE (SELECT synchronous FROM pragma_synchronous) >= 2
        ON CONFLICT (consumer_group, topic, tag, message_key) DO NOTHING",
    look_inbox: "
        SELECT created_ms FROM checkback_inbox
        WHERE consumer_group = ?1 AND topic = ?2 AND tag = ?3 AND message_key = ?4",
    barrier: None,
    name_database: "INSERT INTO checkback_database (one, id) VALUES (1, ?1) ON CONFLICT (one) DO NOTHING",
    database_id: "SELECT id FROM checkback_database",
    join_cleaned: "
        INSERT INTO checkback_cleaned (producer_group, horizon_ms) VALUES (?1, 0)
        ON CONFLICT (producer_group) DO NOTHING",
    raise_horizon: "
        INSERT INTO checkback_cleaned (producer_group, horizon_ms) VALUES (?1, ?2)
        ON CONFLICT (producer_group) DO UPDATE SET horizon_ms = max(horizon_ms, ?2)",
    newest_marker: "SELECT created_ms FROM checkback_marker ORDER BY tx_id DESC LIMIT 1",
    newest_inbox: "
        SELECT created_ms FROM checkback_inbox WHERE consumer_group = ?1 ORDER BY created_ms DESC LIMIT 1",
    clean_markers: "
        DELETE FROM checkback_marker
        WHERE tx_id IN (
            SELECT tx_id FROM checkback_marker
            WHERE CAST(producer_group AS BLOB) = ?1 AND state = ?2 AND tx_id >= ?3 AND tx_id < ?4
            ORDER BY tx_id LIMIT ?5)",
    nth_newest: "
        SELECT tx_id FROM checkback_marker
        WHERE CAST(producer_group AS BLOB) = ?1 AND state = ?2 AND tx_id < ?3
        ORDER BY tx_id DESC LIMIT 1 OFFSET ?4",
    clean_inbox: "
        DELETE FROM checkback_inbox
        WHERE rowid IN (
            SELECT rowid FROM checkback_inbox WHERE created_ms < ?1 AND consumer_group = ?2 ORDER BY created_ms LIMIT ?3)",
    insert_outbox: "
        INSERT INTO checkback_outbox (tx_id, producer_group, topic, properties, body, flag, due_ms, attempts)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0)",
    outbox_batch: "
        SELECT tx_id, properties, body, flag, attempts FROM checkback_outbox
        WHERE producer_group = ?1 AND topic = ?2 AND due_ms <= ?3 ORDER BY tx_id LIMIT ?4",
    postpone_outbox: "UPDATE checkback_outbox SET due_ms = ?1, attempts = attempts + 1 WHERE tx_id = ?2",
    delete_outbox: "DELETE FROM checkback_outbox WHERE tx_id = ?1",
    count_outbox: "SELECT topic, count(*) FROM checkback_outbox WHERE producer_group = ?1 GROUP BY topic",
    join_relay: "
        INSERT INTO checkback_lease (producer_group, topic, holder, until_ms) VALUES (?1, ?2, x'', 0)
        ON CONFLICT (producer_group, topic) DO NOTHING",
    lease_relay: "
        UPDATE checkback_lease SET holder = ?1, until_ms = ?2
        WHERE producer_group = ?3 AND topic = ?4 AND (until_ms < ?5 OR until_ms > ?6 OR holder = ?7)",
    weakness: "SELECT synchronous < 2 FROM pragma_synchronous",
    weaknesses: &["the connections of this pool set PRAGMA synchronous below FULL: use FULL"],
    lock_schema: None,
    create_schema: "CREATE TABLE IF NOT EXISTS checkback_schema (one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER)",
    migrations: &[
        "CREATE TABLE checkback_marker (
            tx_id          BLOB    NOT NULL PRIMARY KEY,
            producer_group TEXT    NOT NULL,
            topic          TEXT    NOT NULL,
            state          INTEGER NOT NULL,
            mode           INTEGER NOT NULL,
            created_ms     INTEGER NOT NULL
        ) WITHOUT ROWID",
        "CREATE TABLE checkback_cleaned (
            producer_group BLOB    NOT NULL PRIMARY KEY,
            horizon_ms     INTEGER NOT NULL
        ) WITHOUT ROWID",
        "CREATE TABLE checkback_inbox (
            consumer_group BLOB    NOT NULL,
            topic          BLOB    NOT NULL,
            tag            BLOB    NOT NULL,
            message_key    BLOB    NOT NULL,
            created_ms     INTEGER NOT NULL,
            PRIMARY KEY (consumer_group, topic, tag, message_key)
        )",
        "CREATE INDEX checkback_inbox_age ON checkback_inbox (created_ms)",
        "CREATE TABLE checkback_outbox (
            tx_id          BLOB    NOT NULL PRIMARY KEY,
            producer_group BLOB    NOT NULL,
            topic          BLOB    NOT NULL,
            properties     BLOB    NOT NULL,
            body           BLOB    NOT NULL,
            flag           INTEGER NOT NULL,
            due_ms         INTEGER NOT NULL,
            attempts       INTEGER NOT NULL
        )",
        "CREATE INDEX checkback_outbox_order ON checkback_outbox (producer_group, topic, tx_id)",
        "CREATE TABLE checkback_lease (
            producer_group BLOB    NOT NULL,
            topic          BLOB    NOT NULL,
            holder         BLOB    NOT NULL,
            until_ms       INTEGER NOT NULL,
            PRIMARY KEY (producer_group, topic)
        ) WITHOUT ROWID",
        "CREATE TABLE checkback_database (one INTEGER PRIMARY KEY CHECK (one = 1), id BLOB NOT NULL)",
    ],
    set_version: "
        INSERT INTO checkback_schema (one, version) VALUES (1, ?1)
        ON CONFLICT (one) DO UPDATE SET version = max(version, ?1)",
    closing,
    is_last_word: |_| false,
    // One writer at a time, from its begin.
    lost_a_race: |_| false,
};

fn marks(marks: &[Mark<'_>], _: Durably) -> String {
    let words = MarkWords {
        bytes: |hex| format!("x'{hex}'"),
        text: |hex| format!("CAST(x'{hex}' AS TEXT)"),
        state_if: None,
        mode_if: Some("(SELECT synchronous FROM pragma_synchronous) >= 2"),
    };
    words.insert(marks)
}

/// Refused is a broken constraint (deferred until the commit) only.
fn closing(error: &dyn Said) -> Closing {
    const ERROR: u32 = 1;
    const CONSTRAINT: u32 = 19;
    let code = error.code().and_then(|code| code.parse::<u32>().ok()).unwrap_or_default();
    match (code & 0xff, error.message()) {
        (ERROR, said) if said.starts_with("no such savepoint") => Closing::Ended,
        (CONSTRAINT, "UNIQUE constraint failed: checkback_marker.tx_id") => Closing::Fenced,
        (CONSTRAINT, "NOT NULL constraint failed: checkback_marker.mode") => Closing::Weak(0),
        (CONSTRAINT, _) => Closing::Refused,
        _ => Closing::Unknown,
    }
}

pub(super) fn pool(pool: &SqlitePool, size: PoolSize, more: fn(SqlitePoolOptions) -> SqlitePoolOptions) -> SqlitePool {
    let connect = (*pool.connect_options()).clone().synchronous(SqliteSynchronous::Full);
    let connect = match size {
        PoolSize::Same => connect,
        PoolSize::Few { lock_timeout, .. } => connect.busy_timeout(lock_timeout),
    };
    own_pool(pool, size, connect, more)
}

/// How long the start may wait for writers of the same file.
const WAL_LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// The journal mode stays with the file.
pub(super) async fn switch_to_wal(pool: &SqlitePool) -> Result<(), DatabaseError> {
    let options = (*pool.connect_options()).clone().busy_timeout(WAL_LOCK_TIMEOUT);
    // SQLite does not always wait for the lock that this one pragma needs.
    let patience = ConstantBuilder::default().with_delay(Duration::from_millis(50)).with_max_times(100);
    let mode = (|| try_wal(&options)).retry(patience).await?;
    if mode == "wal" { Ok(()) } else { Err(DatabaseError::NotWal(mode)) }
}

async fn try_wal(options: &SqliteConnectOptions) -> Result<String, sqlx::Error> {
    let mut connection = options.connect().await?;
    let mode = sqlx::query_scalar("PRAGMA journal_mode = WAL").fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(mode)
}
