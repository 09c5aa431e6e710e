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
pub struct TopicEnds {
    pub committed: u64,
    pub rolled_back: u64,
    /// Commits by the time they took: within each of [`COMMIT_SECONDS`] and not within a shorter one, and the later ones.
    pub commits_within: [u64; COMMIT_SECONDS.len() + 1],
    /// The sum of these times.
    pub commit_seconds: u64,
}

#[derive(Default)]
pub(crate) struct Ends(HashMap<ByteString, TopicEnds>);

impl Ends {
    /// `committed`: the message that is published.
    pub(crate) fn add(&mut self, topic: &ByteString, outcome: Outcome, committed: Option<&Message>, now: UnixMillis) {
        if self.0.len() >= MAX_TOPICS && !self.0.contains_key(topic) {
            return;
        }
        if !self.0.contains_key(topic) {
            // Owned: the name may be a part of the buffer that its half was read into.
            self.0.insert(ByteString::from(&**topic), TopicEnds::default());
        }
        let ends = self.0.get_mut(topic).expect("inserted above if it was not there");
        match (outcome, committed) {
            (Outcome::Committed, Some(message)) => {
                let seconds = now.since(message.born_timestamp).as_secs();
                let bucket = COMMIT_SECONDS.iter().position(|bound| seconds <= *bound);
                ends.commits_within[bucket.unwrap_or(COMMIT_SECONDS.len())] += 1;
                ends.commit_seconds += seconds;
                ends.committed += 1;
            }
            (Outcome::RolledBack, _) => ends.rolled_back += 1,
            _ => {}
        }
    }

    pub(crate) fn by_topic(&self) -> Vec<(ByteString, TopicEnds)> {
        self.0.iter().map(|(topic, ends)| (topic.clone(), *ends)).collect()
    }
}
