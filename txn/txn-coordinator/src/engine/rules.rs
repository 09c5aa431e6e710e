//! The rules that the engine decides by, and what it counts.

use std::time::Duration;

/// The rules of the schedule and the limits of what is kept in memory.
#[derive(Clone, Debug)]
pub struct Rules {
    /// First check after this long (`transactionTimeOut`), or after the half's own immunity when that is longer.
    pub timeout: Duration,
    /// Between two checks (`transactionCheckInterval`).
    pub check_interval: Duration,
    /// Delivered checks before the half is parked (`transactionCheckMax`).
    pub check_max: u32,
    /// A half that nobody could be asked about is parked after this long (`fileReservedTime`). Measured in fruitless
    /// attempts times the interval: a clock that leaps three days ahead parks nothing.
    pub reserved: Duration,
    /// Halves looked at by one [`Input::Due`]: a restart with a million of them must not be one long pause.
    pub due_batch: usize,
    /// Ended transactions whose key is remembered, so that a half which its client sent again and which arrives after
    /// the verdict is closed by it. Client retries come within seconds: this many per second of them are too few only
    /// above some ten thousand transactions a second.
    pub settled_max: usize,
}

/// The part of the rules that may change while the engine runs. See [`Rules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    pub timeout: Duration,
    pub check_interval: Duration,
    pub check_max: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(6),
            check_interval: Duration::from_secs(30),
            check_max: 15,
            reserved: Duration::from_secs(72 * 3600),
            due_batch: 1024,
            settled_max: 100_000,
        }
    }
}

impl Rules {
    /// Checks before a half is parked, if it asks for a limit of its own.
    pub(super) fn check_max_of(&self, own: Option<u16>) -> u32 {
        own.map_or(self.check_max, u32::from)
    }
}

/// Since the start; what recovery replayed is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub committed: u64,
    pub rolled_back: u64,
    pub parked: u64,
    /// Verdicts that contradicted the first one.
    pub contrary: u64,
    /// Verdicts that matched no half.
    pub mismatched: u64,
    /// Commits of transactions that lacked a message.
    pub incomplete: u64,
    pub repeated: u64,
    pub checks_sent: u64,
    pub nobody_to_ask: u64,
    /// Checks that waited because the client had too many to answer.
    pub held_back: u64,
    /// Halves that vanished from disk before they ended.
    pub gone: u64,
}
