//! What an operator sees of transactions and may do about them. Everything here may read the disk.

use mq_protocol::codes::response;
use mq_protocol::ids::{LogOffset, QueueId, QueueOffset, UnixMillis};
use mq_protocol::properties::name;
use mq_protocol::record::{Message, StoredMessage};
use mq_protocol::{ByteString, topic};
use mq_store::{Bounds, KeyKind, ReadError, TimeWindow};

use crate::coordinator::Coordinator;
use crate::driver::Inner;
use crate::end::{EndError, EndRequest, Ended};
use crate::engine::{Input, ParkedNow, Pending};
use crate::half::{self, QUEUE};
use crate::history::{EventKind, Told, Who};
use crate::parked::{client_in, half_in, told_in};
use crate::quarantine::QuarantinedHalf;
use crate::recovery::{copy_at, half_at};
use crate::said::said;
use crate::types::{HalfOffset, Halves, Outcome, Part, Refusal, TransactionKey, Verdict};

/// Rows of a page at most.
const MAX_PAGE: usize = 1_000;
/// Halves that a page looks at, at most, for those that its filter wants.
const MAX_LOOKS: usize = 20_000;
/// Copies of one unique key that are looked at: each time that it was given up makes one.
const MAX_COPIES: usize = 64;

/// Which pending halves to list.
#[derive(Clone, Debug, Default)]
pub struct PendingQuery {
    pub from: HalfOffset,
    /// 1,000 at most.
    pub limit: usize,
    pub group: Option<String>,
    pub topic: Option<String>,
}

/// Some rows. Even a page without any may have a next one: filters look at 20,000 halves a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    pub rows: Vec<T>,
    /// Where the next page begins.
    pub next: Option<u64>,
}

/// What a half, or its copy, says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub log_offset: LogOffset,
    pub group: String,
    /// The unique key of its message.
    pub transaction_id: String,
    /// Of a transaction of several messages.
    pub shared_id: Option<String>,
    pub part: Part,
    pub topic: String,
    pub queue_id: QueueId,
    pub keys: String,
    pub stored_at: UnixMillis,
    pub born_at: UnixMillis,
    /// Who sent it, as long as that is remembered: neither longer than the half is open, nor beyond a
    /// restart; on the copy of one that was given up for good.
    pub client: Option<String>,
    /// The address that it came from.
    pub born_host: String,
}

/// A half message without an outcome (or, in [`Shown`], with one).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingHalf {
    pub half: HalfOffset,
    pub subject: Subject,
    /// `None`: of an ended one it is not remembered.
    pub checks: Option<u32>,
    pub max_checks: u32,
    /// Attempts since the last delivered check that found nobody to ask; of an open one.
    pub unasked: Option<u32>,
    pub next_check_at: Option<UnixMillis>,
    /// All open halves of the transaction.
    pub halves: Vec<HalfOffset>,
    /// The outcome is in the log, its OP record is still to come.
    pub decided: Option<Outcome>,
}

/// A copy in the topic of given-up halves. Its message id is what RESUME_CHECK_HALF_MESSAGE takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedHalf {
    pub copy: QueueOffset,
    /// The half that it was; `None` when another broker parked it.
    pub half: Option<HalfOffset>,
    pub subject: Subject,
    pub checks: u32,
    pub max_checks: u32,
    /// See [`ParkReason::name`](crate::ParkReason::name).
    pub reason: Option<String>,
    pub now: ParkedNow,
}

/// One transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub half: PendingHalf,
    pub outcome: Option<Outcome>,
    /// Its open halves, with their parts.
    pub members: Vec<(HalfOffset, Part)>,
    /// Questions and answers, oldest first; the broker keeps the last 100,000 of all transactions, since its start.
    pub history: Vec<Told>,
}

/// Why an operator's wish is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperatorError {
    #[error("there is no pending half message {0}; list the pending ones")]
    NotPending(HalfOffset),
    #[error(
        "half message {half} was checked {checks} times, which is its limit: resolve it, or resume it once it is parked"
    )]
    ChecksUsedUp { half: HalfOffset, checks: u32 },
    #[error("half message {half} is {outcome} already")]
    Decided { half: HalfOffset, outcome: Outcome },
}

impl OperatorError {
    /// The response code.
    #[must_use]
    pub fn code(&self) -> i32 {
        match self {
            Self::NotPending(_) => response::QUERY_NOT_FOUND,
            Self::ChecksUsedUp { .. } | Self::Decided { .. } => response::ILLEGAL_OPERATION,
        }
    }
}

impl Coordinator {
    /// Pending halves, oldest first.
    #[must_use]
    pub fn pending(&self, query: &PendingQuery) -> Page<PendingHalf> {
        let limit = query.limit.clamp(1, MAX_PAGE);
        let (mut rows, mut from, mut looks) = (Vec::new(), Some(query.from), MAX_LOOKS);
        while let Some(at) = from.filter(|_| rows.len() < limit && looks > 0) {
            let batch = (limit - rows.len()).min(looks);
            // A group is known by name and costs nothing; a topic is read from the disk.
            let look = if query.topic.is_some() { batch } else { looks };
            let (halves, next) = self.0.state.lock().engine.pending_from(at, query.group.as_deref(), batch, look);
            looks = looks.saturating_sub(if query.group.is_some() { look } else { halves.len().max(1) });
            from = next;
            let found = halves.into_iter().filter_map(|half| self.0.row(half).ok().flatten());
            rows.extend(found.filter(|row| query.topic.as_ref().is_none_or(|topic| *topic == row.subject.topic)));
        }
        Page { rows, next: from.map(|next| next.0) }
    }

    /// Copies of given-up halves, oldest first.
    pub fn parked(&self, from: QueueOffset, limit: usize) -> Result<Page<ParkedHalf>, ReadError> {
        let bounds = self.0.store.queue_bounds(topic::CHECK_MAX_TIME, QUEUE);
        let mut rows = Vec::new();
        let (mut next, mut looks) = (from.max(bounds.min), MAX_LOOKS);
        while next < bounds.max && rows.len() < limit.clamp(1, MAX_PAGE) && looks > 0 {
            match copy_at(&self.0.store, next) {
                Ok(copy) => rows.extend(copy.map(|copy| self.0.parked_row(&copy))),
                Err(error) if error.damaged_at().is_some() => tracing::warn!(offset = next.0, %error, "a parked copy"),
                Err(error) => return Err(error),
            }
            (next, looks) = (next.plus(1), looks - 1);
        }
        Ok(Page { rows, next: (next < bounds.max).then_some(next.0) })
    }

    /// The oldest copy that waits for an operator.
    #[must_use]
    pub fn first_waiting_copy(&self) -> Option<QueueOffset> {
        let Bounds { min, max } = self.0.store.queue_bounds(topic::CHECK_MAX_TIME, QUEUE);
        Some(self.0.state.lock().engine.copies().next_without(min, max)).filter(|copy| *copy < max)
    }

    /// Those that wait below `end` of the log: `limit` of them at most.
    pub fn waiting_copies(&self, end: LogOffset, limit: usize) -> Result<Vec<ParkedHalf>, ReadError> {
        let (mut found, mut next) = (Vec::new(), self.first_waiting_copy());
        while let Some(at) = next.filter(|_| found.len() < limit) {
            match copy_at(&self.0.store, at) {
                Ok(Some(copy)) if copy.log_offset < end => found.push(self.0.parked_row(&copy)),
                Ok(_) => break,
                Err(error) if error.damaged_at().is_some() => tracing::warn!(copy = at.0, %error, "a parked copy"),
                Err(error) => return Err(error),
            }
            let max = self.0.store.queue_bounds(topic::CHECK_MAX_TIME, QUEUE).max;
            let after = self.0.state.lock().engine.copies().next_without(at.plus(1), max);
            next = Some(after).filter(|after| *after < max);
        }
        Ok(found)
    }

    /// One of them, and what was asked and answered about the half that it was: what its copy says, and what happened
    /// since. `None` when it is not on disk.
    pub fn show_parked(&self, copy: QueueOffset) -> Result<Option<(ParkedHalf, Vec<Told>)>, ReadError> {
        let Some(copy) = copy_at(&self.0.store, copy)? else { return Ok(None) };
        let row = self.0.parked_row(&copy);
        let mut told = told_in(&copy.message);
        let until = told.last().map(|last| last.at);
        let known = self.0.state.lock().history.of(row.half.as_slice());
        told.extend(known.into_iter().filter(|event| Some(event.at) > until));
        Ok(Some((row, told)))
    }

    /// The copy of a half that was given up, by way of the index.
    pub fn copy_of(&self, half: HalfOffset) -> Result<Option<QueueOffset>, ReadError> {
        let Some(record) = half_at(&self.0.store, half)? else { return Ok(None) };
        let id = text(&record.message, name::UNIQ_KEY);
        let ever = TimeWindow { from: record.store_timestamp, to: UnixMillis(i64::MAX) };
        let found = self.0.store.query(topic::CHECK_MAX_TIME, &id, KeyKind::Unique, ever, MAX_COPIES)?;
        let copies = found.records.iter().filter_map(|copy| StoredMessage::decode(copy).ok());
        let of_it = |copy: &StoredMessage| copy.message.prepared_transaction_offset == record.log_offset;
        Ok(copies.filter(of_it).last().map(|copy| copy.queue_offset))
    }

    /// The transaction of a half, open or ended; `None` when the half is not on disk.
    pub fn show(&self, half: HalfOffset) -> Result<Option<Shown>, ReadError> {
        let Some(mut row) = self.0.row(half)? else { return Ok(None) };
        let state = self.0.state.lock();
        let members = row.halves.iter().map(|half| (*half, state.engine.part_of(*half))).collect();
        let mut halves = row.halves.clone();
        halves.push(half);
        row.checks = row.checks.or_else(|| state.history.checks(&halves));
        let (outcome, history) = (state.engine.outcome(half), state.history.of(&halves));
        Ok(Some(Shown { half: row, outcome, members, history }))
    }

    /// The open halves of a transaction, by its unique key or shared id.
    #[must_use]
    pub fn find(&self, group: &str, id: &str) -> Halves {
        let state = self.0.state.lock();
        let plain = state.engine.halves_of(&TransactionKey::new(group, id));
        let shared = state.engine.halves_of(&TransactionKey::shared(group, id));
        plain.into_iter().chain(shared).collect()
    }

    /// The next tick asks about it. It counts like any other check.
    pub fn check_now(&self, half: HalfOffset, by: &str) -> Result<(), OperatorError> {
        let (now, mut state) = (self.0.clock.now(), self.0.state.lock());
        let ended = |outcome| OperatorError::Decided { half, outcome };
        let none = || state.engine.outcome(half).map_or(OperatorError::NotPending(half), ended);
        let pending = state.engine.pending_of(half).ok_or_else(none)?;
        if let Some(outcome) = pending.decided {
            return Err(OperatorError::Decided { half, outcome });
        }
        if pending.checks >= pending.check_max {
            return Err(OperatorError::ChecksUsedUp { half, checks: pending.checks });
        }
        state.tell(now, Input::CheckNow(half));
        state.history.note(now, half, EventKind::CheckOrdered, Who::Operator(by.into()));
        Ok(())
    }

    /// Ends the transaction of a half as its producer would, first verdict wins. Answer once the log is durable up to
    /// [`Ended::durable_at`].
    pub fn resolve(&self, half: HalfOffset, verdict: Verdict, by: &str) -> Result<Ended, EndError> {
        let record = half_at(&self.0.store, half)?.ok_or(Refusal::NoSuchHalf)?;
        let property = |name| record.message.property(name).map(ByteString::from);
        let request = EndRequest {
            half,
            log_offset: record.log_offset,
            producer_group: property(name::PRODUCER_GROUP).ok_or(Refusal::NoSuchHalf)?,
            transaction_id: property(name::UNIQ_KEY),
            verdict,
        };
        let ended = self.0.end(std::slice::from_ref(&request), &Who::Operator(by.into())).remove(0);
        let EndRequest { producer_group, transaction_id, .. } = request;
        let answer =
            ended.as_ref().map_or_else(|refused| format!("refused: {refused}"), |ended| ended.answer.to_string());
        tracing::warn!(
            target: "audit", operator = by, half = half.0, %verdict, %answer, group = %producer_group,
            transaction = transaction_id.as_deref(), "an operator's verdict"
        );
        ended
    }

    /// Records of the half topic that cannot be asked about or ended: a thousand of them at most.
    #[must_use]
    pub fn quarantined(&self) -> Vec<QuarantinedHalf> {
        self.0.state.lock().quarantine.named()
    }
}

impl Inner {
    fn row(&self, half: HalfOffset) -> Result<Option<PendingHalf>, ReadError> {
        let Some(record) = half_at(&self.store, half)? else { return Ok(None) };
        let (now, mut state) = (self.clock.now(), self.state.lock());
        state.time.at(now);
        let pending = state.engine.pending_of(half).map(|it| Pending { due: state.time.wall(it.due), ..it });
        drop(state);
        Ok(Some(row(half, &record, pending)))
    }

    fn parked_row(&self, copy: &StoredMessage) -> ParkedHalf {
        let (message, state) = (&copy.message, self.state.lock());
        let number = message.property(name::TRANSACTION_CHECK_TIMES).and_then(|checks| checks.parse().ok());
        let now = half::transaction_in(message).map(|of| state.engine.parked_now(copy.queue_offset, &of));
        ParkedHalf {
            copy: copy.queue_offset,
            half: half_in(message),
            subject: subject(copy, client_in(message)),
            checks: number.unwrap_or(0),
            max_checks: said(message).check_max().map_or(state.engine.rules().check_max, u32::from),
            reason: message.property(name::PARKED_REASON).map(str::to_owned),
            now: now.unwrap_or(ParkedNow::Parked),
        }
    }
}

fn row(half: HalfOffset, record: &StoredMessage, pending: Option<Pending>) -> PendingHalf {
    let known = pending.as_ref();
    PendingHalf {
        half,
        subject: subject(record, known.and_then(|pending| Some(pending.client.as_ref()?.to_string()))),
        checks: known.map(|pending| pending.checks),
        max_checks: known.map_or(0, |pending| pending.check_max),
        unasked: known.map(|pending| pending.unasked),
        next_check_at: known.map(|pending| pending.due),
        decided: known.and_then(|pending| pending.decided),
        halves: known.map_or_else(Vec::new, |pending| pending.halves.to_vec()),
    }
}

fn subject(record: &StoredMessage, client: Option<String>) -> Subject {
    let message = &record.message;
    let queue = message.property(name::REAL_QUEUE_ID).and_then(|queue| queue.parse().ok());
    Subject {
        log_offset: record.log_offset,
        group: text(message, name::PRODUCER_GROUP),
        transaction_id: text(message, name::UNIQ_KEY),
        shared_id: message.property(name::SHARED_ID).map(str::to_owned),
        part: said(message).part(),
        topic: text(message, name::REAL_TOPIC),
        queue_id: queue.unwrap_or(QueueId(0)),
        keys: text(message, name::KEYS),
        stored_at: record.store_timestamp,
        born_at: message.born_timestamp,
        client,
        born_host: message.born_host.to_string(),
    }
}

fn text(message: &Message, name: &str) -> String {
    message.property(name).unwrap_or_default().to_owned()
}
