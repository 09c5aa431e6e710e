//! What a half message can ask for beyond Apache RocketMQ, and the refusal where a broker does not offer it: Apache's
//! would store such a message and do nothing of it.

use std::time::Duration;

use mq_protocol::ByteString;
use mq_protocol::properties::{Properties, name};
use tokio::time::Instant;

use super::Producer;
use super::attempts::Target;
use crate::error::{CallError, SendError, SendFailure};
use crate::message::Message;
use crate::route::Route;

/// Messages of one transaction.
pub const MAX_PARTS: usize = 32;

/// Each property, and what a broker says in its answer to a heartbeat when it heeds that.
const OFFERED: [(&str, &str); 4] = [
    (name::SHARED_ID, "shared-verdict"),
    (name::DELAY_FROM_COMMIT_MS, "delay-from-commit"),
    (name::ORDER_KEY, "commit-order"),
    (name::MAX_CHECKS, "max-checks"),
];

impl Message {
    /// Half messages on Checkback's brokers: delivered so long after the commit.
    #[must_use]
    pub fn delay_from_commit(self, delay: Duration) -> Self {
        self.property(name::DELAY_FROM_COMMIT_MS, delay.as_millis().max(1).to_string())
    }

    /// Half messages on Checkback's brokers: those of one key stand in one queue in the order of their commits.
    #[must_use]
    pub fn in_commit_order(self, key: impl Into<ByteString>) -> Self {
        self.property(name::ORDER_KEY, key)
    }

    /// Half messages on Checkback's brokers: parked after so many unanswered checks, instead of `transactionCheckMax`.
    #[must_use]
    pub fn max_checks(self, checks: u32) -> Self {
        self.property(name::MAX_CHECKS, checks.to_string())
    }
}

/// What a message asks of its broker: (property, capability).
fn asked_for(properties: &Properties) -> impl Iterator<Item = (&'static str, &'static str)> {
    OFFERED.into_iter().filter(|(property, _)| properties.get(property).is_some())
}

impl Producer {
    /// Refuses a half unless each broker that may get it is known to do what it asks for.
    pub(super) async fn check_offers(&self, message: &Message) -> Result<(), SendError> {
        if asked_for(&message.properties).next().is_none() {
            return Ok(());
        }
        let failed = |reason| SendError::new(message.topic.clone(), ByteString::new(), 0, reason);
        let route = self.inner().routes.for_sending(&message.topic).await.map_err(|error| failed(error.into()))?;
        self.refuse_what_is_missing(&route, message).await.map_err(failed)
    }

    /// The same from memory, for brokers that are away: refuses a half unless all of its topic's were once heard to do what
    /// it asks for.
    pub fn heard_offers(&self, message: &Message) -> Result<(), SendError> {
        let Some((property, capability)) = asked_for(&message.properties).next() else { return Ok(()) };
        let route = self.inner().routes.found(&message.topic);
        let mut masters = route.iter().flat_map(|route| route.masters()).peekable();
        let heard = match masters.peek() {
            Some(_) => masters.try_for_each(|address| self.refuse_what_is_not_offered(address, message)),
            None => {
                let address = ByteString::from_static("any broker");
                Err(SendFailure::NotOffered { property, capability, address })
            }
        };
        heard.map_err(|reason| SendError::new(message.topic.clone(), ByteString::new(), 0, reason))
    }

    async fn refuse_what_is_missing(&self, route: &Route, message: &Message) -> Result<(), SendFailure> {
        let deadline = Instant::now() + self.0.options.send_timeout;
        for address in route.masters() {
            // A connection begins with a heartbeat, and its answer says what the broker offers.
            self.inner().connection_by(address, deadline).await.map_err(CallError::from)?;
            self.refuse_what_is_not_offered(address, message)?;
        }
        Ok(())
    }

    fn refuse_what_is_not_offered(&self, address: &ByteString, message: &Message) -> Result<(), SendFailure> {
        let offered = self.0.client.capabilities(address);
        let is_missing = |capability: &str| !offered.iter().any(|known| known == capability);
        match asked_for(&message.properties).find(|(_, it)| is_missing(it)) {
            Some((property, capability)) => {
                Err(SendFailure::NotOffered { property, capability, address: address.clone() })
            }
            None => Ok(()),
        }
    }
}

impl<'t> Target<'t> {
    /// A half with an order key always goes to the same broker, which chooses the queue.
    pub(super) fn of_half(broker: Option<&'t str>, order_key: Option<&'t str>) -> Self {
        match (broker, order_key) {
            (Some(broker), _) => Self::Broker(broker),
            (None, Some(key)) => Self::Key(key),
            (None, None) => Self::Any,
        }
    }
}
