//! Cleans settled rows: marker and inbox rows that no checkback and no redelivery can ask about any more.

use std::time::Duration;

use mq_protocol::ids::UnixMillis;
use sqlx::SqlitePool;
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    database::{self, DatabaseError, Value},
    id::TransactionId,
};

/// Rows of one statement, so that it holds the write lock for a moment only.
const BATCH: i64 = 500;
/// How often, on average. Instances that share a database are spread by jitter.
const EVERY: Duration = Duration::from_secs(600);

const RAISE_HORIZON: &str = "UPDATE checkback_horizon SET horizon_ms = max(horizon_ms, ?1)";
const CLEAN_MARKERS: &str = "
    DELETE FROM checkback_marker
    WHERE tx_id IN (SELECT tx_id FROM checkback_marker WHERE tx_id < ?1 ORDER BY tx_id LIMIT ?2)";
const CLEAN_INBOX: &str = "
    DELETE FROM checkback_inbox
    WHERE rowid IN (SELECT rowid FROM checkback_inbox WHERE created_ms < ?1 ORDER BY created_ms LIMIT ?2)";

#[derive(Clone, Debug)]
pub(crate) struct Housekeeper {
    pub(crate) pool: SqlitePool,
    /// Longer than twice the time that the broker keeps a message.
    pub(crate) keep: Duration,
}

impl Housekeeper {
    pub(crate) async fn run_until(self, shutdown: CancellationToken) {
        loop {
            let jitter = f64::from(TransactionId::fresh().as_bytes()[15]) / 255.0;
            let pause = EVERY.mul_f64(0.5 + jitter);
            if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
            match self.clean(clock::now()).await {
                Ok(0) => {}
                Ok(rows) => tracing::debug!(rows, "cleaned settled rows"),
                Err(error) => tracing::warn!(%error, "settled rows could not be cleaned; later"),
            }
        }
    }

    /// Says how many rows went. The horizon rises before the first row goes: from then on a missing row proves nothing,
    /// and checkbacks answer so.
    pub(crate) async fn clean(&self, now: UnixMillis) -> Result<u64, DatabaseError> {
        let keep = i64::try_from(self.keep.as_millis()).unwrap_or(i64::MAX);
        let horizon = UnixMillis(now.0.saturating_sub(keep));
        sqlx::query(RAISE_HORIZON).bind(horizon.0).execute(&self.pool).await?;
        let bound = TransactionId::lower_bound(horizon);
        let markers = self.clean_table(CLEAN_MARKERS, Value::Bytes(&bound)).await?;
        let inbox = self.clean_table(CLEAN_INBOX, Value::Number(horizon.0)).await?;
        Ok(markers + inbox)
    }

    async fn clean_table(&self, sql: &'static str, below: Value<'_>) -> Result<u64, DatabaseError> {
        let mut gone = 0;
        loop {
            let batch = database::bind(sql, &[below, Value::Number(BATCH)]).execute(&self.pool).await?;
            gone += batch.rows_affected();
            if batch.rows_affected() < BATCH.unsigned_abs() {
                return Ok(gone);
            }
        }
    }
}
