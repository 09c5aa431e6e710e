//! PostgreSQL. An insert waits for another transaction that is inserting the same key; others see a commit only once it
//! is on disk.
//!
//! A transaction that the database has given up is rolled back at its COMMIT, which is called a success: so `still` fails
//! before that. The sign is a cursor, which costs least of what goes with its transaction: a savepoint would take a second
//! transaction id, a setting a query with its plan.

use sqlx::{
    error::DatabaseError,
    postgres::{PgDatabaseError, PgSeverity},
};

use super::{
    Begin, Closing, Dialect, Mark,
    dialect::{Durably, MarkWords, Setting},
};

/// True, and from now on this transaction's commit waits for the disk, whatever the session is set to.
macro_rules! durable {
    () => {
        "current_setting('fsync') = 'on'
        AND set_config('synchronous_commit',
            CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, true) <> 'off'"
    };
}

macro_rules! sign {
    () => {
        "DECLARE checkback CURSOR FOR SELECT 1"
    };
}

pub(crate) static POSTGRES: Dialect = Dialect {
    one_writer: false,
    begin: |begin| match begin {
        Begin::Work => concat!("BEGIN; ", sign!()),
        Begin::Look | Begin::Write => "BEGIN ISOLATION LEVEL READ COMMITTED",
    },
    lock_timeout: Some("SELECT set_config('lock_timeout', ($1::bigint)::text, true)"),
    // A unique violation would abort the transaction.
    insert_marker: concat!(
        "INSERT INTO checkback_marker (tx_id, producer_group, topic, state, mode, created_ms)
        SELECT $1, $2, $3, $4, $5, $6 WHERE ",
        durable!(),
        " ON CONFLICT (tx_id) DO NOTHING"
    ),
    sign: sign!(),
    marks,
    setting: Some(Setting {
        which: "SELECT CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 1::bigint ELSE 0::bigint END",
        sets: ["SET LOCAL synchronous_commit = on", "SET LOCAL synchronous_commit = remote_apply"],
    }),
    still: "CLOSE checkback",
    look: "
        SELECT c.horizon_ms, m.state, m.mode
        FROM checkback_cleaned c LEFT JOIN checkback_marker m ON m.tx_id = $2
        WHERE c.producer_group = $1",
    insert_inbox: concat!(
        "INSERT INTO checkback_inbox (consumer_group, topic, tag, message_key, created_ms)
        SELECT $1, $2, $3, $4, $5 WHERE ",
        durable!(),
        " ON CONFLICT (consumer_group, topic, tag, message_key) DO NOTHING"
    ),
    look_inbox: "
        SELECT created_ms FROM checkback_inbox
        WHERE consumer_group = $1 AND topic = $2 AND tag = $3 AND message_key = $4",
    barrier: None,
    name_database: "INSERT INTO checkback_database (one, id) VALUES (1, $1) ON CONFLICT (one) DO NOTHING",
    database_id: "SELECT id FROM checkback_database",
    join_cleaned: "
        INSERT INTO checkback_cleaned (producer_group, horizon_ms) VALUES ($1, 0)
        ON CONFLICT (producer_group) DO NOTHING",
    raise_horizon: "
        INSERT INTO checkback_cleaned (producer_group, horizon_ms) VALUES ($1, $2)
        ON CONFLICT (producer_group)
        DO UPDATE SET horizon_ms = greatest(checkback_cleaned.horizon_ms, excluded.horizon_ms)",
    newest_marker: "SELECT created_ms FROM checkback_marker ORDER BY tx_id DESC LIMIT 1",
    newest_inbox: "
        SELECT created_ms FROM checkback_inbox WHERE consumer_group = $1 ORDER BY created_ms DESC LIMIT 1",
    clean_markers: "
        DELETE FROM checkback_marker
        WHERE tx_id IN (
            SELECT tx_id FROM checkback_marker
            WHERE convert_to(producer_group, 'UTF8') = $1 AND state = $2 AND tx_id >= $3 AND tx_id < $4
            ORDER BY tx_id LIMIT $5)",
    nth_newest: "
        SELECT tx_id FROM checkback_marker
        WHERE convert_to(producer_group, 'UTF8') = $1 AND state = $2 AND tx_id < $3
        ORDER BY tx_id DESC LIMIT 1 OFFSET $4",
    clean_inbox: "
        DELETE FROM checkback_inbox
        WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM checkback_inbox WHERE created_ms < $1 AND consumer_group = $2 ORDER BY created_ms LIMIT $3))",
    insert_outbox: "
        INSERT INTO checkback_outbox (tx_id, producer_group, topic, properties, body, flag, due_ms, attempts)
        VALUES ($1, $2, $3, $4, $5, $6, $7, 0)",
    outbox_batch: "
        SELECT tx_id, properties, body, flag, attempts FROM checkback_outbox
        WHERE producer_group = $1 AND topic = $2 AND due_ms <= $3 ORDER BY tx_id LIMIT $4",
    postpone_outbox: "UPDATE checkback_outbox SET due_ms = $1, attempts = attempts + 1 WHERE tx_id = $2",
    delete_outbox: "DELETE FROM checkback_outbox WHERE tx_id = $1",
    count_outbox: "SELECT topic, count(*) FROM checkback_outbox WHERE producer_group = $1 GROUP BY topic",
    join_relay: "
        INSERT INTO checkback_lease (producer_group, topic, holder, until_ms) VALUES ($1, $2, '', 0)
        ON CONFLICT (producer_group, topic) DO NOTHING",
    lease_relay: "
        UPDATE checkback_lease SET holder = $1, until_ms = $2
        WHERE producer_group = $3 AND topic = $4 AND (until_ms < $5 OR until_ms > $6 OR holder = $7)",
    weakness: "SELECT CASE current_setting('fsync') WHEN 'on' THEN 0::bigint ELSE 1::bigint END",
    weaknesses: &["this server runs with fsync=off: set fsync=on"],
    lock_schema: Some("SELECT 1::bigint FROM pg_advisory_xact_lock(7161662210043895108)"),
    create_schema: "
        CREATE TABLE IF NOT EXISTS checkback_schema (one BIGINT PRIMARY KEY CHECK (one = 1), version BIGINT NOT NULL)",
    migrations: &[
        "CREATE TABLE checkback_marker (
            tx_id          BYTEA  NOT NULL PRIMARY KEY,
            producer_group TEXT   NOT NULL,
            topic          TEXT   NOT NULL,
            state          BIGINT NOT NULL,
            mode           BIGINT NOT NULL,
            created_ms     BIGINT NOT NULL
        )",
        "CREATE TABLE checkback_cleaned (
            producer_group BYTEA  NOT NULL PRIMARY KEY,
            horizon_ms     BIGINT NOT NULL
        )",
        "CREATE TABLE checkback_inbox (
            consumer_group BYTEA  NOT NULL,
            topic          BYTEA  NOT NULL,
            tag            BYTEA  NOT NULL,
            message_key    BYTEA  NOT NULL,
            created_ms     BIGINT NOT NULL,
            PRIMARY KEY (consumer_group, topic, tag, message_key)
        )",
        "CREATE INDEX checkback_inbox_age ON checkback_inbox (consumer_group, created_ms)",
        "CREATE TABLE checkback_outbox (
            tx_id          BYTEA  NOT NULL PRIMARY KEY,
            producer_group BYTEA  NOT NULL,
            topic          BYTEA  NOT NULL,
            properties     BYTEA  NOT NULL,
            body           BYTEA  NOT NULL,
            flag           BIGINT NOT NULL,
            due_ms         BIGINT NOT NULL,
            attempts       BIGINT NOT NULL
        )",
        "CREATE INDEX checkback_outbox_order ON checkback_outbox (producer_group, topic, tx_id)",
        "CREATE TABLE checkback_lease (
            producer_group BYTEA  NOT NULL,
            topic          BYTEA  NOT NULL,
            holder         BYTEA  NOT NULL,
            until_ms       BIGINT NOT NULL,
            PRIMARY KEY (producer_group, topic)
        )",
        "CREATE TABLE checkback_database (one BIGINT PRIMARY KEY CHECK (one = 1), id BYTEA NOT NULL)",
    ],
    set_version: "
        INSERT INTO checkback_schema (one, version) VALUES (1, $1)
        ON CONFLICT (one) DO UPDATE SET version = greatest(checkback_schema.version, excluded.version)",
    closing,
    is_last_word,
    lost_a_race,
};

/// No `'\x…'`: that depends on `standard_conforming_strings`.
fn marks(marks: &[Mark<'_>], durably: Durably) -> String {
    let words = |mode_if| MarkWords {
        bytes: |hex| format!(r"E'\\x{hex}'"),
        text: |hex| format!(r"convert_from(E'\\x{hex}', 'UTF8')"),
        state_if: None,
        mode_if,
    };
    match durably {
        Durably::Looks => words(Some(durable!())).insert(marks),
        Durably::Sets(set) => format!("{set}; {}", words(None).insert(marks)),
    }
}

/// A missing sign (34000), a tombstone or the marker of another transaction (23505), a missing value (23502). Refused is a
/// broken deferred constraint (23), a serialization failure or deadlock (40), a transaction that was given up (25P02), a
/// deferred trigger's word (P0). An error of severity ERROR comes before the commit record; a FATAL one (57P01) may come
/// after it.
fn closing(error: &dyn DatabaseError) -> Closing {
    const COMPLETION_UNKNOWN: &str = "40003";
    let Some(error) = error.try_downcast_ref::<PgDatabaseError>() else { return Closing::Unknown };
    if error.severity() != PgSeverity::Error {
        return Closing::Unknown;
    }
    let of_marker = error.table() == Some("checkback_marker");
    match error.code() {
        "34000" => Closing::Ended,
        "23505" if of_marker => Closing::Fenced,
        "23502" if of_marker => Closing::Weak(0),
        COMPLETION_UNKNOWN => Closing::Unknown,
        "25P02" => Closing::Refused,
        code if matches!(code.get(..2), Some("23" | "40" | "P0")) => Closing::Refused,
        _ => Closing::Unknown,
    }
}

fn is_last_word(error: &dyn DatabaseError) -> bool {
    error.try_downcast_ref::<PgDatabaseError>().is_some_and(|error| error.severity() != PgSeverity::Error)
}

/// A serialization failure or a deadlock.
fn lost_a_race(error: &dyn DatabaseError) -> bool {
    error.try_downcast_ref::<PgDatabaseError>().is_some_and(|error| matches!(error.code(), "40001" | "40P01"))
}
