//! Cleans settled rows: marker and inbox rows that no checkback and no redelivery can ask about any more. Groups may share
//! a database and keep their rows for different times, so each cleans its own rows only.

use std::time::Duration;

use mq_protocol::ids::UnixMillis;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    database::{Begin, Cells, Database, DatabaseError, Side, Value},
    decision::{self, Row},
    id::TransactionId,
    planted::{Bug, planted},
};

/// Rows of one statement, so that it holds the write lock for a moment only.
const BATCH: i64 = 500;
/// How often, on average. Instances that share a database are spread by jitter.
const EVERY: Duration = Duration::from_secs(600);

/// Whose rows a housekeeper cleans.
#[derive(Clone, Debug)]
pub(crate) enum Rows {
    /// Of this producer group. Of its tombstones the newest stay: so many, however old they are.
    Markers { group: String, tombstones: u32 },
    /// Of this consumer group.
    Inbox(String),
}

#[derive(Clone, Debug)]
pub struct Housekeeper<D> {
    side: Side<D>,
    rows: Rows,
    /// Longer than twice the time that the broker keeps a message.
    keep: Duration,
    /// The time that the last round went by, and when that was.
    last_round: Option<(UnixMillis, Instant)>,
    /// Below it nothing is left: what other groups keep there need not be passed again.
    cleaned: UnixMillis,
}

impl<D: Database> Housekeeper<D> {
    pub(crate) fn new(side: Side<D>, rows: Rows, keep: Duration) -> Self {
        Self { side, rows, keep, last_round: None, cleaned: UnixMillis(0) }
    }

    pub(crate) async fn run_until(mut self, shutdown: CancellationToken) {
        loop {
            let jitter = f64::from(TransactionId::fresh().as_bytes()[15]) / 255.0;
            let pause = EVERY.mul_f64(0.5 + jitter);
            if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
            match self.round(clock::now(), Instant::now()).await {
                Ok(0) => {}
                Ok(rows) => tracing::debug!(rows, "cleaned settled rows"),
                Err(error) => tracing::warn!(%error, "settled rows could not be cleaned; later"),
            }
        }
    }

    /// Cleans by as much of the clock's time as can be believed, and never up to the newest row.
    pub async fn round(&mut self, now: UnixMillis, at: Instant) -> Result<u64, DatabaseError> {
        let Some(newest) = self.newest().await? else { return Ok(0) };
        let last_round = self.last_round.map(|(time, then)| (time, at.saturating_duration_since(then)));
        let time = decision::believed(now, last_round, newest);
        self.last_round = Some((time, at));
        let horizon = self.horizon(time).min(newest);
        let gone = self.clean_between(self.cleaned, horizon).await?;
        self.cleaned = self.cleaned.max(horizon);
        Ok(gone)
    }

    /// Says how many rows went.
    pub(crate) async fn clean(&self, now: UnixMillis) -> Result<u64, DatabaseError> {
        self.clean_between(UnixMillis(0), self.horizon(now)).await
    }

    fn horizon(&self, now: UnixMillis) -> UnixMillis {
        UnixMillis(now.0.saturating_sub(i64::try_from(self.keep.as_millis()).unwrap_or(i64::MAX)))
    }

    async fn clean_between(&self, from: UnixMillis, horizon: UnixMillis) -> Result<u64, DatabaseError> {
        let dialect = self.side.dialect();
        match &self.rows {
            Rows::Markers { group, tombstones } => {
                let group = Value::Bytes(group.as_bytes());
                // Before the first row goes: from then on a missing row proves nothing, and checkbacks answer so.
                if !planted(Bug::HorizonLeft) {
                    self.side.execute(dialect.raise_horizon, &[group, Value::Number(horizon.0)]).await?;
                }
                let [from, to] = [from, horizon].map(TransactionId::lower_bound);
                let state = Value::Number(Row::COMMITTED.state);
                let of_group = [group, state, Value::Bytes(&from), Value::Bytes(&to), Value::Number(BATCH)];
                let markers = self.in_batches(dialect.clean_markers, &of_group).await?;
                Ok(markers + self.clean_tombstones(group, &to, *tombstones).await?)
            }
            Rows::Inbox(group) => {
                let of_group = [Value::Number(horizon.0), Value::Bytes(group.as_bytes()), Value::Number(BATCH)];
                self.in_batches(dialect.clean_inbox, &of_group).await
            }
        }
    }

    async fn clean_tombstones(&self, group: Value<'_>, below: &[u8], stay: u32) -> Result<u64, DatabaseError> {
        let dialect = self.side.dialect();
        let (state, stay) = (Value::Number(Row::TOMBSTONE.state), Value::Number(stay.into()));
        let found = self.side.rows::<1, 0>(dialect.nth_newest, &[group, state, Value::Bytes(below), stay]).await?;
        let Some(Cells { bytes: [bound], .. }) = found.first() else { return Ok(0) };
        // The bound itself stays: one more than was asked for.
        let of_group = [group, state, Value::Bytes(&[]), Value::Bytes(bound), Value::Number(BATCH)];
        self.in_batches(dialect.clean_markers, &of_group).await
    }

    /// When the newest row was made.
    async fn newest(&self) -> Result<Option<UnixMillis>, DatabaseError> {
        let mut tx = self.side.begin(Begin::Look).await?;
        let row = match &self.rows {
            Rows::Markers { .. } => D::row::<1>(&mut tx, self.side.dialect().newest_marker, &[]).await?,
            Rows::Inbox(group) => {
                D::row(&mut tx, self.side.dialect().newest_inbox, &[Value::Bytes(group.as_bytes())]).await?
            }
        };
        D::rollback(tx).await?;
        Ok(row.and_then(|[created_ms]| created_ms).map(UnixMillis))
    }

    async fn in_batches(&self, sql: &'static str, values: &[Value<'_>]) -> Result<u64, DatabaseError> {
        let mut gone = 0;
        loop {
            let batch = self.side.execute(sql, values).await?;
            gone += batch;
            if batch < BATCH.unsigned_abs() {
                return Ok(gone);
            }
        }
    }
}
