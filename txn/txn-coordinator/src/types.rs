//! The nouns of a transaction: plain values, no behaviour beyond naming and comparing.

use std::fmt;
use std::sync::Arc;

use mq_protocol::body::TxnEvent;
use mq_protocol::ids::QueueOffset;
use mq_protocol::{ByteString, sys_flag};
use smallvec::SmallVec;

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

/// Halves of one transaction: mostly one.
pub type Halves = SmallVec<[HalfOffset; 2]>;

/// Which of its transaction's messages a half is: `i/n`, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub number: u8,
    pub of: u8,
}

impl Part {
    /// The transaction has this one message.
    pub const WHOLE: Self = Self { number: 1, of: 1 };
    /// Messages of one transaction: they are appended together.
    pub const MAX: u8 = 32;

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (number, of) = text.split_once('/')?;
        let part = Self { number: number.parse().ok()?, of: of.parse().ok()? };
        ((1..=Self::MAX).contains(&part.of) && (1..=part.of).contains(&part.number)).then_some(part)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

/// What makes two halves the same transaction: the producer group and the client's unique key, or an id that several
/// messages share.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionKey {
    group: ByteString,
    id: ByteString,
}

/// Stands before a shared id: no unique key holds it, so that the two are never taken for each other.
const SHARED: char = '\u{1}';

impl TransactionKey {
    #[must_use]
    pub fn new(group: impl Into<ByteString>, id: impl Into<ByteString>) -> Self {
        Self { group: group.into(), id: id.into() }
    }

    /// Of a transaction of several messages.
    #[must_use]
    pub fn shared(group: impl Into<ByteString>, id: &str) -> Self {
        Self::new(group, format!("{SHARED}{id}"))
    }

    #[must_use]
    pub fn group(&self) -> &str {
        &self.group
    }

    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
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

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Commit => "commit",
            Self::Rollback => "rollback",
            Self::Unknown => "unknown",
        })
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

/// What an operator did about a copy in `TRANS_CHECK_MAX_TIME_TOPIC`. Done once; a copy of which there is nothing to say
/// waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyEnd {
    Committed,
    RolledBack,
    /// It became a half again.
    Resumed,
}

impl fmt::Display for CopyEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Committed => "committed",
            Self::RolledBack => "rolled back",
            Self::Resumed => "resumed",
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

impl ParkReason {
    /// As it stands in a property.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unanswered => "no verdict",
            Self::NobodyToAsk => "nobody to ask",
        }
    }
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
    /// Whoever could be asked has as many questions as he can answer. Nothing is counted; he is asked a little later.
    HeldBack,
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
    #[error("the transaction has {here} of its {of} messages; send the others first, or roll it back")]
    Incomplete { here: u8, of: u8 },
    #[error("the transaction is {already}{0}; its first outcome stands", already = TxnEvent::ALREADY)]
    Contrary(Outcome),
}
