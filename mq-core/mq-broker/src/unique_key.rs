//! Unique keys for messages whose producer sent none.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU16, Ordering};

use mq_protocol::ids::UnixMillis;
use mq_protocol::message_id::UniqueKeyPrefix;

const DAY_MS: i64 = 86_400_000;

pub(crate) struct UniqueKeys {
    prefix: UniqueKeyPrefix,
    counter: AtomicU16,
}

impl UniqueKeys {
    pub(crate) fn new(ip: IpAddr) -> Self {
        let ip = match ip {
            IpAddr::V4(ip) => ip,
            // The short layout has no room for more; the salt tells brokers apart.
            IpAddr::V6(_) => Ipv4Addr::LOCALHOST,
        };
        Self { prefix: UniqueKeyPrefix::new(ip, std::process::id(), rand::random()), counter: AtomicU16::new(0) }
    }

    pub(crate) fn next(&self, now: UnixMillis) -> String {
        self.prefix.key(since_month_start_ms(now), self.counter.fetch_add(1, Ordering::Relaxed))
    }
}

/// Milliseconds since the first of the month, UTC: what tools read a key's time from.
fn since_month_start_ms(now: UnixMillis) -> u32 {
    let (days, in_day) = (now.0.div_euclid(DAY_MS), now.0.rem_euclid(DAY_MS));
    u32::try_from((day_of_month(days) - 1) * DAY_MS + in_day).expect("a month has fewer than 2^32 ms")
}

/// The Gregorian day of the month, 1 to 31, `days` after 1970-01-01. Months are counted from March, so that the leap
/// day is a year's last.
fn day_of_month(days: i64) -> i64 {
    let day_of_era = (days + 719_468).rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    day_of_year - (153 * month + 2) / 5 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_start_where_the_calendar_says() {
        for (days, day) in [(0, 1), (30, 31), (31, 1), (58, 28), (59, 1), (19_782, 29), (19_783, 1), (-1, 31)] {
            assert_eq!(day_of_month(days), day, "{days} days after 1970-01-01");
        }
        assert_eq!(since_month_start_ms(UnixMillis(31 * DAY_MS + 5)), 5);
    }

    #[test]
    fn keys_differ_and_have_javas_length() {
        let keys = UniqueKeys::new(Ipv4Addr::LOCALHOST.into());
        let (one, two) = (keys.next(UnixMillis(0)), keys.next(UnixMillis(0)));
        assert_ne!(one, two);
        assert_eq!(one.len(), 32);
    }
}
