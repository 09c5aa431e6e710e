//! Which brokers to leave alone for a while: slow ones shortly, failed ones longer.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::time::Instant;

/// Answer time from which a broker is left alone, and for how long. Faster ones are not.
const LEAVE_ALONE: [(Duration, Duration); 5] = [
    (Duration::from_secs(15), Duration::from_secs(30)),
    (Duration::from_secs(5), Duration::from_secs(10)),
    (Duration::from_secs(3), Duration::from_secs(6)),
    (Duration::from_millis(1800), Duration::from_secs(5)),
    (Duration::from_millis(550), Duration::from_secs(2)),
];
/// After a failure: as if it had been this slow.
const FAILED: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(crate) struct FaultTable {
    until: RwLock<HashMap<String, Instant>>,
}

impl FaultTable {
    pub(crate) fn answered(&self, broker: &str, took: Duration, now: Instant) {
        match leave_alone_for(took) {
            Duration::ZERO => self.forgive(broker),
            pause => drop(self.until.write().insert(broker.to_owned(), now + pause)),
        }
    }

    pub(crate) fn failed(&self, broker: &str, now: Instant) {
        self.answered(broker, FAILED, now);
    }

    pub(crate) fn is_available(&self, broker: &str, now: Instant) -> bool {
        self.until.read().get(broker).is_none_or(|until| *until <= now)
    }

    fn forgive(&self, broker: &str) {
        if self.until.read().contains_key(broker) {
            self.until.write().remove(broker);
        }
    }
}

fn leave_alone_for(took: Duration) -> Duration {
    LEAVE_ALONE.iter().find(|(from, _)| took >= *from).map_or(Duration::ZERO, |(_, pause)| *pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_brokers_are_left_alone_in_proportion() {
        let table = FaultTable::default();
        let now = Instant::now();
        for (took_ms, pause_ms) in [(0, 0), (549, 0), (550, 2_000), (1_800, 5_000), (4_000, 6_000), (60_000, 30_000)] {
            table.answered("b", Duration::from_millis(took_ms), now);
            assert!(table.is_available("b", now + Duration::from_millis(pause_ms)), "{took_ms}");
            let just_before = now + Duration::from_millis(pause_ms).saturating_sub(Duration::from_millis(1));
            assert_eq!(table.is_available("b", just_before), pause_ms == 0, "{took_ms}");
            assert!(table.is_available("other", now));
        }
        table.failed("b", now);
        assert!(!table.is_available("b", now));
        table.answered("b", Duration::from_millis(1), now);
        assert!(table.is_available("b", now), "a good answer forgives");
    }
}
