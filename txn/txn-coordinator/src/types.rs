//! The nouns of a transaction: plain values, no behaviour beyond naming and comparing.

use std::fmt;
use std::sync::Arc;

use mq_protocol::ids::QueueOffset;
use mq_protocol::sys_flag;

/// The index of a half message in `RMQ_SYS_TRANS_HALF_TOPIC`, queue 0. Never an index of a user's queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HalfOffset(pub u64);

impl From<QueueOffset> for HalfOffset {
    fn from(offset: QueueOffset) -> Self {
        Self(offset.0)
    }
}

impl From<HalfOffset> for QueueOffset {
    fn from(offset: HalfOffset) -> Self {
        Self(offset.0)
    }
}

impl fmt::Display for HalfOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The client that sent a half: the first one to ask about it.
pub type ClientId = Arc<str>;

/// What makes two halves the same transaction: the producer group and the client's unique key. One allocation, shared.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionKey(Arc<str>);

/// A half with this character in its group or key is refused.
const SEPARATOR: char = '\u{1}';

impl TransactionKey {
    #[must_use]
    pub fn new(group: &str, id: &str) -> Self {
        let mut text = String::with_capacity(group.len() + id.len() + 1);
        text.push_str(group);
        text.push(SEPARATOR);
        text.push_str(id);
        Self(text.into())
    }

    #[must_use]
    pub fn group(&self) -> &str {
        self.0.split_once(SEPARATOR).map_or(&*self.0, |(group, _)| group)
    }

    #[must_use]
    pub fn id(&self) -> &str {
        self.0.split_once(SEPARATOR).map_or("", |(_, id)| id)
    }
}

impl fmt::Debug for TransactionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.group(), self.id())
    }
}

/// What a producer says about its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Commit,
    Rollback,
    /// "I cannot say yet": changes nothing.
    Unknown,
}

impl Verdict {
    /// From `commitOrRollback`, which holds transaction bits of a sys flag.
    #[must_use]
    pub fn from_wire(bits: i32) -> Option<Self> {
        match bits {
            sys_flag::TRANSACTION_COMMIT => Some(Self::Commit),
            sys_flag::TRANSACTION_ROLLBACK => Some(Self::Rollback),
            sys_flag::TRANSACTION_NONE => Some(Self::Unknown),
            _ => None,
        }
    }
}

/// How a half ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Committed,
    RolledBack,
    /// Nobody gave a verdict; a copy waits in `TRANS_CHECK_MAX_TIME_TOPIC` for an operator.
    Parked,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Committed => "committed",
            Self::RolledBack => "rolled back",
            Self::Parked => "parked",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParkReason {
    /// Every check that may be made was delivered, and none brought a verdict.
    Unanswered,
    /// For the whole of `fileReservedTime` no client of the group was connected.
    NobodyToAsk,
}

impl fmt::Display for ParkReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unanswered => "no check was answered with a verdict",
            Self::NobodyToAsk => "nobody could be asked",
        })
    }
}

/// What became of a check that the broker was given to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckResult {
    /// Its bytes were handed to a live connection. Only this counts toward the limit.
    Delivered,
    NobodyToAsk,
}

/// Why END_TRANSACTION changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no half message at this place of the half queue")]
    NoSuchHalf,
    #[error("the half message lies at another commit-log offset")]
    WrongLogOffset,
    #[error("the half message belongs to another producer group")]
    WrongGroup,
    #[error("the half message belongs to another transaction")]
    WrongTransaction,
    #[error("the half message is not durable yet")]
    NotDurable,
    #[error("the transaction is already {0}; its first outcome stands")]
    Contrary(Outcome),
}
