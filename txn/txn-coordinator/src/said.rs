//! What the properties of a message say of its transaction, and whether it makes sense. Pure.

use std::time::Duration;

use mq_protocol::ByteString;
use mq_protocol::properties::{self, Properties, name};
use mq_protocol::record::Message;

use crate::half::HalfError;
use crate::types::{Part, TransactionKey};

/// An immunity longer than the time that Apache keeps messages would never be checked at all.
const MAX_IMMUNITY: Duration = Duration::from_secs(72 * 3600);
/// Groups, keys and shared ids are kept in memory while their transaction is open.
const MAX_NAME_BYTES: usize = 255;
/// Beyond that a transaction is checked for longer than its messages are kept.
const MAX_CHECKS: u16 = 1_000;
const MAX_ORDER_KEY_BYTES: usize = 128;

/// What the properties of a message say of its transaction.
#[derive(Default)]
pub(crate) struct Said<'t> {
    pub(crate) group: Option<&'t str>,
    pub(crate) id: Option<&'t str>,
    pub(crate) shared_id: Option<&'t str>,
    pub(crate) part: Option<&'t str>,
    pub(crate) immunity: Duration,
    pub(crate) check_max: Option<&'t str>,
    pub(crate) delay_ms: Option<&'t str>,
    pub(crate) order_key: Option<&'t str>,
}

impl<'t> Said<'t> {
    pub(crate) fn hear(&mut self, name: &str, value: &'t str) {
        let place = match name {
            name::PRODUCER_GROUP => &mut self.group,
            name::UNIQ_KEY => &mut self.id,
            name::SHARED_ID => &mut self.shared_id,
            name::PART => &mut self.part,
            name::MAX_CHECKS => &mut self.check_max,
            name::DELAY_FROM_COMMIT_MS => &mut self.delay_ms,
            name::ORDER_KEY => &mut self.order_key,
            name::CHECK_IMMUNITY_SECONDS => return self.immunity = immunity_of(value),
            _ => return,
        };
        *place = place.or(Some(value));
    }

    /// `None`: without these it is in no transaction.
    pub(crate) fn key(&self, text: &ByteString) -> Option<TransactionKey> {
        let group = text.slice_ref(self.group?);
        let id = text.slice_ref(self.id?);
        Some(match self.shared_id {
            None => TransactionKey::new(group, id),
            Some(id) => TransactionKey::shared(group, id),
        })
    }

    /// Of what is stored, and therefore was checked.
    pub(crate) fn part(&self) -> Part {
        let part = self.part.filter(|_| self.shared_id.is_some()).and_then(Part::parse);
        part.unwrap_or(Part::WHOLE)
    }

    pub(crate) fn check_max(&self) -> Option<u16> {
        self.check_max?.parse().ok().filter(|max| (1..=MAX_CHECKS).contains(max))
    }

    pub(crate) fn check(&self) -> Result<(), HalfError> {
        short(name::PRODUCER_GROUP, self.group, MAX_NAME_BYTES)?.ok_or(HalfError::Missing(name::PRODUCER_GROUP))?;
        short(name::UNIQ_KEY, self.id, MAX_NAME_BYTES)?.ok_or(HalfError::Missing(name::UNIQ_KEY))?;
        let malformed = |name, value: &str, expected| HalfError::Malformed {
            name,
            value: value.chars().take(64).collect(),
            expected,
        };
        match (short(name::SHARED_ID, self.shared_id, MAX_NAME_BYTES)?, self.part) {
            (None, None) => {}
            (Some(_), None) => return Err(HalfError::Missing(name::PART)),
            (None, Some(_)) => return Err(HalfError::Missing(name::SHARED_ID)),
            (Some(_), Some(part)) => {
                Part::parse(part)
                    .ok_or_else(|| malformed(name::PART, part, "i/n with i from 1 to n, and n at most 32"))?;
            }
        }
        if let (Some(max), None) = (self.check_max, self.check_max()) {
            return Err(malformed(name::MAX_CHECKS, max, "a number from 1 to 1000"));
        }
        if let Some(delay) = self.delay_ms.filter(|delay| !delay.parse().is_ok_and(|delay: i64| delay > 0)) {
            return Err(malformed(name::DELAY_FROM_COMMIT_MS, delay, "a positive number of milliseconds"));
        }
        short(name::ORDER_KEY, self.order_key, MAX_ORDER_KEY_BYTES)?;
        if self.order_key.is_some() && self.delay_ms.is_some() { Err(HalfError::DelayedInOrder) } else { Ok(()) }
    }
}

/// A name that is kept in memory.
fn short<'t>(name: &'static str, value: Option<&'t str>, limit: usize) -> Result<Option<&'t str>, HalfError> {
    match value {
        Some(value) if Properties::has_separator(value) => Err(HalfError::Separator(name)),
        Some(value) if value.len() > limit => Err(HalfError::TooLong { name, bytes: value.len(), limit }),
        value => Ok(value),
    }
}

pub(crate) fn said(message: &Message) -> Said<'_> {
    let mut said = Said::default();
    properties::pairs(&message.properties).for_each(|(name, value)| said.hear(name, value));
    said
}

fn immunity_of(seconds: &str) -> Duration {
    let seconds = seconds.parse::<i64>().ok().and_then(|seconds| u64::try_from(seconds).ok());
    seconds.map_or(Duration::ZERO, |seconds| Duration::from_secs(seconds).min(MAX_IMMUNITY))
}
