//! Transactions on a `sqlx::SqlitePool`.

use sqlx::{
    Row, Sqlite, SqliteConnection, SqlitePool,
    pool::PoolConnection,
    sqlite::{SqliteArguments, SqliteTransactionManager},
};
use sqlx_core::{sql_str::SqlSafeStr, transaction::TransactionManager};

use super::{CommitError, Database, DatabaseError, Value};

/// An open transaction on a pooled connection. `sqlx::Transaction` would hand a connection whose commit failed back to
/// the pool, where it can begin no transaction any more; this one closes it.
#[derive(Debug)]
pub struct SqliteTransaction {
    connection: PoolConnection<Sqlite>,
    open: bool,
}

impl Drop for SqliteTransaction {
    fn drop(&mut self) {
        if self.open {
            SqliteTransactionManager::start_rollback(&mut self.connection);
        }
    }
}

impl Database for SqlitePool {
    type Tx = SqliteTransaction;
    type Handle<'t> = &'t mut SqliteConnection;

    fn sqlite_pool(&self) -> Result<&SqlitePool, DatabaseError> {
        Ok(self)
    }

    async fn begin(&self) -> Result<Self::Tx, DatabaseError> {
        let mut connection = self.acquire().await?;
        SqliteTransactionManager::begin(&mut connection, Some("BEGIN IMMEDIATE".into_sql_str())).await?;
        Ok(SqliteTransaction { connection, open: true })
    }

    fn handle(tx: &mut Self::Tx) -> Self::Handle<'_> {
        &mut tx.connection
    }

    async fn execute(tx: &mut Self::Tx, sql: &'static str, values: &[Value<'_>]) -> Result<u64, DatabaseError> {
        Ok(bind(sql, values).execute(&mut *tx.connection).await?.rows_affected())
    }

    async fn number(tx: &mut Self::Tx, sql: &'static str, values: &[Value<'_>]) -> Result<Option<i64>, DatabaseError> {
        let row = bind(sql, values).fetch_optional(&mut *tx.connection).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }

    async fn commit(mut tx: Self::Tx) -> Result<(), CommitError> {
        let done = SqliteTransactionManager::commit(&mut tx.connection).await;
        tx.open = done.is_err();
        done.map_err(|error| {
            tx.connection.close_on_drop();
            CommitError::of(error.into())
        })
    }

    async fn rollback(mut tx: Self::Tx) -> Result<(), DatabaseError> {
        let done = SqliteTransactionManager::rollback(&mut tx.connection).await;
        tx.open = done.is_err();
        done.map_err(|error| {
            tx.connection.close_on_drop();
            error.into()
        })
    }
}

pub(crate) fn bind<'q>(sql: &'static str, values: &[Value<'_>]) -> sqlx::query::Query<'q, Sqlite, SqliteArguments> {
    values.iter().fold(sqlx::query(sql), |query, value| match *value {
        Value::Bytes(bytes) => query.bind(bytes.to_vec()),
        Value::Text(text) => query.bind(text.to_owned()),
        Value::Number(number) => query.bind(number),
    })
}
