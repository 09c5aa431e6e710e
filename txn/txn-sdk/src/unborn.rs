//! Transactions that are not born yet, by their ids and this machine's clock: a clock that leapt ahead and came back gave
//! them out, or that of another instance is ahead. Their ids say nothing of their age, so it is measured from the first
//! checkback on. Knows no database and no broker.
//!
//! That measure makes no transaction older than it is: what is asked about exists, and nobody sets the monotonic clock.
//! Other witnesses are clocks again: by the broker's time of the half all transactions would be old at once behind a broker
//! whose clock is an hour late. Of a transaction that was born before its first checkback it says nothing new (from there on
//! both clocks run alike), so only the unborn are noted, and none is where the clocks are right.

use std::{collections::HashMap, mem, time::Duration};

use mq_protocol::ids::UnixMillis;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::id::TransactionId;

/// At least so many of those asked about last are known, at most twice as many. Checkbacks of others are in vain until the
/// clock reaches their birth; if that takes too long, the broker parks them.
const KNOWN: usize = 25_000;

#[derive(Debug, Default)]
pub(crate) struct Unborn(Mutex<FirstAsked>);

#[derive(Debug, Default)]
struct FirstAsked {
    lately: HashMap<TransactionId, Instant>,
    /// As it was when that was full.
    before: HashMap<TransactionId, Instant>,
}

impl Unborn {
    /// How long ago a checkback asked here about this transaction while it was not born yet.
    pub(crate) fn known_for(&self, id: TransactionId, now: UnixMillis, at: Instant) -> Duration {
        let mut known = self.0.lock();
        let noted = known.lately.get(&id).or_else(|| known.before.get(&id)).copied();
        let first = match noted {
            Some(first) => first,
            None if id.born() > now => at,
            None => return Duration::ZERO,
        };
        known.lately.insert(id, first);
        if known.lately.len() >= KNOWN {
            known.before = mem::take(&mut known.lately);
        }
        at.saturating_duration_since(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn what_is_not_born_yet_is_known_from_its_first_checkback_on() {
        let (unborn, start) = (Unborn::default(), Instant::now());
        let [late, right] = [NOW.plus(HOUR), NOW].map(TransactionId::born_at);
        for seconds in [0, 30, 60] {
            let ago = Duration::from_secs(seconds);
            assert_eq!(unborn.known_for(late, NOW, start + ago), ago);
            assert_eq!(unborn.known_for(right, NOW, start + ago), Duration::ZERO, "its id says how old it is");
        }
        assert_eq!(unborn.0.lock().lately.len(), 1, "what its id says is not noted");
        assert_eq!(unborn.known_for(late, NOW.plus(HOUR), start + HOUR), HOUR, "nor forgotten once it is born");
    }

    #[test]
    fn those_that_are_asked_about_stay_known_and_the_rest_is_forgotten() {
        let (unborn, start) = (Unborn::default(), Instant::now());
        let id = || TransactionId::born_at(NOW.plus(HOUR));
        let (asked, left) = (id(), id());
        unborn.known_for(left, NOW, start);
        for number in 0..4 * KNOWN {
            unborn.known_for(id(), NOW, start);
            if number % (KNOWN / 2) == 0 {
                unborn.known_for(asked, NOW, start);
            }
        }
        let later = start + HOUR;
        assert_eq!(unborn.known_for(asked, NOW, later), HOUR);
        assert_eq!(unborn.known_for(left, NOW, later), Duration::ZERO);
        let known = unborn.0.lock();
        assert!(known.lately.len() < KNOWN && known.before.len() <= KNOWN);
    }
}
