//! Consumer groups: their members, and what they subscribe to together.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use mq_protocol::body::{ConsumeFromWhere, ConsumeType, ConsumerData, HeartbeatData, MessageModel, Subscription};

use super::memberships::Memberships;
use super::{Changed, Client};
use crate::connection::ConnectionId;
use crate::selection::Selection;

#[derive(Default)]
pub(super) struct Consumers {
    groups: HashMap<String, ConsumerGroup>,
    pub(super) memberships: Memberships,
}

/// The connected part of a consumer group.
#[derive(Clone, Debug)]
pub(crate) struct ConsumerGroup {
    pub(crate) consume_type: ConsumeType,
    pub(crate) model: MessageModel,
    pub(crate) from_where: ConsumeFromWhere,
    members: BTreeMap<ConnectionId, Member>,
    subscriptions: HashMap<String, Arc<Selection>>,
}

#[derive(Clone, Debug)]
struct Member {
    client: Client,
    /// Of the heartbeat that last brought the subscriptions.
    fingerprint: i32,
}

impl Consumers {
    /// True: the group's members are to be told.
    pub(super) fn register(&mut self, client: Client, consumer: &ConsumerData, heartbeat: &HeartbeatData) -> bool {
        self.memberships.join(client.connection.id(), &consumer.group_name);
        let group = self.groups.entry(consumer.group_name.clone()).or_insert_with(|| ConsumerGroup::new(consumer));
        group.consume_type = consumer.consume_type;
        group.model = consumer.message_model;
        group.from_where = consumer.consume_from_where;
        let known = group.members.get(&client.connection.id()).map(|member| member.fingerprint);
        let (fingerprint, subscribed) = if heartbeat.without_sub {
            (known.unwrap_or(0), false)
        } else {
            (heartbeat.heartbeat_fingerprint, group.subscribe(&consumer.subscription_data_set))
        };
        group.members.insert(client.connection.id(), Member { client, fingerprint });
        // Broadcast consumers read every queue: nothing is shared between them.
        (known.is_none() || subscribed) && group.model == MessageModel::Clustering
    }

    pub(super) fn get(&self, group: &str) -> Option<&ConsumerGroup> {
        self.groups.get(group)
    }

    pub(super) fn all(&self) -> Vec<(String, ConsumeType, Vec<Client>)> {
        self.groups.iter().map(|(name, group)| (name.clone(), group.consume_type, group.members())).collect()
    }

    pub(super) fn fingerprint(&self, group: &str, connection: ConnectionId) -> Option<i32> {
        Some(self.groups.get(group)?.members.get(&connection)?.fingerprint)
    }

    pub(super) fn remove(&mut self, group: &str, connection: ConnectionId) -> bool {
        self.memberships.leave(connection, group);
        let Some(held) = self.groups.get_mut(group) else { return false };
        let removed = held.members.remove(&connection).is_some();
        let clustering = held.model == MessageModel::Clustering;
        if held.members.is_empty() {
            self.groups.remove(group);
        }
        removed && clustering
    }

    /// Looks at the groups that it was in only: thousands of connections may close at the same time.
    pub(super) fn connection_closed(&mut self, connection: ConnectionId) -> Changed {
        let mut left = self.memberships.of(connection);
        left.retain(|group| self.remove(group, connection));
        left
    }

    pub(super) fn remove_where(&mut self, gone: impl Fn(&Client) -> bool) -> Changed {
        let (mut changed, memberships) = (Changed::new(), &mut self.memberships);
        self.groups.retain(|name, group| {
            let before = group.members.len();
            for (connection, _) in group.members.extract_if(.., |_, member| gone(&member.client)) {
                memberships.leave(connection, name);
            }
            if group.members.len() < before && group.model == MessageModel::Clustering {
                changed.push(name.clone());
            }
            !group.members.is_empty()
        });
        changed
    }

    pub(super) fn subscribed_to(&self, topic: &str) -> Vec<String> {
        self.groups
            .iter()
            .filter(|(_, group)| group.subscriptions.contains_key(topic))
            .map(|(name, _)| name.clone())
            .collect()
    }
}

impl ConsumerGroup {
    fn new(consumer: &ConsumerData) -> Self {
        Self {
            consume_type: consumer.consume_type,
            model: consumer.message_model,
            from_where: consumer.consume_from_where,
            members: BTreeMap::new(),
            subscriptions: HashMap::new(),
        }
    }

    /// The newest version of a subscription wins; topics that are not named any more go. True: something changed.
    fn subscribe(&mut self, subscriptions: &[Subscription]) -> bool {
        let named: HashSet<_> = subscriptions.iter().map(|subscription| subscription.topic.as_str()).collect();
        let before = self.subscriptions.len();
        self.subscriptions.retain(|topic, _| named.contains(topic.as_str()));
        let mut changed = self.subscriptions.len() < before;
        for subscription in subscriptions {
            let held = self.subscriptions.get(&subscription.topic);
            if held.is_none_or(|held| held.sub_version < subscription.sub_version) {
                self.subscriptions.insert(subscription.topic.clone(), Arc::new(Selection::new(subscription.clone())));
                changed = true;
            }
        }
        changed
    }

    pub(crate) fn subscription(&self, topic: &str) -> Option<Arc<Selection>> {
        self.subscriptions.get(topic).cloned()
    }

    pub(crate) fn subscriptions(&self) -> impl Iterator<Item = &Subscription> {
        self.subscriptions.values().map(|selection| &***selection)
    }

    pub(crate) fn members(&self) -> Vec<Client> {
        self.members.values().map(|member| member.client.clone()).collect()
    }

    /// Client ids in the order of their connections, each once.
    pub(crate) fn client_ids(&self) -> Vec<String> {
        let mut seen = HashSet::new();
        self.members.values().map(|member| &member.client.id).filter(|id| seen.insert(*id)).cloned().collect()
    }

    pub(crate) fn has(&self, connection: ConnectionId) -> bool {
        self.members.contains_key(&connection)
    }
}
