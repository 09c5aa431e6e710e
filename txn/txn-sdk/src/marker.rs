//! The marker table: one row per transaction, written inside it, and the fence that answers checkbacks from it.
//! Knows no broker and no message.
//!
//! A transaction and the tombstone of a checkback meet at one key, and one of them gets it. Tombstones stay, so a transaction
//! may come as late as it likes. Markers are cleaned when nobody asks any more; below the horizon a missing row proves nothing.

use std::{sync::Arc, time::Duration};

use mq_client::Verdict;
use mq_protocol::ids::UnixMillis;

use crate::{
    clock,
    database::{
        self, Begin, CommitError, Database, DatabaseError, Durably, Mark, PoolSize, Side, Value, Work, Workplace,
    },
    decision::{self, Ending, Row, Sight, Step},
    housekeeping::{Housekeeper, Rows},
    id::{DatabaseId, TransactionId},
    planted::{Bug, planted},
    schema,
    unborn::Unborn,
};

/// Checks have connections of their own: a service whose pool is exhausted must still be able to answer.
const CHECK_CONNECTIONS: u32 = 3;
/// Tries of one answer that lost to other transactions.
const CHECK_ATTEMPTS: u32 = 5;
/// For one answer, a connection's opening on a busy machine included. The broker does not wait for it, but asks again.
pub(crate) const CHECK_TIMEOUT: Duration = Duration::from_secs(30);

/// No horizon, no promise: somebody has emptied a table.
const NONE: UnixMillis = UnixMillis(i64::MAX);

#[derive(Clone, Copy, Debug)]
pub struct MarkerOptions {
    /// The age from which a checkback fences off a transaction that has no row yet. Correctness does not depend on it,
    /// only how long a crashed transaction stays undecided.
    pub deadline: Duration,
    /// How long a checkback waits for a database lock before it answers "unknown".
    pub lock_timeout: Duration,
    /// How long the rows of committed transactions are kept: more than twice the time that the broker keeps a half message.
    pub keep: Duration,
    /// How many tombstones are kept at least, the newest ones. A transaction that is still open when that many younger ones
    /// have been given up may commit although its checkback was answered ROLLBACK.
    pub tombstones: u32,
}

impl Default for MarkerOptions {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(60),
            lock_timeout: Duration::from_millis(500),
            keep: Duration::from_secs(7 * 24 * 3600),
            tombstones: 1_000_000,
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

impl MarkError {
    fn of(error: CommitError) -> Self {
        match error {
            CommitError::Fenced(_) => Self::Fenced,
            other => Self::Database(other.into_error()),
        }
    }
}

/// The markers of one database: what [`TxnProducer`](crate::TxnProducer) writes and what its checkbacks read.
#[derive(Clone, Debug)]
pub struct Markers<D: Database> {
    work: Workplace<D>,
    checks: Side<D>,
    group: String,
    database_id: DatabaseId,
    options: MarkerOptions,
    unborn: Arc<Unborn>,
}

impl<D: Database> Markers<D> {
    /// Of a producer group. Creates or migrates the tables; refuses a database whose commits would not survive a power cut.
    pub async fn open(database: D, group: &str, options: MarkerOptions) -> Result<Self, DatabaseError> {
        let database = database.with_own_pool(PoolSize::Same);
        schema::prepare(&database).await?;
        let checks = Side::of(&database, CHECK_CONNECTIONS, options.lock_timeout)?;
        let side = Side::of(&database, 1, schema::LOCK_TIMEOUT)?;
        let joined = join(&side, group).await;
        side.close().await;
        let database_id = joined?;
        let work = Workplace::new(database).await?;
        Ok(Self { work, checks, group: group.to_owned(), database_id, options, unborn: Arc::default() })
    }

    pub fn database(&self) -> &D {
        self.work.database()
    }

    pub(crate) fn database_id(&self) -> DatabaseId {
        self.database_id
    }

    /// What its half messages carry as `CHECKBACK_DATABASE`.
    pub fn database_name(&self) -> String {
        self.database_id.to_string()
    }

    /// A transaction for the user's work, with its markers in it.
    pub(crate) async fn begin(&self, marks: &[Mark<'_>]) -> Result<Work<D>, MarkError> {
        self.work.begin(marks).await.map_err(MarkError::of)
    }

    /// Before any effect of its own: writes the marker of a transaction.
    pub async fn mark(tx: &mut D::Tx, id: TransactionId, owner: MarkerOwner<'_>) -> Result<(), MarkError> {
        Self::mark_all(tx, &[Mark { id, owner, row: Row::COMMITTED }]).await
    }

    pub(crate) async fn mark_all(tx: &mut D::Tx, marks: &[Mark<'_>]) -> Result<(), MarkError> {
        let words = (D::dialect_of(tx).marks)(marks, Durably::Looks);
        database::said::<D>(tx, &words).await.map_err(MarkError::of)
    }

    /// The answer to a checkback about a transaction of this database. Whatever goes wrong on the way is "unknown": the broker
    /// will ask again.
    pub async fn verdict(&self, id: TransactionId, owner: MarkerOwner<'_>) -> Verdict {
        self.verdict_of(id, owner, true).await
    }

    /// The same, which may be of another database.
    pub(crate) async fn verdict_of(&self, id: TransactionId, owner: MarkerOwner<'_>, is_ours: bool) -> Verdict {
        let (markers, group, topic) = (self.clone(), owner.group.to_owned(), owner.topic.to_owned());
        // A task, because work that is dropped within a BEGIN leaves a connection inside a transaction. When time is up
        // it goes on alone: the tombstone stands or it does not, and nothing was promised.
        let deciding = tokio::spawn(async move {
            let owner = MarkerOwner { group: &group, topic: &topic };
            markers.decide(id, owner, is_ours).await
        });
        match tokio::time::timeout(CHECK_TIMEOUT + self.options.lock_timeout, deciding).await {
            Ok(Ok(Ok(verdict))) => verdict,
            Ok(Ok(Err(_))) if planted(Bug::ErrorIsRollback) => Verdict::Rollback,
            Ok(Ok(Err(error))) => {
                tracing::warn!(%id, %error, "checkback answered unknown: the database did not answer");
                Verdict::Unknown
            }
            Ok(Err(error)) => {
                tracing::error!(%id, %error, "checkback answered unknown: it panicked");
                Verdict::Unknown
            }
            Err(_) => {
                tracing::warn!(%id, "checkback answered unknown: the database took too long");
                Verdict::Unknown
            }
        }
    }

    async fn decide(&self, id: TransactionId, owner: MarkerOwner<'_>, is_ours: bool) -> Result<Verdict, DatabaseError> {
        for _ in 1..CHECK_ATTEMPTS {
            match self.try_to_decide(id, owner, is_ours).await {
                Err(error) if error.lost_a_race(self.checks.dialect()) => {
                    tracing::debug!(%id, %error, "another transaction was faster; looking again");
                }
                decided => return decided,
            }
        }
        self.try_to_decide(id, owner, is_ours).await
    }

    async fn try_to_decide(
        &self,
        id: TransactionId,
        owner: MarkerOwner<'_>,
        is_ours: bool,
    ) -> Result<Verdict, DatabaseError> {
        let (row, horizon) = self.look(id, owner.group).await?;
        let (now, deadline) = (clock::now(), self.options.deadline);
        let known_for = self.unborn.known_for(id, now, clock::instant());
        let sight = Sight { row, horizon, born: id.born(), now, known_for, deadline, is_ours };
        match decision::first_look(&sight) {
            Step::Answer(verdict) => Ok(verdict),
            Step::Fence if planted(Bug::SkipFence) => Ok(Verdict::Rollback),
            Step::Fence if self.fence(id, owner).await? => Ok(Verdict::Rollback),
            Step::Fence => Ok(decision::second_look(self.look(id, owner.group).await?.0)),
        }
    }

    /// A row that it shows is there for good.
    async fn look(&self, id: TransactionId, group: &str) -> Result<(Option<Row>, UnixMillis), DatabaseError> {
        let mut tx = self.checks.begin(Begin::Look).await?;
        let seen = look::<D>(&mut tx, id, group).await?;
        D::rollback(tx).await?;
        // In a transaction of its own: a strict server refuses a write to what has changed since a snapshot.
        if let (Some(barrier), Some(_)) = (self.checks.dialect().barrier, seen.0) {
            self.checks.execute(barrier, &[]).await?;
        }
        Ok(seen)
    }

    /// Whether the tombstone was written, durably.
    async fn fence(&self, id: TransactionId, owner: MarkerOwner<'_>) -> Result<bool, DatabaseError> {
        let mut tx = self.checks.begin(Begin::Write).await?;
        let written = insert_row::<D>(&mut tx, &id, owner, Row::TOMBSTONE).await?;
        // Otherwise a marker may have been committed and cleaned since the first look.
        if written && look::<D>(&mut tx, id, owner.group).await?.1 <= id.born() {
            database::commit::<D>(tx).await?;
            return Ok(true);
        }
        D::rollback(tx).await?;
        Ok(false)
    }

    /// Deletes markers of this group that nobody can ask about any more, in small batches, and says how many rows went. `now`
    /// is believed: a time in the future deletes what is still needed. The producer does it every few minutes, by a clock
    /// that it does not trust.
    pub async fn clean(&self, now: UnixMillis) -> Result<u64, DatabaseError> {
        self.housekeeper().clean(now).await
    }

    #[doc(hidden)]
    pub fn housekeeper(&self) -> Housekeeper<D> {
        let rows = Rows::Markers { group: self.group.clone(), tombstones: self.options.tombstones };
        Housekeeper::new(self.checks.clone(), rows, self.options.keep)
    }
}

/// What is known of a transaction after its commit was asked for.
pub(crate) fn ending(commit: Result<(), CommitError>) -> Ending<DatabaseError> {
    match commit {
        Ok(()) => Ending::Committed,
        Err(CommitError::Fenced(_)) => Ending::Fenced,
        Err(CommitError::Ended(_)) => Ending::Ended,
        Err(CommitError::Refused(error)) => Ending::Refused(error),
        Err(CommitError::Unknown(error)) if planted(Bug::UnknownIsRefused) => Ending::Refused(error),
        Err(CommitError::Unknown(error)) => Ending::Unknown(error),
    }
}

async fn insert_row<D: Database>(
    tx: &mut D::Tx,
    id: &TransactionId,
    owner: MarkerOwner<'_>,
    row: Row,
) -> Result<bool, DatabaseError> {
    let values = [
        Value::Bytes(id.as_bytes()),
        Value::Text(owner.group),
        Value::Text(owner.topic),
        Value::Number(row.state),
        Value::Number(row.mode),
        Value::Number(id.born().0),
    ];
    database::insert::<D>(tx, D::dialect_of(tx).insert_marker, &values).await
}

/// The group has a horizon before it has a marker, and the database a name.
async fn join<D: Database>(side: &Side<D>, group: &str) -> Result<DatabaseId, DatabaseError> {
    let mut tx = side.begin(Begin::Look).await?;
    let (_, horizon) = look::<D>(&mut tx, TransactionId::fresh(), group).await?;
    D::rollback(tx).await?;
    if horizon == NONE {
        side.execute(side.dialect().join_cleaned, &[Value::Bytes(group.as_bytes())]).await?;
    }
    if let Some(id) = database_id(side).await? {
        return Ok(id);
    }
    side.execute(side.dialect().name_database, &[Value::Bytes(DatabaseId::fresh().as_bytes())]).await?;
    // Another instance may have been faster.
    database_id(side).await?.ok_or(DatabaseError::NoDatabaseName)
}

async fn database_id<D: Database>(side: &Side<D>) -> Result<Option<DatabaseId>, DatabaseError> {
    let rows = side.rows::<1, 0>(side.dialect().database_id, &[]).await?;
    rows.first().map(|row| DatabaseId::from_slice(&row.bytes[0]).ok_or(DatabaseError::NoDatabaseName)).transpose()
}

/// The row, and the group's horizon.
async fn look<D: Database>(
    tx: &mut D::Tx,
    id: TransactionId,
    group: &str,
) -> Result<(Option<Row>, UnixMillis), DatabaseError> {
    let asked = [Value::Bytes(group.as_bytes()), Value::Bytes(id.as_bytes())];
    let [horizon, state, mode] = D::row(tx, D::dialect_of(tx).look, &asked).await?.unwrap_or_default();
    let row = state.zip(mode).map(|(state, mode)| Row { state, mode });
    if planted(Bug::HorizonIgnored) {
        return Ok((row, UnixMillis(0)));
    }
    Ok((row, horizon.map_or(NONE, UnixMillis)))
}
