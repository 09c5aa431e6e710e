//! Which groups a connection is in: one that closes costs what it was in, not what the broker has.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use crate::connection::ConnectionId;

#[derive(Default)]
pub(super) struct Memberships(HashMap<ConnectionId, HashSet<String>>);

impl Memberships {
    pub(super) fn join(&mut self, connection: ConnectionId, group: &str) {
        let groups = self.0.entry(connection).or_default();
        if !groups.contains(group) {
            groups.insert(group.to_owned());
        }
    }

    pub(super) fn leave(&mut self, connection: ConnectionId, group: &str) {
        if let Entry::Occupied(mut groups) = self.0.entry(connection) {
            groups.get_mut().remove(group);
            if groups.get().is_empty() {
                groups.remove();
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn of(&self, connection: ConnectionId) -> Vec<String> {
        self.0.get(&connection).into_iter().flatten().cloned().collect()
    }
}
