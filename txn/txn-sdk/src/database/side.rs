//! A few connections of the SDK's own for what it does itself (checks, migrations, clean-up): a service whose pool is
//! exhausted must still answer, and nothing here may wait long for a lock.

use std::time::Duration;

use super::{Begin, Cells, CommitError, Database, DatabaseError, Dialect, PoolSize, Value};

#[derive(Clone, Debug)]
pub(crate) struct Side<D> {
    database: D,
    dialect: &'static Dialect,
    lock_timeout: Duration,
}

impl<D: Database> Side<D> {
    pub(crate) fn of(database: &D, connections: u32, lock_timeout: Duration) -> Result<Self, DatabaseError> {
        let dialect = database.dialect()?;
        let database = database.with_own_pool(PoolSize::Few { connections, lock_timeout });
        Ok(Self { database, dialect, lock_timeout })
    }

    pub(crate) fn dialect(&self) -> &'static Dialect {
        self.dialect
    }

    pub(crate) async fn begin(&self, begin: Begin) -> Result<D::Tx, DatabaseError> {
        let mut tx = self.database.begin_as(begin).await?;
        if let Some(set) = self.dialect.lock_timeout {
            let millis = i64::try_from(self.lock_timeout.as_millis()).unwrap_or(i64::MAX);
            D::execute(&mut tx, set, &[Value::Number(millis)]).await?;
        }
        Ok(tx)
    }

    /// One statement, committed. Says how many rows it changed.
    pub(crate) async fn execute(&self, sql: &'static str, values: &[Value<'_>]) -> Result<u64, DatabaseError> {
        let mut tx = self.begin(Begin::Write).await?;
        let rows = D::execute(&mut tx, sql, values).await?;
        commit::<D>(tx).await?;
        Ok(rows)
    }

    /// What one statement shows.
    pub(crate) async fn rows<const B: usize, const N: usize>(
        &self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<Cells<B, N>>, DatabaseError> {
        let mut tx = self.begin(Begin::Look).await?;
        let rows = D::rows(&mut tx, sql, values).await?;
        D::rollback(tx).await?;
        Ok(rows)
    }

    pub(crate) async fn close(&self) {
        self.database.close().await;
    }
}

/// For callers to whom all failures are the same.
pub(crate) async fn commit<D: Database>(tx: D::Tx) -> Result<(), DatabaseError> {
    D::commit(tx).await.map_err(CommitError::into_error)
}
