//! The consumer groups of this broker and their settings, in `config/subscriptionGroup.json`.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mq_protocol::body::{DataVersion, SubscriptionGroup, SubscriptionGroupTable};
use mq_protocol::ids::UnixMillis;
use mq_protocol::topic::{self, NameError};
use parking_lot::{Mutex, RwLock};

use crate::config::{BrokerConfig, MAX_QUEUES_PER_TOPIC};
use crate::config_file::{ConfigFile, SaveError};
use crate::start::{self, AttributeError, Start};
use crate::topics::next_version;

/// Groups of one broker; each is a line of the file that is written on every change.
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
    #[error("the broker holds {MAX_GROUPS} groups, its limit")]
    TooMany,
    #[error(transparent)]
    Save(#[from] SaveError),
}

pub(crate) struct GroupTable {
    file: ConfigFile,
    auto_create: AtomicBool,
    groups: RwLock<HashMap<String, Arc<SubscriptionGroup>>>,
    forbidden: RwLock<Forbidden>,
    /// Whether there is any such pair: reads need not look otherwise.
    any_forbidden: AtomicBool,
    /// Held through a change and its write to disk.
    version: Mutex<DataVersion>,
}

/// By group and topic, the permissions that the group does not have there.
type Forbidden = BTreeMap<String, BTreeMap<String, i32>>;

impl GroupTable {
    pub(crate) fn open(config: &BrokerConfig, now: UnixMillis) -> io::Result<Self> {
        let file = ConfigFile::new(&config.config_directory(), "subscriptionGroup.json");
        let stored: SubscriptionGroupTable = file.load()?.unwrap_or_default();
        let first = DataVersion { timestamp: now.0, ..DataVersion::default() };
        let version = if stored.data_version == DataVersion::default() { first } else { stored.data_version };
        let mut groups: HashMap<_, _> = stored.subscription_group_table.into_iter().map(named).collect();
        for name in SYSTEM_GROUPS {
            groups.entry(name.to_owned()).or_insert_with(|| Arc::new(new_group(name)));
        }
        Ok(Self {
            file,
            auto_create: AtomicBool::new(config.auto_create_group),
            groups: RwLock::new(groups),
            any_forbidden: AtomicBool::new(!stored.forbidden_table.is_empty()),
            forbidden: RwLock::new(stored.forbidden_table),
            version: Mutex::new(version),
        })
    }

    /// Goes by changed settings.
    pub(crate) fn adopt(&self, config: &BrokerConfig) {
        self.auto_create.store(config.auto_create_group, Ordering::Relaxed);
    }

    pub(crate) fn get(&self, group: &str) -> Option<Arc<SubscriptionGroup>> {
        self.groups.read().get(group).cloned()
    }

    /// Where the group's settings say that it begins.
    pub(crate) fn start_of(&self, group: &str) -> Option<Start> {
        self.groups.read().get(group).and_then(|group| Start::of(group))
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
        let mut version = self.version.lock();
        if let Some(known) = self.get(group) {
            return Ok(known);
        }
        let made = Arc::new(new_group(group));
        self.change(&mut version, now, |groups| {
            groups.insert(group.to_owned(), made.clone());
        })?;
        tracing::info!(group, "consumer group created");
        Ok(made)
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
        let mut version = self.version.lock();
        let mut changed = Vec::new();
        for mut config in configs {
            let known = self.get(&config.group_name);
            let held = known.as_ref().map(|known| known.attributes.clone()).unwrap_or_default();
            config.attributes = start::altered(&held, &config.attributes, now)
                .map_err(|error| GroupError::Attribute { group: config.group_name.clone(), error })?;
            if known.is_none_or(|known| *known != config) {
                changed.push(config);
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        self.change(&mut version, now, |groups| {
            groups.extend(changed.into_iter().map(|config| (config.group_name.clone(), Arc::new(config))));
        })
    }

    pub(crate) fn delete(&self, group: &str, now: UnixMillis) -> Result<(), GroupError> {
        let mut version = self.version.lock();
        if self.get(group).is_none() {
            return Ok(());
        }
        self.change(&mut version, now, |groups| {
            groups.remove(group);
        })
    }

    /// Whether the group may read the topic.
    pub(crate) fn may_read(&self, group: &str, topic: &str) -> bool {
        if !self.any_forbidden.load(Ordering::Acquire) {
            return true;
        }
        let forbidden = self.forbidden.read();
        forbidden.get(group).and_then(|topics| topics.get(topic)).is_none_or(|bits| bits & FORBIDDEN_READ == 0)
    }

    /// Lets the group read the topic, or no more.
    pub(crate) fn set_readable(
        &self,
        group: &str,
        topic: &str,
        readable: bool,
        now: UnixMillis,
    ) -> Result<(), GroupError> {
        let mut version = self.version.lock();
        let mut forbidden = self.forbidden.read().clone();
        let topics = forbidden.entry(group.to_owned()).or_default();
        let bits = topics.entry(topic.to_owned()).or_default();
        *bits = if readable { *bits & !FORBIDDEN_READ } else { *bits | FORBIDDEN_READ };
        topics.retain(|_, bits| *bits != 0);
        forbidden.retain(|_, topics| !topics.is_empty());
        let next = next_version(*version, now);
        self.file.save(&as_body(&self.groups.read(), next, &forbidden))?;
        *version = next;
        self.any_forbidden.store(!forbidden.is_empty(), Ordering::Release);
        *self.forbidden.write() = forbidden;
        Ok(())
    }

    fn change(
        &self,
        version: &mut DataVersion,
        now: UnixMillis,
        edit: impl FnOnce(&mut HashMap<String, Arc<SubscriptionGroup>>),
    ) -> Result<(), GroupError> {
        let mut groups = self.groups.read().clone();
        edit(&mut groups);
        if groups.len() > MAX_GROUPS {
            return Err(GroupError::TooMany);
        }
        let next = next_version(*version, now);
        self.file.save(&as_body(&groups, next, &self.forbidden.read()))?;
        *version = next;
        *self.groups.write() = groups;
        Ok(())
    }

    pub(crate) fn snapshot(&self) -> SubscriptionGroupTable {
        let version = self.version.lock();
        as_body(&self.groups.read(), *version, &self.forbidden.read())
    }
}

fn new_group(name: &str) -> SubscriptionGroup {
    SubscriptionGroup { group_name: name.to_owned(), ..SubscriptionGroup::default() }
}

fn named((name, group): (String, SubscriptionGroup)) -> (String, Arc<SubscriptionGroup>) {
    (name.clone(), Arc::new(SubscriptionGroup { group_name: name, ..group }))
}

fn as_body(
    groups: &HashMap<String, Arc<SubscriptionGroup>>,
    data_version: DataVersion,
    forbidden: &Forbidden,
) -> SubscriptionGroupTable {
    SubscriptionGroupTable {
        data_version,
        forbidden_table: forbidden.clone(),
        subscription_group_table: groups.iter().map(|(name, group)| (name.clone(), (**group).clone())).collect(),
    }
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
