//! Consumers whose handler is repeatable by itself (a conditional update, a script): a message in, and back to the queue
//! with a delay unless it was dealt with. Where the effect needs an inbox, txn-sdk's `Consumer` is the one to use.

use std::future::Future;
use std::sync::Arc;

use mq_client::{Action, ConsumeFrom, Filter, PushConsumer, ReceivedMessage};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

type Handling = std::pin::Pin<Box<dyn Future<Output = Action> + Send>>;
type Handler = Arc<dyn Fn(ReceivedMessage) -> Handling + Send + Sync>;

/// A consumer group and what it does with each topic.
pub struct Listener {
    name_servers: String,
    group: &'static str,
    handlers: Vec<(&'static str, Handler)>,
}

impl Listener {
    pub fn new(name_servers: &str, group: &'static str) -> Listener {
        Listener { name_servers: name_servers.to_owned(), group, handlers: Vec::new() }
    }

    /// Handles the messages of a topic, whose bodies are JSON. A handler's error, and a body that cannot be read, bring
    /// the message back later, and to the dead-letter topic in the end.
    #[must_use]
    pub fn on<T, F, Answer, E>(mut self, topic: &'static str, handler: F) -> Listener
    where
        T: DeserializeOwned,
        F: Fn(T) -> Answer + Send + Sync + 'static,
        Answer: Future<Output = Result<(), E>> + Send + 'static,
        E: std::fmt::Display,
    {
        let handle = move |message: ReceivedMessage| -> Handling {
            let handling = serde_json::from_slice(&message.body).map(&handler);
            Box::pin(async move {
                let outcome = match handling {
                    Ok(handling) => handling.await.map_err(|error| error.to_string()),
                    Err(unreadable) => Err(unreadable.to_string()),
                };
                let Err(error) = outcome else { return Action::Ack };
                tracing::warn!(topic, message_id = %message.message_id, error, "not handled; the message will come again");
                Action::RetryLater
            })
        };
        self.handlers.push((topic, Arc::new(handle)));
        self
    }

    pub async fn run_until(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let topics: Vec<&str> = self.handlers.iter().map(|(topic, _)| *topic).collect();
        let mut consumer = PushConsumer::builder(self.name_servers).group(self.group).consume_from(ConsumeFrom::First);
        for topic in topics {
            consumer = consumer.subscribe(topic, Filter::all());
        }
        let handlers: Arc<[(&str, Handler)]> = self.handlers.into();
        let consumer = consumer.concurrent(move |batch: Vec<ReceivedMessage>| {
            let handlers = handlers.clone();
            async move {
                for message in batch {
                    let handler = handlers.iter().find(|(topic, _)| *topic == &*message.topic);
                    let (_, handler) = handler.expect("only subscribed topics are delivered");
                    match handler(message).await {
                        Action::Ack => {}
                        later => return later,
                    }
                }
                Action::Ack
            }
        });
        Ok(consumer.run_until(shutdown.cancelled_owned()).await?)
    }
}
