//! A database of its own for each test, on each engine and through each library, and what the suites need to say to it.
//! The servers are real ones, started once for all tests of this process.

use std::{
    future::Future,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use mq_testkit::database::{DatabaseKind, DatabaseServer};
use sea_orm::{
    ConnectionTrait, DatabaseConnection, QueryResult, SqlxMySqlConnector, SqlxPostgresConnector, SqlxSqliteConnector,
    Statement,
};
use sqlx::{
    Connection, Executor, MySqlPool, PgPool, Pool, SqlitePool, mysql::MySqlConnectOptions, pool::PoolOptions,
    postgres::PgConnectOptions, sqlite::SqliteConnectOptions,
};
use tempfile::TempDir;
use txn_sdk::Database;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    MariaDb,
    MySql,
    Postgres,
}

/// Makes one test per engine and library of each generic `async fn`.
macro_rules! on_all_databases {
    ($($name:ident),+ $(,)?) => {
        mod on_sqlx {
            crate::databases::column!(sqlite, sqlx::SqlitePool, Sqlite, $($name),+);
            crate::databases::column!(mariadb, sqlx::MySqlPool, MariaDb, $($name),+);
            crate::databases::column!(mysql, sqlx::MySqlPool, MySql, $($name),+);
            crate::databases::column!(postgres, sqlx::PgPool, Postgres, $($name),+);
        }
        mod on_sea_orm {
            crate::databases::column!(sqlite, sea_orm::DatabaseConnection, Sqlite, $($name),+);
            crate::databases::column!(mariadb, sea_orm::DatabaseConnection, MariaDb, $($name),+);
            crate::databases::column!(mysql, sea_orm::DatabaseConnection, MySql, $($name),+);
            crate::databases::column!(postgres, sea_orm::DatabaseConnection, Postgres, $($name),+);
        }
    };
}
macro_rules! column {
    ($module:ident, $database:ty, $engine:ident, $($name:ident),+) => {
        mod $module {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::super::$name::<$database>(crate::databases::Engine::$engine).await;
            })+
        }
    };
}
pub(crate) use {column, on_all_databases};

/// A service's pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolShape {
    pub(crate) connections: u32,
    /// Said on each new connection.
    pub(crate) on_connect: Option<&'static str>,
}

pub(crate) trait TestDatabase: Database {
    fn open(url: &str, shape: PoolShape) -> impl Future<Output = Self> + Send;
    /// Runs a statement inside a transaction, as the user's code would.
    fn run<'t>(handle: Self::Handle<'t>, sql: &'static str) -> impl Future<Output = Result<(), String>> + Send + 't;
}

async fn pool<DB: sqlx::Database>(options: <DB::Connection as Connection>::Options, shape: PoolShape) -> Pool<DB>
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    let pool = PoolOptions::<DB>::new().max_connections(shape.connections).after_connect(move |connection, _| {
        Box::pin(async move {
            match shape.on_connect {
                Some(statement) => connection.execute(statement).await.map(drop),
                None => Ok(()),
            }
        })
    });
    pool.connect_with(options).await.unwrap()
}

macro_rules! sqlx_database {
    ($pool:ty, $options:ty, $more:expr) => {
        impl TestDatabase for $pool {
            async fn open(url: &str, shape: PoolShape) -> Self {
                let options: $options = url.parse().unwrap();
                pool($more(options), shape).await
            }

            async fn run<'t>(handle: Self::Handle<'t>, sql: &'static str) -> Result<(), String> {
                sqlx::raw_sql(sql).execute(handle).await.map(drop).map_err(|error| error.to_string())
            }
        }
    };
}
sqlx_database!(SqlitePool, SqliteConnectOptions, |options: SqliteConnectOptions| options
    .busy_timeout(Duration::from_secs(20)));
sqlx_database!(MySqlPool, MySqlConnectOptions, |options| options);
sqlx_database!(PgPool, PgConnectOptions, |options| options);

impl TestDatabase for DatabaseConnection {
    async fn open(url: &str, shape: PoolShape) -> Self {
        match url.split_once(':').unwrap().0 {
            "sqlite" => SqlxSqliteConnector::from_sqlx_sqlite_pool(SqlitePool::open(url, shape).await),
            "mysql" => SqlxMySqlConnector::from_sqlx_mysql_pool(MySqlPool::open(url, shape).await),
            _ => SqlxPostgresConnector::from_sqlx_postgres_pool(PgPool::open(url, shape).await),
        }
    }

    async fn run<'t>(handle: Self::Handle<'t>, sql: &'static str) -> Result<(), String> {
        handle.execute_unprepared(sql).await.map(drop).map_err(|error| error.to_string())
    }
}

/// Once a test binary: a server that does not start fails all its tests at once.
type Shared = OnceLock<Result<DatabaseServer, String>>;

fn shared(server: &'static Shared, kind: DatabaseKind, settings: &[(&str, &str)]) -> &'static DatabaseServer {
    let started = server.get_or_init(|| DatabaseServer::start(kind, settings).map_err(|error| format!("{error:#}")));
    started.as_ref().unwrap_or_else(|error| panic!("no server: {error}"))
}

fn server(kind: DatabaseKind) -> &'static DatabaseServer {
    static POSTGRES: Shared = OnceLock::new();
    static MARIADB: Shared = OnceLock::new();
    static MYSQL: Shared = OnceLock::new();
    let server = match kind {
        DatabaseKind::Postgres => &POSTGRES,
        DatabaseKind::MariaDb => &MARIADB,
        DatabaseKind::MySql => &MYSQL,
    };
    shared(server, kind, &[])
}

/// Servers whose commits a power cut may take back.
fn weak_server(kind: DatabaseKind) -> &'static DatabaseServer {
    static POSTGRES: Shared = OnceLock::new();
    static MARIADB: Shared = OnceLock::new();
    static MYSQL: Shared = OnceLock::new();
    match kind {
        DatabaseKind::Postgres => shared(&POSTGRES, kind, &[("fsync", "off")]),
        DatabaseKind::MySql => shared(&MYSQL, kind, &[("innodb-flush-log-at-trx-commit", "2")]),
        // Flushed at each commit, but recovery asks the binary log, and that is not.
        DatabaseKind::MariaDb => shared(&MARIADB, kind, &[("log-bin", "binlog"), ("sync-binlog", "0")]),
    }
}

/// A database, with a table of the user's in it.
pub(crate) struct Scratch {
    pub(crate) engine: Engine,
    url: String,
    ours: DatabaseConnection,
    /// Gone when it is dropped.
    _directory: Option<TempDir>,
}

const A_FEW: PoolShape = PoolShape { connections: 8, on_connect: None };

impl Scratch {
    pub(crate) async fn with_orders(engine: Engine) -> Self {
        let scratch = match engine {
            Engine::Sqlite => {
                let directory = tempfile::tempdir().unwrap();
                let url = format!("sqlite://{}?mode=rwc", directory.path().join("shop.db").display());
                Self { _directory: Some(directory), ..Self::at(engine, url).await }
            }
            Engine::MariaDb => Self::created(engine, server(DatabaseKind::MariaDb)).await,
            Engine::MySql => Self::created(engine, server(DatabaseKind::MySql)).await,
            Engine::Postgres => Self::created(engine, server(DatabaseKind::Postgres)).await,
        };
        scratch
            .run(match engine {
                Engine::Sqlite => "CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT, note TEXT)",
                Engine::MariaDb | Engine::MySql => {
                    "CREATE TABLE orders (id BIGINT AUTO_INCREMENT PRIMARY KEY, note TEXT)"
                }
                Engine::Postgres => "CREATE TABLE orders (id BIGSERIAL PRIMARY KEY, note TEXT)",
            })
            .await;
        scratch
    }

    /// Where a power cut may take back what was committed, and a shape of pool that makes it so.
    pub(crate) async fn weak(engine: Engine) -> (Self, PoolShape) {
        match engine {
            Engine::Sqlite => {
                let on_connect = Some("PRAGMA synchronous = NORMAL");
                (Self::with_orders(engine).await, PoolShape { on_connect, ..A_FEW })
            }
            Engine::MariaDb => (Self::created(engine, weak_server(DatabaseKind::MariaDb)).await, A_FEW),
            Engine::MySql => (Self::created(engine, weak_server(DatabaseKind::MySql)).await, A_FEW),
            Engine::Postgres => (Self::created(engine, weak_server(DatabaseKind::Postgres)).await, A_FEW),
        }
    }

    /// Where a write to what has changed since a transaction's snapshot is refused (error 1020), as MariaDB does by default
    /// since 11.6.
    pub(crate) async fn strict() -> Self {
        static STRICT: Shared = OnceLock::new();
        let server = shared(&STRICT, DatabaseKind::MariaDb, &[("innodb-snapshot-isolation", "ON")]);
        Self::created(Engine::MariaDb, server).await
    }

    async fn created(engine: Engine, server: &DatabaseServer) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("shop_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let first = sea_orm::Database::connect(server.url(None)).await.unwrap();
        // On PostgreSQL a schema does, and is not three hundred files.
        let (create, url) = match engine {
            Engine::Postgres => {
                (format!("CREATE SCHEMA {name}"), format!("{}&options=-c%20search_path%3D{name}", server.url(None)))
            }
            _ => (format!("CREATE DATABASE {name}"), server.url(Some(&name))),
        };
        first.execute_unprepared(&create).await.unwrap();
        first.close().await.unwrap();
        Self::at(engine, url).await
    }

    /// Somebody else's.
    pub(crate) async fn at(engine: Engine, url: String) -> Self {
        let ours = DatabaseConnection::open(&url, PoolShape { connections: 2, on_connect: None }).await;
        Self { engine, url, ours, _directory: None }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// One more process that opens it.
    pub(crate) async fn open<D: TestDatabase>(&self) -> D {
        self.open_as(A_FEW).await
    }

    pub(crate) async fn open_as<D: TestDatabase>(&self, shape: PoolShape) -> D {
        D::open(&self.url, shape).await
    }

    /// One more process, whose transactions have this isolation unless they say otherwise.
    pub(crate) async fn open_isolated<D: TestDatabase>(&self, level: Isolation) -> D {
        let on_connect = match (self.engine, level) {
            (Engine::Sqlite, _) => "SELECT 1",
            (Engine::MariaDb | Engine::MySql, Isolation::Lowest) => {
                "SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED"
            }
            (Engine::MariaDb | Engine::MySql, Isolation::Repeatable) => {
                "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ"
            }
            (Engine::MariaDb | Engine::MySql, Isolation::Serializable) => {
                "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE"
            }
            (Engine::Postgres, Isolation::Lowest) => "SET default_transaction_isolation = 'read uncommitted'",
            (Engine::Postgres, Isolation::Repeatable) => "SET default_transaction_isolation = 'repeatable read'",
            (Engine::Postgres, Isolation::Serializable) => "SET default_transaction_isolation = 'serializable'",
        };
        self.open_as(PoolShape { on_connect: Some(on_connect), ..A_FEW }).await
    }

    pub(crate) async fn run(&self, sql: &'static str) {
        self.ours.execute_unprepared(sql).await.unwrap();
    }

    pub(crate) async fn rows(&self, sql: &'static str) -> Vec<QueryResult> {
        self.ours.query_all_raw(Statement::from_string(self.ours.get_database_backend(), sql)).await.unwrap()
    }

    pub(crate) async fn count(&self, sql: &'static str) -> i64 {
        self.rows(sql).await[0].try_get_by_index(0).unwrap()
    }

    pub(crate) async fn orders(&self) -> i64 {
        self.count("SELECT count(*) FROM orders").await
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Isolation {
    Lowest,
    Repeatable,
    Serializable,
}
