//! Rebuilds the engine from the log: the verdict file says where to begin, the records say what happened since.
//!
//! The inputs are those of normal operation, in the order of the log. A real message whose PREPARED_TX_OFFSET and
//! transaction match a half is that half's verdict even when no OP record follows (a torn commit, or an Apache broker
//! that had its OP record still in memory); the first tick then appends what is missing.

use mq_protocol::ids::{LogOffset, QueueOffset, UnixMillis};
use mq_protocol::record::StoredMessage;
use mq_protocol::record_view::RecordView;
use mq_protocol::{sys_flag, topic};
use mq_store::{Bounds, ReadError, Store};

use crate::engine::{Engine, Input, Rules};
use crate::half::{QUEUE, read_half, transaction_in};

use crate::op::ended_by;
use crate::planted::{Bug, planted};
use crate::progress::OpRecords;
use crate::types::{HalfOffset, Outcome};
use crate::verdict_file::Covered;
use crate::verdicts::Verdicts;

/// Ended halves read back so that a client which sends its half again right after a restart meets its first verdict.
const RECALLED: u64 = 10_000;

pub(crate) struct Rebuilt {
    pub(crate) engine: Engine,
    pub(crate) ops: OpRecords,
    /// Every half below is known to have ended.
    pub(crate) finished: HalfOffset,
}

pub(crate) fn rebuild(
    store: &Store,
    saved: Option<(Covered, Verdicts)>,
    rules: Rules,
    now: UnixMillis,
) -> Result<Rebuilt, ReadError> {
    let first = HalfOffset::from(store.queue_bounds(topic::HALF, QUEUE).min);
    if let Some((covered, verdicts)) = saved.filter(|(covered, _)| fits(store, covered)) {
        let ops = OpRecords::starting_at(covered.op, covered.half);
        let engine = Engine::new(rules.clone(), verdicts);
        let mut rebuilt = Rebuilt { engine, ops, finished: covered.finished.max(first) };
        rebuilt.resume(store, first, covered.half, now)?;
        match rebuilt.replay_from(store, covered.log, now) {
            Ok(()) => {
                rebuilt.engine.reset_counters();
                return Ok(rebuilt);
            }
            Err(error) => tracing::warn!(%error, "the log is not what the verdict file says; all of it is read"),
        }
    }
    let engine = Engine::new(rules, Verdicts::starting_at(first));
    let mut rebuilt = Rebuilt { engine, ops: OpRecords::default(), finished: first };
    let mut from = LogOffset::ZERO;
    while let Err(error) = rebuilt.replay_from(store, from, now) {
        let Some(at) = error.damaged_at() else { return Err(error) };
        tracing::error!(%error, "a damaged record is left out; verdicts behind it may be known only as rolled back");
        let Some(next) = next_record(store, at)? else { break };
        from = next;
    }
    rebuilt.engine.reset_counters();
    Ok(rebuilt)
}

/// Of all records, those that [`Rebuilt::replay`] looks at.
fn says_something(record: &RecordView<'_>) -> bool {
    matches!(record.topic, topic::HALF | topic::OP_HALF | topic::CHECK_MAX_TIME)
        || sys_flag::transaction_bits(record.sys_flag) == sys_flag::TRANSACTION_COMMIT
}

/// The first half or OP record behind `damaged`, where reading can go on.
fn next_record(store: &Store, damaged: LogOffset) -> Result<Option<LogOffset>, ReadError> {
    let mut next: Option<LogOffset> = None;
    for topic in [topic::HALF, topic::OP_HALF] {
        let Bounds { min, max } = store.queue_bounds(topic, QUEUE);
        let (mut low, mut high) = (min, max);
        while low < high {
            let middle = QueueOffset(low.0.midpoint(high.0));
            match store.entry(topic, QUEUE, middle)? {
                Some(entry) if entry.log_offset > damaged => high = middle,
                _ => low = middle.plus(1),
            }
        }
        let found = store.entry(topic, QUEUE, low)?.map(|entry| entry.log_offset);
        next = next.into_iter().chain(found).min();
    }
    Ok(next)
}

/// Whether the file was made from this log, and the log still holds all that it covers.
fn fits(store: &Store, covered: &Covered) -> bool {
    let last = covered.half.0.checked_sub(1).map(HalfOffset);
    let last_at = last.and_then(|last| place_of(store, last).ok()?);
    covered.log <= store.end() && last_at.is_none_or(|at| at == covered.last_half_at)
}

impl Rebuilt {
    /// Halves that the file covers: those without a verdict are open, the last ones with one are remembered by key.
    fn resume(&mut self, store: &Store, first: HalfOffset, end: HalfOffset, now: UnixMillis) -> Result<(), ReadError> {
        for half in (first.0..end.0).map(HalfOffset) {
            if self.engine.outcome(half).is_some() && half.0 + RECALLED < end.0 {
                continue;
            }
            if let Some(record) = half_at(store, half)? {
                self.learn(&record, now);
            }
        }
        Ok(())
    }

    fn replay_from(&mut self, store: &Store, from: LogOffset, now: UnixMillis) -> Result<(), ReadError> {
        for record in store.scan_for(from, says_something) {
            self.replay(store, &record?, now);
        }
        Ok(())
    }

    fn replay(&mut self, store: &Store, record: &StoredMessage, now: UnixMillis) {
        let message = &record.message;
        if message.topic == topic::HALF && message.queue_id == QUEUE {
            self.learn(record, now);
        } else if message.topic == topic::OP_HALF && message.queue_id == QUEUE {
            let ends = ended_by(message);
            self.ops.note(record.queue_offset, &ends);
            self.tell(Input::Written(ends, None), now);
        } else if message.topic == topic::CHECK_MAX_TIME {
            let half = transaction_in(message).and_then(|of| self.engine.halves_of(&of).first().copied());
            half.into_iter().for_each(|half| self.tell(Input::Decided(half, Outcome::Parked), now));
        } else if planted(Bug::TornForgotten) {
        } else if sys_flag::transaction_bits(message.sys_flag) == sys_flag::TRANSACTION_COMMIT {
            let half = transaction_in(message).and_then(|of| {
                let lies_there = |half: &&HalfOffset| {
                    place_of(store, **half).is_ok_and(|at| at == Some(message.prepared_transaction_offset))
                };
                self.engine.halves_of(&of).iter().find(lies_there).copied()
            });
            half.into_iter().for_each(|half| self.tell(Input::Decided(half, Outcome::Committed), now));
        }
    }

    fn learn(&mut self, record: &StoredMessage, now: UnixMillis) {
        match read_half(record) {
            Some(half) => self.tell(Input::Stored(half), now),
            None => tracing::warn!(
                half = record.queue_offset.0,
                log_offset = record.log_offset.0,
                "a record in the half topic is no half message; it is left alone"
            ),
        }
    }

    fn tell(&mut self, input: Input, now: UnixMillis) {
        let actions = self.engine.step(now, input);
        assert!(actions.is_empty(), "facts lead to no actions: {actions:?}");
    }
}

pub(crate) fn place_of(store: &Store, half: HalfOffset) -> Result<Option<LogOffset>, ReadError> {
    Ok(store.entry(topic::HALF, QUEUE, half.into())?.map(|entry| entry.log_offset))
}

/// The half at this place of the half queue; `None` when it is not on disk.
pub(crate) fn half_at(store: &Store, half: HalfOffset) -> Result<Option<StoredMessage>, ReadError> {
    place_of(store, half)?.map_or(Ok(None), |at| store.read(at))
}
