//! Producers by group, and who of a group is asked how a transaction ended.

use std::collections::{BTreeMap, HashMap};

use super::memberships::Memberships;
use super::{Client, MAX_PRODUCER_GROUPS};
use crate::connection::{Connection, ConnectionId};

#[derive(Default)]
pub(super) struct Producers {
    groups: HashMap<String, BTreeMap<ConnectionId, Producer>>,
    pub(super) memberships: Memberships,
    /// Moves on with every question, so that the members of a group take turns.
    turn: usize,
}

/// Where the client that sent a half stands among those that may be asked about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SenderTurn {
    First,
    /// It was asked and did not know.
    Last,
}

struct Producer {
    client: Client,
    checkback_topics: Vec<String>,
}

impl Producers {
    /// False: there are too many groups for a new one.
    pub(super) fn register(&mut self, group: &str, client: Client, checkback_topics: &[String]) -> bool {
        if self.groups.len() >= MAX_PRODUCER_GROUPS && !self.groups.contains_key(group) {
            return false;
        }
        self.memberships.join(client.connection.id(), group);
        let members = self.groups.entry(group.to_owned()).or_default();
        let producer = Producer { checkback_topics: checkback_topics.to_vec(), client };
        members.insert(producer.client.connection.id(), producer);
        true
    }

    pub(super) fn remove(&mut self, group: &str, connection: ConnectionId) {
        self.memberships.leave(connection, group);
        if let Some(members) = self.groups.get_mut(group) {
            members.remove(&connection);
            if members.is_empty() {
                self.groups.remove(group);
            }
        }
    }

    pub(super) fn connection_closed(&mut self, connection: ConnectionId) {
        self.memberships.of(connection).iter().for_each(|group| self.remove(group, connection));
    }

    pub(super) fn remove_where(&mut self, gone: impl Fn(&Client) -> bool) {
        let memberships = &mut self.memberships;
        self.groups.retain(|group, members| {
            for (connection, _) in members.extract_if(.., |_, producer| gone(&producer.client)) {
                memberships.leave(connection, group);
            }
            !members.is_empty()
        });
    }

    pub(super) fn members(&self, group: &str) -> Vec<Client> {
        self.groups.get(group).into_iter().flat_map(BTreeMap::values).map(|member| member.client.clone()).collect()
    }

    pub(super) fn all(&self) -> BTreeMap<String, Vec<Client>> {
        self.groups.keys().map(|group| (group.clone(), self.members(group))).collect()
    }

    pub(super) fn id(&self, group: &str, connection: ConnectionId) -> Option<String> {
        Some(self.groups.get(group)?.get(&connection)?.client.id.clone())
    }

    pub(super) fn candidates(
        &mut self,
        group: &str,
        topic: &str,
        sender: Option<&str>,
        turn: SenderTurn,
    ) -> Vec<(String, Connection)> {
        let Some(members) = self.groups.get(group) else { return Vec::new() };
        self.turn = self.turn.wrapping_add(1);
        let first = self.turn % members.len();
        let in_turn = members.values().skip(first).chain(members.values().take(first));
        let mut candidates: Vec<_> = in_turn.filter(|member| !member.client.connection.is_closed()).collect();
        // Stable: equals stay in turn.
        candidates.sort_by_key(|member| {
            let sent_it = sender == Some(member.client.id.as_str());
            let declared = member.checkback_topics.iter().any(|declared| declared == topic);
            (sent_it == (turn == SenderTurn::Last), !declared)
        });
        candidates.into_iter().map(|member| (member.client.id.clone(), member.client.connection.clone())).collect()
    }
}
