//! The marker table: one row per transaction, written inside it, and the fence that answers checkbacks from it.
//! Knows no broker and no message.

use std::time::Duration;

use mq_client::Verdict;
use mq_protocol::ids::UnixMillis;
use sqlx::{Row as _, SqlitePool, sqlite::SqlitePoolOptions};

use crate::{
    clock,
    database::{self, Database, DatabaseError, Value},
    decision::{self, Row, Sight, Step},
    housekeeping::{Housekeeper, Rows},
    id::TransactionId,
    schema,
};

/// Checks have connections of their own: a service whose pool is exhausted must still be able to answer.
const CHECK_CONNECTIONS: u32 = 3;
/// For one answer, a connection's opening on a busy machine included. The broker does not wait for it, but asks again.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Inserts nothing when the key is taken, when the transaction was born before the horizon (its tombstone may have been
/// cleaned), or when the commit would not be durable.
const INSERT_MARKER: &str = "
    INSERT INTO checkback_marker (tx_id, producer_group, topic, state, mode, created_ms)
    SELECT ?1, ?2, ?3, ?4, ?5, ?6
    WHERE ?6 >= (SELECT horizon_ms FROM checkback_horizon)
      AND (SELECT synchronous FROM pragma_synchronous) >= 2
    ON CONFLICT (tx_id) DO NOTHING";
const LOOK: &str = "
    SELECT h.horizon_ms, m.state, m.mode
    FROM checkback_horizon h LEFT JOIN checkback_marker m ON m.tx_id = ?1";

#[derive(Clone, Copy, Debug)]
pub struct MarkerOptions {
    /// The age from which a checkback fences off a transaction that has no row yet. Correctness does not depend on it,
    /// only how long a crashed transaction stays undecided and how long a slow one may take.
    pub deadline: Duration,
    /// How long a checkback waits for a database lock before it answers "unknown".
    pub lock_timeout: Duration,
    /// How long rows are kept: more than twice the time that the broker keeps a half message.
    pub keep: Duration,
}

impl Default for MarkerOptions {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(60),
            lock_timeout: Duration::from_millis(500),
            keep: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// Whose transaction a marker belongs to. For people who read the table; the id alone is the key.
#[derive(Clone, Copy, Debug)]
pub struct MarkerOwner<'o> {
    pub group: &'o str,
    pub topic: &'o str,
}

#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// A checkback has already answered ROLLBACK for this transaction. It must not commit any more.
    #[error("fenced: a checkback has given this transaction up; it took longer than the deadline")]
    Fenced,
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// The markers of one database: what [`TxnProducer`](crate::TxnProducer) writes and what its checkbacks read.
#[derive(Clone, Debug)]
pub struct Markers<D> {
    database: D,
    checks: SqlitePool,
    options: MarkerOptions,
}

impl<D: Database> Markers<D> {
    /// Creates or migrates the tables; refuses a database whose commits would not survive a power cut.
    pub async fn open(database: D, options: MarkerOptions) -> Result<Self, DatabaseError> {
        let database = database.with_own_pool();
        schema::prepare(&database).await?;
        let connect = (*database.sqlite_pool()?.connect_options()).clone().busy_timeout(options.lock_timeout);
        let checks = SqlitePoolOptions::new()
            .max_connections(CHECK_CONNECTIONS)
            .acquire_timeout(CHECK_TIMEOUT)
            .connect_lazy_with(connect);
        Ok(Self { database, checks, options })
    }

    pub fn database(&self) -> &D {
        &self.database
    }

    /// The first statement of a transaction.
    pub async fn mark(tx: &mut D::Tx, id: TransactionId, owner: MarkerOwner<'_>) -> Result<(), MarkError> {
        if D::execute(tx, INSERT_MARKER, &row_values(&id, owner, Row::COMMITTED)).await? == 1 {
            return Ok(());
        }
        match schema::synchronous::<D>(tx).await? {
            durable if durable >= 2 => Err(MarkError::Fenced),
            weak => Err(DatabaseError::NotDurable(weak).into()),
        }
    }

    /// The answer to a checkback. Whatever goes wrong on the way is "unknown": the broker will ask again.
    pub async fn verdict(&self, id: TransactionId, owner: MarkerOwner<'_>) -> Verdict {
        // Dropping the work when time is up is harmless: the tombstone stands or it does not, and nothing was promised.
        match tokio::time::timeout(CHECK_TIMEOUT + self.options.lock_timeout, self.decide(id, owner)).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(error)) => {
                tracing::warn!(%id, %error, "checkback answered unknown: the database did not answer");
                Verdict::Unknown
            }
            Err(_) => {
                tracing::warn!(%id, "checkback answered unknown: the database took too long");
                Verdict::Unknown
            }
        }
    }

    async fn decide(&self, id: TransactionId, owner: MarkerOwner<'_>) -> Result<Verdict, sqlx::Error> {
        let (row, horizon) = self.look(id).await?;
        let sight = Sight { row, horizon, born: id.born(), now: clock::now(), deadline: self.options.deadline };
        match decision::first_look(&sight) {
            Step::Answer(verdict) => Ok(verdict),
            Step::Fence if self.fence(id, owner).await? => Ok(Verdict::Rollback),
            Step::Fence => Ok(decision::second_look(self.look(id).await?.0)),
        }
    }

    async fn look(&self, id: TransactionId) -> Result<(Option<Row>, UnixMillis), sqlx::Error> {
        let found = sqlx::query(LOOK).bind(id.as_bytes().to_vec()).fetch_one(&self.checks).await?;
        let state: Option<i64> = found.try_get(1)?;
        let row = match state {
            Some(state) => Some(Row { state, mode: found.try_get(2)? }),
            None => None,
        };
        Ok((row, UnixMillis(found.try_get(0)?)))
    }

    /// Whether the tombstone was written, durably.
    async fn fence(&self, id: TransactionId, owner: MarkerOwner<'_>) -> Result<bool, sqlx::Error> {
        let values = row_values(&id, owner, Row::TOMBSTONE);
        Ok(database::bind(INSERT_MARKER, &values).execute(&self.checks).await?.rows_affected() == 1)
    }

    /// Deletes markers that nobody can ask about any more, in small batches, and says how many rows went. The producer does it
    /// every few minutes.
    pub async fn clean(&self, now: UnixMillis) -> Result<u64, DatabaseError> {
        self.housekeeper().clean(now).await
    }

    pub(crate) fn housekeeper(&self) -> Housekeeper {
        Housekeeper { pool: self.checks.clone(), rows: Rows::Markers, keep: self.options.keep }
    }
}

fn row_values<'v>(id: &'v TransactionId, owner: MarkerOwner<'v>, row: Row) -> [Value<'v>; 6] {
    [
        Value::Bytes(id.as_bytes()),
        Value::Text(owner.group),
        Value::Text(owner.topic),
        Value::Number(row.state),
        Value::Number(row.mode),
        Value::Number(id.born().0),
    ]
}
