//! A transaction on a connection of a sqlx pool, which may be kept for the next one instead of going back: each way
//! through the pool costs two pings and a task.
//!
//! A commit that goes with other statements in one message is not the driver's: it goes on counting the transaction as open,
//! which is what makes a nested one a savepoint. The next begin on that connection is ours as well, and before it goes back
//! to its pool the driver is told.

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sqlx::{Connection, Pool, pool::PoolConnection};
use sqlx_core::{sql_str::SqlSafeStr, transaction::TransactionManager};
use tokio::runtime::Handle;

/// How long a connection may stay out of its pool, which looks after lifetimes and its user's hooks.
const OUT_AT_MOST: Duration = Duration::from_secs(10);

/// What the drivers' traits do not offer for any of them.
pub trait Driver: sqlx::Database {
    /// Runs statements without values, in one message. Says how many were done: a driver may take the end of a connection
    /// for the end of the results.
    fn say<'c>(connection: &'c mut Self::Connection, words: String) -> BoxFuture<'c, Result<usize, sqlx::Error>>;
}

/// Dropped within a transaction, it is rolled back.
pub struct Lease<DB: Driver> {
    /// `None` on its way out.
    connection: Option<PoolConnection<DB>>,
    in_transaction: bool,
    since: Instant,
}

impl<DB: Driver> Lease<DB> {
    pub(super) async fn begin(pool: &Pool<DB>, begin: &'static str) -> Result<Self, sqlx::Error> {
        loop {
            let connection = pool.acquire().await?;
            // One on which a commit or rollback failed: the driver begins a savepoint in that, and may call a commit done
            // that never reached the disk.
            if DB::TransactionManager::get_transaction_depth(&connection) > 0 {
                drop(connection.detach());
                continue;
            }
            let lease = Self { connection: Some(connection), in_transaction: false, since: Instant::now() };
            return lease.begun(begin).await;
        }
    }

    async fn begun(mut self, begin: &'static str) -> Result<Self, sqlx::Error> {
        // From here on: one that is dropped half-way may have begun.
        self.in_transaction = true;
        DB::TransactionManager::begin(self.connection(), Some(begin.into_sql_str())).await?;
        Ok(self)
    }

    /// On a connection that [`Lease::commit_saying`] has left, where the driver does not insist on the begin.
    pub(super) async fn begin_saying(mut self, begin: &'static str, words: &str) -> Result<Self, sqlx::Error> {
        self.in_transaction = true;
        self.say(format!("{begin}; {words}")).await?;
        Ok(self)
    }

    pub(super) fn connection(&mut self) -> &mut DB::Connection {
        self.connection.as_mut().expect("it is there until the drop")
    }

    pub(super) async fn say(&mut self, words: String) -> Result<(), sqlx::Error> {
        DB::say(self.connection(), words).await.map(drop)
    }

    pub(super) async fn commit(mut self) -> Result<(), sqlx::Error> {
        if self.depth() != 1 {
            return Err(sqlx::Error::Protocol("a nested transaction was left open".into()));
        }
        DB::TransactionManager::commit(self.connection()).await?;
        self.in_transaction = false;
        Ok(())
    }

    /// In one message, and the connection may be used once more.
    pub(super) async fn commit_saying(mut self, words: &'static str) -> Result<Self, sqlx::Error> {
        let done = DB::say(self.connection(), format!("{words}; COMMIT")).await?;
        if done != 2 {
            return Err(sqlx::Error::Protocol(format!("of two statements the database has answered {done}")));
        }
        self.in_transaction = false;
        Ok(self)
    }

    pub(super) fn is_young(&self) -> bool {
        self.since.elapsed() < OUT_AT_MOST
    }

    /// With a nested one open the driver would roll back that only: then the connection is closed.
    pub(super) async fn rollback(mut self) -> Result<(), sqlx::Error> {
        if self.depth() == 1 {
            DB::TransactionManager::rollback(self.connection()).await?;
            self.in_transaction = false;
            return Ok(());
        }
        match self.connection.take() {
            Some(connection) => connection.detach().close_hard().await,
            None => Ok(()),
        }
    }

    fn depth(&self) -> usize {
        self.connection.as_deref().map_or(0, DB::TransactionManager::get_transaction_depth)
    }
}

impl<DB: Driver> Drop for Lease<DB> {
    fn drop(&mut self) {
        let depth = self.depth();
        if self.in_transaction && depth == 1 {
            DB::TransactionManager::start_rollback(self.connection());
        }
        let Some(connection) = self.connection.take() else { return };
        match Handle::try_current() {
            // Dropped while it began, or with a nested one open: what the driver counts will not roll it back.
            Ok(_) if self.in_transaction && depth != 1 => drop(connection.detach()),
            Ok(runtime) if !self.in_transaction && depth > 0 => drop(runtime.spawn(give_back(connection))),
            Ok(_) => {}
            // Only a runtime can take it back to its pool; without one it is closed.
            Err(_) => drop(connection.detach()),
        }
    }
}

/// Lets the driver end what it counts as open, which is an empty transaction.
async fn give_back<DB: Driver>(mut connection: PoolConnection<DB>) {
    let ended = async {
        DB::say(&mut connection, "BEGIN".to_owned()).await?;
        DB::TransactionManager::rollback(&mut connection).await
    };
    if ended.await.is_err() {
        drop(connection.detach());
    }
}
