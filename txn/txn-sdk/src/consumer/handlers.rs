//! The handlers of a consumer as a list of types: no boxing, so that a spawned consumer is `Send` by inference (a boxed
//! async closure could not promise it).

use std::{fmt::Display, marker::PhantomData};

use mq_client::ReceivedMessage;
use serde::de::DeserializeOwned;

use super::Effect;
use crate::database::Database;

/// A message with its body read as JSON.
#[derive(Clone, Debug)]
pub struct Msg<T> {
    pub body: T,
    /// Everything else about it: keys, tags, properties, deliveries before this one.
    pub message: ReceivedMessage,
}

/// Why a handler did not take a message.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    #[error("no handler for topic {0}")]
    NoHandler(String),
    #[error("the body is not what the handler expects: {0}")]
    Body(#[from] serde_json::Error),
    #[error("the handler failed: {0}")]
    Failed(String),
}

/// A list of handlers. Sealed: it grows by [`Consumer::on`](super::Consumer::on).
pub trait Handlers<D: Database>: sealed::Sealed {
    #[doc(hidden)]
    fn topics(&self) -> Vec<String>;
    #[doc(hidden)]
    #[allow(async_fn_in_trait, reason = "Send is inferred where the consumer is spawned, from the concrete list")]
    async fn handle(&self, effect: &mut Effect<D>, message: ReceivedMessage) -> Result<(), HandlerError>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::NoHandler {}
    impl<F, T, R> Sealed for super::OnTopic<F, T, R> {}
    impl<F, T, R> Sealed for super::OnTopicEmitting<F, T, R> {}
}

/// The empty list.
#[derive(Debug)]
pub struct NoHandler;

/// One handler before the others.
pub struct OnTopic<F, T, R> {
    pub(crate) topic: String,
    pub(crate) handler: F,
    pub(crate) rest: R,
    pub(crate) body: PhantomData<fn() -> T>,
}

/// One handler that publishes, before the others.
pub struct OnTopicEmitting<F, T, R> {
    pub(crate) topic: String,
    pub(crate) handler: F,
    pub(crate) rest: R,
    pub(crate) body: PhantomData<fn() -> T>,
}

impl<D: Database> Handlers<D> for NoHandler {
    fn topics(&self) -> Vec<String> {
        Vec::new()
    }

    async fn handle(&self, _: &mut Effect<D>, message: ReceivedMessage) -> Result<(), HandlerError> {
        Err(HandlerError::NoHandler(message.topic.to_string()))
    }
}

impl<D, F, T, E, R> Handlers<D> for OnTopic<F, (T, E), R>
where
    D: Database,
    F: for<'t> AsyncFn(D::Handle<'t>, Msg<T>) -> Result<(), E>,
    T: DeserializeOwned,
    E: Display,
    R: Handlers<D>,
{
    fn topics(&self) -> Vec<String> {
        let mut topics = self.rest.topics();
        topics.push(self.topic.clone());
        topics
    }

    async fn handle(&self, effect: &mut Effect<D>, message: ReceivedMessage) -> Result<(), HandlerError> {
        if *message.topic != *self.topic {
            return self.rest.handle(effect, message).await;
        }
        let body = serde_json::from_slice(&message.body)?;
        let done = (self.handler)(effect.handle(), Msg { body, message }).await;
        done.map_err(|error| HandlerError::Failed(error.to_string()))
    }
}

impl<D, F, T, E, R> Handlers<D> for OnTopicEmitting<F, (T, E), R>
where
    D: Database,
    F: for<'t> AsyncFn(&'t mut Effect<D>, Msg<T>) -> Result<(), E>,
    T: DeserializeOwned,
    E: Display,
    R: Handlers<D>,
{
    fn topics(&self) -> Vec<String> {
        let mut topics = self.rest.topics();
        topics.push(self.topic.clone());
        topics
    }

    async fn handle(&self, effect: &mut Effect<D>, message: ReceivedMessage) -> Result<(), HandlerError> {
        if *message.topic != *self.topic {
            return self.rest.handle(effect, message).await;
        }
        let body = serde_json::from_slice(&message.body)?;
        let done = (self.handler)(effect, Msg { body, message }).await;
        done.map_err(|error| HandlerError::Failed(error.to_string()))
    }
}
