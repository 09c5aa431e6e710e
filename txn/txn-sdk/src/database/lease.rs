//! A transaction on a connection of a sqlx pool, which may be kept for the next one instead of going back: each way
//! through the pool costs two pings and a task.

use std::time::{Duration, Instant};

use sqlx::{Pool, pool::PoolConnection};
use sqlx_core::{sql_str::SqlSafeStr, transaction::TransactionManager};
use tokio::runtime::Handle;

/// How long a connection may stay out of its pool, which looks after lifetimes and its user's hooks.
const OUT_AT_MOST: Duration = Duration::from_secs(10);

/// Dropped within a transaction, it is rolled back.
pub struct Lease<DB: sqlx::Database> {
    /// `None` on its way out.
    connection: Option<PoolConnection<DB>>,
    in_transaction: bool,
    since: Instant,
}

impl<DB: sqlx::Database> Lease<DB> {
    pub(super) async fn begin(pool: &Pool<DB>, begin: &'static str) -> Result<Self, sqlx::Error> {
        let connection = pool.acquire().await?;
        Self { connection: Some(connection), in_transaction: false, since: Instant::now() }.begin_again(begin).await
    }

    pub(super) async fn begin_again(mut self, begin: &'static str) -> Result<Self, sqlx::Error> {
        // From here on: one that is dropped half-way may have begun.
        self.in_transaction = true;
        DB::TransactionManager::begin(self.connection(), Some(begin.into_sql_str())).await?;
        Ok(self)
    }

    pub(super) fn connection(&mut self) -> &mut DB::Connection {
        self.connection.as_mut().expect("it is there until the drop")
    }

    /// Gives the connection, if it may be used once more.
    pub(super) async fn commit(mut self) -> Result<Option<Self>, sqlx::Error> {
        DB::TransactionManager::commit(self.connection()).await?;
        self.in_transaction = false;
        Ok((self.since.elapsed() < OUT_AT_MOST).then_some(self))
    }

    pub(super) async fn rollback(mut self) -> Result<(), sqlx::Error> {
        DB::TransactionManager::rollback(self.connection()).await?;
        self.in_transaction = false;
        Ok(())
    }
}

impl<DB: sqlx::Database> Drop for Lease<DB> {
    fn drop(&mut self) {
        if self.in_transaction {
            DB::TransactionManager::start_rollback(self.connection());
        }
        // Only a runtime can take it back to its pool; without one it is closed.
        if let Some(connection) = self.connection.take()
            && Handle::try_current().is_err()
        {
            drop(connection.detach());
        }
    }
}
