//! A temporary SQLite file opened as either of the two databases, and what the suites need to say to it.

#[cfg(feature = "failpoints")]
use std::path::Path;
use std::{future::Future, path::PathBuf, time::Duration};

use sea_orm::{ConnectionTrait, DatabaseConnection, SqlxSqliteConnector};
use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};
use tempfile::TempDir;
use txn_sdk::Database;

/// Makes one test per database of each generic `async fn`.
macro_rules! on_both_databases {
    ($($name:ident),+ $(,)?) => {
        mod on_sqlx {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name::<sqlx::SqlitePool>().await; })+
        }
        mod on_sea_orm {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name::<sea_orm::DatabaseConnection>().await; })+
        }
    };
}
pub(crate) use on_both_databases;

pub(crate) trait TestDatabase: Database {
    fn from_pool(pool: SqlitePool) -> Self;
    /// Runs a statement inside a transaction, as the user's code would.
    fn run<'t>(handle: Self::Handle<'t>, sql: &'static str) -> impl Future<Output = Result<(), String>> + Send + 't;
}

impl TestDatabase for SqlitePool {
    fn from_pool(pool: SqlitePool) -> Self {
        pool
    }

    async fn run<'t>(handle: Self::Handle<'t>, sql: &'static str) -> Result<(), String> {
        sqlx::query(sql).execute(handle).await.map(drop).map_err(|error| error.to_string())
    }
}

impl TestDatabase for DatabaseConnection {
    fn from_pool(pool: SqlitePool) -> Self {
        SqlxSqliteConnector::from_sqlx_sqlite_pool(pool)
    }

    async fn run<'t>(handle: Self::Handle<'t>, sql: &'static str) -> Result<(), String> {
        handle.execute_unprepared(sql).await.map(drop).map_err(|error| error.to_string())
    }
}

/// A database file, with a table of the user's in it.
pub(crate) struct File {
    directory: PathBuf,
    /// Gone when it is dropped.
    _temporary: Option<TempDir>,
}

impl File {
    pub(crate) async fn with_orders() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let file = Self { directory: temporary.path().to_owned(), _temporary: Some(temporary) };
        sqlx::query("CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT, note TEXT)")
            .execute(&file.pool().await)
            .await
            .unwrap();
        file
    }

    /// The file of another process.
    #[cfg(feature = "failpoints")]
    pub(crate) fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), _temporary: None }
    }

    pub(crate) fn options(&self) -> SqliteConnectOptions {
        SqliteConnectOptions::new()
            .filename(self.directory.join("shop.db"))
            .create_if_missing(true)
            .busy_timeout(Duration::from_secs(20))
    }

    #[cfg(feature = "failpoints")]
    pub(crate) fn path(&self) -> &Path {
        &self.directory
    }

    pub(crate) async fn pool(&self) -> SqlitePool {
        Self::pool_of(self.options()).await
    }

    /// Its connections settle for less than a durable commit.
    pub(crate) async fn weak_pool(&self) -> SqlitePool {
        let options = SqlitePoolOptions::new().after_connect(|connection, _| {
            Box::pin(async { sqlx::query("PRAGMA synchronous = NORMAL").execute(connection).await.map(drop) })
        });
        options.connect_with(self.options()).await.unwrap()
    }

    async fn pool_of(options: SqliteConnectOptions) -> SqlitePool {
        SqlitePoolOptions::new().max_connections(8).connect_with(options).await.unwrap()
    }

    /// One more process that opens the file.
    pub(crate) async fn open<D: TestDatabase>(&self) -> D {
        D::from_pool(self.pool().await)
    }

    pub(crate) async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool().await).await.unwrap()
    }

    pub(crate) async fn orders(&self) -> i64 {
        self.count("SELECT count(*) FROM orders").await
    }
}
