//! The databases whose transactions a message can be tied to: `sqlx::SqlitePool` and `sea_orm::DatabaseConnection`.
//! Knows how to begin, run one statement and finish; knows no table of ours and no broker.

mod sea_orm;
mod sqlx;

use std::future::Future;

use ::sqlx::{
    SqliteConnection, SqlitePool,
    sqlite::{SqliteSynchronous, SqliteTransactionManager},
};
use sqlx_core::transaction::TransactionManager;

pub(crate) use self::sqlx::bind;

/// A database that the SDK can keep its marker and inbox rows in. Sealed: the rules that make a marker trustworthy
/// (write lock from the first statement, durable commit, no half-open connection back into the pool) are kept here.
///
/// SQLite it is for now, in a file. The SDK makes connections of its own with the options of yours.
pub trait Database: sealed::Sealed + Clone + Send + Sync + 'static {
    /// An open transaction. Dropped, it is rolled back.
    type Tx: Send + 'static;
    /// What your code inside a transaction receives: `&DatabaseTransaction` (sea-orm), `&mut SqliteConnection` (sqlx).
    type Handle<'t>: Send;

    /// The same database over connections of the SDK's own: see `own_pool`.
    #[doc(hidden)]
    fn with_own_pool(&self) -> Self;
    #[doc(hidden)]
    fn sqlite_pool(&self) -> Result<&SqlitePool, DatabaseError>;
    #[doc(hidden)]
    fn begin(&self) -> impl Future<Output = Result<Self::Tx, DatabaseError>> + Send;
    #[doc(hidden)]
    fn handle(tx: &mut Self::Tx) -> Self::Handle<'_>;
    /// Runs one statement and says how many rows it changed.
    #[doc(hidden)]
    fn execute(
        tx: &mut Self::Tx,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<u64, DatabaseError>> + Send;
    /// The first column of the first row.
    #[doc(hidden)]
    fn number(
        tx: &mut Self::Tx,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Option<i64>, DatabaseError>> + Send;
    #[doc(hidden)]
    fn commit(tx: Self::Tx) -> impl Future<Output = Result<(), CommitError>> + Send;
    #[doc(hidden)]
    fn rollback(tx: Self::Tx) -> impl Future<Output = Result<(), DatabaseError>> + Send;
}

/// Connections whose word can be trusted. Each commit is durable, and no connection is used again on which a commit or
/// rollback failed: the driver still believes it inside a transaction, begins the next one as a savepoint in that, and
/// may call a commit done that never reached the disk.
fn own_pool(pool: &SqlitePool) -> SqlitePool {
    let connect = (*pool.connect_options()).clone().synchronous(SqliteSynchronous::Full);
    let options = pool.options().clone().min_connections(0).test_before_acquire(true);
    options
        .before_acquire(|connection, _| Box::pin(std::future::ready(Ok(is_idle(connection)))))
        .connect_lazy_with(connect)
}

fn is_idle(connection: &SqliteConnection) -> bool {
    SqliteTransactionManager::get_transaction_depth(connection) == 0
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for ::sqlx::SqlitePool {}
    impl Sealed for ::sea_orm::DatabaseConnection {}
}

/// A bound value of a statement.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub enum Value<'v> {
    Bytes(&'v [u8]),
    Text(&'v str),
    Number(i64),
}

#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    #[error(transparent)]
    Sqlx(#[from] ::sqlx::Error),
    #[error(transparent)]
    SeaOrm(#[from] ::sea_orm::DbErr),
    #[error("{0} is not supported: messages are tied to SQLite databases in a file")]
    Unsupported(String),
    #[error(
        "the connections of this pool set synchronous={0}; a commit must be durable before it is announced: use FULL"
    )]
    NotDurable(i64),
    #[error("the journal mode is {0}, and could not be set to WAL")]
    NotWal(String),
}

/// Why a commit did not answer "done". The difference decides between "nothing was written" and "in doubt".
#[doc(hidden)]
#[derive(Debug)]
pub enum CommitError {
    /// The database looked at the rows and refused them; the transaction is rolled back.
    Refused(DatabaseError),
    /// It may or may not have committed.
    Unknown(DatabaseError),
}

const SQLITE_CONSTRAINT: u32 = 19;

impl CommitError {
    /// Only a broken constraint (deferred until the commit) is a sure refusal. A full disk, an I/O error or a lost
    /// connection is not: the checkback will read what really happened.
    fn of(error: DatabaseError) -> Self {
        let code = error.as_sqlx().and_then(::sqlx::Error::as_database_error).and_then(|error| error.code());
        match code.and_then(|code| code.parse::<u32>().ok()) {
            Some(code) if code & 0xff == SQLITE_CONSTRAINT => Self::Refused(error),
            _ => Self::Unknown(error),
        }
    }
}

impl DatabaseError {
    fn as_sqlx(&self) -> Option<&::sqlx::Error> {
        use ::sea_orm::{DbErr, RuntimeErr};
        match self {
            Self::Sqlx(error) => Some(error),
            Self::SeaOrm(
                DbErr::Conn(RuntimeErr::SqlxError(error))
                | DbErr::Exec(RuntimeErr::SqlxError(error))
                | DbErr::Query(RuntimeErr::SqlxError(error)),
            ) => Some(error),
            _ => None,
        }
    }
}
