//! The databases whose transactions a message can be tied to: sqlx pools and `sea_orm::DatabaseConnection`, on SQLite,
//! MySQL or MariaDB, and PostgreSQL. Knows how to begin, run one statement and finish; knows no broker.

mod dialect;
mod lease;
mod mysql;
mod postgres;
mod sea_orm;
mod side;
mod sqlite;
mod sqlx;
mod work;

use std::{future::Future, time::Duration};

use ::sqlx::{Connection, Pool, pool::PoolOptions};

use crate::planted::{Bug, planted};

use self::dialect::Closing;
pub(crate) use self::dialect::{Dialect, Durably, Mark};
pub(crate) use self::side::{Side, commit};
pub(crate) use self::work::{Work, Workplace};

/// A database that the SDK can keep its marker and inbox rows in: `sqlx::{SqlitePool, MySqlPool, PgPool}`, or
/// `sea_orm::DatabaseConnection` on any of the three. Sealed: the rules that make a marker trustworthy (which locks,
/// which isolation, durable commit, no half-open connection back into the pool) are kept here.
///
/// The SDK makes connections of its own with the options of yours.
pub trait Database: sealed::Sealed + Clone + Send + Sync + 'static {
    /// An open transaction. Dropped, it is rolled back.
    type Tx: Send + 'static;
    /// A connection between two transactions.
    #[doc(hidden)]
    type Idle: Send + 'static;
    /// What your code inside a transaction receives: `&DatabaseTransaction` (sea-orm), `&mut SqliteConnection`,
    /// `&mut MySqlConnection` or `&mut PgConnection` (sqlx).
    type Handle<'t>: Send;

    /// How long a transaction waits for its turn, where it has one. Then it begins all the same and the database decides, as it
    /// does for writers in other processes: one that waits for itself (begun within another's work) gets the database's error.
    #[doc(hidden)]
    const TURN: Duration = Duration::from_secs(5);

    /// The same database over connections of the SDK's own: see `own_pool`.
    #[doc(hidden)]
    fn with_own_pool(&self, size: PoolSize) -> Self;
    /// How many transactions have a connection at the same time, and how long the next one waits. `None`: the pool's affair.
    #[doc(hidden)]
    fn places(&self) -> Option<(usize, Duration)> {
        None
    }
    #[doc(hidden)]
    fn dialect(&self) -> Result<&'static Dialect, DatabaseError>;
    #[doc(hidden)]
    fn dialect_of(tx: &Self::Tx) -> &'static Dialect;
    /// What has to be set once, outside of any transaction.
    #[doc(hidden)]
    fn set_up(&self) -> impl Future<Output = Result<(), DatabaseError>> + Send;
    #[doc(hidden)]
    fn begin_as(&self, begin: Begin) -> impl Future<Output = Result<Self::Tx, DatabaseError>> + Send;
    #[doc(hidden)]
    fn handle(tx: &mut Self::Tx) -> Self::Handle<'_>;
    /// Runs one statement and says how many rows it changed.
    #[doc(hidden)]
    fn execute(
        tx: &mut Self::Tx,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<u64, DatabaseError>> + Send;
    /// The first columns of the first row.
    #[doc(hidden)]
    fn row<const N: usize>(
        tx: &mut Self::Tx,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Option<Numbers<N>>, DatabaseError>> + Send;
    /// All rows: first `B` columns of bytes, then `N` numbers.
    #[doc(hidden)]
    fn rows<const B: usize, const N: usize>(
        tx: &mut Self::Tx,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Vec<Cells<B, N>>, DatabaseError>> + Send;
    /// A transaction for the user's work and `words`, on a connection that an earlier one has left.
    #[doc(hidden)]
    fn begin_saying(idle: Self::Idle, words: &str) -> impl Future<Output = Result<Self::Tx, DatabaseError>> + Send;
    /// Runs statements without values.
    #[doc(hidden)]
    fn say(tx: &mut Self::Tx, words: &str) -> impl Future<Output = Result<(), DatabaseError>> + Send;
    #[doc(hidden)]
    fn commit(tx: Self::Tx) -> impl Future<Output = Result<(), CommitError>> + Send;
    /// Commits the user's work, if the transaction is still the one that was begun.
    #[doc(hidden)]
    fn commit_work(mut tx: Self::Tx) -> impl Future<Output = Result<(), CommitError>> + Send {
        async move {
            let still = Self::dialect_of(&tx).still;
            if !planted(Bug::SignIgnored) {
                said::<Self>(&mut tx, still).await.map_err(|error| match error {
                    // No commit was asked for, so there will be none.
                    CommitError::Unknown(error) => CommitError::Refused(error),
                    known => known,
                })?;
            }
            Self::commit(tx).await
        }
    }
    /// The same, and gives the connection if another transaction may begin on it.
    #[doc(hidden)]
    fn commit_and_keep(tx: Self::Tx) -> impl Future<Output = Result<Option<Self::Idle>, CommitError>> + Send {
        async { Self::commit_work(tx).await.map(|()| None) }
    }
    #[doc(hidden)]
    fn rollback(tx: Self::Tx) -> impl Future<Output = Result<(), DatabaseError>> + Send;
    /// Closes the connections.
    #[doc(hidden)]
    fn close(&self) -> impl Future<Output = ()> + Send;

    /// A transaction for the user's work.
    #[doc(hidden)]
    fn begin(&self) -> impl Future<Output = Result<Self::Tx, DatabaseError>> + Send {
        self.begin_as(Begin::Work)
    }
}

/// Runs statements of the SDK's in a transaction for the user's work.
pub(crate) async fn said<D: Database>(tx: &mut D::Tx, words: &str) -> Result<(), CommitError> {
    D::say(tx, words).await.map_err(|error| CommitError::of(D::dialect_of(tx), error))
}

/// Inserts one row. False: its key is taken, or the statement's condition does not hold.
pub(crate) async fn insert<D: Database>(
    tx: &mut D::Tx,
    sql: &'static str,
    values: &[Value<'_>],
) -> Result<bool, DatabaseError> {
    match D::execute(tx, sql, values).await {
        Ok(rows) => Ok(rows == 1),
        Err(error) if error.is_duplicate_key() => Ok(false),
        Err(error) => Err(error),
    }
}

/// What a transaction is for.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// The user's: at the isolation that he has set. On SQLite it takes the write lock at once.
    Work,
    /// The SDK's own, that only reads.
    Look,
    /// The SDK's own, that writes.
    Write,
}

/// How many connections of its own.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub enum PoolSize {
    /// As many as the user's pool.
    Same,
    /// So many, which on SQLite wait so long for the write lock.
    Few { connections: u32, lock_timeout: Duration },
}

/// Connections of the SDK's own, with the options and the hooks of the user's, and `more`.
fn own_pool<DB: ::sqlx::Database>(
    pool: &Pool<DB>,
    size: PoolSize,
    connect: <DB::Connection as Connection>::Options,
    more: fn(PoolOptions<DB>) -> PoolOptions<DB>,
) -> Pool<DB> {
    let options = pool.options().clone().min_connections(0);
    let options = match size {
        PoolSize::Same => options,
        PoolSize::Few { connections, .. } => options.max_connections(connections),
    };
    more(options).connect_lazy_with(connect)
}

pub(crate) mod sealed {
    pub trait Sealed {}
    impl Sealed for ::sqlx::SqlitePool {}
    impl Sealed for ::sqlx::MySqlPool {}
    impl Sealed for ::sqlx::PgPool {}
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

/// The columns of a row.
#[doc(hidden)]
pub(crate) type Numbers<const N: usize> = [Option<i64>; N];

/// The columns of a row with bytes in it.
#[doc(hidden)]
#[derive(Debug)]
pub struct Cells<const B: usize, const N: usize> {
    pub(crate) bytes: [Vec<u8>; B],
    pub(crate) numbers: [i64; N],
}

impl<const B: usize, const N: usize> Cells<B, N> {
    fn read<E>(
        mut bytes: impl FnMut(usize) -> Result<Vec<u8>, E>,
        mut number: impl FnMut(usize) -> Result<i64, E>,
    ) -> Result<Self, E> {
        let mut cells = Self { bytes: std::array::from_fn(|_| Vec::new()), numbers: [0; N] };
        for (column, cell) in cells.bytes.iter_mut().enumerate() {
            *cell = bytes(column)?;
        }
        for (column, cell) in cells.numbers.iter_mut().enumerate() {
            *cell = number(B + column)?;
        }
        Ok(cells)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    #[error(transparent)]
    Sqlx(#[from] ::sqlx::Error),
    #[error(transparent)]
    SeaOrm(#[from] ::sea_orm::DbErr),
    #[error("{0} is not supported: messages are tied to SQLite files, MySQL, MariaDB and PostgreSQL")]
    Unsupported(String),
    #[error("a commit must be durable before it is announced: {0}")]
    NotDurable(&'static str),
    #[error("the journal mode is {0}, and could not be set to WAL")]
    NotWal(String),
    #[error(
        "checkback_database does not show the database's name that was written there: is this a replica, or was its row changed?"
    )]
    NoDatabaseName,
    #[error("another instance has been creating the checkback_* tables for {0:?}; is it stuck?")]
    SchemaLocked(Duration),
}

/// Why a commit did not answer "done", or a marker not go in. The difference decides between "nothing was written" and "in doubt".
#[doc(hidden)]
#[derive(Debug)]
pub enum CommitError {
    /// A tombstone stands where a marker should go; the transaction is rolled back.
    Fenced(DatabaseError),
    /// Something has ended the transaction before, one way or the other.
    Ended(DatabaseError),
    /// The database refused; the transaction is rolled back.
    Refused(DatabaseError),
    /// It may or may not have committed.
    Unknown(DatabaseError),
}

impl CommitError {
    /// A full disk, an I/O error or a lost connection is no sure refusal: the checkback will read what really happened.
    fn of(dialect: &Dialect, error: DatabaseError) -> Self {
        match error.of_database().map_or(Closing::Unknown, dialect.closing) {
            Closing::Fenced => Self::Fenced(error),
            Closing::Ended => Self::Ended(error),
            Closing::Weak(index) => Self::Refused(DatabaseError::NotDurable(dialect.weaknesses[index])),
            Closing::Refused => Self::Refused(error),
            Closing::Unknown => Self::Unknown(error),
        }
    }

    pub(crate) fn into_error(self) -> DatabaseError {
        match self {
            Self::Fenced(error) | Self::Ended(error) | Self::Refused(error) | Self::Unknown(error) => error,
        }
    }
}

impl DatabaseError {
    /// Another transaction was faster: what was done has to be done again from its begin.
    pub(crate) fn lost_a_race(&self, dialect: &Dialect) -> bool {
        self.of_database().is_some_and(|error| (dialect.lost_a_race)(error))
    }

    /// The connection is gone, rather than that the database refused something: the driver's word, or the server's last one.
    fn is_of_the_connection(&self, dialect: &Dialect) -> bool {
        self.of_database().is_none_or(dialect.is_last_word)
    }

    fn is_duplicate_key(&self) -> bool {
        self.of_database().is_some_and(|error| error.is_unique_violation())
    }

    /// What the database itself said, if it was asked.
    fn of_database(&self) -> Option<&dyn ::sqlx::error::DatabaseError> {
        use ::sea_orm::{DbErr, RuntimeErr};
        match self {
            Self::Sqlx(error) => error.as_database_error(),
            Self::SeaOrm(
                DbErr::Conn(RuntimeErr::SqlxError(error))
                | DbErr::Exec(RuntimeErr::SqlxError(error))
                | DbErr::Query(RuntimeErr::SqlxError(error)),
            ) => error.as_database_error(),
            _ => None,
        }
    }
}
