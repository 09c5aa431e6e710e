//! Putting a producer together.

use std::sync::Arc;
use std::time::Duration;

use mq_protocol::ByteString;
use mq_protocol::topic;

use super::check::Checks;
use super::fault::FaultTable;
use super::{Producer, ProducerOptions, Shared, TransactionChecker};
use crate::client::{Client, ClientChoice, ClientOptions, RegisteredProducer};
use crate::error::ClientError;
use crate::trace::Tracer;

const DEFAULT_GROUP: &str = "DEFAULT_PRODUCER";

pub struct ProducerBuilder {
    client: ClientChoice,
    group: ByteString,
    options: ProducerOptions,
    topics: Vec<ByteString>,
    checks: Option<Arc<Checks>>,
}

impl ProducerBuilder {
    pub(super) fn new(name_servers: String) -> Self {
        Self {
            client: ClientChoice::of(name_servers),
            group: ByteString::from_static(DEFAULT_GROUP),
            options: ProducerOptions::default(),
            topics: Vec::new(),
            checks: None,
        }
    }

    #[must_use]
    pub fn group(mut self, group: impl Into<ByteString>) -> Self {
        self.group = group.into();
        self
    }

    /// Shares the connections of this client instead of making its own. One client holds one producer of a group.
    #[must_use]
    pub fn client(mut self, client: Client) -> Self {
        self.client.shared = Some(client);
        self
    }

    #[must_use]
    pub fn client_options(mut self, change: impl FnOnce(&mut ClientOptions)) -> Self {
        change(&mut self.client.options);
        self
    }

    #[must_use]
    pub fn options(mut self, change: impl FnOnce(&mut ProducerOptions)) -> Self {
        change(&mut self.options);
        self
    }

    #[must_use]
    pub fn send_timeout(self, send_timeout: Duration) -> Self {
        self.options(|options| options.send_timeout = send_timeout)
    }

    /// Topics whose brokers are connected to at once, and again whenever they were lost, so that they can ask this
    /// client about its group's half messages.
    #[must_use]
    pub fn topics<T: Into<ByteString>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        self.topics.extend(topics.into_iter().map(Into::into));
        self
    }

    /// Who answers when a broker asks how a half message of this group ends. Needed for [`Producer::send_half`].
    #[must_use]
    pub fn checker(mut self, checker: impl TransactionChecker) -> Self {
        self.checks = Some(Arc::new(Checks::new(checker)));
        self
    }

    /// Registers the group (and its topics) with the brokers. Unreachable servers are no error: they are tried again.
    pub async fn build(self) -> Result<Producer, ClientError> {
        let invalid = |error: topic::NameError| ClientError::Invalid(error.to_string());
        topic::check_group(&self.group).map_err(invalid)?;
        for topic in &self.topics {
            topic::check_topic(topic).map_err(invalid)?;
        }
        if let Some(traces) = &self.options.trace {
            topic::check_topic(traces).map_err(invalid)?;
        }
        let client = self.client.open()?;
        let start = |topic: ByteString| Tracer::start(client.clone(), topic, &self.group);
        let tracer = self.options.trace.clone().map(start);
        let registered = RegisteredProducer {
            topics: self.topics,
            checks: self.checks,
            tracer: tracer.as_ref().map(Tracer::downgrade),
        };
        client.0.register_producer(self.group.clone(), registered).await;
        let faults = FaultTable::default();
        Ok(Producer(Arc::new(Shared { client, group: self.group, options: self.options, faults, tracer })))
    }
}
