//! Delivers what waits in the outbox. Each message goes through a transaction of the relay's own: half message, then
//! *row out and marker in* as one commit, then its end. So it becomes visible once, whatever dies on the way and however
//! many relays run: whoever deletes the row publishes.
//!
//! One instance of a group relays a topic at a time, by a lease. That keeps the topic's order and spares the others the
//! work; nothing else depends on it. So it goes by the instances' own clocks: one that is far ahead has no longer a lease.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::future::join_all;
use mq_client::Verdict;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Outbox, fault_of, row::Waiting};
use crate::{
    clock,
    database::{Begin, Database, DatabaseError, Mark, Side, Value},
    decision::{self, Ending, Relayed, Row},
    failpoints::reach,
    id::TransactionId,
    marker::{self, MarkError, MarkerOwner, Markers},
    planted::{Bug, planted},
    producer::{Half, Link, OnDrop, TxnError},
};

/// Messages of one topic that are under way together. With bodies of 4 MiB that is 64 MiB.
const BATCH: i64 = 16;
/// How often a relay with nothing to do looks for rows of instances that are gone.
const POLL: Duration = Duration::from_secs(3);
/// How long an instance that has died keeps the others waiting.
const LEASE: Duration = Duration::from_secs(15);
/// A lease is made longer after this time.
const RENEW: Duration = Duration::from_secs(5);
/// A lease that ends later than this is of a clock that was wrong, and free.
const LONGEST_LEASE: Duration = Duration::from_secs(60);
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
    /// Topics that can be leased, and since when this instance has the lease.
    leases: HashMap<String, Option<Instant>>,
    /// Rows of each topic as they were counted, and when.
    waiting: HashMap<String, u64>,
    counted: Option<Instant>,
    /// Topics with rows that this instance does not name, and has said so.
    strange: HashSet<String>,
    /// Topics whose broker is down, until when they are left alone, and the pause after that.
    down: HashMap<String, (Instant, Duration)>,
}

impl<D: Database> Relay<D> {
    pub(crate) fn new(side: Side<D>, link: &Arc<Link>) -> Self {
        let mut topics: Vec<_> = link.topics.iter().cloned().collect();
        topics.sort_unstable();
        let group = link.producer.group().to_owned();
        let (holder, link) = (TransactionId::fresh(), Arc::downgrade(link));
        let (leases, waiting, down) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { side, link, group, topics, holder, leases, waiting, counted: None, strange: HashSet::new(), down }
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
        for (topic, _) in self.leases.iter().filter(|(_, since)| since.is_some()) {
            // The next one need not wait for the end of this one's lease.
            let _ = self.lease(topic, Duration::ZERO).await;
        }
    }

    /// One pass, by hand. Whether there is something to do at once.
    #[cfg(feature = "simulation")]
    pub(crate) async fn passes(&mut self) -> Result<bool, DatabaseError> {
        let Some(link) = self.link.upgrade() else { return Ok(false) };
        let Some(outbox) = link.outbox.clone() else { return Ok(false) };
        self.counted = None;
        Ok(self.pass(&link, &outbox).await? == Passed::More)
    }

    async fn pass(&mut self, link: &Arc<Link>, outbox: &Outbox) -> Result<Passed, DatabaseError> {
        if self.topics.iter().all(|topic| self.is_down(topic)) {
            return Ok(Passed::Stuck);
        }
        if self.counted.is_none_or(|at| clock::instant() - at >= POLL) {
            outbox.counted(self.count().await?);
        }
        let mut passed = Passed::Idle;
        for topic in self.topics.clone() {
            if self.waiting.get(&topic).is_none_or(|rows| *rows == 0) {
                continue;
            }
            let more = match self.is_down(&topic) {
                true => Passed::Stuck,
                false if self.has_lease(&topic).await? => self.relay_topic(link, outbox, &topic).await?,
                false => Passed::Idle,
            };
            passed = passed.max(more);
        }
        if passed == Passed::Idle {
            self.counted = None; // whatever wakes it next may be a row
        }
        Ok(passed)
    }

    async fn relay_topic(&mut self, link: &Arc<Link>, outbox: &Outbox, topic: &str) -> Result<Passed, DatabaseError> {
        let rows = Waiting::batch(&self.side, &self.group, topic, clock::now().0, BATCH).await?;
        let is_full = rows.len() as u64 == BATCH.unsigned_abs();
        let halves = rows
            .iter()
            .map(async |row| link.try_send_half(TransactionId::fresh(), row.message()?, OnDrop::Cancel).await);
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
            outbox.rows_went(self.publish(link, topic, batch).await?);
        }
        if decided.contains(&Relayed::Wait) {
            self.leave_alone(topic);
            return Ok(Passed::Stuck);
        }
        self.down.remove(topic);
        Ok(if is_full { Passed::More } else { Passed::Idle })
    }

    /// Row out and marker in as one commit, then the ends, in order. Says how many rows went.
    async fn publish(&self, link: &Link, topic: &str, batch: Vec<(&Waiting, Half)>) -> Result<u64, DatabaseError> {
        let owner = MarkerOwner { group: &self.group, topic };
        let mut tx = self.side.begin(Begin::Write).await?;
        let mut taken = Vec::with_capacity(batch.len());
        for (row, half) in batch {
            let delete = self.side.dialect().delete_outbox;
            if !planted(Bug::RelayKeepsRow) && D::execute(&mut tx, delete, &[Value::Bytes(&row.id)]).await? != 1 {
                continue; // Another relay was faster, and its copy is the one: this half is cancelled.
            }
            taken.push(half);
        }
        if taken.is_empty() {
            return D::rollback(tx).await.map(|()| 0);
        }
        if !planted(Bug::RelayWithoutMarker) {
            let marks: Vec<_> = taken.iter().map(|half| Mark { id: half.id(), owner, row: Row::COMMITTED }).collect();
            match Markers::<D>::mark_all(&mut tx, &marks).await {
                Ok(()) => {}
                // A checkback has given one of them up: all are tried anew.
                Err(MarkError::Fenced) => return D::rollback(tx).await.map(|()| 0),
                Err(MarkError::Database(error)) => return Err(error),
            }
        }
        taken.iter_mut().for_each(Half::leave);
        if planted(Bug::RelayEndsEarly) {
            for half in &mut taken {
                half.end(Verdict::Commit).await;
            }
        }
        let ending = marker::ending(D::commit(tx).await);
        if let Some(verdict) = ending.verdict() {
            reach("outbox-between-commit-and-end");
            for half in &mut taken {
                half.end(verdict).await;
            }
        }
        match ending {
            Ending::Committed => {
                taken.iter().for_each(|_| link.counters.outbox_relayed.add_one());
                Ok(taken.len() as u64)
            }
            Ending::Fenced | Ending::Ended => Ok(0),
            // Rows and markers went together or stayed together: the next pass and the checkback see which.
            Ending::Refused(error) | Ending::Unknown(error) => Err(error),
        }
    }

    async fn postpone(&self, row: &Waiting, topic: &str, error: &TxnError) -> Result<(), DatabaseError> {
        let pause = decision::postponed(row.attempts);
        tracing::error!(topic, attempts = row.attempts + 1, ?pause, %error, "no broker takes a message of the outbox");
        let values = [Value::Number(clock::now().plus(pause).0), Value::Bytes(&row.id)];
        self.side.execute(self.side.dialect().postpone_outbox, &values).await.map(drop)
    }

    fn is_down(&self, topic: &str) -> bool {
        self.down.get(topic).is_some_and(|(until, _)| clock::instant() < *until)
    }

    fn leave_alone(&mut self, topic: &str) {
        let pause = self.down.get(topic).map_or(PAUSES.0, |(_, pause)| (*pause * 2).min(PAUSES.1));
        self.down.insert(topic.to_owned(), (clock::instant() + pause, pause));
    }

    /// All that wait, of all topics of the group.
    async fn count(&mut self) -> Result<u64, DatabaseError> {
        let group = [Value::Bytes(self.group.as_bytes())];
        let counted = self.side.rows::<1, 1>(self.side.dialect().count_outbox, &group).await?;
        let waiting = counted.into_iter().map(|cells| {
            let ([topic], [rows]) = (cells.bytes, cells.numbers);
            (String::from_utf8_lossy(&topic).into_owned(), rows.unsigned_abs())
        });
        self.waiting = waiting.collect();
        self.counted = Some(clock::instant());
        for (topic, rows) in self.waiting.iter().filter(|(topic, _)| !self.topics.contains(topic)) {
            if self.strange.insert(topic.clone()) {
                tracing::warn!(
                    topic,
                    rows,
                    "messages wait in the outbox for an instance whose builder names their topic"
                );
            }
        }
        Ok(self.waiting.values().sum())
    }

    async fn has_lease(&mut self, topic: &str) -> Result<bool, DatabaseError> {
        let leased = self.leases.get(topic).copied();
        if leased.flatten().is_some_and(|since| clock::instant() - since < RENEW) {
            return Ok(true);
        }
        if leased.is_none() {
            let of_topic = [Value::Bytes(self.group.as_bytes()), Value::Bytes(topic.as_bytes())];
            self.side.execute(self.side.dialect().join_relay, &of_topic).await?;
        }
        let (since, has) = (clock::instant(), self.lease(topic, LEASE).await?);
        self.leases.insert(topic.to_owned(), has.then_some(since));
        Ok(has)
    }

    /// Whether this instance relays the topic, for so long from now on.
    async fn lease(&self, topic: &str, lease: Duration) -> Result<bool, DatabaseError> {
        let now = clock::now();
        let (holder, until) = (Value::Bytes(self.holder.as_bytes()), Value::Number(now.plus(lease).0));
        let (group, topic) = (Value::Bytes(self.group.as_bytes()), Value::Bytes(topic.as_bytes()));
        let latest = Value::Number(now.plus(LONGEST_LEASE).0);
        let values = [holder, until, group, topic, Value::Number(now.0), latest, holder];
        Ok(self.side.execute(self.side.dialect().lease_relay, &values).await? == 1)
    }
}
