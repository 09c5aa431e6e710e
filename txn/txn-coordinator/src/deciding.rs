//! Verdicts: those of one read are decided in their order under one lock and written by one append.

use std::collections::HashSet;

use mq_protocol::ByteString;
use mq_protocol::ids::{LogOffset, UnixMillis};
use mq_protocol::properties::name;
use mq_protocol::record::{Message, StoredMessage};
use mq_store::{AppendError, ReadError};

use crate::driver::{Inner, State, is_durable};
use crate::end::{Answer, EndError, EndRequest, Ended};
use crate::engine::{Action, End, Input};
use crate::half::{self, Real};
use crate::history::{EventKind, Who};
use crate::plan::{self, Messages, Plan, Topics};
use crate::planted::{Bug, planted};
use crate::recovery::{half_at, place_of};
use crate::types::{HalfOffset, Outcome, Refusal, Verdict};

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

type Found = Result<StoredMessage, Refusal>;

impl Inner {
    pub(crate) fn end(&self, requests: &[EndRequest], by: &Who) -> Vec<Result<Ended, EndError>> {
        // Read before the lock is taken: they may have to come from the disk.
        let found: Vec<_> = requests.iter().map(|request| self.find(request)).collect();
        let mut answers = Vec::with_capacity(requests.len());
        let (mut batch, now, mut state) = (Batch::default(), self.clock.now(), self.state.lock());
        for (index, (request, found)) in requests.iter().zip(found).enumerate() {
            let was_asked = state.engine.was_asked(request.half);
            let decided = found.map_err(EndError::from).and_then(|found| {
                let mut decided = self.decide(&mut state, request, &found, now)?;
                if batch.has_transaction_of(&decided) {
                    // This verdict is its second one: decided by the first.
                    self.write_verdicts(&mut state, &mut batch, &mut answers, now);
                    decided = self.decide(&mut state, request, &found, now)?;
                }
                Ok(decided)
            });
            if let Some(what) = event(request.verdict, &decided, was_asked || matches!(by, Who::Operator(_))) {
                state.history.note(now, request.half, what, by.clone());
            }
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
        found: &Found,
        now: UnixMillis,
    ) -> Result<Decided, EndError> {
        let on_disk = found.as_ref().map_err(|refusal| *refusal).and_then(|half| {
            if !state.learn(half, now) {
                return Err(Refusal::NoSuchHalf);
            }
            request.fits(&half.message)
        });
        let end = End { half: request.half, verdict: request.verdict, on_disk };
        let action = state.step(now, Input::End(end));
        Ok(match action.into_iter().next() {
            None => Decided::Answer(Ended { durable_at: LogOffset::ZERO, answer: Answer::Unknown }),
            Some(Action::Acknowledge(outcome)) => {
                Decided::Answer(Ended { durable_at: state.written_to, answer: Answer::Before(outcome) })
            }
            Some(Action::Refuse(refusal)) => return Err(refusal.into()),
            Some(Action::Rollback { ends }) => {
                let half = found.as_ref().expect("what was not found is refused");
                let topics = half.message.property(name::REAL_TOPIC).map(ByteString::from).into_iter().collect();
                Decided::Append(Plan { first: Messages::new(), ends, outcome: Outcome::RolledBack, topics })
            }
            Some(Action::Commit { copies, ends }) => {
                let named = found.as_ref().expect("what was not found is refused");
                let part = state.engine.part_of(request.half);
                let copies = copies.iter().map(|half| (*half, state.engine.part_of(*half) == part));
                let (first, topics) = self.published(copies, request.half, named, now)?;
                Decided::Append(Plan { first, ends, outcome: Outcome::Committed, topics })
            }
            Some(other) => unreachable!("a verdict leads to no {other:?}"),
        })
    }

    /// The real messages of these halves, and their topics. `named` stands in for one that cannot be read and is the same message.
    fn published(
        &self,
        copies: impl ExactSizeIterator<Item = (HalfOffset, bool)>,
        named: HalfOffset,
        record: &StoredMessage,
        now: UnixMillis,
    ) -> Result<(Messages, Topics), EndError> {
        let (mut messages, mut topics) = (Messages::new(), Topics::new());
        let count = copies.len();
        for (half, is_same) in copies {
            let followers = count - messages.len() - 1;
            let other = if half == named { None } else { half_at(&self.store, half).transpose() };
            let copy = match &other {
                Some(Ok(other)) => other,
                Some(Err(error)) if !is_same => return Err(error.clone().into()),
                None if !is_same => return Err(Refusal::NoSuchHalf.into()),
                _ => record,
            };
            let real = half::real_message(copy, followers).ok_or(EndError::NoRealTopic)?;
            topics.push(real.message.topic.clone());
            let from = if planted(Bug::DelayFromHalf) { copy.store_timestamp } else { now };
            messages.push(self.placed(real, from));
        }
        Ok((messages, topics))
    }

    /// The message as it is appended: for its topic, or to wait first.
    pub(crate) fn placed(&self, real: Real, now: UnixMillis) -> Message {
        match real.delay_ms.filter(|delay_ms| *delay_ms > 0) {
            Some(delay_ms) => self.options.placing.delayed(real.message, UnixMillis(now.0.saturating_add(delay_ms))),
            None => real.message,
        }
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
        let mut requests = requests.into_iter();
        for portion in plan::portions(&plans) {
            let written = self.write(state, portion, now);
            for (plan, index) in portion.iter().zip(requests.by_ref()) {
                answer(
                    index,
                    match &written {
                        Ok(durable_at) => Ok(*durable_at),
                        Err(_) => self.write(state, std::slice::from_ref(plan), now),
                    },
                );
            }
        }
    }

    /// The half that the request names, if it lies where the request says and is durable.
    fn find(&self, request: &EndRequest) -> Result<Found, ReadError> {
        match place_of(&self.store, request.half)? {
            None => Ok(Err(Refusal::NoSuchHalf)),
            Some(at) if at != request.log_offset => Ok(Err(Refusal::WrongLogOffset)),
            Some(at) => Ok(match self.store.read(at)? {
                None => Err(Refusal::NoSuchHalf),
                Some(half) if !is_durable(&self.store, &half) => Err(Refusal::NotDurable),
                Some(half) => Ok(half),
            }),
        }
    }
}

/// What is worth telling of an answer: not the first verdict of a transaction that nobody had asked about.
fn event(verdict: Verdict, decided: &Result<Decided, EndError>, was_asked: bool) -> Option<EventKind> {
    match decided {
        Ok(Decided::Append(_)) => was_asked.then_some(EventKind::Said(verdict)),
        Ok(Decided::Answer(Ended { answer: Answer::Unknown, .. })) => Some(EventKind::Said(verdict)),
        Ok(Decided::Answer(_)) => Some(EventKind::Repeated(verdict)),
        // Those that fit no half belong to no transaction's story.
        Err(EndError::Refused(refusal @ (Refusal::Contrary(_) | Refusal::Incomplete { .. }))) => {
            Some(EventKind::Refused(verdict, *refusal))
        }
        Err(_) => None,
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
