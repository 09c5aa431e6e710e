//! Rebuilds the engine from the log: the verdict file says where to begin, the records say what happened since.
//!
//! The inputs are those of normal operation, in the order of the log. A real message whose PREPARED_TX_OFFSET and
//! transaction match a half is that half's verdict even when no OP record follows (a torn commit, or an Apache broker
//! that had its OP record still in memory); the first tick then appends what is missing.

use std::collections::{BTreeMap, HashMap};
use std::io;

use mq_protocol::ids::{LogOffset, QueueOffset, UnixMillis};
use mq_protocol::record::{Message, StoredMessage};
use mq_protocol::record_view::RecordView;
use mq_protocol::{sys_flag, topic};
use mq_store::{Bounds, ReadError, Store};

use crate::engine::{Count, Engine, Input, Rules};
use crate::half::{QUEUE, read_half, transaction_in};
use crate::loading::Loading;
use crate::op::ended_by;
use crate::planted::{Bug, planted};
use crate::progress::OpRecords;
use crate::quarantine::{Quarantine, QuarantinedHalf};
use crate::types::{CopyEnd, HalfOffset, Outcome, TransactionKey};
use crate::verdict_file::{Covered, VerdictFile};
use crate::verdicts::{CopyEnds, Verdicts};

/// Ended halves read back so that a client which sends its half again right after a restart meets its first verdict.
const RECALLED: u64 = 10_000;

pub(crate) struct Rebuilt {
    pub(crate) engine: Engine,
    pub(crate) ops: OpRecords,
    /// Every half below is known to have ended.
    pub(crate) finished: HalfOffset,
    pub(crate) quarantine: Quarantine,
    /// What is left to be read while the broker serves.
    pub(crate) loading: Option<Loading>,
    /// The file of copies says all up to here.
    pub(crate) copies_saved: LogOffset,
    /// Transactions whose copies in front of this place were resumed, or published, by records that do not name them:
    /// those of Apache's brokers.
    unnamed: HashMap<TransactionKey, LogOffset>,
}

/// What the two files of verdicts say.
pub(crate) struct Saved {
    pub(crate) covered: Covered,
    pub(crate) verdicts: Verdicts,
    pub(crate) copies: CopyEnds,
}

/// `None` when a file is missing, damaged, or not of this log: all of it is to be read.
pub(crate) fn load(store: &Store, verdicts: &mut VerdictFile, copies: &mut VerdictFile) -> io::Result<Option<Saved>> {
    let saved = verdicts.load::<Outcome>()?.filter(|(covered, _)| fits(store, topic::HALF, covered));
    let Some((covered, verdicts)) = saved else { return Ok(None) };
    if covered.copies == LogOffset::ZERO {
        let copies = CopyEnds::starting_at(store.queue_bounds(topic::CHECK_MAX_TIME, QUEUE).min);
        return Ok(Some(Saved { covered, verdicts, copies }));
    }
    let said = copies.load::<CopyEnd>()?.filter(|(said, _)| said.log >= covered.copies);
    let said = said.filter(|(said, _)| fits(store, topic::CHECK_MAX_TIME, said));
    Ok(said.map(|(_, copies)| Saved { covered, verdicts, copies }))
}

pub(crate) fn rebuild(
    store: &Store,
    saved: Option<Saved>,
    counts: HashMap<HalfOffset, Count>,
    rules: Rules,
    now: UnixMillis,
) -> Result<Rebuilt, ReadError> {
    let first = HalfOffset::from(store.queue_bounds(topic::HALF, QUEUE).min);
    if let Some(Saved { covered, verdicts, copies }) = saved {
        let ops = OpRecords::starting_at(covered.op, covered.half);
        let mut rebuilt = Rebuilt::new(rules.clone(), verdicts, copies, ops, covered.finished.max(first));
        rebuilt.copies_saved = covered.copies;
        // Until everything is read: a half that is read late meets the verdict that its transaction got meanwhile.
        rebuilt.engine.remember(usize::MAX);
        rebuilt.recall(store, first, covered.half, now)?;
        let replayed = rebuilt.replay_from(store, covered.log, now);
        match replayed.and_then(|()| rebuilt.end_unnamed(store, now)) {
            Ok(()) => {
                rebuilt.count(&counts, now);
                rebuilt.leave_the_rest(covered.half, counts);
                return Ok(rebuilt);
            }
            Err(error) => tracing::warn!(%error, "the log is not what the verdict file says; all of it is read"),
        }
    }
    let copies = CopyEnds::starting_at(store.queue_bounds(topic::CHECK_MAX_TIME, QUEUE).min);
    let mut rebuilt = Rebuilt::new(rules, Verdicts::starting_at(first), copies, OpRecords::default(), first);
    let mut from = LogOffset::ZERO;
    while let Err(error) = rebuilt.replay_from(store, from, now) {
        let Some(at) = error.damaged_at() else { return Err(error) };
        tracing::error!(%error, "a damaged record is left out; verdicts after it may be known only as rolled back");
        let Some(next) = next_record(store, at)? else { break };
        from = next;
    }
    rebuilt.end_unnamed(store, now)?;
    rebuilt.name_the_damaged(store, now);
    rebuilt.count(&counts, now);
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

/// Whether the file was made from this log, and the log still holds all that it covers of this topic.
fn fits(store: &Store, topic: &str, covered: &Covered) -> bool {
    let last = covered.half.0.checked_sub(1).map(QueueOffset);
    let last_at = last.and_then(|last| place_in(store, topic, last).ok()?);
    covered.log <= store.end() && last_at.is_none_or(|at| at == covered.last_half_at)
}

impl Rebuilt {
    fn new(rules: Rules, verdicts: Verdicts, copies: CopyEnds, ops: OpRecords, finished: HalfOffset) -> Self {
        let mut engine = Engine::new(rules, verdicts);
        *engine.copies_mut() = copies;
        let (quarantine, copies_saved, unnamed) = (Quarantine::default(), LogOffset::ZERO, HashMap::new());
        Self { engine, ops, finished, quarantine, loading: None, copies_saved, unnamed }
    }

    /// The last halves that the file has a verdict for are remembered by key.
    fn recall(&mut self, store: &Store, first: HalfOffset, end: HalfOffset, now: UnixMillis) -> Result<(), ReadError> {
        for half in (first.0.max(end.0.saturating_sub(RECALLED))..end.0).map(HalfOffset) {
            if self.engine.outcome(half).is_none() {
                continue;
            }
            match half_at(store, half) {
                Ok(Some(record)) => _ = self.learn(&record, now),
                Ok(None) => {}
                // It has ended: only a half that its client sends again would have met it.
                Err(error) if error.damaged_at().is_some() => tracing::warn!(half = half.0, %error, "an ended half"),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Halves that the file covers and has no verdict for: read while the broker serves.
    fn leave_the_rest(&mut self, end: HalfOffset, counts: HashMap<HalfOffset, Count>) {
        self.engine.reset_counters();
        let next = self.engine.verdicts().next_without(self.finished, end);
        let left = self.engine.verdicts().count_without(next, end).saturating_sub(self.engine.pending_below(end));
        let counts = counts.into_iter().filter(|(half, _)| !self.engine.is_open(*half)).collect();
        self.loading = Some(Loading { next, end, left, counts });
    }

    fn count(&mut self, counts: &HashMap<HalfOffset, Count>, now: UnixMillis) {
        for (half, count) in counts.iter().filter(|(half, _)| self.engine.is_open(**half)).collect::<BTreeMap<_, _>>() {
            self.tell(Input::Counted(*half, *count), now);
        }
    }

    /// After the whole log was read: halves that are neither open nor ended could not be read.
    fn name_the_damaged(&mut self, store: &Store, now: UnixMillis) {
        let end = HalfOffset::from(store.queue_bounds(topic::HALF, QUEUE).max);
        let mut half = self.engine.verdicts().next_without(self.finished, end);
        while half < end {
            if !self.engine.is_open(half)
                && let Err(error) = half_at(store, half)
            {
                self.put_aside(half, error.damaged_at(), error.to_string(), now);
            }
            half = self.engine.verdicts().next_without(HalfOffset(half.0 + 1), end);
        }
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
            self.reopen(store, record, now);
            self.learn(record, now);
        } else if message.topic == topic::OP_HALF && message.queue_id == QUEUE {
            self.end_copy(store, message, CopyEnd::RolledBack, now);
            let ends = ended_by(message);
            self.ops.note(record.queue_offset, &ends);
            ends.iter().for_each(|half| self.know(store, *half, now));
            self.tell(Input::Written(ends.into(), None), now);
        } else if message.topic == topic::CHECK_MAX_TIME {
            let half = self.half_of_copy(store, message, now).or_else(|| {
                // Apache's copies do not say which half they are of.
                let of = transaction_in(message)?;
                self.engine.halves_of(&of).first().copied()
            });
            half.into_iter().for_each(|half| self.tell(Input::Decided(half, Outcome::Parked), now));
        } else if planted(Bug::TornForgotten) {
        } else if sys_flag::transaction_bits(message.sys_flag) == sys_flag::TRANSACTION_COMMIT {
            match self.half_of_copy(store, message, now) {
                Some(half) => {
                    self.note_if_parked(half, record);
                    self.tell(Input::Decided(half, Outcome::Committed), now);
                }
                None => self.published(store, record, now),
            }
        }
    }

    /// A message whose half is not open: an operator published a copy, or Apache's broker a half that it had given up.
    fn published(&mut self, store: &Store, record: &StoredMessage, now: UnixMillis) {
        if self.end_copy(store, &record.message, CopyEnd::Committed, now) {
            return;
        }
        let half = store.read(record.message.prepared_transaction_offset).ok().flatten();
        let half = half.filter(|half| half.message.topic == topic::HALF);
        half.into_iter().for_each(|half| self.note_if_parked(half.queue_offset.into(), record));
    }

    fn note_if_parked(&mut self, half: HalfOffset, record: &StoredMessage) {
        let decided = || self.engine.pending_of(half)?.decided;
        if self.engine.outcome(half).or_else(decided) == Some(Outcome::Parked) {
            self.unnamed.extend(transaction_in(&record.message).map(|of| (of, record.log_offset)));
        }
    }

    /// A half that an operator made of a copy.
    fn reopen(&mut self, store: &Store, half: &StoredMessage, now: UnixMillis) {
        let is_named = self.end_copy(store, &half.message, CopyEnd::Resumed, now);
        if !is_named && read_half(half).is_ok_and(|half| half.resumes) {
            self.unnamed.extend(transaction_in(&half.message).map(|of| (of, half.log_offset)));
        }
    }

    /// Whatever was made of a copy names it in PREPARED_TX_OFFSET. False: it was made of something else.
    fn end_copy(&mut self, store: &Store, made: &Message, end: CopyEnd, now: UnixMillis) -> bool {
        let at = made.prepared_transaction_offset;
        if at == LogOffset::ZERO {
            return false;
        }
        let Ok(Some(copy)) = store.read(at) else { return false };
        let is_copy = copy.message.topic == topic::CHECK_MAX_TIME && copy.message.queue_id == QUEUE;
        if is_copy {
            self.tell(Input::CopyEnded(copy.queue_offset, end), now);
        }
        is_copy
    }

    /// Looks for the copies of [`Rebuilt::unnamed`].
    fn end_unnamed(&mut self, store: &Store, now: UnixMillis) -> Result<(), ReadError> {
        let Bounds { min, max } = store.queue_bounds(topic::CHECK_MAX_TIME, QUEUE);
        let mut next = if self.unnamed.is_empty() { max } else { self.engine.copies().next_without(min, max) };
        while next < max {
            let at = place_in(store, topic::CHECK_MAX_TIME, next)?;
            let copy = at.and_then(|at| store.read(at).ok()?);
            let until = copy.as_ref().and_then(|copy| self.unnamed.get(&transaction_in(&copy.message)?));
            if copy.as_ref().is_some_and(|copy| until.is_some_and(|until| copy.log_offset < *until)) {
                self.tell(Input::CopyEnded(next, CopyEnd::Resumed), now);
            }
            next = self.engine.copies().next_without(next.plus(1), max);
        }
        self.unnamed = HashMap::new();
        Ok(())
    }

    /// The open half that a real message or parked copy was made of.
    fn half_of_copy(&mut self, store: &Store, copy: &Message, now: UnixMillis) -> Option<HalfOffset> {
        let of = transaction_in(copy)?;
        let at = copy.prepared_transaction_offset;
        let lies_there = |half: &&HalfOffset| place_of(store, **half).is_ok_and(|place| place == Some(at));
        if let Some(half) = self.engine.halves_of(&of).iter().find(lies_there) {
            return Some(*half);
        }
        // One that was not read yet.
        let half = store.read(at).ok()??;
        let is_half = half.message.topic == topic::HALF && transaction_in(&half.message)? == of;
        let offset = HalfOffset::from(half.queue_offset);
        (is_half && self.learn(&half, now) && self.engine.is_open(offset)).then_some(offset)
    }

    /// Reads a half that the file covers and that is named now.
    fn know(&mut self, store: &Store, half: HalfOffset, now: UnixMillis) {
        if self.engine.is_open(half) || self.engine.outcome(half).is_some() {
            return;
        }
        if let Ok(Some(record)) = half_at(store, half) {
            self.learn(&record, now);
        }
    }

    fn learn(&mut self, record: &StoredMessage, now: UnixMillis) -> bool {
        match read_half(record) {
            Ok(half) => self.tell(Input::Stored(half), now),
            Err(reason) => {
                self.put_aside(record.queue_offset.into(), Some(record.log_offset), reason.to_string(), now);
                return false;
            }
        }
        true
    }

    fn put_aside(&mut self, half: HalfOffset, log_offset: Option<LogOffset>, reason: String, at: UnixMillis) {
        self.quarantine.add(QuarantinedHalf { half, log_offset, reason, at });
    }

    fn tell(&mut self, input: Input, now: UnixMillis) {
        let actions = self.engine.step(now, input);
        assert!(actions.is_empty(), "facts lead to no actions: {actions:?}");
    }
}

pub(crate) fn place_of(store: &Store, half: HalfOffset) -> Result<Option<LogOffset>, ReadError> {
    place_in(store, topic::HALF, half.into())
}

pub(crate) fn place_in(store: &Store, topic: &str, at: QueueOffset) -> Result<Option<LogOffset>, ReadError> {
    Ok(store.entry(topic, QUEUE, at)?.map(|entry| entry.log_offset))
}

/// The copy at this place of the topic of given-up halves; `None` when it is not on disk.
pub(crate) fn copy_at(store: &Store, copy: QueueOffset) -> Result<Option<StoredMessage>, ReadError> {
    place_in(store, topic::CHECK_MAX_TIME, copy)?.map_or(Ok(None), |at| store.read(at))
}

/// The half at this place of the half queue; `None` when it is not on disk.
pub(crate) fn half_at(store: &Store, half: HalfOffset) -> Result<Option<StoredMessage>, ReadError> {
    place_of(store, half)?.map_or(Ok(None), |at| store.read(at))
}
