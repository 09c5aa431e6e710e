//! Who is connected: the producers and consumers that heartbeats announce, by group and connection.
//!
//! A plain table that is told the time. Whoever changes it learns which groups' members are to be told.

mod consumers;
mod memberships;
mod names;
mod producers;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use mq_protocol::body::{ConsumeType, HeartbeatData, ProducerData};
use mq_protocol::codes::request;
use mq_protocol::command::{Command, Language};
use mq_protocol::header::NotifyConsumerIdsChanged;
use mq_protocol::ids::UnixMillis;
use mq_protocol::topic::{self, NameError};
use parking_lot::Mutex;

use crate::connection::{Connection, ConnectionId};
use crate::selection::Selection;
pub(crate) use consumers::ConsumerGroup;
use consumers::Consumers;
use names::Names;
use producers::Producers;
pub(crate) use producers::SenderTurn;

/// A client whose last heartbeat is older is dropped; clients send one every 30 s.
const EXPIRY: Duration = Duration::from_secs(120);
/// Groups of one client, and topics of one group. Each new consumer group is a write to disk.
const MAX_PER_HEARTBEAT: usize = 1_024;
/// Bytes of one heartbeat: what a client can make the broker remember.
const MAX_HEARTBEAT_BYTES: usize = 1 << 20;
/// Producer groups of the broker; consumer groups are bounded by their table.
const MAX_PRODUCER_GROUPS: usize = 100_000;

#[derive(Debug, thiserror::Error)]
pub(crate) enum HeartbeatError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("the heartbeat has no clientID")]
    NoClientId,
    #[error("the heartbeat names {count} {what}, the limit is {MAX_PER_HEARTBEAT}")]
    TooMany { what: &'static str, count: usize },
    #[error("the heartbeat takes {bytes} bytes, the limit is {MAX_HEARTBEAT_BYTES}")]
    TooLarge { bytes: usize },
    #[error("the broker knows {MAX_PRODUCER_GROUPS} producer groups, its limit")]
    ProducerGroups,
}

/// One client in one group.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) id: String,
    pub(crate) connection: Connection,
    pub(crate) language: Language,
    pub(crate) version: i32,
    pub(crate) heard: UnixMillis,
}

impl Client {
    fn is_silent(&self, now: UnixMillis) -> bool {
        now.since(self.heard) > EXPIRY
    }
}

/// A heartbeat as it came in.
#[derive(Clone, Debug)]
pub(crate) struct Heartbeat<'h> {
    pub(crate) connection: &'h Connection,
    pub(crate) language: Language,
    pub(crate) version: i32,
    pub(crate) data: &'h HeartbeatData,
    pub(crate) now: UnixMillis,
}

impl Heartbeat<'_> {
    fn client(&self) -> Client {
        Client {
            id: self.data.client_id.clone(),
            connection: self.connection.clone(),
            language: self.language,
            version: self.version,
            heard: self.now,
        }
    }
}

/// Groups whose members or subscriptions changed.
pub(crate) type Changed = Vec<String>;

#[derive(Default)]
pub(crate) struct Clients(Mutex<Registry>);

#[derive(Default)]
struct Registry {
    producers: Producers,
    consumers: Consumers,
    names: Names,
}

impl Clients {
    /// Takes in a heartbeat that `check` lets pass; the groups that it changed are to be told.
    pub(crate) fn heartbeat(&self, heartbeat: &Heartbeat<'_>) -> Result<Changed, HeartbeatError> {
        let mut registry = self.0.lock();
        for ProducerData { group_name, checkback_topics } in &heartbeat.data.producer_data_set {
            if !registry.producers.register(group_name, heartbeat.client(), checkback_topics) {
                return Err(HeartbeatError::ProducerGroups);
            }
        }
        registry.names.heard(&heartbeat.data.client_id, heartbeat.connection);
        let mut changed = Changed::new();
        for consumer in &heartbeat.data.consumer_data_set {
            if registry.consumers.register(heartbeat.client(), consumer, heartbeat.data) {
                changed.push(consumer.group_name.clone());
            }
        }
        Ok(changed)
    }

    /// Whether a client that leaves its subscriptions out is known with them, under the same fingerprint.
    pub(crate) fn knows_subscriptions(&self, connection: ConnectionId, data: &HeartbeatData) -> bool {
        let registry = self.0.lock();
        data.consumer_data_set.iter().all(|consumer| {
            registry.consumers.fingerprint(&consumer.group_name, connection) == Some(data.heartbeat_fingerprint)
        })
    }

    pub(crate) fn unregister_producer(&self, group: &str, connection: ConnectionId) {
        self.0.lock().producers.remove(group, connection);
    }

    /// True: the group's remaining members are to be told.
    pub(crate) fn unregister_consumer(&self, group: &str, connection: ConnectionId) -> bool {
        self.0.lock().consumers.remove(group, connection)
    }

    pub(crate) fn connection_closed(&self, connection: ConnectionId) -> Changed {
        let mut registry = self.0.lock();
        registry.names.connection_closed(connection);
        registry.producers.connection_closed(connection);
        registry.consumers.connection_closed(connection)
    }

    /// Drops the clients that stayed silent for too long and closes their connections.
    pub(crate) fn expire(&self, now: UnixMillis) -> Changed {
        let mut registry = self.0.lock();
        let silent = |client: &Client| {
            if client.is_silent(now) {
                client.connection.close();
            }
            client.is_silent(now)
        };
        registry.producers.remove_where(silent);
        registry.consumers.remove_where(silent)
    }

    /// Tells the members of a group to share its queues anew (code 40).
    pub(crate) fn notify(&self, group: &str) {
        let Some(members) = self.consumer(group, ConsumerGroup::members) else { return };
        let header = NotifyConsumerIdsChanged { consumer_group: group.into() };
        for member in members {
            let request = Command::request_with(request::NOTIFY_CONSUMER_IDS_CHANGED, &header).oneway();
            if member.connection.send(request).is_err() {
                tracing::debug!(group, client = member.id, "not told of the change: its connection takes nothing");
            }
        }
    }

    /// Looks at a consumer group; `None`: nobody of it is connected.
    pub(crate) fn consumer<T>(&self, group: &str, look: impl FnOnce(&ConsumerGroup) -> T) -> Option<T> {
        self.0.lock().consumers.get(group).map(look)
    }

    /// What a group wants of a topic.
    pub(crate) fn subscription(&self, group: &str, topic: &str) -> Option<Arc<Selection>> {
        self.consumer(group, |group| group.subscription(topic)).flatten()
    }

    /// Whether this connection belongs to a member of the consumer group.
    pub(crate) fn is_member(&self, group: &str, connection: ConnectionId) -> bool {
        self.consumer(group, |group| group.has(connection)).unwrap_or(false)
    }

    /// Groups with connected consumers that subscribe to the topic.
    pub(crate) fn groups_of_topic(&self, topic: &str) -> Vec<String> {
        self.0.lock().consumers.subscribed_to(topic)
    }

    /// Who may be asked about a transaction of this group, best first: the client that sent the half, then those that
    /// said they can answer for the topic, then the others, which take turns. Or these first, and the sender last.
    pub(crate) fn producers_to_ask(
        &self,
        group: &str,
        topic: &str,
        sender: Option<&str>,
        turn: SenderTurn,
    ) -> Vec<(String, Connection)> {
        self.0.lock().producers.candidates(group, topic, sender, turn)
    }

    /// The connection of the client with this id, whatever it is connected for.
    pub(crate) fn by_id(&self, client_id: &str) -> Option<Connection> {
        self.0.lock().names.connection(client_id)
    }

    pub(crate) fn producers(&self, group: &str) -> Vec<Client> {
        self.0.lock().producers.members(group)
    }

    /// All producers by group.
    pub(crate) fn all_producers(&self) -> BTreeMap<String, Vec<Client>> {
        self.0.lock().producers.all()
    }

    /// All consumers by group, with the way they consume.
    pub(crate) fn all_consumers(&self) -> Vec<(String, ConsumeType, Vec<Client>)> {
        self.0.lock().consumers.all()
    }

    /// The producer that a connection belongs to in this group.
    pub(crate) fn producer_id(&self, group: &str, connection: ConnectionId) -> Option<String> {
        self.0.lock().producers.id(group, connection)
    }
}

/// Whether a heartbeat of so many bytes can be taken in.
pub(crate) fn check(data: &HeartbeatData, bytes: usize) -> Result<(), HeartbeatError> {
    if bytes > MAX_HEARTBEAT_BYTES {
        return Err(HeartbeatError::TooLarge { bytes });
    }
    if data.client_id.is_empty() {
        return Err(HeartbeatError::NoClientId);
    }
    let topics =
        data.consumer_data_set.iter().map(|consumer| ("topics of a group", consumer.subscription_data_set.len()));
    let declared = data.producer_data_set.iter().map(|producer| ("checkback topics", producer.checkback_topics.len()));
    let groups = [("groups", data.consumer_data_set.len()), ("groups", data.producer_data_set.len())];
    for (what, count) in topics.chain(declared).chain(groups) {
        if count > MAX_PER_HEARTBEAT {
            return Err(HeartbeatError::TooMany { what, count });
        }
    }
    let consumers = data.consumer_data_set.iter().map(|consumer| &consumer.group_name);
    let producers = data.producer_data_set.iter().map(|producer| &producer.group_name);
    let distinct: HashSet<_> = consumers.chain(producers).collect();
    distinct.into_iter().try_for_each(|group| topic::check_group(group))?;
    Ok(())
}

#[cfg(test)]
#[path = "clients_tests.rs"]
mod tests;
