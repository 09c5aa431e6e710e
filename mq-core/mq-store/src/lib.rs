//! Commit log, consume queues, recovery, in Apache RocketMQ's disk format. Synchronous; knows no socket.
//!
//! [`Store::append`] writes groups of messages to the log and returns where they went; they are acknowledged when the
//! durable mark ([`Store::durable`], [`Listener::durable`]) has passed their end, and readable when the visible mark
//! has. The store knows records and queues but no topic's rules: what a record means for its queue entry comes in as
//! [`RecordRules`]. `docs/FORMAT.md` draws the files.

mod append;
pub mod backend;
mod checkpoint;
mod checksums;
mod clock;
mod core;
mod error;
mod failpoints;
mod index;
mod marks;
mod options;
mod pace;
mod pull;
mod query;
mod queue;
mod record_reader;
mod recovery;
mod retention;
mod segments;
mod store;
mod threads;
pub mod timer;
mod verify;

pub use append::Appended;
pub use backend::{Backend, FileBackend, MemoryBackend};
pub use clock::{Clock, ManualClock, SystemClock};
pub use core::{Arrival, Listener};
pub use error::{
    AppendError, CloseError, DiskError, DiskFull, Mismatch, OpenError, Poisoned, ReadError, TruncateError, WaitError,
};
pub use failpoints::{arm_failpoints, failpoint};
pub use index::{IndexOptions, TimeWindow};
pub use options::{FlushMode, Options, PlainRules, QUEUE_ENTRY_BYTES, RecordRules};
pub use pull::{Boundary, Bounds, PullLimits, PullStatus, Pulled, RecordFilter, Wanted};
pub use query::{KeyKind, Queried};
pub use queue::QueueEntry;
pub use recovery::RecoveryReport;
pub use retention::OldestSegment;
pub use store::{Records, Store};
pub use verify::{Affected, Finding, Severity, VerifyReport, rebuild, verify, verify_timers};
