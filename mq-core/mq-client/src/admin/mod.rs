//! What an operator does with a client: one typed call per question, to the brokers and name servers that know.
//!
//! A question about a topic or group goes to the master of every broker and the answers are put together. Knows nothing
//! of how they are shown.

mod brokers;
mod groups;
mod kv;
mod messages;
mod name_servers;
mod statistics;
mod topics;
mod transactions;

use mq_protocol::ByteString;
use mq_protocol::body::{BrokerData, ClusterInfo};
use mq_protocol::codes::response;
use mq_protocol::command::Command;
use serde::de::DeserializeOwned;

use crate::client::{Client, ClientOptions};
use crate::error::ClientError;
use crate::names;
use crate::remoting::json_body;

pub use brokers::Leftovers;
pub use groups::{GroupProgress, QueueProgress, QueueReset, ResetTo};
pub use topics::TopicSettings;

/// An operator's handle on the clusters behind the name servers.
#[derive(Clone, Debug)]
pub struct Admin(Client);

/// A broker that takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    pub cluster: String,
    pub name: String,
    pub address: ByteString,
}

impl Admin {
    /// Must be called inside a tokio runtime. Connects to nobody yet.
    pub fn new(options: ClientOptions) -> Result<Self, ClientError> {
        Client::new(options).map(Self)
    }

    /// On the connections of a client that is there.
    pub(crate) fn of(client: Client) -> Self {
        Self(client)
    }

    /// The client behind it, for a producer or consumer that shares its connections.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.0
    }

    /// The masters of all clusters, by name.
    pub async fn masters(&self) -> Result<Vec<Master>, ClientError> {
        let masters = Master::among(&self.clusters().await?);
        if masters.is_empty() {
            return Err(ClientError::Invalid("no broker is registered at the name servers".into()));
        }
        Ok(masters)
    }

    /// The masters that `wanted` means: a broker's name or address, or all of them.
    pub async fn masters_named(&self, wanted: Option<&str>) -> Result<Vec<Master>, ClientError> {
        let masters = self.masters().await?;
        let Some(wanted) = wanted else { return Ok(masters) };
        let names: Vec<String> = masters.iter().map(|master| master.name.clone()).collect();
        let found: Vec<Master> = masters.into_iter().filter(|it| it.name == wanted || *it.address == *wanted).collect();
        if found.is_empty() {
            return Err(ClientError::Invalid(format!("there is no broker {wanted}; there are {}", names.join(", "))));
        }
        Ok(found)
    }

    async fn call(&self, master: &Master, command: Command) -> Result<Command, ClientError> {
        Ok(self.0.0.call(&master.address, command).await?)
    }

    /// Asks for a JSON body.
    async fn read<T: DeserializeOwned>(&self, master: &Master, command: Command) -> Result<T, ClientError> {
        let request = command.code;
        let answer = self.call(master, command).await?;
        from_json(&master.address, request, &answer)
    }

    /// Asks every master, and leaves out those that answer with one of these codes: they do not know it.
    async fn read_all<T: DeserializeOwned>(
        &self,
        command: &Command,
        unknown: &[i32],
    ) -> Result<Vec<(Master, T)>, ClientError> {
        let mut answers = Vec::new();
        let mut refused = None;
        for master in self.masters().await? {
            match self.read(&master, command.clone()).await {
                Ok(answer) => answers.push((master, answer)),
                Err(ClientError::Call(error)) if error.code().is_some_and(|code| unknown.contains(&code)) => {
                    refused = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        match refused {
            Some(error) if answers.is_empty() => Err(error.into()),
            _ => Ok(answers),
        }
    }

    /// Tells every master the same.
    async fn tell_all(&self, command: &Command) -> Result<(), ClientError> {
        self.tell(self.masters().await?, command).await
    }

    /// Tells each of these the same, also those behind one that fails.
    async fn tell(&self, masters: Vec<Master>, command: &Command) -> Result<(), ClientError> {
        let (mut done, mut failed, mut reason) = (Vec::new(), Vec::new(), None);
        for master in masters {
            match self.call(&master, command.clone()).await {
                Ok(_) => done.push(master.name),
                Err(error) => {
                    failed.push(master.name);
                    reason.get_or_insert(error);
                }
            }
        }
        match reason {
            None => Ok(()),
            Some(reason) if done.is_empty() => Err(reason),
            Some(reason) => Err(ClientError::Partly { failed, done, reason: Box::new(reason) }),
        }
    }
}

impl Master {
    /// The masters among these brokers.
    #[must_use]
    pub fn among(clusters: &ClusterInfo) -> Vec<Self> {
        let master = |broker: &BrokerData| {
            let address = broker.broker_addrs.get(&names::MASTER_ID)?.as_str().into();
            Some(Self { cluster: broker.cluster.clone(), name: broker.broker_name.clone(), address })
        };
        clusters.broker_addr_table.values().filter_map(master).collect()
    }
}

fn from_json<T: DeserializeOwned>(address: &ByteString, request: i32, answer: &Command) -> Result<T, ClientError> {
    Ok(json_body("the answer", address, request, answer)?)
}

/// The code of a refusal that means "not here".
const NO_TOPIC: &[i32] = &[response::TOPIC_NOT_EXIST];
