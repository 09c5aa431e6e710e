//! The topics of this broker: their queues and permissions, how they come into being, and their file.
//!
//! A change is on disk before it is visible. Readers never wait for a writer's disk.

mod request;
mod system;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use foldhash::quality::RandomState;
use mq_protocol::body::{self, DataVersion, TopicConfig, TopicConfigTable, perm};
use mq_protocol::frame::MAX_FRAME_BYTES;
use mq_protocol::ids::UnixMillis;
use mq_protocol::pop::Mark;
use mq_protocol::topic::{self, NameError};
use parking_lot::RwLock;
use serde::{Serialize, Serializer};
use tokio::sync::watch;

use crate::config::{BrokerConfig, MAX_QUEUES_PER_TOPIC};
use crate::config_file::{ConfigFile, SaveError};
use crate::saved::{Saved, Table};
use request::ATTRIBUTES;
pub(crate) use request::TopicRequest;
use system::system_topics;
pub(crate) use system::{is_system, system_names};

/// Topics of one broker. Each costs some lines of the file that is written whole, and queue files once used.
const MAX_TOPICS: usize = 100_000;
/// Bytes of all topics together: a registration carries them in one frame, and a name server that cannot take it would
/// forget the broker. The rest of the frame is for the registration's other fields.
const MAX_TABLE_BYTES: usize = MAX_FRAME_BYTES - (64 << 10);
/// Queues of a topic that a broker makes for itself on demand.
const INTERNAL_QUEUES: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub(crate) enum TopicError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("the topic {0} belongs to the system")]
    System(String),
    #[error("topic {0} does not exist, and it is not to be created by a send")]
    NotExist(String),
    #[error("topic {topic}: {field}={value} is not within 1 to {MAX_QUEUES_PER_TOPIC}")]
    Queues { topic: String, field: &'static str, value: i64 },
    #[error("topic {topic}: {value} is not a permission")]
    Permission { topic: String, value: i64 },
    #[error("topic {topic}: attribute {attribute:?} is not one of +key=value, -key with a key of {ATTRIBUTES:?}")]
    Attribute { topic: String, attribute: String },
    #[error("topic {topic}: {key}={value} is not offered here, only {key}={offered}; leave the attribute out")]
    NotOffered { topic: String, key: &'static str, value: String, offered: &'static str },
    #[error("the broker holds {MAX_TOPICS} topics, its limit; delete what nobody uses, or add a broker")]
    TooMany,
    #[error(
        "with this topic the table of topics takes {bytes} bytes, the limit is {MAX_TABLE_BYTES}; delete what nobody \
         uses, or add a broker"
    )]
    TableTooLarge { bytes: usize },
    #[error(transparent)]
    Save(#[from] Arc<SaveError>),
}

/// The settings of the broker that matter to its topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rules {
    /// Whether a send may create a topic.
    auto_create: bool,
    default_queues: u32,
    permission: u32,
}

impl Rules {
    fn of(config: &BrokerConfig) -> Self {
        Self {
            auto_create: config.auto_create_topic,
            default_queues: config.default_topic_queues,
            permission: config.permission,
        }
    }
}

/// Every send looks here. The hasher has random keys: clients choose the names.
type ByName = HashMap<Arc<str>, Arc<TopicConfig>, RandomState>;

#[derive(Clone)]
struct Topics {
    version: DataVersion,
    by_name: ByName,
    /// Of all topics in JSON without blanks, as a registration carries them.
    bytes: usize,
}

impl Topics {
    /// As many bytes as they take, if the limits allow for these topics in the place of those that they replace. A table
    /// that is over a limit already, because another broker wrote it, may still change what it has.
    fn with_room_for(&self, changed: &[Arc<TopicConfig>]) -> Result<usize, TopicError> {
        let (mut bytes, mut count) = (self.bytes, self.by_name.len());
        for config in changed {
            bytes += entry_bytes(config);
            match self.by_name.get(&*config.topic_name) {
                Some(held) => bytes -= entry_bytes(held),
                None => count += 1,
            }
        }
        match () {
            () if count > MAX_TOPICS && count > self.by_name.len() => Err(TopicError::TooMany),
            () if bytes > MAX_TABLE_BYTES && bytes > self.bytes => Err(TopicError::TableTooLarge { bytes }),
            () => Ok(bytes),
        }
    }

    fn put(&mut self, changed: Vec<Arc<TopicConfig>>, now: UnixMillis) -> Result<Option<()>, TopicError> {
        if changed.is_empty() {
            return Ok(None);
        }
        self.bytes = self.with_room_for(&changed)?;
        self.by_name.extend(changed.into_iter().map(|config| (config.topic_name.as_str().into(), config)));
        self.version = next_version(self.version, now);
        Ok(Some(()))
    }

    fn remove(&mut self, topic: &str, now: UnixMillis) -> Option<()> {
        let removed = self.by_name.remove(topic)?;
        self.bytes -= entry_bytes(&removed);
        self.version = next_version(self.version, now);
        Some(())
    }

    /// As tools and name servers see them.
    fn as_body(&self) -> TopicConfigTable {
        let topics = self.by_name.iter().map(|(name, config)| (name.to_string(), (**config).clone()));
        TopicConfigTable {
            data_version: self.version,
            topic_config_table: topics.collect(),
            ..TopicConfigTable::default()
        }
    }
}

impl Table for Topics {
    fn in_file(&self) -> impl Serialize {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct File<'t> {
            data_version: DataVersion,
            #[serde(serialize_with = "in_order")]
            topic_config_table: &'t ByName,
        }
        File { data_version: self.version, topic_config_table: &self.by_name }
    }
}

fn in_order<S: Serializer>(topics: &ByName, serializer: S) -> Result<S::Ok, S::Error> {
    let mut topics: Vec<(&str, &TopicConfig)> = topics.iter().map(|(name, config)| (&**name, &**config)).collect();
    topics.sort_unstable_by_key(|(name, _)| *name);
    serializer.collect_map(topics)
}

/// What a topic takes in the table: name, colon, settings, comma.
fn entry_bytes(config: &TopicConfig) -> usize {
    body::to_json(&config.topic_name).len() + body::to_json(config).len() + 2
}

pub(crate) struct TopicTable {
    rules: RwLock<Rules>,
    topics: Saved<Topics>,
    changes: watch::Sender<u64>,
}

impl TopicTable {
    pub(crate) fn open(config: &BrokerConfig, now: UnixMillis) -> io::Result<Self> {
        let file = ConfigFile::new(&config.config_directory(), "topics.json");
        let stored: TopicConfigTable = file.load()?.unwrap_or_default();
        let first = DataVersion { timestamp: now.0, ..DataVersion::default() };
        let version = if stored.data_version == DataVersion::default() { first } else { stored.data_version };
        let mut by_name: ByName = stored.topic_config_table.into_iter().map(named).collect();
        for system in system_topics(config) {
            by_name.entry(system.topic_name.as_str().into()).or_insert_with(|| Arc::new(system));
        }
        let bytes = by_name.values().map(|config| entry_bytes(config)).sum();
        Ok(Self {
            rules: RwLock::new(Rules::of(config)),
            topics: Saved::new(file, Topics { version, by_name, bytes }),
            changes: watch::Sender::new(0),
        })
    }

    pub(crate) fn get(&self, topic: &str) -> Option<Arc<TopicConfig>> {
        self.topics.seen().by_name.get(topic).cloned()
    }

    /// Wakes on every change; for the registration with the name servers.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// How many queues each topic is read from.
    pub(crate) fn read_queues(&self) -> HashMap<String, u32> {
        self.topics.seen().by_name.iter().map(|(name, config)| (name.to_string(), config.read_queue_nums)).collect()
    }

    /// The topic of a send, made from the seed topic that the sender names if that one passes its settings on.
    pub(crate) fn for_send(
        &self,
        topic: &str,
        seed: &str,
        queues: u32,
        now: UnixMillis,
    ) -> Result<Arc<TopicConfig>, TopicError> {
        if let Some(known) = self.get(topic) {
            return Ok(known);
        }
        topic::check_topic(topic)?;
        let rules = *self.rules.read();
        let refused = || TopicError::NotExist(topic.to_owned());
        let seed = self.get(seed).filter(|seed| perm::inherited(seed.perm)).ok_or_else(refused)?;
        if seed.topic_name == topic::AUTO_CREATE && !rules.auto_create {
            return Err(refused());
        }
        let queues = queues.min(seed.write_queue_nums).min(rules.default_queues).max(1);
        let made = TopicConfig::new(topic, queues, seed.perm & !perm::INHERIT);
        self.create(TopicConfig { topic_sys_flag: seed.topic_sys_flag, ..made }, now)
    }

    /// `%RETRY%group`, with as many queues as the group's settings say.
    pub(crate) fn retry(&self, group: &str, queues: u32, now: UnixMillis) -> Result<Arc<TopicConfig>, TopicError> {
        self.internal(topic::retry_topic(group), queues.clamp(1, MAX_QUEUES_PER_TOPIC), now)
    }

    /// `%DLQ%group`. Apache makes it write-only until somebody reads it; tools expect to read it.
    pub(crate) fn dead_letter(&self, group: &str, now: UnixMillis) -> Result<Arc<TopicConfig>, TopicError> {
        self.internal(topic::dead_letter_topic(group), INTERNAL_QUEUES, now)
    }

    /// A topic of pops that were not acknowledged, by its whole name. It may have a `+`, which no other topic has.
    pub(crate) fn pop_retry(&self, topic: String, now: UnixMillis) -> Result<Arc<TopicConfig>, TopicError> {
        match self.get(&topic) {
            Some(known) => Ok(known),
            None => self.make(TopicConfig::new(topic, INTERNAL_QUEUES, perm::READ_WRITE), now),
        }
    }

    fn internal(&self, topic: String, queues: u32, now: UnixMillis) -> Result<Arc<TopicConfig>, TopicError> {
        match self.get(&topic) {
            Some(known) => Ok(known),
            None => self.create(TopicConfig::new(topic, queues, perm::READ_WRITE), now),
        }
    }

    /// Makes the topic unless somebody else just did.
    fn create(&self, config: TopicConfig, now: UnixMillis) -> Result<Arc<TopicConfig>, TopicError> {
        topic::check_topic(&config.topic_name)?;
        self.make(config, now)
    }

    fn make(&self, config: TopicConfig, now: UnixMillis) -> Result<Arc<TopicConfig>, TopicError> {
        let config = Arc::new(config);
        let mut made = config.clone();
        let created = self.change(|topics| match topics.by_name.get(&*config.topic_name) {
            Some(known) => {
                made = known.clone();
                Ok(None)
            }
            None => topics.put(vec![config.clone()], now),
        })?;
        if created {
            tracing::info!(topic = made.topic_name, queues = made.write_queue_nums, "topic created");
        }
        Ok(made)
    }

    /// Creates or updates topics as a tool asks for them: all, or none when one cannot be.
    pub(crate) fn put(&self, requests: &[TopicRequest<'_>], now: UnixMillis) -> Result<(), TopicError> {
        self.change(|topics| {
            // The last word on a topic counts.
            let mut changed = BTreeMap::new();
            for request in requests {
                topic::check_topic(request.topic)?;
                if is_system(request.topic) {
                    return Err(TopicError::System(request.topic.to_owned()));
                }
                let held = topics.by_name.get(request.topic);
                let config = Arc::new(request.over(held.map(|held| &**held))?);
                changed.insert(request.topic, (held != Some(&config)).then_some(config));
            }
            topics.put(changed.into_values().flatten().collect(), now)
        })?;
        Ok(())
    }

    /// Goes by changed settings. The name servers hear of it at once.
    pub(crate) fn adopt(&self, config: &BrokerConfig, now: UnixMillis) -> Result<(), TopicError> {
        let rules = Rules::of(config);
        if std::mem::replace(&mut *self.rules.write(), rules) == rules {
            return Ok(());
        }
        self.change(|topics| {
            let missing = |system: &TopicConfig| !topics.by_name.contains_key(&*system.topic_name);
            let missing: Vec<_> = system_topics(config).into_iter().filter(missing).map(Arc::new).collect();
            if topics.put(missing, now)?.is_none() {
                topics.version = next_version(topics.version, now);
            }
            Ok(Some(()))
        })?;
        Ok(())
    }

    /// Takes the topic away, and then what belongs to it: `along` runs before anybody can create the topic anew. It runs
    /// for an unknown topic too, so that a deletion that failed half-way can be repeated.
    pub(crate) fn delete<E: From<TopicError>>(
        &self,
        topic: &str,
        now: UnixMillis,
        along: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        if Mark::of(topic) != Mark::RetryV2 {
            topic::check_topic(topic).map_err(TopicError::from)?;
        }
        if is_system(topic) {
            return Err(TopicError::System(topic.to_owned()).into());
        }
        let mut outcome = Ok(());
        let removed = self.topics.change_and(
            |topics| Ok::<_, TopicError>(topics.remove(topic, now)),
            |is_removed| {
                if is_removed {
                    self.note_change();
                }
                outcome = along();
                Ok(())
            },
        );
        removed?;
        outcome
    }

    /// True: something changed.
    fn change(&self, edit: impl FnOnce(&mut Topics) -> Result<Option<()>, TopicError>) -> Result<bool, TopicError> {
        let is_changed = self.topics.change(edit)?.is_some();
        if is_changed {
            self.note_change();
        }
        Ok(is_changed)
    }

    fn note_change(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// All topics, as tools see them.
    pub(crate) fn snapshot(&self) -> TopicConfigTable {
        self.topics.seen().as_body()
    }

    /// All topics, as the name servers see them: no more is allowed than the broker allows.
    pub(crate) fn registration(&self) -> TopicConfigTable {
        let mut table = self.snapshot();
        let denied = perm::READ_WRITE & !self.rules.read().permission;
        table.topic_config_table.values_mut().for_each(|topic| topic.perm &= !denied);
        table.mapping_data_version =
            Some(DataVersion { timestamp: table.data_version.timestamp, ..DataVersion::default() });
        table.topic_queue_mapping_detail_map = Some(serde_json::json!({}));
        table.topic_queue_mapping_info_map = Some(serde_json::json!({}));
        table
    }
}

fn named((name, config): (String, TopicConfig)) -> (Arc<str>, Arc<TopicConfig>) {
    (name.as_str().into(), Arc::new(TopicConfig { topic_name: name, ..config }))
}

/// The version after a change: no two tables with the same one.
pub(crate) fn next_version(version: DataVersion, now: UnixMillis) -> DataVersion {
    DataVersion { counter: version.counter + 1, timestamp: now.0.max(version.timestamp), ..version }
}

#[cfg(test)]
#[path = "topics_tests.rs"]
mod tests;
