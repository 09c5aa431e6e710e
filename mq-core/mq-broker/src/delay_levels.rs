//! `messageDelayLevel`: what the levels of delayed messages mean.

use std::time::Duration;

use mq_protocol::ids::QueueId;

/// Apache's eighteen.
pub(crate) const DEFAULT_LEVELS: &str = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h";

/// Level `n` is the n-th, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DelayLevels(Vec<Duration>);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("messageDelayLevel has {word:?}: each level is a number and one of s, m, h, d, as in {DEFAULT_LEVELS:?}")]
pub struct DelayLevelsError {
    word: String,
}

impl Default for DelayLevels {
    fn default() -> Self {
        DEFAULT_LEVELS.parse().expect("the default levels are well formed")
    }
}

impl std::str::FromStr for DelayLevels {
    type Err = DelayLevelsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let levels: Result<Vec<_>, _> = text
            .split_ascii_whitespace()
            .map(|word| level(word).ok_or_else(|| DelayLevelsError { word: word.to_owned() }))
            .collect();
        levels.map(Self)
    }
}

fn level(word: &str) -> Option<Duration> {
    let (unit_at, unit) = word.char_indices().last()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return None,
    };
    let count: u64 = word[..unit_at].parse().ok()?;
    Some(Duration::from_secs(count.checked_mul(seconds)?))
}

impl DelayLevels {
    /// The level that a message gets that asks for `level`: the last one when there is none that high; `None` when it
    /// asks for no delay, or there are no levels.
    pub(crate) fn clamp(&self, level: u32) -> Option<u32> {
        Some(level.min(self.0.len() as u32)).filter(|level| *level > 0)
    }

    /// The delay of a level that `clamp` gave.
    pub(crate) fn delay(&self, level: u32) -> Duration {
        self.0[level as usize - 1]
    }

    /// Levels and their queues of the schedule topic.
    pub(crate) fn queues(&self) -> impl Iterator<Item = (u32, QueueId)> + use<> {
        (1..=self.0.len() as u32).map(|level| (level, queue_of(level)))
    }
}

/// The queue of the schedule topic that holds a level's messages.
pub(crate) fn queue_of(level: u32) -> QueueId {
    QueueId(level - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_as_apache_writes_them() {
        let levels = DelayLevels::default();
        assert_eq!(levels.queues().count(), 18);
        for (level, seconds) in [(1, 1), (4, 30), (5, 60), (18, 7200)] {
            assert_eq!(levels.delay(level), Duration::from_secs(seconds));
        }
        for (asked, got) in [(0, None), (3, Some(3)), (18, Some(18)), (99, Some(18))] {
            assert_eq!(levels.clamp(asked), got);
        }
        for bad in ["1", "s", "1x", "-1s", "1 s", "99999999999999999999d", "1秒"] {
            assert!(bad.parse::<DelayLevels>().is_err(), "{bad}");
        }
    }
}
