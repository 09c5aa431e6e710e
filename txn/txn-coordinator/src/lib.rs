//! Half messages, OP records and checkback: a pure engine (`engine`) and the driver that runs it on mq-store.
//!
//! A transaction is (producer group, UNIQ_KEY). Its half messages wait in `RMQ_SYS_TRANS_HALF_TOPIC`; an OP record in
//! `RMQ_SYS_TRANS_OP_HALF_TOPIC` ends them. First verdict wins, for as long as the half is on disk.

mod check_journal;
mod coordinator;
mod deciding;
mod driver;
mod end;
pub mod engine;
mod given_up;
mod half;
mod history;
mod loading;
mod op;
mod operator;
mod outcomes;
mod parked;
mod plan;
#[cfg(not(feature = "planted"))]
mod planted;
#[cfg(feature = "planted")]
pub mod planted;
mod progress;
mod quarantine;
mod recovery;
mod said;
mod steady_time;
mod ticking;
mod types;
mod verdict_file;
mod verdicts;

pub use coordinator::{
    AtOnce, Check, CheckpointError, Coordinator, OpenError, Placing, Stats, StoredHalf, TransactionOptions,
};
pub use end::{Answer, EndError, EndRequest, Ended};
pub use engine::{Counters, ParkedNow, Rules, Schedule};
pub use given_up::{ParkedError, Reopened};
pub use half::{HalfError, NewHalf, followers, half_of};
pub use history::Told;
pub use operator::{OperatorError, Page, ParkedHalf, PendingHalf, PendingQuery, Shown, Subject};
pub use outcomes::{COMMIT_SECONDS, TopicOutcomes};
pub use parked::ResumeError;
pub use progress::Progress;
pub use quarantine::QuarantinedHalf;
pub use types::{
    CheckResult, ClientId, HalfOffset, Halves, Outcome, ParkReason, Part, Refusal, TransactionKey, Verdict,
};
pub use verdicts::Verdicts;
