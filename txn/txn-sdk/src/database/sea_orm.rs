//! Transactions on a `sea_orm::DatabaseConnection`, whichever database it is connected to.

use std::{convert::Infallible, future::ready};

use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseConnectionType, DatabaseTransaction, DbBackend, IsolationLevel,
    SqliteTransactionMode, SqlxMySqlConnector, SqlxPostgresConnector, SqlxSqliteConnector, Statement,
    TransactionOptions, TransactionTrait,
};
use sqlx::pool::PoolOptions;
use sqlx_core::transaction::TransactionManager;

use super::{
    Begin, Cells, CommitError, Database, DatabaseError, Dialect, Numbers, PoolSize, Value, mysql::MYSQL,
    postgres::POSTGRES, sqlite, sqlite::SQLITE, sqlx::same_options,
};

impl Database for DatabaseConnection {
    type Tx = DatabaseTransaction;
    /// Its pool keeps its connections to itself.
    type Idle = Infallible;
    type Handle<'t> = &'t DatabaseTransaction;

    fn with_own_pool(&self, size: PoolSize) -> Self {
        match &self.inner {
            DatabaseConnectionType::SqlxSqlitePoolConnection(_) => SqlxSqliteConnector::from_sqlx_sqlite_pool(
                sqlite::pool(self.get_sqlite_connection_pool(), size, watched),
            ),
            DatabaseConnectionType::SqlxMySqlPoolConnection(_) => {
                SqlxMySqlConnector::from_sqlx_mysql_pool(same_options(self.get_mysql_connection_pool(), size, watched))
            }
            DatabaseConnectionType::SqlxPostgresPoolConnection(_) => SqlxPostgresConnector::from_sqlx_postgres_pool(
                same_options(self.get_postgres_connection_pool(), size, watched),
            ),
            // `dialect` refuses it.
            _ => self.clone(),
        }
    }

    fn dialect(&self) -> Result<&'static Dialect, DatabaseError> {
        match &self.inner {
            DatabaseConnectionType::SqlxSqlitePoolConnection(_)
            | DatabaseConnectionType::SqlxMySqlPoolConnection(_)
            | DatabaseConnectionType::SqlxPostgresPoolConnection(_) => dialect(self.get_database_backend()),
            _ => Err(DatabaseError::Unsupported("a disconnected or mocked database".into())),
        }
    }

    fn dialect_of(tx: &Self::Tx) -> &'static Dialect {
        dialect(tx.get_database_backend()).expect("only a known database has begun a transaction")
    }

    async fn set_up(&self) -> Result<(), DatabaseError> {
        match &self.inner {
            DatabaseConnectionType::SqlxSqlitePoolConnection(_) => {
                sqlite::switch_to_wal(self.get_sqlite_connection_pool()).await
            }
            _ => Ok(()),
        }
    }

    async fn begin_as(&self, begin: Begin) -> Result<Self::Tx, DatabaseError> {
        let dialect = self.dialect()?;
        let tx = self.begin_with_options(options(self.get_database_backend(), begin)).await?;
        if begin == Begin::Work {
            tx.execute_unprepared(dialect.sign).await?;
        }
        Ok(tx)
    }

    async fn begin_saying(idle: Self::Idle, _words: &str) -> Result<Self::Tx, DatabaseError> {
        match idle {}
    }

    fn handle(tx: &mut Self::Tx) -> Self::Handle<'_> {
        tx
    }

    async fn execute(tx: &mut Self::Tx, sql: &'static str, values: &[Value<'_>]) -> Result<u64, DatabaseError> {
        let statement = statement(tx.get_database_backend(), sql, values);
        Ok(tx.execute_raw(statement).await?.rows_affected())
    }

    async fn row<const N: usize>(
        tx: &mut Self::Tx,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Option<Numbers<N>>, DatabaseError> {
        let statement = statement(tx.get_database_backend(), sql, values);
        let Some(row) = tx.query_one_raw(statement).await? else { return Ok(None) };
        let mut numbers = [None; N];
        for (column, number) in numbers.iter_mut().enumerate() {
            *number = row.try_get_by_index(column)?;
        }
        Ok(Some(numbers))
    }

    async fn rows<const B: usize, const N: usize>(
        tx: &mut Self::Tx,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<Cells<B, N>>, DatabaseError> {
        let statement = statement(tx.get_database_backend(), sql, values);
        let rows = tx.query_all_raw(statement).await?;
        let read = rows
            .iter()
            .map(|row| Cells::read(|column| row.try_get_by_index(column), |column| row.try_get_by_index(column)));
        Ok(read.collect::<Result<_, sea_orm::DbErr>>()?)
    }

    async fn say(tx: &mut Self::Tx, words: &str) -> Result<(), DatabaseError> {
        tx.execute_unprepared(words).await?;
        Ok(())
    }

    async fn commit(tx: Self::Tx) -> Result<(), CommitError> {
        let dialect = Self::dialect_of(&tx);
        tx.commit().await.map_err(|error| CommitError::of(dialect, error.into()))
    }

    async fn rollback(tx: Self::Tx) -> Result<(), DatabaseError> {
        Ok(tx.rollback().await?)
    }

    async fn close(&self) {
        let _ = self.close_by_ref().await;
    }
}

fn dialect(backend: DbBackend) -> Result<&'static Dialect, DatabaseError> {
    match backend {
        DbBackend::Sqlite => Ok(&SQLITE),
        DbBackend::MySql => Ok(&MYSQL),
        DbBackend::Postgres => Ok(&POSTGRES),
        other => Err(DatabaseError::Unsupported(format!("{other:?}"))),
    }
}

/// None is used again on which a commit or rollback failed: the driver still believes it inside a transaction, begins the
/// next one as a savepoint in that, and may call a commit done that never reached the disk. (Takes the place of a hook of the
/// user's.)
fn watched<DB: sqlx::Database>(options: PoolOptions<DB>) -> PoolOptions<DB> {
    options.test_before_acquire(true).before_acquire(|connection, _| {
        Box::pin(ready(Ok(DB::TransactionManager::get_transaction_depth(connection) == 0)))
    })
}

/// `Dialect::begin` in sea-orm's words.
fn options(backend: DbBackend, begin: Begin) -> TransactionOptions {
    let own = begin != Begin::Work;
    TransactionOptions {
        isolation_level: match backend {
            DbBackend::MySql if own => Some(IsolationLevel::RepeatableRead),
            DbBackend::Postgres if own => Some(IsolationLevel::ReadCommitted),
            _ => None,
        },
        sqlite_transaction_mode: (backend == DbBackend::Sqlite && begin != Begin::Look)
            .then_some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    }
}

fn statement(backend: DbBackend, sql: &'static str, values: &[Value<'_>]) -> Statement {
    let values = values.iter().map(|value| match *value {
        Value::Bytes(bytes) => sea_orm::Value::from(bytes.to_vec()),
        Value::Text(text) => text.into(),
        Value::Number(number) => number.into(),
    });
    Statement::from_sql_and_values(backend, sql, values)
}
