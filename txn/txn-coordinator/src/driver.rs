//! Runs the engine on the store: reads halves, appends what the engine decides, and tells it what is written.
//!
//! One lock covers deciding, appending and telling, so two verdicts cannot both be first. Nothing waits for the disk
//! under it: callers get the log offset that has to be durable before they answer.

use std::collections::HashSet;
use std::sync::Arc;

use mq_protocol::ByteString;
use mq_protocol::ids::{LogOffset, UnixMillis};
use mq_protocol::properties::name;
use mq_protocol::record::StoredMessage;
use mq_protocol::topic;
use mq_store::{AppendError, Clock, ReadError, Store};
use parking_lot::Mutex;

use crate::coordinator::{Check, CheckpointError, TransactionOptions};
use crate::end::{Answer, EndError, EndRequest, Ended};
use crate::ends::Ends;
use crate::engine::{Action, End, Engine, Input};
use crate::half::{self, QUEUE};
use crate::plan::{self, Plan};
use crate::planted::{Bug, planted};
use crate::progress::{OpRecords, Progress, Published};
use crate::recovery::{Rebuilt, half_at, place_of};
use crate::types::{ClientId, HalfOffset, Outcome, ParkReason, Refusal, TransactionKey};
use crate::verdict_file::{Covered, VerdictFile};

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) options: TransactionOptions,
    /// Its lock lets one checkpoint run at a time.
    pub(crate) verdict_file: Mutex<VerdictFile>,
    pub(crate) state: Mutex<State>,
}

pub(crate) struct State {
    pub(crate) engine: Engine,
    pub(crate) published: Published,
    pub(crate) ends: Ends,
    ops: OpRecords,
    /// Every half below has ended.
    finished: HalfOffset,
    /// Behind the last record that ended a half.
    written_to: LogOffset,
}

/// A check that the engine wants sent.
struct Ask {
    half: HalfOffset,
    client: Option<ClientId>,
    attempt: u32,
}

/// What a verdict leads to.
#[allow(clippy::large_enum_variant, reason = "lives on the stack for a moment")]
enum Decided {
    Answer(Ended),
    Append(Plan),
}

/// Verdicts that are decided and not yet appended.
#[derive(Default)]
struct Batch {
    plans: Vec<Plan>,
    /// Which request each plan answers.
    requests: Vec<usize>,
    /// What they end.
    ends: HashSet<HalfOffset>,
}

impl Inner {
    pub(crate) fn end(&self, requests: &[EndRequest]) -> Vec<Result<Ended, EndError>> {
        // Read before the lock is taken: they may have to come from the disk.
        let found: Vec<_> = requests.iter().map(|request| self.find(request)).collect();
        let mut answers = Vec::with_capacity(requests.len());
        let (mut batch, now, mut state) = (Batch::default(), self.clock.now(), self.state.lock());
        for (index, (request, found)) in requests.iter().zip(found).enumerate() {
            let decided = found.map_err(EndError::from).and_then(|found| {
                let mut decided = self.decide(&mut state, request, &found, now)?;
                if batch.has_transaction_of(&decided) {
                    // This verdict is its second one: decided by the first.
                    self.write_verdicts(&mut state, &mut batch, &mut answers, now);
                    decided = self.decide(&mut state, request, &found, now)?;
                }
                Ok(decided)
            });
            answers.push(decided.map(|decided| match decided {
                Decided::Answer(ended) => ended,
                Decided::Append(plan) => {
                    let answer = Answer::Now(plan.outcome);
                    batch.push(index, plan);
                    Ended { durable_at: LogOffset::ZERO, answer }
                }
            }));
        }
        self.write_verdicts(&mut state, &mut batch, &mut answers, now);
        answers
    }

    fn decide(
        &self,
        state: &mut State,
        request: &EndRequest,
        found: &Result<StoredMessage, Refusal>,
        now: UnixMillis,
    ) -> Result<Decided, EndError> {
        let on_disk = found
            .as_ref()
            .map_err(|refusal| *refusal)
            .and_then(|half| state.learn(half, now).ok_or(Refusal::NoSuchHalf));
        let action = state.engine.step(
            now,
            Input::End(End {
                half: request.half,
                group: request.producer_group.clone(),
                transaction_id: request.transaction_id.clone(),
                verdict: request.verdict,
                on_disk,
            }),
        );
        Ok(match action.into_iter().next() {
            None => Decided::Answer(Ended { durable_at: LogOffset::ZERO, answer: Answer::Unknown }),
            Some(Action::Acknowledge(outcome)) => {
                Decided::Answer(Ended { durable_at: state.written_to, answer: Answer::Before(outcome) })
            }
            Some(Action::Refuse(refusal)) => return Err(refusal.into()),
            Some(Action::Rollback { ends }) => {
                let half = found.as_ref().expect("what was not found is refused");
                let topic = half.message.property(name::REAL_TOPIC).map(ByteString::from);
                Decided::Append(Plan { first: None, ends, outcome: Outcome::RolledBack, topic })
            }
            Some(Action::Commit { half, ends }) => {
                let named = found.as_ref().expect("what was not found is refused");
                let oldest = if half == request.half { None } else { half_at(&self.store, half).ok().flatten() };
                let real = half::real_message(oldest.as_ref().unwrap_or(named)).ok_or(EndError::NoRealTopic)?;
                let topic = Some(real.topic.clone());
                Decided::Append(Plan { first: Some(real), ends, outcome: Outcome::Committed, topic })
            }
            Some(other) => unreachable!("a verdict leads to no {other:?}"),
        })
    }

    /// All at once; one by one when that fails, so that one bad verdict fails alone.
    fn write_verdicts(
        &self,
        state: &mut State,
        batch: &mut Batch,
        answers: &mut [Result<Ended, EndError>],
        now: UnixMillis,
    ) {
        let Batch { plans, requests, .. } = std::mem::take(batch);
        let mut answer = |index: usize, written: Result<LogOffset, AppendError>| match (written, &mut answers[index]) {
            (Ok(durable_at), Ok(ended)) => ended.durable_at = durable_at,
            (Err(error), answer) => *answer = Err(error.into()),
            (Ok(_), Err(_)) => unreachable!("a refused verdict is not written"),
        };
        match self.write(state, &plans, now) {
            Err(error) if requests.len() == 1 => answer(requests[0], Err(error)),
            Err(_) => {
                for (plan, index) in plans.iter().zip(requests) {
                    answer(index, self.write(state, std::slice::from_ref(plan), now));
                }
            }
            Ok(durable_at) => requests.into_iter().for_each(|index| answer(index, Ok(durable_at))),
        }
    }

    /// The half that the request names, if it lies where the request says and is durable.
    fn find(&self, request: &EndRequest) -> Result<Result<StoredMessage, Refusal>, ReadError> {
        match place_of(&self.store, request.half)? {
            None => Ok(Err(Refusal::NoSuchHalf)),
            Some(at) if at != request.log_offset => Ok(Err(Refusal::WrongLogOffset)),
            Some(at) => Ok(match self.store.read(at)? {
                None => Err(Refusal::NoSuchHalf),
                Some(half) if !is_durable(&self.store, &half) && !planted(Bug::EndUndurable) => {
                    Err(Refusal::NotDurable)
                }
                Some(half) => Ok(half),
            }),
        }
    }

    pub(crate) fn tick(&self, now: UnixMillis) -> Vec<Check> {
        let mut asks = Vec::new();
        {
            let mut state = self.state.lock();
            let mut plans = Vec::new();
            for action in state.engine.step(now, Input::Due) {
                match action {
                    Action::Check { half, client, attempt } => asks.push(Ask { half, client, attempt }),
                    Action::Close { ends, outcome } => plans.push(Plan { first: None, ends, outcome, topic: None }),
                    Action::Park { half, ends, reason, checks } => {
                        plans.extend(self.park(&mut state, half, ends, reason, checks, now));
                    }
                    other => unreachable!("time leads to no {other:?}"),
                }
            }
            self.write_due(&mut state, &plans, now);
        }
        asks.into_iter().filter_map(|ask| self.check(ask, now)).collect()
    }

    fn park(
        &self,
        state: &mut State,
        half: HalfOffset,
        ends: Vec<HalfOffset>,
        reason: ParkReason,
        checks: u32,
        now: UnixMillis,
    ) -> Option<Plan> {
        let record = self.read(half).unwrap_or_else(|lost| state.give_up(half, &lost, now))?;
        let group = record.message.property(name::PRODUCER_GROUP);
        let transaction = record.message.property(name::UNIQ_KEY);
        tracing::warn!(half = half.0, group, transaction, checks, %reason, "half message parked in {}", topic::CHECK_MAX_TIME);
        let first = Some(half::parked_copy(&record, checks)).filter(|_| !planted(Bug::ParkWithoutCopy));
        Some(Plan { first, ends, outcome: Outcome::Parked, topic: None })
    }

    fn check(&self, ask: Ask, now: UnixMillis) -> Option<Check> {
        let record = self.read(ask.half).unwrap_or_else(|lost| self.state.lock().give_up(ask.half, &lost, now))?;
        if !is_durable(&self.store, &record) {
            return None;
        }
        let request = half::check_request(&record, ask.attempt, &self.options.broker_name)?;
        let property = |name| record.message.property(name).unwrap_or_default().into();
        let group = if planted(Bug::OtherGroup) { name::REAL_TOPIC } else { name::PRODUCER_GROUP };
        Some(Check {
            half: ask.half,
            producer_group: property(group),
            topic: property(name::REAL_TOPIC),
            prefer_client: ask.client,
            attempt: ask.attempt,
            request,
        })
    }

    /// A half that is due; `None` when the disk fails now and may work later, an error when the half is lost for good.
    fn read(&self, half: HalfOffset) -> Result<Option<StoredMessage>, String> {
        match half_at(&self.store, half) {
            Ok(Some(record)) => Ok(Some(record)),
            Ok(None) => Err("it is no longer on disk".into()),
            Err(error @ ReadError::Disk(_)) => {
                tracing::error!(half = half.0, %error, "a due half message cannot be read now; it is tried again");
                Ok(None)
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// All at once; one by one when that fails, so that one bad plan holds up nobody else.
    fn write_due(&self, state: &mut State, plans: &[Plan], now: UnixMillis) {
        if self.write(state, plans, now).is_err() {
            for plan in plans {
                if let Err(error) = self.write(state, std::slice::from_ref(plan), now) {
                    tracing::error!(ends = ?plan.ends, %error, "due halves could not be closed; they are tried again");
                }
            }
        }
    }

    /// Appends the plans and tells the engine. Returns where the log has to be durable to.
    fn write(&self, state: &mut State, plans: &[Plan], now: UnixMillis) -> Result<LogOffset, AppendError> {
        if plans.is_empty() {
            return Ok(state.written_to);
        }
        let groups = plan::groups(plans, now, self.options.store_host);
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
            if let Some(topic) = &plan.topic {
                state.ends.add(topic, plan.outcome, plan.first.as_ref(), now);
            }
            state.tell(now, Input::Written(plan.ends.clone(), Some(plan.outcome)));
        }
        Ok(if planted(Bug::AcknowledgeEarly) { LogOffset::ZERO } else { state.written_to })
    }

    pub(crate) fn checkpoint(&self) -> Result<(), CheckpointError> {
        let mut file = self.verdict_file.lock();
        let (covered, blocks, end) = {
            let mut state = self.state.lock();
            let (covered, blocks) = state.cover(&self.store, self.clock.now());
            (covered, blocks, state.written_to)
        };
        // The blocks hold verdicts up to there: the file must not know more than the log.
        let end = if planted(Bug::FileAhead) { LogOffset::ZERO } else { end };
        let durable = self.store.wait_durable(end, self.options.checkpoint_patience).map_err(CheckpointError::from);
        let saved = durable.and_then(|()| Ok(file.save(&covered, &blocks)?));
        if saved.is_err() {
            self.state.lock().engine.verdicts_mut().put_back(&blocks);
        }
        saved
    }
}

impl Batch {
    fn has_transaction_of(&self, decided: &Decided) -> bool {
        matches!(decided, Decided::Append(plan) if plan.ends.iter().any(|half| self.ends.contains(half)))
    }

    fn push(&mut self, request: usize, plan: Plan) {
        self.ends.extend(&plan.ends);
        self.requests.push(request);
        self.plans.push(plan);
    }
}

impl State {
    pub(crate) fn new(rebuilt: Rebuilt, store: &Store, now: UnixMillis) -> Self {
        let Rebuilt { engine, ops, finished } = rebuilt;
        let (published, ends) = (Published::default(), Ends::default());
        let mut state = Self { engine, ends, ops, finished, published, written_to: store.end() };
        state.published = Published::at(state.progress(store, now));
        state
    }

    pub(crate) fn tell(&mut self, now: UnixMillis, fact: Input) {
        let actions = self.engine.step(now, fact);
        assert!(actions.is_empty(), "facts lead to no actions: {actions:?}");
    }

    /// The transaction of a durable half. One that nobody told is learnt: its sender asks before the broker could tell,
    /// say.
    fn learn(&mut self, record: &StoredMessage, now: UnixMillis) -> Option<TransactionKey> {
        if let Some(known) = self.engine.transaction_of(record.queue_offset.into()) {
            return Some(known.clone());
        }
        let half = half::read_half(record)?;
        let transaction = half.transaction.clone();
        self.tell(now, Input::Stored(half));
        Some(transaction)
    }

    /// One that is gone, or damaged, is named and holds up nobody else.
    fn give_up(&mut self, half: HalfOffset, reason: &str, now: UnixMillis) -> Option<StoredMessage> {
        tracing::error!(half = half.0, reason, "a half message is lost without a verdict");
        self.tell(now, Input::Gone(half));
        None
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
                Ok(Some(record)) => drop(self.learn(&record, now)),
                // Not on disk any more; or just about to be visible.
                Ok(None) => return matches!(place_of(store, self.finished), Ok(Some(at)) if at < store.min()),
                Err(error) => return !matches!(error, ReadError::Disk(_)),
            }
        }
        !self.engine.is_open(self.finished)
    }

    /// What the verdict file is to say once the log is durable up to `covered.log`.
    fn cover(&mut self, store: &Store, now: UnixMillis) -> (Covered, Vec<crate::verdict_file::Block>) {
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
        let covered = Covered { log, half, last_half_at, op, finished: self.finished, first };
        self.engine.verdicts_mut().forget_below(first);
        (covered, self.engine.verdicts_mut().take_changed())
    }
}

fn is_durable(store: &Store, record: &StoredMessage) -> bool {
    record.log_offset.plus(u64::from(record.size)) <= store.durable()
}
