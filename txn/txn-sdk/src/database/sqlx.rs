//! Transactions on sqlx pools.

use std::{convert::identity, future::ready, time::Duration};

use futures_util::{TryStreamExt, future::BoxFuture};
use sqlx::{
    AssertSqlSafe, Executor, MySql, MySqlConnection, MySqlPool, PgConnection, PgPool, Postgres, Row, Sqlite,
    SqliteConnection, SqlitePool, pool::PoolOptions,
};

use tokio::sync::Semaphore;

use super::{
    Begin, Cells, CommitError, Database, DatabaseError, Dialect, Numbers, PoolSize, Value,
    lease::{Driver, Lease},
    mysql::MYSQL,
    own_pool,
    postgres::POSTGRES,
    sqlite,
    sqlite::SQLITE,
};

macro_rules! bind {
    ($sql:expr, $values:expr) => {
        $values.iter().fold(sqlx::query($sql), |query, value| match *value {
            Value::Bytes(bytes) => query.bind(bytes.to_vec()),
            Value::Text(text) => query.bind(text.to_owned()),
            Value::Number(number) => query.bind(number),
        })
    };
}

macro_rules! driver {
    ($driver:ty, $connection:ty) => {
        impl Driver for $driver {
            fn say<'c>(connection: &'c mut $connection, words: String) -> BoxFuture<'c, Result<usize, sqlx::Error>> {
                Box::pin(async move {
                    let results = connection.execute_many(sqlx::raw_sql(AssertSqlSafe(words)));
                    results.try_fold(0, |done, _| ready(Ok(done + 1))).await
                })
            }
        }
    };
}

driver!(Sqlite, SqliteConnection);
driver!(MySql, MySqlConnection);
driver!(Postgres, PgConnection);

/// The same words for each driver: their traits do not add up to one bound that could be written here.
macro_rules! database {
    ($pool:ty, $driver:ty, $connection:ty, $dialect:expr, own_pool: $own_pool:expr, set_up: $set_up:expr) => {
        impl Database for $pool {
            type Tx = Lease<$driver>;
            type Idle = Lease<$driver>;
            type Handle<'t> = &'t mut $connection;

            fn with_own_pool(&self, size: PoolSize) -> Self {
                $own_pool(self, size, identity)
            }

            fn places(&self) -> Option<(usize, Duration)> {
                let options = self.options();
                let connections = usize::try_from(options.get_max_connections()).unwrap_or(usize::MAX);
                Some((connections.min(Semaphore::MAX_PERMITS), options.get_acquire_timeout()))
            }

            fn dialect(&self) -> Result<&'static Dialect, DatabaseError> {
                Ok(&$dialect)
            }

            fn dialect_of(_: &Self::Tx) -> &'static Dialect {
                &$dialect
            }

            async fn set_up(&self) -> Result<(), DatabaseError> {
                $set_up(self).await
            }

            async fn begin_as(&self, begin: Begin) -> Result<Self::Tx, DatabaseError> {
                Ok(Lease::begin(self, ($dialect.begin)(begin)).await?)
            }

            async fn begin_saying(idle: Self::Idle, words: &str) -> Result<Self::Tx, DatabaseError> {
                Ok(idle.begin_saying(($dialect.begin)(Begin::Work), words).await?)
            }

            fn handle(tx: &mut Self::Tx) -> Self::Handle<'_> {
                tx.connection()
            }

            async fn execute(tx: &mut Self::Tx, sql: &'static str, values: &[Value<'_>]) -> Result<u64, DatabaseError> {
                Ok(bind!(sql, values).execute(tx.connection()).await?.rows_affected())
            }

            async fn row<const N: usize>(
                tx: &mut Self::Tx,
                sql: &'static str,
                values: &[Value<'_>],
            ) -> Result<Option<Numbers<N>>, DatabaseError> {
                let Some(row) = bind!(sql, values).fetch_optional(tx.connection()).await? else { return Ok(None) };
                let mut numbers = [None; N];
                for (column, number) in numbers.iter_mut().enumerate() {
                    *number = row.try_get(column)?;
                }
                Ok(Some(numbers))
            }

            async fn rows<const B: usize, const N: usize>(
                tx: &mut Self::Tx,
                sql: &'static str,
                values: &[Value<'_>],
            ) -> Result<Vec<Cells<B, N>>, DatabaseError> {
                let rows = bind!(sql, values).fetch_all(tx.connection()).await?;
                let read =
                    rows.iter().map(|row| Cells::read(|column| row.try_get(column), |column| row.try_get(column)));
                Ok(read.collect::<Result<_, sqlx::Error>>()?)
            }

            async fn say(tx: &mut Self::Tx, words: &str) -> Result<(), DatabaseError> {
                Ok(tx.say(words.to_owned()).await?)
            }

            async fn commit(tx: Self::Tx) -> Result<(), CommitError> {
                tx.commit().await.map_err(|error| CommitError::of(&$dialect, error.into()))
            }

            async fn commit_and_keep(tx: Self::Tx) -> Result<Option<Self::Idle>, CommitError> {
                if !tx.is_young() {
                    return Self::commit_work(tx).await.map(|()| None);
                }
                let kept = tx.commit_saying($dialect.still).await;
                kept.map(Some).map_err(|error| CommitError::of(&$dialect, error.into()))
            }

            async fn rollback(tx: Self::Tx) -> Result<(), DatabaseError> {
                Ok(tx.rollback().await?)
            }

            async fn close(&self) {
                Self::close(self).await;
            }
        }
    };
}

database!(SqlitePool, Sqlite, SqliteConnection, SQLITE, own_pool: sqlite::pool, set_up: sqlite::switch_to_wal);
database!(MySqlPool, MySql, MySqlConnection, MYSQL, own_pool: same_options, set_up: nothing);
database!(PgPool, Postgres, PgConnection, POSTGRES, own_pool: same_options, set_up: nothing);

pub(super) fn same_options<DB: sqlx::Database>(
    pool: &sqlx::Pool<DB>,
    size: PoolSize,
    more: fn(PoolOptions<DB>) -> PoolOptions<DB>,
) -> sqlx::Pool<DB> {
    own_pool(pool, size, (*pool.connect_options()).clone(), more)
}

async fn nothing<DB: sqlx::Database>(_: &sqlx::Pool<DB>) -> Result<(), DatabaseError> {
    Ok(())
}
