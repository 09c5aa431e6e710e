//! Which stored messages wait for which second: a wheel of slots over a log of entries, in Apache RocketMQ's layout.
//!
//! Knows times, positions and log offsets; what a message says, and what becomes of it when it is due, is the broker's
//! business. Nothing of a message is kept in memory: an entry is 52 bytes on disk, a slot 32.
//!
//! ```text
//! timerlog/ entry (52 bytes)            timerwheel slot (32 bytes)      config/timercheck (one sector of 4,096 bytes)
//!  0 size = 52            u32            0 slot time / precision u64     0 read time            32 state version
//!  4 entry before it, -1  i64            8 first entry           i64     8 log is synced up to  40 version's time
//! 12 1 | 2 rolls | 4 deletes u32        16 last entry            i64    16 queue offset         48 version's counter
//! 16 written at, ms       i64           24 entries               i32    24 the master's queue offset
//! 24 slot - written at    i32           28 0                            64 "CBTIMER1"           88 precision, ms
//! 28 commit-log offset    u64           at (time / precision) modulo    72 fired of the slot    96 seen
//! 36 record's size        u32           1,209,600                       80 commit-log offset    104 CRC-32 of 0..104
//! 40 hash of the topic    i32
//! 44 0                    u64           All big-endian. 16 bytes before a file's end: {rest u32, 0 u64, blank magic}.
//! ```
//!
//! Slots below the read time are fired. An entry's slot points to the last entry of its chain, each entry to the one
//! before it. Entries go to the log at once, slots stay in memory until [`TimerIndex::save`] has synced the log; so no
//! slot on disk ever points to an entry that a crash can take. A start cuts the log back to the checkpoint, follows the
//! slots that point beyond it back below it, and the caller enqueues again from the checkpoint's queue offset. The bytes
//! from 64 on are ours: when their checksum is wrong, Apache ran in between, and its log is read as Apache reads it.

mod chain;
mod check;
mod checkpoint;
mod entry;
mod index;
mod log;
mod recovery;
mod wheel;

pub use chain::Chain;
pub(crate) use check::{Fault, check, remove_all};
pub use checkpoint::{TimerCheckpoint, TimerProgress};
pub use entry::TimerEntry;
pub use index::{SlotCount, TimerIndex, TimerOptions};
pub use recovery::TimerStart;

use crate::error::DiskError;

#[derive(Clone, Debug, thiserror::Error)]
pub enum TimerError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("{path} has no timer entry at {at}, where one should be")]
    Damaged { path: String, at: u64 },
}
