//! How the transactions of each topic ended, since the start: for metrics.

use std::collections::HashMap;

use mq_protocol::ByteString;
use mq_protocol::ids::UnixMillis;
use mq_protocol::record::Message;

use crate::types::Outcome;

/// Bounds of the time from a half message to its commit, as Apache counts it.
pub const COMMIT_SECONDS: [u64; 6] = [5, 60, 600, 3600, 12 * 3600, 24 * 3600];
/// Topics that are counted each for itself.
const MAX_TOPICS: usize = 20_000;

/// Of one topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicOutcomes {
    pub committed: u64,
    pub rolled_back: u64,
    /// Commits by the time they took: within each of [`COMMIT_SECONDS`] and not within a shorter one, and the later ones.
    pub commits_within: [u64; COMMIT_SECONDS.len() + 1],
    /// The sum of these times.
    pub commit_seconds: u64,
}

#[derive(Default)]
pub(crate) struct Outcomes {
    places: HashMap<ByteString, usize>,
    topics: Vec<(ByteString, TopicOutcomes)>,
}

impl Outcomes {
    /// `committed`: the message that is published.
    pub(crate) fn add(&mut self, topic: &ByteString, outcome: Outcome, committed: Option<&Message>, now: UnixMillis) {
        let Some(place) = self.place(topic) else { return };
        let (_, of_topic) = &mut self.topics[place];
        match (outcome, committed) {
            (Outcome::Committed, Some(message)) => {
                let seconds = now.since(message.born_timestamp).as_secs();
                let bucket = COMMIT_SECONDS.iter().position(|bound| seconds <= *bound);
                of_topic.commits_within[bucket.unwrap_or(COMMIT_SECONDS.len())] += 1;
                of_topic.commit_seconds += seconds;
                of_topic.committed += 1;
            }
            (Outcome::RolledBack, _) => of_topic.rolled_back += 1,
            _ => {}
        }
    }

    fn place(&mut self, topic: &ByteString) -> Option<usize> {
        if let Some(place) = self.places.get(topic) {
            return Some(*place);
        }
        if self.topics.len() >= MAX_TOPICS {
            return None;
        }
        // Owned: the name may be a part of the buffer that its half was read into.
        let topic = ByteString::from(&**topic);
        self.places.insert(topic.clone(), self.topics.len());
        self.topics.push((topic, TopicOutcomes::default()));
        Some(self.topics.len() - 1)
    }

    /// Up to `max` of them from the `from`-th on; they keep their places.
    pub(crate) fn page(&self, from: usize, max: usize) -> &[(ByteString, TopicOutcomes)] {
        let rest = self.topics.get(from..).unwrap_or_default();
        &rest[..rest.len().min(max)]
    }
}
