//! END_TRANSACTION: what a producer asks for, what it gets, and why not.

use std::fmt;

use mq_protocol::ByteString;
use mq_protocol::codes::response;
use mq_protocol::header::EndTransaction;
use mq_protocol::ids::LogOffset;
use mq_protocol::properties::{self, name};
use mq_protocol::record::Message;
use mq_store::{AppendError, ReadError};

use crate::planted::{Bug, planted};
use crate::types::{HalfOffset, Outcome, Refusal, Verdict};

/// A verdict and the half that it is about. The client's message id plays no part: clients fill it in differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndRequest {
    pub half: HalfOffset,
    pub log_offset: LogOffset,
    pub producer_group: ByteString,
    pub transaction_id: Option<ByteString>,
    pub verdict: Verdict,
}

impl EndRequest {
    pub fn from_header(header: &EndTransaction) -> Result<Self, EndError> {
        let bits = header.commit_or_rollback;
        Ok(Self {
            half: header.tran_state_table_offset.into(),
            log_offset: header.commit_log_offset,
            producer_group: header.producer_group.clone(),
            transaction_id: header.transaction_id.clone().filter(|id| !id.is_empty()),
            verdict: Verdict::from_wire(bits).ok_or(EndError::NoVerdict(bits))?,
        })
    }

    /// Whether the half on disk is the one that the request means.
    pub(crate) fn fits(&self, half: &Message) -> Result<(), Refusal> {
        let (mut group, mut id) = (None, None);
        for (name, value) in properties::pairs(&half.properties) {
            match name {
                name::PRODUCER_GROUP => group = group.or(Some(value)),
                name::UNIQ_KEY => id = id.or(Some(value)),
                _ => {}
            }
        }
        if group != Some(&self.producer_group) {
            return Err(Refusal::WrongGroup);
        }
        if self.transaction_id.as_ref().is_some_and(|asked| id != Some(asked)) && !planted(Bug::AnyTransaction) {
            return Err(Refusal::WrongTransaction);
        }
        Ok(())
    }
}

/// The verdict stands. Answer once the log is durable up to `durable_at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub durable_at: LogOffset,
    pub answer: Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// By this request.
    Now(Outcome),
    /// By an earlier one that said the same; nothing was written.
    Before(Outcome),
    /// The producer does not know yet: nothing changed, and no reply is needed.
    Unknown,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now(outcome) => outcome.fmt(f),
            Self::Before(outcome) => write!(f, "{outcome} before"),
            Self::Unknown => f.write_str("as it was"),
        }
    }
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum EndError {
    #[error("commitOrRollback is {0}, which is no verdict: 8 commits, 12 rolls back, 0 is unknown")]
    NoVerdict(i32),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the half message does not name a topic and queue to publish in")]
    NoRealTopic,
    #[error("the half message cannot be read: {0}")]
    Read(#[from] ReadError),
    #[error("the verdict could not be written: {0}")]
    Append(#[from] AppendError),
}

impl EndError {
    /// A contrary verdict gets 604, as an Apache broker says that a verdict comes too late: the request was understood,
    /// and asking again will not help. 1 is the answer to a request that matches nothing; 2 and 14 may be tried again.
    #[must_use]
    pub fn code(&self) -> i32 {
        match self {
            Self::Refused(Refusal::Contrary(_)) => response::ILLEGAL_OPERATION,
            Self::Refused(Refusal::NotDurable | Refusal::Incomplete { .. }) => response::SYSTEM_BUSY,
            Self::Append(_) => response::SERVICE_NOT_AVAILABLE,
            Self::NoVerdict(_) | Self::Refused(_) | Self::NoRealTopic | Self::Read(_) => response::SYSTEM_ERROR,
        }
    }
}
