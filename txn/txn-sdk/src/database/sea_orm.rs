//! Transactions on a `sea_orm::DatabaseConnection`.

use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseConnectionType, DatabaseTransaction, DbBackend, SqliteTransactionMode,
    SqlxSqliteConnector, Statement, TransactionOptions, TransactionTrait,
};
use sqlx::SqlitePool;

use super::{CommitError, Database, DatabaseError, Value, own_pool};

impl Database for DatabaseConnection {
    type Tx = DatabaseTransaction;
    type Handle<'t> = &'t DatabaseTransaction;

    fn with_own_pool(&self) -> Self {
        match self.sqlite_pool() {
            Ok(pool) => SqlxSqliteConnector::from_sqlx_sqlite_pool(own_pool(pool)),
            Err(_) => self.clone(),
        }
    }

    fn sqlite_pool(&self) -> Result<&SqlitePool, DatabaseError> {
        match &self.inner {
            DatabaseConnectionType::SqlxSqlitePoolConnection(_) => Ok(self.get_sqlite_connection_pool()),
            DatabaseConnectionType::Disconnected => Err(DatabaseError::Unsupported("a disconnected database".into())),
            // Reached when another crate of the build turns on another database of sea-orm.
            #[allow(unreachable_patterns)]
            _ => Err(DatabaseError::Unsupported(format!("{:?}", self.get_database_backend()))),
        }
    }

    async fn begin(&self) -> Result<Self::Tx, DatabaseError> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        Ok(self.begin_with_options(options).await?)
    }

    fn handle(tx: &mut Self::Tx) -> Self::Handle<'_> {
        tx
    }

    async fn execute(tx: &mut Self::Tx, sql: &'static str, values: &[Value<'_>]) -> Result<u64, DatabaseError> {
        Ok(tx.execute_raw(statement(sql, values)).await?.rows_affected())
    }

    async fn number(tx: &mut Self::Tx, sql: &'static str, values: &[Value<'_>]) -> Result<Option<i64>, DatabaseError> {
        let row = tx.query_one_raw(statement(sql, values)).await?;
        Ok(row.map(|row| row.try_get_by_index(0)).transpose()?)
    }

    async fn commit(tx: Self::Tx) -> Result<(), CommitError> {
        tx.commit().await.map_err(|error| CommitError::of(error.into()))
    }

    async fn rollback(tx: Self::Tx) -> Result<(), DatabaseError> {
        Ok(tx.rollback().await?)
    }
}

fn statement(sql: &'static str, values: &[Value<'_>]) -> Statement {
    let values = values.iter().map(|value| match *value {
        Value::Bytes(bytes) => sea_orm::Value::from(bytes.to_vec()),
        Value::Text(text) => text.into(),
        Value::Number(number) => number.into(),
    });
    Statement::from_sql_and_values(DbBackend::Sqlite, sql, values)
}
