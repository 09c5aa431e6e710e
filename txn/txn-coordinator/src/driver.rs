//! Runs the engine on the store: appends what the engine decides, and tells it what is written.
//!
//! One lock covers deciding, appending and telling, so two verdicts cannot both be first. Nothing waits for the disk
//! under it: callers get the log offset that has to be durable before they answer.

use std::sync::Arc;

use mq_protocol::ids::{LogOffset, QueueOffset, UnixMillis};
use mq_protocol::record::StoredMessage;
use mq_protocol::topic;
use mq_store::{AppendError, Bounds, Clock, ReadError, Store};
use parking_lot::Mutex;

use crate::check_journal::CheckJournal;
use crate::coordinator::{CheckpointError, TransactionOptions};
use crate::engine::{Action, Engine, Input};
use crate::half::{self, QUEUE};
use crate::history::History;
use crate::loading::Loading;
use crate::op::op_record;
use crate::outcomes::Outcomes;
use crate::plan::{self, Plan};
use crate::planted::{Bug, planted};
use crate::progress::{OpRecords, Progress, Published};
use crate::quarantine::{Quarantine, QuarantinedHalf};
use crate::recovery::{Rebuilt, half_at, place_in, place_of};
use crate::steady_time::SteadyTime;
use crate::types::HalfOffset;
use crate::verdict_file::{Block, Covered, VerdictFile};

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) options: TransactionOptions,
    /// Of halves and of copies. Its lock lets one checkpoint run at a time.
    pub(crate) verdict_files: Mutex<[VerdictFile; 2]>,
    /// Taken before `state`, where both are.
    pub(crate) journal: Mutex<CheckJournal>,
    pub(crate) state: Mutex<State>,
}

pub(crate) struct State {
    pub(crate) engine: Engine,
    pub(crate) time: SteadyTime,
    pub(crate) published: Published,
    pub(crate) outcomes: Outcomes,
    pub(crate) history: History,
    pub(crate) quarantine: Quarantine,
    /// Halves that a start has yet to read.
    pub(crate) loading: Option<Loading>,
    pub(crate) ops: OpRecords,
    /// Every half below has ended.
    finished: HalfOffset,
    /// Behind the last record that ended a half or a copy.
    pub(crate) written_to: LogOffset,
    /// The file of copies says all up to here.
    copies_saved: LogOffset,
}

impl Inner {
    /// Appends the plans and tells the engine. Returns where the log has to be durable to.
    pub(crate) fn write(&self, state: &mut State, plans: &[Plan], now: UnixMillis) -> Result<LogOffset, AppendError> {
        if plans.is_empty() {
            return Ok(state.written_to);
        }
        let groups = match planted(Bug::OrderOfHalves) {
            true => plan::groups(&plan::by_half(plans), now, self.options.store_host),
            false => plan::groups(plans, now, self.options.store_host),
        };
        let appended = self.store.append(&groups);
        if appended.is_err() && planted(Bug::ToldUnwritten) {
            plans.iter().for_each(|plan| state.tell(now, Input::Written(plan.ends.clone(), Some(plan.outcome))));
        }
        let appended = appended?;
        for (appended, group) in appended.iter().zip(&groups) {
            let (_, op) = appended.records.last().expect("every group ends with its OP record");
            state.ops.note(*op, &group.ends);
            state.written_to = appended.end;
        }
        for plan in plans {
            for (place, topic) in plan.topics.iter().enumerate() {
                state.outcomes.add(topic, plan.outcome, plan.first.get(place), now);
            }
            state.tell(now, Input::Written(plan.ends.clone(), Some(plan.outcome)));
        }
        Ok(if planted(Bug::AcknowledgeEarly) { LogOffset::ZERO } else { state.written_to })
    }

    /// No log begins with a half of several: its message would name the half at offset 0, as copies do that stand alone,
    /// and what it says of its followers would not be believed. An OP record that ends nothing comes first.
    pub(crate) fn begin_log(&self, state: &mut State) -> Result<(), AppendError> {
        if self.store.end() > LogOffset::ZERO {
            return Ok(());
        }
        let first = op_record(&[], self.clock.now(), self.options.store_host);
        let appended = self.store.append(&[[first]])?;
        let (_, op) = appended[0].records[0];
        state.ops.note(op, &[]);
        Ok(())
    }

    pub(crate) fn checkpoint(&self) -> Result<(), CheckpointError> {
        self.tidy_journal().map_err(CheckpointError::Journal)?;
        let mut files = self.verdict_files.lock();
        let [halves, copies] = &mut *files;
        let (covered, blocks, copies_covered, copies_blocks, end) = {
            let mut state = self.state.lock();
            let (mut covered, blocks) = state.cover(&self.store, self.clock.now());
            let (copies_covered, copies_blocks) = state.cover_copies(&self.store, &covered);
            covered.copies = if copies_blocks.is_empty() { state.copies_saved } else { covered.log };
            (covered, blocks, copies_covered, copies_blocks, state.written_to)
        };
        // The blocks hold verdicts up to there: the file must not know more than the log.
        let end = if planted(Bug::FileAhead) { LogOffset::ZERO } else { end };
        let durable = self.store.wait_durable(end, self.options.checkpoint_patience).map_err(CheckpointError::from);
        let saved = durable.and_then(|()| {
            if !copies_blocks.is_empty() {
                copies.save(&copies_covered, &copies_blocks)?;
            }
            Ok(halves.save(&covered, &blocks)?)
        });
        let mut state = self.state.lock();
        if saved.is_err() {
            state.engine.verdicts_mut().put_back(&blocks);
            state.engine.copies_mut().put_back(&copies_blocks);
        } else {
            state.copies_saved = covered.copies;
        }
        saved
    }
}

impl State {
    pub(crate) fn new(rebuilt: Rebuilt, store: &Store, time: SteadyTime, now: UnixMillis) -> Self {
        let Rebuilt { engine, ops, finished, quarantine, loading, copies_saved, .. } = rebuilt;
        let (published, outcomes, history) = (Published::default(), Outcomes::default(), History::default());
        let written_to = store.end();
        let mut state = Self {
            engine,
            time,
            outcomes,
            history,
            quarantine,
            loading,
            ops,
            finished,
            published,
            written_to,
            copies_saved,
        };
        state.published = Published::at(state.progress(store, now));
        if state.loading.as_ref().is_some_and(|loading| loading.next >= loading.end) {
            state.loaded();
        }
        state
    }

    pub(crate) fn step(&mut self, now: UnixMillis, mut input: Input) -> Vec<Action> {
        let steady = self.time.at(now);
        if let Input::Stored(half) = &mut input {
            half.stored_at = self.time.of(half.stored_at);
        }
        self.engine.step(steady, input)
    }

    pub(crate) fn tell(&mut self, now: UnixMillis, fact: Input) {
        let actions = self.step(now, fact);
        assert!(actions.is_empty(), "facts lead to no actions: {actions:?}");
    }

    /// A durable record of the half topic is a half that the engine knows from now on: its sender may ask before the
    /// broker could tell, say. False: it is no half, and named.
    pub(crate) fn learn(&mut self, record: &StoredMessage, now: UnixMillis) -> bool {
        let offset = HalfOffset::from(record.queue_offset);
        if self.engine.is_open(offset) {
            return true;
        }
        if self.engine.outcome(offset).is_none() {
            self.is_read(offset);
        }
        match half::read_half(record) {
            Ok(half) => {
                self.tell(now, Input::Stored(half));
                if let Some(count) = self.loading.as_mut().and_then(|loading| loading.counts.remove(&offset)) {
                    self.tell(now, Input::Counted(offset, count));
                }
                true
            }
            Err(reason) => {
                self.put_aside(offset, Some(record.log_offset), reason.to_string(), now);
                false
            }
        }
    }

    pub(crate) fn put_aside(&mut self, half: HalfOffset, at: Option<LogOffset>, reason: String, now: UnixMillis) {
        self.quarantine.add(QuarantinedHalf { half, log_offset: at, reason, at: now });
    }

    /// One that is gone, or damaged, is named and holds up nobody else.
    pub(crate) fn give_up(&mut self, half: HalfOffset, reason: &str, now: UnixMillis) -> Option<StoredMessage> {
        self.put_aside(half, None, reason.to_owned(), now);
        self.tell(now, Input::Gone(half));
        None
    }

    /// The oldest half without an outcome.
    pub(crate) fn first_pending(&self) -> Option<HalfOffset> {
        let unread = self.loading.as_ref().map(|loading| loading.next);
        self.engine.first_open().into_iter().chain(unread).min()
    }

    /// What an Apache broker may skip, as things are written now.
    pub(crate) fn progress(&mut self, store: &Store, now: UnixMillis) -> Progress {
        let halves = store.queue_bounds(topic::HALF, QUEUE);
        self.finished = self.finished.max(halves.min.into());
        while self.finished < halves.max.into() && self.has_ended(store, now) {
            self.finished.0 += 1;
        }
        Progress { half: self.finished.into(), op: self.ops.first_needed(self.finished) }
    }

    /// Whether the half at `finished` needs no more attention: it has ended, or it is not a half at all.
    fn has_ended(&mut self, store: &Store, now: UnixMillis) -> bool {
        if self.engine.outcome(self.finished).is_some() {
            return true;
        }
        if !self.engine.is_open(self.finished) {
            match half_at(store, self.finished) {
                Ok(Some(record)) if !is_durable(store, &record) => return false,
                Ok(Some(record)) => _ = self.learn(&record, now),
                // Not on disk any more; or just about to be visible.
                Ok(None) => return matches!(place_of(store, self.finished), Ok(Some(at)) if at < store.min()),
                Err(error) => return !matches!(error, ReadError::Disk(_)),
            }
        }
        !self.engine.is_open(self.finished)
    }

    /// What the verdict file is to say once the log is durable up to `covered.log`.
    fn cover(&mut self, store: &Store, now: UnixMillis) -> (Covered, Vec<Block>) {
        // In this order: a half in the visible log is below the queue's end as well.
        let log = store.visible().min(store.durable());
        let halves = store.queue_bounds(topic::HALF, QUEUE);
        let (first, half) = (HalfOffset::from(halves.min), HalfOffset::from(halves.max));
        while let Some(gone) = self.engine.first_open().filter(|open| *open < first) {
            self.give_up(gone, "it expired from disk", now);
        }
        let Progress { op, .. } = self.progress(store, now);
        let last_half_at =
            half.0.checked_sub(1).and_then(|last| place_of(store, HalfOffset(last)).ok()?).unwrap_or_default();
        let covered = Covered { log, half, last_half_at, op, finished: self.finished, first, copies: LogOffset::ZERO };
        self.quarantine.forget_below(first);
        self.engine.verdicts_mut().forget_below(first);
        (covered, self.engine.verdicts_mut().take_changed())
    }

    /// The same of the file of copies, for as much of the log.
    fn cover_copies(&mut self, store: &Store, halves: &Covered) -> (Covered, Vec<Block>) {
        let Bounds { min, max } = store.queue_bounds(topic::CHECK_MAX_TIME, QUEUE);
        let last = max.0.checked_sub(1).map(QueueOffset);
        let last_at = last.and_then(|last| place_in(store, topic::CHECK_MAX_TIME, last).ok()?);
        let last_half_at = last_at.unwrap_or_default();
        let (first, half) = (HalfOffset::from(min), HalfOffset::from(max));
        self.engine.copies_mut().forget_below(min);
        let covered = Covered { half, last_half_at, finished: first, first, ..*halves };
        (covered, self.engine.copies_mut().take_changed())
    }
}

pub(crate) fn is_durable(store: &Store, record: &StoredMessage) -> bool {
    record.log_offset.plus(u64::from(record.size)) <= store.durable()
}
