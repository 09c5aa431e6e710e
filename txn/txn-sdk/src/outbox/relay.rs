//! Delivers what waits in the outbox. Each message goes through a transaction of the relay's own: half message, then
//! *row out and marker in* as one commit, then its end. So it becomes visible once, whatever dies on the way and however
//! many relays run: whoever deletes the row publishes.
//!
//! One instance of a group relays at a time, by a lease. That keeps the order of a topic and spares the others the work;
//! nothing else depends on it.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Outbox, fault_of, row::Waiting};
use crate::{
    clock,
    database::{Begin, Database, DatabaseError, Side, Value},
    decision::{self, Ending, Relayed},
    failpoints::reach,
    id::TransactionId,
    marker::{self, MarkError, MarkerOwner, Markers},
    producer::{Half, Link, OnDrop, TxnError},
};

/// Messages of one topic that are under way together. With bodies of 4 MiB that is 64 MiB.
const BATCH: i64 = 16;
/// How often a relay with nothing to do looks for rows of instances that are gone.
const POLL: Duration = Duration::from_secs(3);
/// How long an instance that has died keeps the others waiting.
const LEASE: Duration = Duration::from_secs(15);
/// Pauses while a topic's broker is down: doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What a pass over the topics left behind, the most pressing last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Passed {
    Idle,
    /// Rows wait for a broker, or for the database.
    Stuck,
    /// A full batch: there is more.
    More,
}

pub(crate) struct Relay<D> {
    side: Side<D>,
    /// Weak, so that the producer ends when its last user lets go of it.
    link: Weak<Link>,
    group: String,
    topics: Vec<String>,
    /// This instance, to the others.
    holder: TransactionId,
    joined: bool,
    /// Topics whose broker is down, until when they are left alone, and the pause after that.
    down: HashMap<String, (Instant, Duration)>,
}

impl<D: Database> Relay<D> {
    pub(crate) fn new(side: Side<D>, link: &Arc<Link>) -> Self {
        let mut topics: Vec<_> = link.topics.iter().cloned().collect();
        topics.sort_unstable();
        let group = link.producer.group().to_owned();
        let (holder, link) = (TransactionId::fresh(), Arc::downgrade(link));
        Self { side, link, group, topics, holder, joined: false, down: HashMap::new() }
    }

    pub(crate) async fn run_until(mut self, shutdown: CancellationToken) {
        while let Some(link) = self.link.upgrade()
            && let Some(outbox) = link.outbox.clone()
            && !shutdown.is_cancelled()
        {
            // A shutdown of the producer waits for the pass that is under way.
            let running = link.running.token();
            let passed = self.pass(&link, &outbox).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "the outbox is not relayed: its database does not answer; later");
                Passed::Stuck
            });
            drop((running, link));
            let pause = match passed {
                Passed::More => continue,
                Passed::Idle => POLL,
                Passed::Stuck => PAUSES.0,
            };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
                () = outbox.stored.notified(), if passed == Passed::Idle => {}
            }
        }
        if self.joined {
            // The next one need not wait for the end of this one's lease.
            let _ = self.lease(Duration::ZERO).await;
        }
    }

    async fn pass(&mut self, link: &Arc<Link>, outbox: &Outbox) -> Result<Passed, DatabaseError> {
        if self.topics.iter().all(|topic| self.is_down(topic)) {
            return Ok(Passed::Stuck);
        }
        let waiting = self.count().await?;
        outbox.counted(waiting);
        if waiting == 0 || !self.has_lease().await? {
            return Ok(Passed::Idle);
        }
        let mut passed = Passed::Idle;
        for topic in self.topics.clone() {
            let more = match self.is_down(&topic) {
                true => Passed::Stuck,
                false => self.relay_topic(link, &topic).await?,
            };
            passed = passed.max(more);
        }
        Ok(passed)
    }

    async fn relay_topic(&mut self, link: &Arc<Link>, topic: &str) -> Result<Passed, DatabaseError> {
        let rows = Waiting::batch(&self.side, &self.group, topic, clock::now().0, BATCH).await?;
        let is_full = rows.len() as u64 == BATCH.unsigned_abs();
        let halves = rows.iter().map(|row| link.try_send_half(TransactionId::fresh(), row.message(), OnDrop::Cancel));
        let halves = join_all(halves).await;
        reach("outbox-after-half");
        let decided = decision::relay_batch(halves.iter().map(|half| half.as_ref().map(drop).map_err(fault_of)));
        let mut batch = Vec::new();
        for ((row, half), decided) in rows.iter().zip(halves).zip(&decided) {
            match (decided, half) {
                (Relayed::Publish, Ok(half)) => batch.push((row, half)),
                (Relayed::Postpone, Err(error)) => self.postpone(row, topic, &error).await?,
                // A half that was stored behind one that was not is dropped here, and so cancelled.
                _ => {}
            }
        }
        if !batch.is_empty() {
            self.publish(link, topic, batch).await?;
        }
        if decided.contains(&Relayed::Wait) {
            self.leave_alone(topic);
            return Ok(Passed::Stuck);
        }
        self.down.remove(topic);
        Ok(if is_full { Passed::More } else { Passed::Idle })
    }

    /// Row out and marker in as one commit, then the ends, in order.
    async fn publish(&self, link: &Link, topic: &str, batch: Vec<(&Waiting, Half)>) -> Result<(), DatabaseError> {
        let owner = MarkerOwner { group: &self.group, topic };
        let mut tx = self.side.begin(Begin::Write).await?;
        let mut taken = Vec::with_capacity(batch.len());
        for (row, mut half) in batch {
            if D::execute(&mut tx, self.side.dialect().delete_outbox, &[Value::Bytes(&row.id)]).await? != 1 {
                continue; // Another relay was faster, and its copy is the one: this half is cancelled.
            }
            match Markers::<D>::mark(&mut tx, half.id(), owner).await {
                Ok(()) => taken.push(half),
                Err(MarkError::Fenced) => {
                    half.leave();
                    return D::rollback(tx).await;
                }
                Err(MarkError::Database(error)) => return Err(error),
            }
        }
        let Some(oldest) = taken.iter().map(Half::id).min() else { return D::rollback(tx).await };
        let sealed = Markers::<D>::seal(&mut tx, oldest, &self.group).await;
        taken.iter_mut().for_each(Half::leave);
        let ending = marker::close(D::commit(tx), sealed).await;
        if let Some(verdict) = ending.verdict() {
            reach("outbox-between-commit-and-end");
            for half in &mut taken {
                half.end(verdict).await;
            }
        }
        match ending {
            Ending::Committed => taken.iter().for_each(|_| link.counters.outbox_relayed.add_one()),
            Ending::Fenced | Ending::Ended => {}
            // Rows and markers went together or stayed together: the next pass and the checkback see which.
            Ending::Refused(error) | Ending::Unknown(error) => return Err(error),
        }
        Ok(())
    }

    async fn postpone(&self, row: &Waiting, topic: &str, error: &TxnError) -> Result<(), DatabaseError> {
        let pause = decision::postponed(row.attempts);
        tracing::error!(topic, attempts = row.attempts + 1, ?pause, %error, "no broker takes a message of the outbox");
        let values = [Value::Number(clock::now().plus(pause).0), Value::Bytes(&row.id)];
        self.side.execute(self.side.dialect().postpone_outbox, &values).await.map(drop)
    }

    fn is_down(&self, topic: &str) -> bool {
        self.down.get(topic).is_some_and(|(until, _)| Instant::now() < *until)
    }

    fn leave_alone(&mut self, topic: &str) {
        let pause = self.down.get(topic).map_or(PAUSES.0, |(_, pause)| (*pause * 2).min(PAUSES.1));
        self.down.insert(topic.to_owned(), (Instant::now() + pause, pause));
    }

    async fn count(&self) -> Result<u64, DatabaseError> {
        let values = [Value::Bytes(self.group.as_bytes()), Value::Number(i64::MAX)];
        let counted = self.side.rows::<0, 1>(self.side.dialect().count_outbox, &values).await?;
        Ok(counted.first().map_or(0, |cells| cells.numbers[0].unsigned_abs()))
    }

    async fn has_lease(&mut self) -> Result<bool, DatabaseError> {
        if !self.joined {
            self.side.execute(self.side.dialect().join_relay, &[Value::Bytes(self.group.as_bytes())]).await?;
            self.joined = true;
        }
        self.lease(LEASE).await
    }

    /// Whether this instance relays, for so long from now on.
    async fn lease(&self, lease: Duration) -> Result<bool, DatabaseError> {
        let now = clock::now();
        let (holder, until) = (Value::Bytes(self.holder.as_bytes()), Value::Number(now.plus(lease).0));
        let values = [holder, until, Value::Bytes(self.group.as_bytes()), Value::Number(now.0), holder];
        Ok(self.side.execute(self.side.dialect().lease_relay, &values).await? == 1)
    }
}
