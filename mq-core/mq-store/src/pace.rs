//! When a log that is synced for its appends is synced, and what makes such syncs cheap. Pure: the thread that syncs asks.

use std::ops::Range;
use std::time::Duration;

use mq_protocol::ids::LogOffset;

/// Of syncs with fewer bytes there can be thousands a second, whose price is the sync and not the bytes.
const SMALL_SYNC_BYTES: u64 = 64 * 1024;
const MAX_PAUSE: Duration = Duration::from_micros(500);
/// One sender's commit is two or three: it has nobody to wait for.
const SEVERAL: usize = 4;
/// Zeros are written so far ahead, when so few of them are left.
const ZEROS_BYTES: u64 = 256 * 1024;
const FEW_ZEROS_BYTES: u64 = 32 * 1024;

/// What the last syncs were like.
#[derive(Default)]
pub(crate) struct Pace {
    /// Messages that the last one released, if it was a small one.
    released: usize,
    took: Duration,
    /// Zeros were written up to here.
    zeroed: u64,
}

impl Pace {
    /// How long to wait for others before a sync for `waiting` messages, so long after the last one: as long as that took, at
    /// most.
    ///
    /// Those whom the last one released come back at once. If it were not waited for them they would share every second
    /// sync with the others: twice as many syncs and wake-ups for the same messages, none of which comes sooner.
    pub(crate) fn pause(&self, waiting: usize, since: Duration) -> Option<Duration> {
        let come_back = self.released >= SEVERAL && since < MAX_PAUSE;
        (come_back && waiting < self.released).then(|| self.took.min(MAX_PAUSE))
    }

    /// After a sync of these bytes. Returns where zeros should be written behind them: the first write to a block that is
    /// only reserved changes the file's map, and its sync has to write that too, through the file system's journal.
    pub(crate) fn synced(&mut self, synced: Range<LogOffset>, released: usize, took: Duration) -> Option<Range<u64>> {
        let is_small = synced.end.0.saturating_sub(synced.start.0) < SMALL_SYNC_BYTES;
        (self.released, self.took) = (if is_small { released } else { 0 }, took);
        let zeroed = self.zeroed.max(synced.end.0);
        let is_due = is_small && zeroed - synced.end.0 < FEW_ZEROS_BYTES;
        is_due.then(|| zeroed..zeroed + ZEROS_BYTES)
    }

    pub(crate) fn zeroed(&mut self, up_to: u64) {
        self.zeroed = up_to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYNC: Duration = Duration::from_micros(150);

    fn after(bytes: u64, released: usize, took: Duration) -> Pace {
        let mut pace = Pace::default();
        pace.synced(LogOffset(0)..LogOffset(bytes), released, took);
        pace
    }

    #[test]
    fn a_sync_waits_for_those_that_the_last_one_released_unless_that_was_large_or_for_few_or_long_ago() {
        let slow = Duration::from_millis(5);
        for (bytes, released, took, waiting, pause) in [
            (700, 1, SYNC, 1, None),
            (1_500, 3, SYNC, 1, None),
            (7_000, 10, SYNC, 10, None),
            (7_000, 10, SYNC, 11, None),
            (7_000, 10, SYNC, 9, Some(SYNC)),
            (7_000, 10, SYNC, 1, Some(SYNC)),
            (7_000, 10, slow, 1, Some(MAX_PAUSE)),
            (SMALL_SYNC_BYTES, 100, slow, 1, None),
        ] {
            let pace = after(bytes, released, took);
            assert_eq!(pace.pause(waiting, Duration::ZERO), pause, "{waiting} after {released} in {bytes} bytes");
            assert_eq!(pace.pause(waiting, MAX_PAUSE), None, "who has not come by now is not coming back");
        }
        assert_eq!(Pace::default().pause(1, Duration::ZERO), None, "the first one");
    }

    #[test]
    fn zeros_are_written_behind_small_syncs_when_few_are_left() {
        let mut pace = Pace::default();
        let mut synced = |from, to| pace.synced(LogOffset(from)..LogOffset(to), 1, SYNC);
        assert_eq!(synced(0, SMALL_SYNC_BYTES), None, "a large one: all would be written twice");
        assert_eq!(synced(70_000, 71_000), Some(71_000..71_000 + ZEROS_BYTES));
        pace.zeroed(71_000 + ZEROS_BYTES);
        let left = |bytes| LogOffset(71_000 + ZEROS_BYTES - bytes);
        assert_eq!(pace.synced(left(40_000)..left(FEW_ZEROS_BYTES), 1, SYNC), None);
        let from = 71_000 + ZEROS_BYTES;
        assert_eq!(pace.synced(left(FEW_ZEROS_BYTES)..left(1_000), 1, SYNC), Some(from..from + ZEROS_BYTES));
    }
}
