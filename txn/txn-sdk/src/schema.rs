//! The tables of the SDK in the user's database, and their migrations. Knows no row's meaning.
//!
//! ```text
//! checkback_marker   tx_id -> what became of a transaction   (written inside the user's transaction, or as a tombstone)
//! checkback_cleaned  one row for each producer group: below this time of birth, its marker rows may have been cleaned
//! checkback_inbox    messages whose effect is in this database (written inside the consumer's transaction)
//! checkback_outbox   messages that wait for a broker   (written inside the user's transaction)
//! checkback_lease    one row for each group and topic: which instance relays its outbox
//! checkback_database one row: the database's name, by which instances on another one are told apart
//! checkback_schema   one row: how many of the dialect's migrations have run
//! ```

use std::time::Duration;

use crate::database::{self, Begin, Database, DatabaseError, Dialect, Side, Value};

/// How long the start may wait for others (an instance that migrates, on SQLite any writer).
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Brings the tables up to date and makes sure that what this database calls committed survives a power cut.
pub(crate) async fn prepare<D: Database>(database: &D) -> Result<(), DatabaseError> {
    database.dialect()?;
    database.set_up().await?;
    let side = Side::of(database, 1, LOCK_TIMEOUT)?;
    let migrated = match is_current(&side).await {
        true => Ok(()),
        false => migrate(&side).await,
    };
    // The lock of a failed migration goes with its connection.
    side.close().await;
    migrated?;
    let mut tx = database.begin().await?;
    let durable = require_durable::<D>(&mut tx).await;
    D::rollback(tx).await?;
    durable
}

pub(crate) async fn require_durable<D: Database>(tx: &mut D::Tx) -> Result<(), DatabaseError> {
    let dialect = D::dialect_of(tx);
    let first = D::row::<1>(tx, dialect.weakness, &[]).await?.and_then(|[number]| number).unwrap_or_default();
    match usize::try_from(first).ok().and_then(|first| first.checked_sub(1)) {
        Some(index) => Err(DatabaseError::NotDurable(dialect.weaknesses[index])),
        None => Ok(()),
    }
}

/// Without any write, so that a service that may not create tables can use those that somebody created for it.
async fn is_current<D: Database>(side: &Side<D>) -> bool {
    match side.begin(Begin::Look).await {
        Ok(mut tx) => version::<D>(&mut tx).await.is_ok_and(|version| version >= side.dialect().migrations.len()),
        Err(_) => false,
    }
}

async fn migrate<D: Database>(side: &Side<D>) -> Result<(), DatabaseError> {
    let dialect: &Dialect = side.dialect();
    let mut tx = side.begin(Begin::Write).await?;
    if let Some(lock) = dialect.lock_schema
        && D::row(&mut tx, lock, &[]).await? != Some([Some(1)])
    {
        return Err(DatabaseError::SchemaLocked(LOCK_TIMEOUT));
    }
    D::execute(&mut tx, dialect.create_schema, &[]).await?;
    for migration in dialect.migrations.iter().skip(version::<D>(&mut tx).await?) {
        D::execute(&mut tx, migration, &[]).await?;
    }
    let version = i64::try_from(dialect.migrations.len()).expect("a handful");
    D::execute(&mut tx, dialect.set_version, &[Value::Number(version)]).await?;
    database::commit::<D>(tx).await
}

async fn version<D: Database>(tx: &mut D::Tx) -> Result<usize, DatabaseError> {
    let row = D::row::<1>(tx, "SELECT version FROM checkback_schema", &[]).await?;
    Ok(row.and_then(|[version]| version).and_then(|version| usize::try_from(version).ok()).unwrap_or_default())
}
