//! Unique keys of messages, in Java's layout: tools read the sender and the time back from them.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use mq_protocol::ByteString;
use mq_protocol::ids::UnixMillis;
use mq_protocol::message_id::UniqueKeyPrefix;

const DAY_MS: i64 = 86_400_000;

/// Keys of one client. A random salt tells clients of one process, and of reused process ids, apart.
pub(crate) struct UniqueKeys {
    prefix: UniqueKeyPrefix,
    counter: AtomicU32,
}

impl UniqueKeys {
    pub(crate) fn new(ip: Ipv4Addr) -> Self {
        Self { prefix: UniqueKeyPrefix::new(ip, std::process::id(), rand::random()), counter: AtomicU32::new(0) }
    }

    pub(crate) fn next(&self) -> ByteString {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed) as u16;
        self.prefix.key(since_month_start(now()), counter).into()
    }
}

pub(crate) fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Milliseconds since the UTC month began.
fn since_month_start(now: UnixMillis) -> u32 {
    let day = i64::from(day_of_month(now.0.div_euclid(DAY_MS)) - 1);
    (day * DAY_MS + now.0.rem_euclid(DAY_MS)) as u32
}

/// The day of its month, from 1, of a day counted from 1970-01-01.
fn day_of_month(days: i64) -> u32 {
    // Years that begin in March put the leap day last: months then have fixed starts, 153 days for each five of them.
    let days = days + 719_468;
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    (day_of_year - (153 * month + 2) / 5 + 1) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn time_is_counted_from_the_start_of_the_month() {
        for (unix_ms, since_ms) in [
            (0, 0),
            (1_709_164_800_000, 28 * DAY_MS),              // 2024-02-29
            (1_709_251_200_000, 0),                        // 2024-03-01
            (1_735_689_599_999, 31 * DAY_MS - 1),          // the last of 2024
            (1_795_257_704_597, 20 * DAY_MS + 38_504_597), // 2026-11-21 10:41:44.597
        ] {
            assert_eq!(i64::from(since_month_start(UnixMillis(unix_ms))), since_ms, "{unix_ms}");
        }
    }

    #[test]
    fn keys_differ_between_messages_and_between_clients() {
        let clients = [UniqueKeys::new(Ipv4Addr::LOCALHOST), UniqueKeys::new(Ipv4Addr::LOCALHOST)];
        let keys: HashSet<ByteString> = clients.iter().flat_map(|client| (0..20_000).map(|_| client.next())).collect();
        assert_eq!(keys.len(), 40_000);
        assert!(keys.iter().all(|key| key.len() == 32 && key.starts_with("7F000001")));
    }
}
