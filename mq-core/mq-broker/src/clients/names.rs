//! Which connection a client id belongs to: what is addressed to one client goes there.

use std::collections::HashMap;

use crate::connection::{Connection, ConnectionId};

#[derive(Default)]
pub(super) struct Names {
    connections: HashMap<String, Connection>,
    ids: HashMap<ConnectionId, String>,
}

impl Names {
    /// The newest connection of an id counts: a client that comes back may be heard before its old one is gone.
    pub(super) fn heard(&mut self, id: &str, connection: &Connection) {
        if self.connections.get(id).is_some_and(|known| known == connection) {
            return;
        }
        self.connections.insert(id.to_owned(), connection.clone());
        let before = self.ids.insert(connection.id(), id.to_owned());
        if let Some(before) = before.filter(|before| before != id) {
            self.forget(&before, connection.id());
        }
    }

    pub(super) fn connection(&self, id: &str) -> Option<Connection> {
        self.connections.get(id).filter(|connection| !connection.is_closed()).cloned()
    }

    pub(super) fn connection_closed(&mut self, connection: ConnectionId) {
        if let Some(id) = self.ids.remove(&connection) {
            self.forget(&id, connection);
        }
    }

    /// The id may be another connection's by now.
    fn forget(&mut self, id: &str, connection: ConnectionId) {
        if self.connections.get(id).is_some_and(|known| known.id() == connection) {
            self.connections.remove(id);
        }
    }
}
