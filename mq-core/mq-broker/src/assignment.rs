//! Which queues a consumer gets when the broker shares them out, and which groups pop instead of pulling
//! (`config/messageRequestMode.json`). The shares are computed by pure functions.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use mq_protocol::body::{AssignedQueue, MessageQueue, MessageRequestMode};
use serde::{Deserialize, Serialize};

use crate::config::BrokerConfig;
use crate::config_file::{ConfigFile, SaveError};
use crate::saved::{Saved, Table};

/// Modes of one broker; each is an entry of the file that is written on every change.
const MAX_MODES: usize = 100_000;
const ALL_QUEUES: i32 = -1;

/// How queues are shared out among the members of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// Neighbouring queues.
    Average,
    /// Every nth queue.
    AverageByCircle,
}

impl Strategy {
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "AVG" => Some(Self::Average),
            "AVG_BY_CIRCLE" => Some(Self::AverageByCircle),
            _ => None,
        }
    }

    /// The share of member `index` of `members`.
    fn share<T: Clone>(self, queues: &[T], index: usize, members: usize) -> Vec<T> {
        match self {
            Self::Average => {
                let (each, more) = (queues.len() / members, queues.len() % members);
                let first = index * each + index.min(more);
                queues[first..][..each + usize::from(index < more)].to_vec()
            }
            Self::AverageByCircle => queues.iter().skip(index).step_by(members).cloned().collect(),
        }
    }
}

/// What `client` pulls. Nothing if it is no member.
pub(crate) fn to_pull(
    strategy: Strategy,
    queues: &BTreeSet<MessageQueue>,
    members: &BTreeSet<String>,
    client: &str,
) -> Vec<AssignedQueue> {
    let queues: Vec<&MessageQueue> = queues.iter().collect();
    let Some(index) = members.iter().position(|member| member == client) else { return Vec::new() };
    strategy.share(&queues, index, members.len()).into_iter().map(AssignedQueue::from).collect()
}

/// What `client` pops: all queues, or its own share with those of the `shared` members behind it.
pub(crate) fn to_pop(
    strategy: Strategy,
    queues: &BTreeSet<MessageQueue>,
    members: &BTreeSet<String>,
    client: &str,
    shared: i32,
) -> Vec<AssignedQueue> {
    let shared = usize::try_from(shared).unwrap_or(0);
    if shared == 0 || shared + 1 >= members.len() {
        let whole = |queue: &MessageQueue| AssignedQueue { queue_id: ALL_QUEUES, ..AssignedQueue::from(queue) };
        return queues.iter().map(whole).collect::<BTreeSet<_>>().into_iter().collect();
    }
    let queues: Vec<&MessageQueue> = queues.iter().collect();
    let Some(index) = members.iter().position(|member| member == client) else { return Vec::new() };
    if members.len() > queues.len() {
        // Everybody gets something.
        return queues.get(index % queues.len().max(1)).map(|queue| AssignedQueue::from(*queue)).into_iter().collect();
    }
    let sharing = (index..=index + shared).map(|member| member % members.len());
    sharing.flat_map(|member| strategy.share(&queues, member, members.len())).map(AssignedQueue::from).collect()
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ModeError {
    #[error("the broker keeps {MAX_MODES} request modes, its limit")]
    TooMany,
    #[error(transparent)]
    Save(#[from] Arc<SaveError>),
}

/// By topic, then group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Modes {
    message_request_mode_map: BTreeMap<String, BTreeMap<String, MessageRequestMode>>,
}

impl Modes {
    fn set(&mut self, mode: MessageRequestMode) -> Result<(), ModeError> {
        let (topic, group) = (mode.topic.clone(), mode.consumer_group.clone());
        let is_known = self.message_request_mode_map.get(&topic).is_some_and(|groups| groups.contains_key(&group));
        let count = self.message_request_mode_map.values().map(BTreeMap::len).sum::<usize>();
        if !is_known && count >= MAX_MODES {
            return Err(ModeError::TooMany);
        }
        self.message_request_mode_map.entry(topic).or_default().insert(group, mode);
        Ok(())
    }
}

impl Table for Modes {
    fn in_file(&self) -> impl Serialize {
        self
    }
}

pub(crate) struct RequestModes {
    modes: Saved<Modes>,
}

impl RequestModes {
    pub(crate) fn open(config: &BrokerConfig) -> io::Result<Self> {
        let file = ConfigFile::new(&config.config_directory(), "messageRequestMode.json");
        let modes = file.load()?.unwrap_or_default();
        Ok(Self { modes: Saved::new(file, modes) })
    }

    pub(crate) fn get(&self, topic: &str, group: &str) -> Option<MessageRequestMode> {
        self.modes.seen().message_request_mode_map.get(topic)?.get(group).cloned()
    }

    /// On disk before it holds.
    pub(crate) fn set(&self, mode: MessageRequestMode) -> Result<(), ModeError> {
        self.modes.change(|modes| modes.set(mode).map(Some)).map(drop)
    }

    pub(crate) fn all(&self) -> Modes {
        Modes::clone(&self.modes.seen())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(
        queues: u32,
        members: usize,
        share: impl Fn(&BTreeSet<MessageQueue>, &BTreeSet<String>, &str) -> Vec<AssignedQueue>,
    ) -> String {
        let queue = |queue_id| MessageQueue { topic: "T".into(), broker_name: "b".into(), queue_id };
        let queues: BTreeSet<_> = (0..queues).map(queue).collect();
        let members: BTreeSet<_> = (0..members).map(|member| format!("m{member}")).collect();
        let of = |client: &String| {
            let ids: Vec<_> = share(&queues, &members, client).iter().map(|queue| queue.queue_id.to_string()).collect();
            ids.join(",")
        };
        let mut each: Vec<_> = members.iter().map(of).collect();
        each.push(of(&"stranger".to_owned()));
        each.join(" ")
    }

    #[test]
    fn queues_are_shared_out_as_the_clients_would() {
        for (strategy, queues, members, expected) in [
            (Strategy::Average, 4, 2, "0,1 2,3 "),
            (Strategy::Average, 5, 3, "0,1 2,3 4 "),
            (Strategy::Average, 2, 3, "0 1  "),
            (Strategy::Average, 0, 2, "  "),
            (Strategy::AverageByCircle, 5, 3, "0,3 1,4 2 "),
            (Strategy::AverageByCircle, 2, 3, "0 1  "),
        ] {
            let share = |queues: &_, members: &_, client: &str| to_pull(strategy, queues, members, client);
            assert_eq!(shares(queues, members, share), expected, "{strategy:?} {queues} {members}");
        }
    }

    #[test]
    fn members_that_pop_share_their_queues_with_those_before_them() {
        for (shared, queues, members, expected) in [
            (0, 4, 2, "-1 -1 -1"),
            (-1, 4, 9, "-1 -1 -1 -1 -1 -1 -1 -1 -1 -1"),
            (1, 4, 2, "-1 -1 -1"),
            (3, 4, 4, "-1 -1 -1 -1 -1"),
            (1, 4, 4, "0,1 1,2 2,3 3,0 "),
            (2, 4, 4, "0,1,2 1,2,3 2,3,0 3,0,1 "),
            (1, 2, 5, "0 1 0 1 0 "),
        ] {
            let share =
                |queues: &_, members: &_, client: &str| to_pop(Strategy::Average, queues, members, client, shared);
            assert_eq!(shares(queues, members, share), expected, "{shared} {queues} {members}");
        }
    }

    #[test]
    fn a_mode_is_kept_in_apaches_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let config = BrokerConfig { store_root: directory.path().into(), ..BrokerConfig::default() };
        let modes = RequestModes::open(&config).expect("opens");
        let body = r#"{"consumerGroup":"g","mode":"POP","popShareQueueNum":2,"topic":"T"}"#;
        let mode: MessageRequestMode = serde_json::from_str(body).expect("readable");
        modes.set(mode.clone()).expect("saved");
        let text = std::fs::read(config.config_directory().join("messageRequestMode.json")).expect("written");
        let found: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        let expected = format!(r#"{{"T":{{"g":{body}}}}}"#);
        let expected: serde_json::Value = serde_json::from_str(&expected).expect("JSON");
        assert_eq!(found["messageRequestModeMap"], expected);
        assert_eq!(RequestModes::open(&config).expect("opens").get("T", "g"), Some(mode));
    }
}
