//! The producer's wire: a real client, or a broker that somebody plays.

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;

use mq_client::{ClientError, HalfReceipt, Message, SendError, Verdict};

pub type Played<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Takes what a producer sends, and answers, or does not.
pub trait PlayedBroker: Send + Sync + 'static {
    fn send_half(&self, message: Message) -> Played<Result<HalfReceipt, SendError>>;
    fn end(&self, half: HalfReceipt, verdict: Verdict) -> Played<Result<(), ClientError>>;
}

#[derive(Clone)]
pub(crate) enum Producer {
    Client(mq_client::Producer),
    Played { group: String, broker: Arc<dyn PlayedBroker> },
}

impl Producer {
    pub(crate) fn group(&self) -> &str {
        match self {
            Self::Client(client) => client.group(),
            Self::Played { group, .. } => group,
        }
    }

    pub(crate) async fn send_half(&self, message: Message) -> Result<HalfReceipt, SendError> {
        match self {
            Self::Client(client) => client.send_half(message).await,
            Self::Played { broker, .. } => broker.send_half(message).await,
        }
    }

    pub(crate) async fn send_half_at(&self, message: Message, broker: &str) -> Result<HalfReceipt, SendError> {
        match self {
            Self::Client(client) => client.send_half_at(message, broker).await,
            Self::Played { broker, .. } => broker.send_half(message).await,
        }
    }

    pub(crate) fn check_half(&self, message: &Message) -> Result<(), SendError> {
        match self {
            Self::Client(client) => client.check_half(message),
            Self::Played { .. } => Ok(()),
        }
    }

    pub(crate) fn heard_offers(&self, message: &Message) -> Result<(), SendError> {
        match self {
            Self::Client(client) => client.heard_offers(message),
            Self::Played { .. } => Ok(()),
        }
    }

    pub(crate) async fn end(&self, half: &HalfReceipt, verdict: Verdict) -> Result<(), ClientError> {
        match self {
            Self::Client(client) => client.end(half, verdict).await,
            Self::Played { broker, .. } => broker.end(half.clone(), verdict).await,
        }
    }
}

/// Everything else is a client's.
impl Deref for Producer {
    type Target = mq_client::Producer;

    fn deref(&self) -> &mq_client::Producer {
        match self {
            Self::Client(client) => client,
            Self::Played { .. } => panic!("a played broker takes halves and ends only"),
        }
    }
}
