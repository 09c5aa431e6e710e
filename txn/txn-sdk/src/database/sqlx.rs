//! Transactions on a `sqlx::SqlitePool`.

use sqlx::{Row, Sqlite, SqliteConnection, SqlitePool, Transaction, sqlite::SqliteArguments};

use super::{CommitError, Database, DatabaseError, Value, own_pool};

impl Database for SqlitePool {
    type Tx = Transaction<'static, Sqlite>;
    type Handle<'t> = &'t mut SqliteConnection;

    fn with_own_pool(&self) -> Self {
        own_pool(self)
    }

    fn sqlite_pool(&self) -> Result<&SqlitePool, DatabaseError> {
        Ok(self)
    }

    async fn begin(&self) -> Result<Self::Tx, DatabaseError> {
        Ok(self.begin_with("BEGIN IMMEDIATE").await?)
    }

    fn handle(tx: &mut Self::Tx) -> Self::Handle<'_> {
        tx
    }

    async fn execute(tx: &mut Self::Tx, sql: &'static str, values: &[Value<'_>]) -> Result<u64, DatabaseError> {
        Ok(bind(sql, values).execute(&mut **tx).await?.rows_affected())
    }

    async fn number(tx: &mut Self::Tx, sql: &'static str, values: &[Value<'_>]) -> Result<Option<i64>, DatabaseError> {
        let row = bind(sql, values).fetch_optional(&mut **tx).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }

    async fn commit(tx: Self::Tx) -> Result<(), CommitError> {
        tx.commit().await.map_err(|error| CommitError::of(error.into()))
    }

    async fn rollback(tx: Self::Tx) -> Result<(), DatabaseError> {
        Ok(tx.rollback().await?)
    }
}

pub(crate) fn bind<'q>(sql: &'static str, values: &[Value<'_>]) -> sqlx::query::Query<'q, Sqlite, SqliteArguments> {
    values.iter().fold(sqlx::query(sql), |query, value| match *value {
        Value::Bytes(bytes) => query.bind(bytes.to_vec()),
        Value::Text(text) => query.bind(text.to_owned()),
        Value::Number(number) => query.bind(number),
    })
}
