//! When a message is to be delivered, and whether that can be promised. Pure: the time comes in.

use std::time::Duration;

use mq_protocol::ids::UnixMillis;
use mq_protocol::properties::name;

/// What the timer properties of a message ask for. Of several the first one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TimerWish<'t> {
    InSeconds(&'t str),
    InMillis(&'t str),
    At(&'t str),
}

impl<'t> TimerWish<'t> {
    pub(crate) fn of(key: &str, value: &'t str) -> Option<Self> {
        match key {
            name::TIMER_DELAY_SEC => Some(Self::InSeconds(value)),
            name::TIMER_DELAY_MS => Some(Self::InMillis(value)),
            name::TIMER_DELIVER_MS => Some(Self::At(value)),
            _ => None,
        }
    }

    fn time(self, now: UnixMillis) -> Option<i64> {
        match self {
            Self::InSeconds(text) => now.0.checked_add(text.parse::<i64>().ok()?.checked_mul(1000)?),
            Self::InMillis(text) => now.0.checked_add(text.parse().ok()?),
            Self::At(text) => text.parse().ok(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerRules {
    pub(crate) enabled: bool,
    pub(crate) precision_ms: i64,
    pub(crate) max_delay: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TimerRefusal {
    #[error("delivery at an arbitrary time is switched off here (timerWheelEnable=false); use a delay level")]
    Off,
    #[error("the timer property is no number, or too large a one: {0:?}")]
    Malformed(String),
    #[error("delivery is asked for in {asked_ms} ms, the limit is {limit_ms} ms (timerMaxDelaySec)")]
    TooFar { asked_ms: i64, limit_ms: i64 },
    #[error(
        "[FLOW_CONTROL] {messages} messages are to be delivered in that slot already, the limit is {limit} \
         (timerCongestNumEachSlot); ask for a time a slot earlier or later"
    )]
    SlotFull { messages: u64, limit: u64 },
    #[error("a message that takes back another one (TIMER_DEL_UNIQKEY) has to be due with it, in the future")]
    TooLate,
}

impl TimerRules {
    /// The slot that a message has to wait for: it ends at the wished time, or up to a slot's length later. `None`: the
    /// time is over, deliver now.
    pub(crate) fn slot(
        &self,
        wish: TimerWish<'_>,
        takes_back: bool,
        now: UnixMillis,
    ) -> Result<Option<UnixMillis>, TimerRefusal> {
        if !self.enabled {
            return Err(TimerRefusal::Off);
        }
        let malformed = || match wish {
            TimerWish::InSeconds(text) | TimerWish::InMillis(text) | TimerWish::At(text) => {
                TimerRefusal::Malformed(text.to_owned())
            }
        };
        let time = wish.time(now).ok_or_else(malformed)?;
        if time <= now.0 {
            return if takes_back { Err(TimerRefusal::TooLate) } else { Ok(None) };
        }
        let limit_ms = i64::try_from(self.max_delay.as_millis()).unwrap_or(i64::MAX);
        let asked_ms = time - now.0;
        if asked_ms > limit_ms {
            return Err(TimerRefusal::TooFar { asked_ms, limit_ms });
        }
        Ok(Some(UnixMillis((time - 1) / self.precision_ms * self.precision_ms)))
    }
}

/// The slot for an entry: its own, or when that is too far one where it is stored anew. `window_ms` is what Apache calls
/// the roll window; a message that would be left with little of it waits half of it first.
pub(crate) fn slot_in_window(slot: UnixMillis, now_slot: UnixMillis, window_ms: i64, precision_ms: i64) -> UnixMillis {
    let ahead = slot.0 - now_slot.0;
    if ahead < window_ms {
        return slot;
    }
    let step = if ahead - window_ms < window_ms / 3 { window_ms / 2 } else { window_ms };
    UnixMillis(now_slot.0 + (step / precision_ms).max(1) * precision_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_300);
    const RULES: TimerRules = TimerRules { enabled: true, precision_ms: 1000, max_delay: Duration::from_secs(60) };

    #[test]
    fn a_slot_ends_at_the_wished_time_or_less_than_its_length_later() {
        use TimerWish::*;
        let malformed = |text: &str| Err(TimerRefusal::Malformed(text.into()));
        let slot = |ms: i64| Ok(Some(UnixMillis(1_700_000_000_000 + ms)));
        for (wish, expected) in [
            (At("1700000005000"), slot(4000)),
            (At("1700000005001"), slot(5000)),
            (At("1700000005999"), slot(5000)),
            (At("1700000000301"), slot(0)),
            (At("1700000000300"), Ok(None)),
            (At("-5"), Ok(None)),
            (InMillis("700"), slot(0)),
            (InMillis("701"), slot(1000)),
            (InSeconds("2"), slot(2000)),
            (InSeconds("0"), Ok(None)),
            (InSeconds("-3"), Ok(None)),
            (InSeconds("60"), slot(60_000)),
            (InMillis("60001"), Err(TimerRefusal::TooFar { asked_ms: 60_001, limit_ms: 60_000 })),
            (InSeconds("soon"), malformed("soon")),
            (At(""), malformed("")),
            (InSeconds("9223372036854775807"), malformed("9223372036854775807")),
            (InMillis("9223372036854775807"), malformed("9223372036854775807")),
        ] {
            assert_eq!(RULES.slot(wish, false, NOW), expected, "{wish:?}");
        }
        assert_eq!(RULES.slot(At("1"), true, NOW), Err(TimerRefusal::TooLate));
        let off = TimerRules { enabled: false, ..RULES };
        assert_eq!(off.slot(At("1"), false, NOW), Err(TimerRefusal::Off));
    }

    #[test]
    fn the_finest_precision_is_as_exact() {
        let rules = TimerRules { precision_ms: 100, ..RULES };
        for (wish, expected) in [("1700000000400", 300), ("1700000000401", 400)] {
            let slot = rules.slot(TimerWish::At(wish), false, NOW);
            assert_eq!(slot, Ok(Some(UnixMillis(1_700_000_000_000 + expected))));
        }
    }

    #[test]
    fn what_lies_beyond_the_window_waits_in_it_first() {
        for (ahead, expected) in [(0, 0), (8999, 8999), (9000, 4000), (11_999, 4000), (12_000, 9000), (90_000, 9000)] {
            let slot = slot_in_window(UnixMillis(ahead), UnixMillis(0), 9000, 1000);
            assert_eq!(slot, UnixMillis(expected), "{ahead}");
        }
    }
}
