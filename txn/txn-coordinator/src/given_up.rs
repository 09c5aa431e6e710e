//! What an operator does about halves that were given up: they are asked about again, or end as he says.
//!
//! Each copy is used once. Looking, appending and noting it are one step under the lock, and a start finds the same in the
//! log.

use std::collections::BTreeSet;
use std::fmt;

use mq_protocol::codes::response;
use mq_protocol::ids::{LogOffset, QueueOffset};
use mq_protocol::record::{Message, StoredMessage};
use mq_protocol::topic;
use mq_store::{AppendError, Bounds, ReadError};

use crate::coordinator::{Coordinator, StoredHalf};
use crate::driver::{Inner, State};
use crate::end::{Answer, Ended};
use crate::engine::{Input, ParkedNow};
use crate::half::{QUEUE, real_message, transaction_in};
use crate::history::{EventKind, Who};
use crate::parked::{ResumeError, half_in, resumed, rolled_back};
use crate::planted::{Bug, planted};
use crate::recovery::copy_at;
use crate::said::said;
use crate::types::{CopyEnd, HalfOffset, Outcome, Part, TransactionKey, Verdict};

/// Copies on each side that are looked at for more of the same transaction.
const NEAR: u64 = 64;
/// The same, while some of its messages are missing: an Apache broker parks each for itself.
const FAR: u64 = 20_000;

/// Half messages that were appended anew. Tell [`Coordinator::stored`] once the log is durable up to `durable_at`.
#[derive(Debug)]
pub struct Reopened {
    pub halves: Vec<StoredHalf>,
    pub durable_at: LogOffset,
}

/// Why a copy stays as it is.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ParkedError {
    #[error("there is no given-up half message p{0}; list the parked ones")]
    NotThere(QueueOffset),
    #[error(transparent)]
    Unusable(#[from] ResumeError),
    #[error("given-up half message p{copy} {now}: it can be resumed or resolved once")]
    Used { copy: QueueOffset, now: ParkedNow },
    #[error(
        "other messages of the transaction are open again, as half {0}: resume this one too, and resolve that half"
    )]
    OthersOpen(HalfOffset),
    #[error("of the transaction's {of} messages {here} wait here; it can be rolled back, or resumed with the others")]
    Incomplete { here: usize, of: u8 },
    #[error("given-up half messages cannot be read: {0}")]
    Read(#[from] ReadError),
    #[error("nothing could be written: {0}")]
    Append(#[from] AppendError),
}

impl ParkedError {
    /// The response code.
    #[must_use]
    pub fn code(&self) -> i32 {
        match self {
            Self::NotThere(_) => response::QUERY_NOT_FOUND,
            Self::Used { .. } | Self::OthersOpen(_) | Self::Incomplete { .. } => response::ILLEGAL_OPERATION,
            Self::Unusable(_) | Self::Read(_) => response::SYSTEM_ERROR,
            Self::Append(_) => response::SERVICE_NOT_AVAILABLE,
        }
    }
}

impl fmt::Display for ParkedNow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parked => f.write_str("waits"),
            Self::OpenAgain(half) => write!(f, "was resumed and is open, as half {half}"),
            Self::Resumed => f.write_str("was resumed before"),
            Self::Ended(outcome) => write!(f, "is {outcome} by now"),
        }
    }
}

impl Coordinator {
    /// Opens the transaction of this copy again, with all of its messages that wait: they are appended at once.
    pub fn resume(&self, copy: QueueOffset, by: &str) -> Result<Reopened, ParkedError> {
        let (of, copies) = self.0.copies_with(copy)?;
        let (now, mut state) = (self.0.clock.now(), self.0.state.lock());
        let waiting = state.waiting(copy, &of, copies)?;
        let made = waiting.iter().map(resumed).collect::<Result<Vec<_>, _>>()?;
        // Each stands alone: of those that a crash tears off the copies still wait, and can be resumed, too.
        let (messages, new): (Vec<[Message; 1]>, Vec<_>) = made.into_iter().map(|(half, new)| ([half], new)).unzip();
        let appended = self.0.store.append(&messages)?;
        waiting.iter().for_each(|copy| state.tell(now, Input::CopyEnded(copy.queue_offset, CopyEnd::Resumed)));
        let mut halves = Vec::with_capacity(new.len());
        for (new, appended) in new.into_iter().zip(appended) {
            let (_, at) = appended.records[0];
            state.written_to = appended.end;
            state.history.note(now, at.into(), EventKind::Resumed, Who::Operator(by.into()));
            tracing::warn!(target: "audit", operator = by, copy = copy.0, half = at.0, "an operator resumed a transaction");
            halves.push(StoredHalf::new(new, at, appended.store_timestamp, None));
        }
        Ok(Reopened { halves, durable_at: state.written_to })
    }

    /// Ends the transaction of this copy without another question. Answer once the log is durable up to
    /// [`Ended::durable_at`].
    pub fn resolve_parked(&self, copy: QueueOffset, verdict: Verdict, by: &str) -> Result<Ended, ParkedError> {
        let (of, copies) = self.0.copies_with(copy)?;
        let (now, mut state) = (self.0.clock.now(), self.0.state.lock());
        let waiting = state.waiting(copy, &of, copies)?;
        let open = state.engine.halves_of(&of);
        if let Some(half) =
            open.iter().find(|half| state.engine.pending_of(**half).is_some_and(|p| p.decided.is_none()))
        {
            return Err(ParkedError::OthersOpen(*half));
        }
        let (outcome, end) = match verdict {
            Verdict::Commit => (Outcome::Committed, CopyEnd::Committed),
            Verdict::Rollback => (Outcome::RolledBack, CopyEnd::RolledBack),
            Verdict::Unknown => return Ok(Ended { durable_at: LogOffset::ZERO, answer: Answer::Unknown }),
        };
        let host = self.0.options.store_host;
        let mut messages = match outcome {
            Outcome::Committed => self.0.messages_of(&mut state, &waiting)?,
            _ => Vec::new(),
        };
        // Of a part that is there twice one is published.
        let published = messages.len();
        let rest = waiting.iter().filter(|copy| {
            let at = copy.log_offset;
            !messages.iter().any(|message: &Message| message.prepared_transaction_offset == at)
        });
        let rest: Vec<_> = rest.map(|copy| rolled_back(copy, now, host)).collect();
        messages.extend(rest);
        let appended = self.0.store.append(&[messages])?.remove(0);
        state.written_to = appended.end;
        appended.records[published..].iter().for_each(|(_, op)| state.ops.note(*op, &[]));
        for copy in &waiting {
            state.tell(now, Input::CopyEnded(copy.queue_offset, end));
            let half = half_in(&copy.message).into_iter();
            half.for_each(|half| state.history.note(now, half, EventKind::Said(verdict), Who::Operator(by.into())));
        }
        tracing::warn!(
            target: "audit", operator = by, copy = copy.0, %verdict, transaction = ?of,
            "an operator resolved a given-up transaction"
        );
        Ok(Ended { durable_at: appended.end, answer: Answer::Now(outcome) })
    }
}

impl Inner {
    /// The copies of the named one's transaction, in the order of its messages.
    fn copies_with(&self, named: QueueOffset) -> Result<(TransactionKey, Vec<StoredMessage>), ParkedError> {
        let first = copy_at(&self.store, named)?.ok_or(ParkedError::NotThere(named))?;
        resumed(&first)?;
        let of = transaction_in(&first.message).expect("it could be resumed");
        let Part { number, of: parts } = part(&first);
        let (mut here, mut found) = (BTreeSet::from([number]), vec![first]);
        let Bounds { min, max } = self.store.queue_bounds(topic::CHECK_MAX_TIME, QUEUE);
        for distance in 1..=FAR {
            let sides = [named.0.checked_sub(distance), named.0.checked_add(distance)];
            let sides: Vec<_> =
                sides.into_iter().flatten().map(QueueOffset).filter(|at| (min..max).contains(at)).collect();
            if sides.is_empty() || (distance > NEAR && here.len() >= usize::from(parts)) {
                break;
            }
            for at in sides {
                match copy_at(&self.store, at) {
                    Ok(Some(copy)) if transaction_in(&copy.message).as_ref() == Some(&of) => {
                        here.insert(part(&copy).number);
                        found.push(copy);
                    }
                    Ok(_) => {}
                    Err(error) if error.damaged_at().is_some() => tracing::warn!(copy = at.0, %error, "a parked copy"),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        found.sort_by_key(|copy| (part(copy).number, copy.queue_offset));
        Ok((of, found))
    }

    /// What a commit of these copies publishes, one of each part.
    fn messages_of(&self, state: &mut State, waiting: &[StoredMessage]) -> Result<Vec<Message>, ParkedError> {
        let mut copies: Vec<_> = waiting.iter().collect();
        copies.dedup_by_key(|copy| part(copy).number);
        let of = waiting.iter().map(|copy| part(copy).of).max().unwrap_or(1);
        if copies.len() < usize::from(of) {
            return Err(ParkedError::Incomplete { here: copies.len(), of });
        }
        let (now, mut messages) = (self.clock.now(), Vec::with_capacity(waiting.len()));
        for (place, copy) in copies.iter().enumerate() {
            let real = real_message(copy, copies.len() - place - 1).ok_or(ResumeError::NoRealTopic)?;
            let topic = real.message.topic.clone();
            messages.push(self.placed(real, now));
            state.outcomes.add(&topic, Outcome::Committed, messages.last(), now);
        }
        Ok(messages)
    }
}

impl State {
    /// Of these copies the ones that wait, if the named one does.
    fn waiting(
        &self,
        named: QueueOffset,
        of: &TransactionKey,
        mut copies: Vec<StoredMessage>,
    ) -> Result<Vec<StoredMessage>, ParkedError> {
        match self.engine.parked_now(named, of) {
            ParkedNow::Parked => {}
            _ if planted(Bug::CopyUsedTwice) => return Ok(copies),
            now => return Err(ParkedError::Used { copy: named, now }),
        }
        copies.retain(|copy| self.engine.parked_now(copy.queue_offset, of) == ParkedNow::Parked);
        Ok(copies)
    }
}

fn part(copy: &StoredMessage) -> Part {
    said(&copy.message).part()
}
