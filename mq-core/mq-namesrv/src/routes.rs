//! The route table: which broker serves which topic, and which brokers are alive. Knows no socket, no clock and no bytes.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use mq_protocol::body::{BrokerData, ClusterInfo, DataVersion, QueueData, TopicConfig, TopicRoute, perm};
use mq_protocol::ids::UnixMillis;

/// The broker id of a master.
const MASTER: u64 = 0;
/// Of the retry topic that a broker makes for a new group.
const RETRY_QUEUES: u32 = 1;

/// A connection that a broker registered over; when it closes, the broker is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// One broker process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster: String,
    pub(crate) name: String,
    pub(crate) id: u64,
    pub(crate) addr: String,
}

/// What a broker says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Registration {
    pub(crate) broker: Identity,
    pub(crate) ha_addr: Option<String>,
    pub(crate) zone: Option<String>,
    pub(crate) acting_master: bool,
    /// How long it may stay silent; `None`: the table's default.
    pub(crate) timeout: Option<Duration>,
    pub(crate) version: DataVersion,
    pub(crate) topics: BTreeMap<String, TopicConfig>,
}

/// What a slave learns from its registration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Registered {
    pub(crate) master_addr: Option<String>,
    pub(crate) ha_addr: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RegisterError {
    #[error("register broker failed: {0} must register its whole topic table before single topics")]
    SingleTopicFirst(String),
    #[error("register broker failed: {addr} holds broker id {id} of {name} with a newer state")]
    Outdated { name: String, id: u64, addr: String },
    #[error("register broker failed: {limit} brokers are registered here, the limit; use another name server")]
    TooManyBrokers { limit: usize },
    #[error(
        "{count} topics (counted once for each broker) would be registered here, the limit is {limit}; delete what \
         nobody uses, or use another name server"
    )]
    TooManyTopics { count: usize, limit: usize },
    #[error("the {what} takes {bytes} bytes, the limit is {MAX_NAME_BYTES}; use a shorter one")]
    NameTooLong { what: &'static str, bytes: usize },
}

/// Bytes of each name or address: what a topic may take, with room for the prefixes of retry topics.
const MAX_NAME_BYTES: usize = 1024;

#[derive(Clone, Debug)]
struct Alive {
    heard: UnixMillis,
    timeout: Duration,
    version: DataVersion,
    connection: ConnectionId,
    ha_addr: Option<String>,
    broker: Identity,
}

#[derive(Debug)]
pub(crate) struct Routes {
    default_timeout: Duration,
    max_brokers: usize,
    max_topics: usize,
    /// Rows of `topics`: one for each broker of each.
    rows: usize,
    brokers: BTreeMap<String, BrokerData>,
    /// Topic to the brokers that serve it, by broker name.
    topics: BTreeMap<String, BTreeMap<String, QueueData>>,
    /// By (cluster, address).
    alive: HashMap<(String, String), Alive>,
}

impl Routes {
    pub(crate) fn new(default_timeout: Duration, max_brokers: usize, max_topics: usize) -> Self {
        let (brokers, topics, alive) = (BTreeMap::new(), BTreeMap::new(), HashMap::new());
        Self { default_timeout, max_brokers, max_topics, rows: 0, brokers, topics, alive }
    }

    pub(crate) fn register(
        &mut self,
        registration: Registration,
        connection: ConnectionId,
        now: UnixMillis,
    ) -> Result<Registered, RegisterError> {
        let broker = &registration.broker;
        self.refuse_outdated(&registration)?;
        if let Some(before) = self.alive.get(&key(broker)).filter(|alive| alive.broker.name != broker.name) {
            // Nobody else would ever take its former name out.
            self.unregister(&before.broker.clone());
        }
        self.refuse_too_much(&registration)?;
        let known = self.brokers.get(&broker.name).is_some_and(|held| held.broker_addrs.contains_key(&broker.id));
        if !known && registration.topics.len() == 1 {
            return Err(RegisterError::SingleTopicFirst(broker.name.clone()));
        }
        let held = self.brokers.entry(broker.name.clone()).or_default();
        // A slave that became the master keeps one row.
        held.broker_addrs.retain(|id, addr| *id == broker.id || *addr != broker.addr);
        held.broker_addrs.insert(broker.id, broker.addr.clone());
        held.broker_name.clone_from(&broker.name);
        held.cluster.clone_from(&broker.cluster);
        held.zone_name.clone_from(&registration.zone);
        held.enable_acting_master = registration.acting_master;
        let smallest = held.broker_addrs.keys().next() == Some(&broker.id);
        if broker.id == MASTER || (registration.acting_master && smallest) {
            self.take_topics(&registration, !known);
        }
        self.alive.insert(key(broker), self.heard(&registration, connection, now));
        Ok(if registration.broker.id == MASTER { Registered::default() } else { self.master_of(&registration.broker) })
    }

    /// Another live address under the same id with a newer state keeps it.
    fn refuse_outdated(&mut self, registration: &Registration) -> Result<(), RegisterError> {
        let Identity { cluster, name, id, addr } = &registration.broker;
        let Some(holder) = self.brokers.get(name).and_then(|held| held.broker_addrs.get(id)) else { return Ok(()) };
        let newer = |alive: &Alive| alive.version.state_version > registration.version.state_version;
        if holder != addr && self.alive.get(&(cluster.clone(), holder.clone())).is_some_and(newer) {
            return Err(RegisterError::Outdated { name: name.clone(), id: *id, addr: holder.clone() });
        }
        Ok(())
    }

    /// What would make the tables larger than they may be.
    fn refuse_too_much(&self, registration: &Registration) -> Result<(), RegisterError> {
        let Identity { cluster, name, addr, .. } = &registration.broker;
        let named = [("cluster's name", cluster), ("broker's name", name), ("broker's address", addr)];
        let topics = registration.topics.keys().map(|topic| ("topic's name", topic));
        for (what, text) in named.into_iter().chain(topics) {
            if text.len() > MAX_NAME_BYTES {
                return Err(RegisterError::NameTooLong { what, bytes: text.len() });
            }
        }
        if self.alive.len() >= self.max_brokers && !self.alive.contains_key(&key(&registration.broker)) {
            return Err(RegisterError::TooManyBrokers { limit: self.max_brokers });
        }
        self.refuse_topics(registration.topics.keys().filter(|topic| !self.serves(topic, name)).count())
    }

    fn refuse_topics(&self, more: usize) -> Result<(), RegisterError> {
        let (count, limit) = (self.rows + more, self.max_topics);
        if more > 0 && count > limit { Err(RegisterError::TooManyTopics { count, limit }) } else { Ok(()) }
    }

    fn serves(&self, topic: &str, broker: &str) -> bool {
        self.topics.get(topic).is_some_and(|queues| queues.contains_key(broker))
    }

    /// Topics that a registration does not name stay: single topics are registered as increments. A topic whose
    /// permission was wiped comes back only with a changed version.
    fn take_topics(&mut self, registration: &Registration, first: bool) {
        let broker = &registration.broker.name;
        let version = self.alive.get(&key(&registration.broker)).map(|alive| alive.version);
        let changed = first || version != Some(registration.version);
        for (topic, config) in &registration.topics {
            let queues = self.topics.entry(topic.clone()).or_default();
            if changed || !queues.contains_key(broker) {
                let before = queues.insert(broker.clone(), queue_data(broker, config));
                self.rows += usize::from(before.is_none());
            }
        }
    }

    /// Adds a topic to brokers that are known; what they registered themselves stands.
    pub(crate) fn add_topic(&mut self, topic: &str, queues: Vec<QueueData>) -> Result<(), RegisterError> {
        for data in queues {
            if self.brokers.contains_key(&data.broker_name) && !self.serves(topic, &data.broker_name) {
                self.refuse_topics(1)?;
                self.topics.entry(topic.to_owned()).or_default().insert(data.broker_name.clone(), data);
                self.rows += 1;
            }
        }
        Ok(())
    }

    /// Topics by their system flag (unit mode).
    pub(crate) fn topics_with_flag(&self, wanted: impl Fn(i32) -> bool) -> Vec<String> {
        let flagged = |queues: &BTreeMap<String, QueueData>| {
            queues.values().next().is_some_and(|queues| wanted(queues.topic_sys_flag))
        };
        self.topics.iter().filter(|(_, queues)| flagged(queues)).map(|(topic, _)| topic.clone()).collect()
    }

    fn heard(&self, registration: &Registration, connection: ConnectionId, now: UnixMillis) -> Alive {
        Alive {
            heard: now,
            timeout: registration.timeout.unwrap_or(self.default_timeout),
            version: registration.version,
            connection,
            ha_addr: registration.ha_addr.clone(),
            broker: registration.broker.clone(),
        }
    }

    fn master_of(&self, slave: &Identity) -> Registered {
        let addr = self.brokers.get(&slave.name).and_then(|held| held.broker_addrs.get(&MASTER));
        let alive = addr.and_then(|addr| self.alive.get(&(slave.cluster.clone(), addr.clone())));
        alive.map_or_else(Registered::default, |alive| Registered {
            master_addr: Some(alive.broker.addr.clone()),
            ha_addr: alive.ha_addr.clone(),
        })
    }

    /// A sign of life without topics.
    pub(crate) fn touch(&mut self, cluster: &str, addr: &str, now: UnixMillis) {
        if let Some(alive) = self.alive.get_mut(&(cluster.to_owned(), addr.to_owned())) {
            alive.heard = now;
        }
    }

    /// The version held of this broker; asking is a sign of life.
    pub(crate) fn version(&mut self, cluster: &str, addr: &str, now: UnixMillis) -> Option<DataVersion> {
        self.touch(cluster, addr, now);
        self.alive.get(&(cluster.to_owned(), addr.to_owned())).map(|alive| alive.version)
    }

    pub(crate) fn unregister(&mut self, broker: &Identity) {
        self.alive.remove(&key(broker));
        let Some(held) = self.brokers.get_mut(&broker.name) else { return };
        if held.broker_addrs.get(&broker.id) == Some(&broker.addr) {
            held.broker_addrs.remove(&broker.id);
        }
        if held.broker_addrs.is_empty() {
            self.brokers.remove(&broker.name);
            let rows = &mut self.rows;
            self.topics.retain(|_, queues| {
                *rows -= usize::from(queues.remove(&broker.name).is_some());
                !queues.is_empty()
            });
        }
    }

    /// Forgets the brokers that registered over this connection and not over a newer one.
    pub(crate) fn connection_closed(&mut self, connection: ConnectionId) -> Vec<Identity> {
        self.unregister_where(|alive| alive.connection == connection)
    }

    /// Forgets the brokers that stayed silent for too long.
    pub(crate) fn expire(&mut self, now: UnixMillis) -> Vec<Identity> {
        self.unregister_where(|alive| now.since(alive.heard) > alive.timeout)
    }

    fn unregister_where(&mut self, gone: impl Fn(&Alive) -> bool) -> Vec<Identity> {
        let gone: Vec<_> = self.alive.values().filter(|alive| gone(alive)).map(|alive| alive.broker.clone()).collect();
        gone.iter().for_each(|broker| self.unregister(broker));
        gone
    }

    /// `None` when no live broker serves the topic.
    pub(crate) fn route(&self, topic: &str) -> Option<TopicRoute> {
        let queues = self.topics.get(topic)?;
        let brokers: Vec<_> = queues.keys().filter_map(|name| self.brokers.get(name)).cloned().collect();
        (!brokers.is_empty()).then(|| TopicRoute {
            broker_datas: brokers,
            queue_datas: queues.values().cloned().collect(),
            ..TopicRoute::default()
        })
    }

    /// A route to all masters, as their registrations will give it to a new group's retry topic. `None` where there are
    /// several clusters: it is not known which of them the group belongs to.
    pub(crate) fn coming_retry_route(&self) -> Option<TopicRoute> {
        let masters = self.brokers.values().filter(|broker| broker.broker_addrs.contains_key(&MASTER));
        let broker_datas: Vec<BrokerData> = masters.cloned().collect();
        let first = broker_datas.first()?;
        if self.brokers.values().any(|broker| broker.cluster != first.cluster) {
            return None;
        }
        let queue = |broker: &BrokerData| QueueData {
            broker_name: broker.broker_name.clone(),
            perm: perm::READ_WRITE,
            read_queue_nums: RETRY_QUEUES,
            topic_sys_flag: 0,
            write_queue_nums: RETRY_QUEUES,
        };
        let queue_datas = broker_datas.iter().map(queue).collect();
        Some(TopicRoute { broker_datas, queue_datas, ..TopicRoute::default() })
    }

    pub(crate) fn clusters(&self) -> ClusterInfo {
        let mut clusters = ClusterInfo { broker_addr_table: self.brokers.clone(), ..ClusterInfo::default() };
        for (name, broker) in &self.brokers {
            clusters.cluster_addr_table.entry(broker.cluster.clone()).or_default().push(name.clone());
        }
        clusters
    }

    pub(crate) fn broker(&self, name: &str) -> Option<&BrokerData> {
        self.brokers.get(name)
    }

    pub(crate) fn topics(&self) -> Vec<String> {
        self.topics.keys().cloned().collect()
    }

    pub(crate) fn topics_of_cluster(&self, cluster: &str) -> Vec<String> {
        let here = |name: &String| self.brokers.get(name).is_some_and(|broker| broker.cluster == cluster);
        self.topics.iter().filter(|(_, queues)| queues.keys().any(here)).map(|(topic, _)| topic.clone()).collect()
    }

    /// Takes a topic out of all clusters or of one.
    pub(crate) fn delete_topic(&mut self, topic: &str, cluster: Option<&str>) {
        let Some(queues) = self.topics.get_mut(topic) else { return };
        let before = queues.len();
        queues.retain(|name, _| {
            cluster.is_some_and(|cluster| self.brokers.get(name).is_some_and(|broker| broker.cluster != cluster))
        });
        self.rows -= before - queues.len();
        if queues.is_empty() {
            self.topics.remove(topic);
        }
    }

    /// Lets or forbids sends to every topic of a broker; how many topics that are.
    pub(crate) fn set_writable(&mut self, broker: &str, writable: bool) -> usize {
        let queues = self.topics.values_mut().filter_map(|queues| queues.get_mut(broker));
        queues.map(|queue| queue.perm = if writable { perm::READ_WRITE } else { queue.perm & !perm::WRITE }).count()
    }
}

fn key(broker: &Identity) -> (String, String) {
    (broker.cluster.clone(), broker.addr.clone())
}

fn queue_data(broker: &str, config: &TopicConfig) -> QueueData {
    QueueData {
        broker_name: broker.to_owned(),
        perm: config.perm,
        read_queue_nums: config.read_queue_nums,
        topic_sys_flag: config.topic_sys_flag,
        write_queue_nums: config.write_queue_nums,
    }
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
