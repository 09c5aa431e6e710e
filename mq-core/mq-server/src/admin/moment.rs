//! Points in time as an operator writes and reads them.

use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use mq_client::{ResetTo, UnixMillis};
use serde_json::Value;

/// Where to go on reading: `start`, `end`, `30m` ago, milliseconds since 1970, or a date with time and zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    Start,
    End,
    At(UnixMillis),
    Ago(Duration),
}

impl Moment {
    pub(super) fn reset(self, now: UnixMillis) -> ResetTo {
        match self {
            Self::Start => ResetTo::Time(UnixMillis(0)),
            Self::End => ResetTo::End,
            Self::At(time) => ResetTo::Time(time),
            Self::Ago(ago) => ResetTo::Time(UnixMillis(now.0.saturating_sub_unsigned(ago.as_millis() as u64))),
        }
    }

    /// As the group attribute `consume.from` writes it.
    pub(super) fn attribute(self, now: UnixMillis) -> String {
        match (self, self.reset(now)) {
            (Self::Start, _) => "first".into(),
            (_, ResetTo::End) => "last".into(),
            (_, ResetTo::Time(time)) => format!("timestamp:{}", time.0),
        }
    }
}

/// A group's attribute `consume.from`, as people read it.
pub(super) fn start(attribute: &str) -> Value {
    match attribute.strip_prefix("timestamp:").and_then(|at| at.parse().ok()) {
        Some(at) => show(UnixMillis(at)),
        None => attribute.into(),
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "start" => Ok(Self::Start),
            "end" => Ok(Self::End),
            _ => None
                .or_else(|| text.parse().ok().map(|millis| Self::At(UnixMillis(millis))))
                .or_else(|| duration(text).ok().map(Self::Ago))
                .or_else(|| text.parse::<Timestamp>().ok().map(|time| Self::At(UnixMillis(time.as_millisecond()))))
                .ok_or_else(|| "write start, end, 30m (ago), milliseconds, or 2026-11-21T12:00:00+08:00".into()),
        }
    }
}

/// `90s`, `30m`, `2h`, `1d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let unit = |text: &str| match text {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        "d" => Some(86_400),
        _ => None,
    };
    let read = || {
        let digits = text.find(|letter: char| !letter.is_ascii_digit())?;
        let (number, rest) = text.split_at(digits);
        number.parse::<u64>().ok()?.checked_mul(unit(rest)?).map(Duration::from_secs)
    };
    read().ok_or_else(|| "write 90s, 30m, 2h or 1d".into())
}

pub(super) fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(since.as_millis() as i64)
}

/// As a local date and time; nothing for "never".
pub(super) fn show(time: UnixMillis) -> Value {
    match Timestamp::from_millisecond(time.0) {
        Ok(stamp) if time.0 > 0 => {
            stamp.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S%.3f%:z").to_string().into()
        }
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_people_write_them() {
        let now = UnixMillis(10_000_000_000);
        for (text, means) in [
            ("start", Some(ResetTo::Time(UnixMillis(0)))),
            ("end", Some(ResetTo::End)),
            ("1700000000000", Some(ResetTo::Time(UnixMillis(1_700_000_000_000)))),
            ("90s", Some(ResetTo::Time(UnixMillis(now.0 - 90_000)))),
            ("2d", Some(ResetTo::Time(UnixMillis(now.0 - 172_800_000)))),
            ("1970-01-01T01:00:00+01:00", Some(ResetTo::Time(UnixMillis(0)))),
            ("99999999999999999999d", None),
            ("yesterday", None),
            ("5w", None),
            ("", None),
        ] {
            let read = text.parse::<Moment>().ok().map(|moment| moment.reset(now));
            assert_eq!(read, means, "{text:?}");
        }
    }

    #[test]
    fn moments_are_written_as_a_groups_start() {
        let now = UnixMillis(10_000);
        for (text, means) in [("start", "first"), ("end", "last"), ("5", "timestamp:5"), ("2s", "timestamp:8000")] {
            assert_eq!(text.parse::<Moment>().map(|moment| moment.attribute(now)), Ok(means.into()));
        }
    }

    #[test]
    fn a_groups_start_is_shown_as_a_time() {
        assert_eq!(start("first"), Value::from("first"));
        assert_eq!(start("timestamp:1700000000123"), show(UnixMillis(1_700_000_000_123)));
    }

    #[test]
    fn never_is_shown_as_nothing() {
        assert_eq!(show(UnixMillis(0)), Value::Null);
        assert!(show(UnixMillis(1_700_000_000_123)).as_str().is_some_and(|text| text.contains(":20.123")));
    }
}
