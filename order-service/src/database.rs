//! Opening a service's own database: durable settings, tables, and transactions that take the write lock at once.
//! Knows no business rule.

use std::time::Duration;

use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, EntityTrait,
    Schema, SqlErr, SqliteTransactionMode, TransactionOptions, TransactionTrait,
};

/// How long a writer waits for another one before the request fails.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// SQLite has one writer; the other connections read.
const CONNECTIONS: u32 = 8;

/// Connects, creating the file of an SQLite URL. A commit that returns has reached the disk.
pub async fn connect(url: &str) -> Result<DatabaseConnection, DbErr> {
    let mut options = ConnectOptions::new(url);
    options.max_connections(CONNECTIONS).sqlx_logging(false);
    options.map_sqlx_sqlite_opts(|sqlite| {
        sqlite
            .create_if_missing(true)
            .pragma("journal_mode", "WAL")
            .pragma("synchronous", "FULL")
            .busy_timeout(BUSY_TIMEOUT)
    });
    Database::connect(options).await
}

/// The URL of an SQLite file.
pub fn sqlite_url(path: &std::path::Path) -> String {
    format!("sqlite://{}?mode=rwc", path.display())
}

/// Creates the table and the indexes of an entity unless they are there.
pub async fn create_table<E: EntityTrait + Copy>(db: &DatabaseConnection, entity: E) -> Result<(), DbErr> {
    let schema = Schema::new(db.get_database_backend());
    db.execute(schema.create_table_from_entity(entity).if_not_exists()).await?;
    for mut index in schema.create_index_from_entity(entity) {
        db.execute(index.if_not_exists()).await?;
    }
    Ok(())
}

/// Begins a transaction that will write. On SQLite it takes the write lock now: a reader that turns writer later could
/// only fail.
pub async fn begin(db: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    let immediate = (db.get_database_backend() == DbBackend::Sqlite).then_some(SqliteTransactionMode::Immediate);
    let options = TransactionOptions { sqlite_transaction_mode: immediate, ..TransactionOptions::default() };
    db.begin_with_options(options).await
}

pub fn is_duplicate(error: &DbErr) -> bool {
    matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_)))
}
