//! MySQL and MariaDB, tables of InnoDB. An insert waits for another transaction that is inserting the same key.
//!
//! * Others see a commit before it is on disk: hence the barrier.
//! * A deadlock rolls the whole transaction back, and what follows would commit each for itself: so `still` fails in a
//!   transaction that is no longer the one that was begun. The savepoint goes with it.
//! * The SDK's own transactions are REPEATABLE READ: a server set to READ UNCOMMITTED would show them rows that may yet
//!   be rolled back.
//! * With a binary log, recovery asks that whether a transaction committed: then it must be synced as well.
//! * DDL commits by itself, so each migration may meet its own work.

use sqlx::{error::DatabaseError, mysql::MySqlDatabaseError};

use super::{
    Begin, Closing, Dialect, Mark,
    dialect::{Durably, MarkWords},
};

/// MariaDB's 3 is 1 with one sync more.
macro_rules! log_is_durable {
    () => {
        "@@innodb_flush_log_at_trx_commit IN (1, 3)"
    };
}

macro_rules! binary_log_is_durable {
    () => {
        "(@@log_bin = 0 OR @@sync_binlog = 1)"
    };
}

macro_rules! durable {
    () => {
        concat!(log_is_durable!(), " AND ", binary_log_is_durable!())
    };
}

macro_rules! sign {
    () => {
        "SAVEPOINT checkback"
    };
}

pub(super) static MYSQL: Dialect = Dialect {
    one_writer: false,
    begin: |begin| match begin {
        Begin::Work => concat!("BEGIN; ", sign!()),
        Begin::Look | Begin::Write => "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; BEGIN",
    },
    // In whole seconds, and none is less than one.
    lock_timeout: Some("SET SESSION innodb_lock_wait_timeout = GREATEST(1, (? + 999) DIV 1000)"),
    // A duplicate key is an error: INSERT IGNORE would hide truncation as well.
    insert_marker: concat!(
        "INSERT INTO checkback_marker (tx_id, producer_group, topic, state, mode, created_ms)
        SELECT ?, ?, ?, ?, ?, ? FROM DUAL WHERE ",
        durable!()
    ),
    sign: sign!(),
    marks,
    setting: None,
    still: "RELEASE SAVEPOINT checkback",
    look: "
        SELECT c.horizon_ms, m.state, m.mode
        FROM (SELECT 1) AS asked JOIN checkback_cleaned c ON c.producer_group = ?
        LEFT JOIN checkback_marker m ON m.tx_id = ?",
    insert_inbox: concat!(
        "INSERT INTO checkback_inbox (consumer_group, topic, tag, message_key, created_ms)
        SELECT ?, ?, ?, ?, ? FROM DUAL WHERE ",
        durable!()
    ),
    look_inbox: "
        SELECT created_ms FROM checkback_inbox
        WHERE consumer_group = ? AND topic = ? AND tag = ? AND message_key = ?",
    barrier: Some("UPDATE checkback_schema SET barrier = barrier + 1"),
    name_database: "INSERT INTO checkback_database (one, id) VALUES (1, ?) ON DUPLICATE KEY UPDATE one = one",
    database_id: "SELECT id FROM checkback_database",
    join_cleaned: "
        INSERT INTO checkback_cleaned (producer_group, horizon_ms) VALUES (?, 0)
        ON DUPLICATE KEY UPDATE checkback_cleaned.horizon_ms = checkback_cleaned.horizon_ms",
    raise_horizon: "
        INSERT INTO checkback_cleaned (producer_group, horizon_ms) VALUES (?, ?)
        ON DUPLICATE KEY UPDATE horizon_ms = GREATEST(horizon_ms, VALUES(horizon_ms))",
    newest_marker: "SELECT created_ms FROM checkback_marker ORDER BY tx_id DESC LIMIT 1",
    newest_inbox: "
        SELECT created_ms FROM checkback_inbox WHERE consumer_group = ? ORDER BY created_ms DESC LIMIT 1",
    // The column's collation takes groups for one that differ in case.
    clean_markers: "
        DELETE FROM checkback_marker
        WHERE CAST(producer_group AS BINARY) = ? AND state = ? AND tx_id >= ? AND tx_id < ? ORDER BY tx_id LIMIT ?",
    nth_newest: "
        SELECT tx_id FROM checkback_marker
        WHERE CAST(producer_group AS BINARY) = ? AND state = ? AND tx_id < ? ORDER BY tx_id DESC LIMIT 1 OFFSET ?",
    clean_inbox: "
        DELETE FROM checkback_inbox
        WHERE created_ms < ? AND consumer_group = ? ORDER BY created_ms LIMIT ?",
    insert_outbox: "
        INSERT INTO checkback_outbox (tx_id, producer_group, topic, properties, body, flag, due_ms, attempts)
        VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
    outbox_batch: "
        SELECT tx_id, properties, body, flag, attempts FROM checkback_outbox
        WHERE producer_group = ? AND topic = ? AND due_ms <= ? ORDER BY tx_id LIMIT ?",
    postpone_outbox: "UPDATE checkback_outbox SET due_ms = ?, attempts = attempts + 1 WHERE tx_id = ?",
    delete_outbox: "DELETE FROM checkback_outbox WHERE tx_id = ?",
    count_outbox: "SELECT topic, count(*) FROM checkback_outbox WHERE producer_group = ? GROUP BY topic",
    join_relay: "
        INSERT INTO checkback_lease (producer_group, topic, holder, until_ms) VALUES (?, ?, '', 0)
        ON DUPLICATE KEY UPDATE until_ms = until_ms",
    lease_relay: "
        UPDATE checkback_lease SET holder = ?, until_ms = ?
        WHERE producer_group = ? AND topic = ? AND (until_ms < ? OR until_ms > ? OR holder = ?)",
    weakness: "
        SELECT CASE
            WHEN @@innodb_flush_log_at_trx_commit NOT IN (1, 3) THEN 1
            WHEN @@log_bin <> 0 AND @@sync_binlog <> 1 THEN 2
            WHEN EXISTS (
                SELECT * FROM information_schema.tables
                WHERE table_schema = DATABASE() AND engine <> 'InnoDB'
                  AND table_name IN (
                      'checkback_marker', 'checkback_cleaned', 'checkback_inbox', 'checkback_outbox')) THEN 3
            ELSE 0
        END",
    weaknesses: &[
        "innodb_flush_log_at_trx_commit is not 1: set it to 1",
        "the binary log is on and sync_binlog is not 1, so a power cut rolls back what was committed: set it to 1",
        "a checkback_* table is not InnoDB: ALTER TABLE ... ENGINE=InnoDB",
    ],
    lock_schema: Some("SELECT GET_LOCK(CONCAT('checkback.', LEFT(SHA2(DATABASE(), 256), 32)), 10)"),
    create_schema: "
        CREATE TABLE IF NOT EXISTS checkback_schema (
            one     BIGINT NOT NULL PRIMARY KEY,
            version BIGINT NOT NULL,
            barrier BIGINT NOT NULL DEFAULT 0
        ) ENGINE=InnoDB",
    migrations: &[
        "CREATE TABLE IF NOT EXISTS checkback_marker (
            tx_id          VARBINARY(16) NOT NULL PRIMARY KEY,
            producer_group VARCHAR(255)  NOT NULL,
            topic          VARCHAR(255)  NOT NULL,
            state          BIGINT        NOT NULL,
            mode           BIGINT        NOT NULL,
            created_ms     BIGINT        NOT NULL
        ) ENGINE=InnoDB CHARACTER SET utf8mb4",
        "CREATE TABLE IF NOT EXISTS checkback_cleaned (
            producer_group VARBINARY(255) NOT NULL PRIMARY KEY,
            horizon_ms     BIGINT         NOT NULL
        ) ENGINE=InnoDB",
        "CREATE TABLE IF NOT EXISTS checkback_inbox (
            consumer_group VARBINARY(255)  NOT NULL,
            topic          VARBINARY(255)  NOT NULL,
            tag            VARBINARY(1024) NOT NULL,
            message_key    VARBINARY(1024) NOT NULL,
            created_ms     BIGINT          NOT NULL,
            PRIMARY KEY (consumer_group, topic, tag, message_key),
            INDEX checkback_inbox_age (consumer_group, created_ms)
        ) ENGINE=InnoDB ROW_FORMAT=DYNAMIC",
        "CREATE TABLE IF NOT EXISTS checkback_outbox (
            tx_id          VARBINARY(16)  NOT NULL PRIMARY KEY,
            producer_group VARBINARY(255) NOT NULL,
            topic          VARBINARY(255) NOT NULL,
            properties     BLOB           NOT NULL,
            body           LONGBLOB       NOT NULL,
            flag           BIGINT         NOT NULL,
            due_ms         BIGINT         NOT NULL,
            attempts       BIGINT         NOT NULL,
            INDEX checkback_outbox_order (producer_group, topic, tx_id)
        ) ENGINE=InnoDB ROW_FORMAT=DYNAMIC",
        "CREATE TABLE IF NOT EXISTS checkback_lease (
            producer_group VARBINARY(255) NOT NULL,
            topic          VARBINARY(255) NOT NULL,
            holder         VARBINARY(16)  NOT NULL,
            until_ms       BIGINT         NOT NULL,
            PRIMARY KEY (producer_group, topic)
        ) ENGINE=InnoDB",
        "CREATE TABLE IF NOT EXISTS checkback_database (
            one BIGINT        NOT NULL PRIMARY KEY,
            id  VARBINARY(16) NOT NULL
        ) ENGINE=InnoDB",
    ],
    set_version: "
        INSERT INTO checkback_schema (one, version) VALUES (1, ?)
        ON DUPLICATE KEY UPDATE version = GREATEST(version, VALUES(version))",
    closing,
    is_last_word,
    lost_a_race,
};

/// A statement of one row, in which NULL is refused in every SQL mode.
fn marks(marks: &[Mark<'_>], _: Durably) -> String {
    let words = MarkWords {
        bytes: |hex| format!("x'{hex}'"),
        text: |hex| format!("CONVERT(x'{hex}' USING utf8mb4)"),
        state_if: Some(log_is_durable!()),
        mode_if: Some(binary_log_is_durable!()),
    };
    words.insert(marks)
}

/// Refused is a deadlock, which is also how a Galera cluster refuses (1213), a row that has changed (1020), or the veto of a
/// replication plugin (3101).
fn closing(error: &dyn DatabaseError) -> Closing {
    const SAVEPOINT_DOES_NOT_EXIST: u16 = 1305;
    const DUPLICATE_KEY: u16 = 1062;
    const NULL: u16 = 1048;
    match number(error) {
        Some(SAVEPOINT_DOES_NOT_EXIST) => Closing::Ended,
        Some(DUPLICATE_KEY) => Closing::Fenced,
        Some(NULL) => Closing::Weak(usize::from(error.message().contains("'mode'"))),
        Some(1020 | 1213 | 3101) => Closing::Refused,
        _ => Closing::Unknown,
    }
}

fn is_last_word(error: &dyn DatabaseError) -> bool {
    const SHUTDOWN: u16 = 1053;
    const KILLED: u16 = 1927;
    const IDLE_FOR_TOO_LONG: u16 = 4031;
    matches!(number(error), Some(SHUTDOWN | KILLED | IDLE_FOR_TOO_LONG))
}

/// A deadlock, or a row that changed since this transaction's snapshot: the latter on servers that are strict about
/// snapshots (`innodb_snapshot_isolation`, MariaDB's default since 11.6).
fn lost_a_race(error: &dyn DatabaseError) -> bool {
    matches!(number(error), Some(1020 | 1213))
}

fn number(error: &dyn DatabaseError) -> Option<u16> {
    error.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
}
