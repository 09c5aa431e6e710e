//! The consumer groups of this broker and their settings, in `config/subscriptionGroup.json`.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mq_protocol::body::{DataVersion, SubscriptionGroup, SubscriptionGroupTable};
use mq_protocol::ids::UnixMillis;
use mq_protocol::topic::{self, NameError};
use serde::{Serialize, Serializer};

use crate::config::{BrokerConfig, MAX_QUEUES_PER_TOPIC};
use crate::config_file::{ConfigFile, SaveError};
use crate::saved::{Saved, Table};
use crate::start::{self, AttributeError, Start};
use crate::topics::next_version;

/// Groups of one broker; each takes some lines of the file that is written whole.
const MAX_GROUPS: usize = 100_000;
/// Groups that tools and the broker itself use.
const SYSTEM_GROUPS: [&str; 8] = [
    topic::TOOLS_GROUP,
    topic::TRANSACTION_GROUP,
    "FILTERSRV_CONSUMER",
    "SELF_TEST_C_GROUP",
    "CID_ONS-HTTP-PROXY",
    "CID_ONSAPI_PULL",
    "CID_ONSAPI_PERMISSION",
    "CID_ONSAPI_OWNER",
];
/// Apache's bit of a pair's forbidden reads.
const FORBIDDEN_READ: i32 = 4;
const SYSTEM_PREFIX: &str = "CID_RMQ_SYS_";

#[derive(Debug, thiserror::Error)]
pub(crate) enum GroupError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("subscription group {0} does not exist, and groups are not created by their consumers here")]
    NotExist(String),
    #[error("group {group}: retryQueueNums={queues} is over {MAX_QUEUES_PER_TOPIC}")]
    RetryQueues { group: String, queues: u32 },
    #[error("group {group}: {error}")]
    Attribute { group: String, error: AttributeError },
    #[error("the broker holds {MAX_GROUPS} groups, its limit; delete what nobody uses, or add a broker")]
    TooMany,
    #[error(transparent)]
    Save(#[from] Arc<SaveError>),
}

type ByName = HashMap<Arc<str>, Arc<SubscriptionGroup>>;

/// By group and topic, the permissions that the group does not have there.
type Forbidden = BTreeMap<String, BTreeMap<String, i32>>;

#[derive(Clone)]
struct Groups {
    version: DataVersion,
    by_name: ByName,
    forbidden: Forbidden,
}

impl Groups {
    fn put(&mut self, changed: Vec<SubscriptionGroup>, now: UnixMillis) -> Result<Option<()>, GroupError> {
        if changed.is_empty() {
            return Ok(None);
        }
        let new = changed.iter().filter(|group| !self.by_name.contains_key(&*group.group_name)).count();
        if new > 0 && self.by_name.len() + new > MAX_GROUPS {
            return Err(GroupError::TooMany);
        }
        self.by_name.extend(changed.into_iter().map(|group| (group.group_name.as_str().into(), Arc::new(group))));
        self.version = next_version(self.version, now);
        Ok(Some(()))
    }

    fn set_readable(&mut self, group: &str, topic: &str, readable: bool) {
        let topics = self.forbidden.entry(group.to_owned()).or_default();
        let bits = topics.entry(topic.to_owned()).or_default();
        *bits = if readable { *bits & !FORBIDDEN_READ } else { *bits | FORBIDDEN_READ };
        topics.retain(|_, bits| *bits != 0);
        if topics.is_empty() {
            self.forbidden.remove(group);
        }
    }
}

impl Table for Groups {
    fn in_file(&self) -> impl Serialize {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct File<'t> {
            data_version: DataVersion,
            forbidden_table: &'t Forbidden,
            #[serde(serialize_with = "in_order")]
            subscription_group_table: &'t ByName,
        }
        let Self { version, by_name, forbidden } = self;
        File { data_version: *version, forbidden_table: forbidden, subscription_group_table: by_name }
    }
}

fn in_order<S: Serializer>(groups: &ByName, serializer: S) -> Result<S::Ok, S::Error> {
    let mut groups: Vec<(&str, &SubscriptionGroup)> = groups.iter().map(|(name, group)| (&**name, &**group)).collect();
    groups.sort_unstable_by_key(|(name, _)| *name);
    serializer.collect_map(groups)
}

pub(crate) struct GroupTable {
    auto_create: AtomicBool,
    groups: Saved<Groups>,
}

impl GroupTable {
    pub(crate) fn open(config: &BrokerConfig, now: UnixMillis) -> io::Result<Self> {
        let file = ConfigFile::new(&config.config_directory(), "subscriptionGroup.json");
        let stored: SubscriptionGroupTable = file.load()?.unwrap_or_default();
        let first = DataVersion { timestamp: now.0, ..DataVersion::default() };
        let version = if stored.data_version == DataVersion::default() { first } else { stored.data_version };
        let mut by_name: ByName = stored.subscription_group_table.into_iter().map(named).collect();
        for name in SYSTEM_GROUPS {
            by_name.entry(name.into()).or_insert_with(|| Arc::new(new_group(name)));
        }
        Ok(Self {
            auto_create: AtomicBool::new(config.auto_create_group),
            groups: Saved::new(file, Groups { version, by_name, forbidden: stored.forbidden_table }),
        })
    }

    /// Goes by changed settings.
    pub(crate) fn adopt(&self, config: &BrokerConfig) {
        self.auto_create.store(config.auto_create_group, Ordering::Relaxed);
    }

    pub(crate) fn get(&self, group: &str) -> Option<Arc<SubscriptionGroup>> {
        self.groups.seen().by_name.get(group).cloned()
    }

    /// Where the group's settings say that it begins.
    pub(crate) fn start_of(&self, group: &str) -> Option<Start> {
        self.groups.seen().by_name.get(group).and_then(|group| Start::of(group))
    }

    /// The group of a consumer that shows up; made if groups may come into being that way.
    pub(crate) fn for_consumer(&self, group: &str, now: UnixMillis) -> Result<Arc<SubscriptionGroup>, GroupError> {
        if let Some(known) = self.get(group) {
            return Ok(known);
        }
        topic::check_group(group)?;
        if !self.auto_create.load(Ordering::Relaxed) && !group.starts_with(SYSTEM_PREFIX) {
            return Err(GroupError::NotExist(group.to_owned()));
        }
        let created = self.groups.change(|groups| match groups.by_name.contains_key(group) {
            true => Ok(None),
            false => groups.put(vec![new_group(group)], now),
        })?;
        if created.is_some() {
            tracing::info!(group, "consumer group created");
        }
        // Somebody may have deleted it since.
        self.get(group).ok_or_else(|| GroupError::NotExist(group.to_owned()))
    }

    /// Creates or updates groups as a tool asks for them: all, or none when one cannot be.
    pub(crate) fn put(&self, configs: Vec<SubscriptionGroup>, now: UnixMillis) -> Result<(), GroupError> {
        for config in &configs {
            topic::check_group(&config.group_name)?;
            if config.retry_queue_nums > MAX_QUEUES_PER_TOPIC {
                let (group, queues) = (config.group_name.clone(), config.retry_queue_nums);
                return Err(GroupError::RetryQueues { group, queues });
            }
        }
        self.groups.change(|groups| {
            let mut changed = Vec::new();
            for mut config in configs {
                let known = groups.by_name.get(&*config.group_name);
                let held = known.map(|known| known.attributes.clone()).unwrap_or_default();
                config.attributes = start::altered(&held, &config.attributes, now)
                    .map_err(|error| GroupError::Attribute { group: config.group_name.clone(), error })?;
                if known.is_none_or(|known| **known != config) {
                    changed.push(config);
                }
            }
            groups.put(changed, now)
        })?;
        Ok(())
    }

    pub(crate) fn delete(&self, group: &str, now: UnixMillis) -> Result<(), GroupError> {
        self.groups.change(|groups| {
            let removed = groups.by_name.remove(group);
            groups.version = if removed.is_some() { next_version(groups.version, now) } else { groups.version };
            Ok::<_, GroupError>(removed)
        })?;
        Ok(())
    }

    /// Whether the group may read the topic.
    pub(crate) fn may_read(&self, group: &str, topic: &str) -> bool {
        let groups = self.groups.seen();
        let bits = groups.forbidden.get(group).and_then(|topics| topics.get(topic));
        bits.is_none_or(|bits| bits & FORBIDDEN_READ == 0)
    }

    /// Lets the group read the topic, or no more.
    pub(crate) fn set_readable(
        &self,
        group: &str,
        topic: &str,
        readable: bool,
        now: UnixMillis,
    ) -> Result<(), GroupError> {
        self.groups.change(|groups| {
            groups.set_readable(group, topic, readable);
            groups.version = next_version(groups.version, now);
            Ok::<_, GroupError>(Some(()))
        })?;
        Ok(())
    }

    pub(crate) fn snapshot(&self) -> SubscriptionGroupTable {
        let groups = self.groups.seen();
        let table = groups.by_name.iter().map(|(name, group)| (name.to_string(), (**group).clone()));
        SubscriptionGroupTable {
            data_version: groups.version,
            forbidden_table: groups.forbidden.clone(),
            subscription_group_table: table.collect(),
        }
    }
}

fn new_group(name: &str) -> SubscriptionGroup {
    SubscriptionGroup { group_name: name.to_owned(), ..SubscriptionGroup::default() }
}

fn named((name, group): (String, SubscriptionGroup)) -> (Arc<str>, Arc<SubscriptionGroup>) {
    (name.as_str().into(), Arc::new(SubscriptionGroup { group_name: name, ..group }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000);

    fn in_directory(directory: &tempfile::TempDir, auto_create: bool) -> GroupTable {
        let config = BrokerConfig {
            store_root: directory.path().into(),
            auto_create_group: auto_create,
            ..BrokerConfig::default()
        };
        GroupTable::open(&config, NOW).expect("opens")
    }

    #[test]
    fn groups_come_into_being_with_their_consumers_and_stay() {
        let directory = tempfile::tempdir().expect("a directory");
        let groups = in_directory(&directory, true);
        let made = groups.for_consumer("g", NOW).expect("created");
        assert_eq!((made.retry_max_times, made.retry_queue_nums), (16, 1));
        let tuned = SubscriptionGroup { retry_max_times: 3, ..(*made).clone() };
        groups.put(vec![tuned.clone()], NOW).expect("updated");
        let again = in_directory(&directory, true);
        assert_eq!(*again.get("g").expect("kept"), tuned);
        assert_eq!(again.snapshot().data_version.counter, 2);
        again.delete("g", NOW).expect("deleted");
        assert!(in_directory(&directory, true).get("g").is_none());
    }

    #[test]
    fn a_group_may_be_kept_from_a_topic() {
        let directory = tempfile::tempdir().expect("a directory");
        let groups = in_directory(&directory, true);
        for readable in [false, true, false] {
            groups.set_readable("g", "t", readable, NOW).expect("saved");
            let seen = [("g", "t"), ("g", "u"), ("h", "t")].map(|(group, topic)| groups.may_read(group, topic));
            assert_eq!(seen, [readable, true, true]);
        }
        assert!(!in_directory(&directory, true).may_read("g", "t"), "after a restart as well");
    }

    #[test]
    fn unknown_and_illegal_groups_are_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let groups = in_directory(&directory, false);
        for (group, error) in [
            ("g", "subscription group g does not exist, and groups are not created by their consumers here"),
            ("g 1", "the group name \"g 1\" may only have letters, digits and % | _ -"),
            ("", "the group name is empty"),
        ] {
            assert_eq!(groups.for_consumer(group, NOW).expect_err(group).to_string(), error);
        }
        for system in ["TOOLS_CONSUMER", "CID_RMQ_SYS_TRANS", "CID_RMQ_SYS_NEW"] {
            assert!(groups.for_consumer(system, NOW).is_ok(), "{system}");
        }
    }
}
