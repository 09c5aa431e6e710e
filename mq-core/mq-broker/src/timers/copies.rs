//! Which messages were delivered already although the saved progress does not count them: found in the log by a start.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use mq_protocol::ids::{LogOffset, UnixMillis};
use mq_protocol::properties::{self, name};
use mq_protocol::record::Message;
use mq_protocol::topic;
use mq_store::Store;
use tracing::warn;

/// What makes a waiting message and its copy the same: 128 bits, so that many take little memory and none is mistaken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity(u64, u64);

impl Identity {
    pub(super) fn of(parts: &impl Hash) -> Self {
        let half = |salt: u64| {
            let mut hasher = DefaultHasher::new();
            salt.hash(&mut hasher);
            parts.hash(&mut hasher);
            hasher.finish()
        };
        Self(half(1), half(2))
    }

    /// Of a waiting message, once it is delivered or (`rolled`) stored anew.
    pub(super) fn of_copy(message: &Message, rolled: bool) -> Option<(Self, UnixMillis)> {
        let mut found: [&str; 5] = [""; 5];
        for (key, value) in properties::pairs(&message.properties) {
            let part = match key {
                name::TIMER_OUT_MS => 0,
                name::REAL_TOPIC => 1,
                name::REAL_QUEUE_ID => 2,
                name::UNIQ_KEY => 3,
                name::TIMER_ROLL_TIMES => 4,
                _ => continue,
            };
            found[part] = value;
        }
        let due = found[0].parse().ok()?;
        let rolls: u64 = found[4].parse().unwrap_or(0);
        let born = (message.born_timestamp, message.reconsume_times, message.body.len());
        Some((Self::of(&(found[0], found[1], found[2], found[3], rolls, rolled, born)), UnixMillis(due)))
    }
}

#[derive(Default)]
pub(super) struct Copies {
    found: HashMap<Identity, u32>,
    /// No copy is of a message that was due later.
    until: UnixMillis,
}

impl Copies {
    /// Reads the log from `from` on. A copy keeps what it waited by, so it can be told from other messages.
    pub(super) fn find(store: &Store, from: LogOffset) -> Self {
        let mut copies = Self::default();
        for stored in store.scan(from) {
            // The place may lie within a record that replaced a tail which a crash cut: nothing behind it is ours.
            let Ok(stored) = stored else {
                warn!(%from, "the log is not readable from the mark of the timers; some may be delivered twice");
                break;
            };
            let message = &stored.message;
            let rolled = message.topic == topic::TIMER;
            let is_copy = match message.property(name::TIMER_OUT_MS) {
                None => false,
                Some(_) if rolled => message.property(name::TIMER_ROLL_TIMES).is_some(),
                Some(_) => message.property(name::REAL_TOPIC) == Some(&message.topic),
            };
            if let Some((identity, due)) = Identity::of_copy(message, rolled).filter(|_| is_copy) {
                *copies.found.entry(identity).or_default() += 1;
                copies.until = copies.until.max(due);
            }
        }
        copies
    }

    /// Whether the copy was made before the start.
    pub(super) fn has(&self, copy: &Message, rolled: bool) -> bool {
        !self.found.is_empty()
            && Identity::of_copy(copy, rolled).is_some_and(|(identity, _)| self.found.contains_key(&identity))
    }

    /// The same, and each counts once.
    pub(super) fn take(&mut self, copy: &Message, rolled: bool) -> bool {
        let Some((identity, _)) = Identity::of_copy(copy, rolled) else { return false };
        let Some(left) = self.found.get_mut(&identity) else { return false };
        *left -= 1;
        if *left == 0 {
            self.found.remove(&identity);
        }
        true
    }

    /// What was due before `read_time` has been asked for.
    pub(super) fn forget_below(&mut self, read_time: UnixMillis) {
        if read_time > self.until {
            self.found = HashMap::new();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }
}
