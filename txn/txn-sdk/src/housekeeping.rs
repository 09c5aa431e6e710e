//! Cleans settled rows: marker and inbox rows that no checkback and no redelivery can ask about any more. Producer and
//! consumer may share a database and keep their rows for different times, so each cleans its own rows only.

use std::time::Duration;

use mq_protocol::ids::UnixMillis;
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    database::{Database, DatabaseError, Side, Value},
    id::TransactionId,
};

/// Rows of one statement, so that it holds the write lock for a moment only.
const BATCH: i64 = 500;
/// How often, on average. Instances that share a database are spread by jitter.
const EVERY: Duration = Duration::from_secs(600);

/// Whose rows a housekeeper cleans.
#[derive(Clone, Debug)]
pub(crate) enum Rows {
    Markers,
    /// Of this consumer group.
    Inbox(String),
}

#[derive(Clone, Debug)]
pub(crate) struct Housekeeper<D> {
    pub(crate) side: Side<D>,
    pub(crate) rows: Rows,
    /// Longer than twice the time that the broker keeps a message.
    pub(crate) keep: Duration,
}

impl<D: Database> Housekeeper<D> {
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

    /// Says how many rows went.
    pub(crate) async fn clean(&self, now: UnixMillis) -> Result<u64, DatabaseError> {
        let keep = i64::try_from(self.keep.as_millis()).unwrap_or(i64::MAX);
        let horizon = UnixMillis(now.0.saturating_sub(keep));
        let dialect = self.side.dialect();
        match &self.rows {
            Rows::Markers => {
                // Before the first row goes: from then on a missing row proves nothing, and checkbacks answer so.
                self.side.execute(dialect.raise_horizon, &[Value::Number(horizon.0)]).await?;
                let bound = TransactionId::lower_bound(horizon);
                self.in_batches(dialect.clean_markers, &[Value::Bytes(&bound), Value::Number(BATCH)]).await
            }
            Rows::Inbox(group) => {
                let of_group = [Value::Number(horizon.0), Value::Bytes(group.as_bytes()), Value::Number(BATCH)];
                self.in_batches(dialect.clean_inbox, &of_group).await
            }
        }
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
