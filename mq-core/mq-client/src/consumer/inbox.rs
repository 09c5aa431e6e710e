//! What a consumer with an inbox tells of one message when an operator asks: the message is read from its broker, and the
//! inbox's own code looks for its row. Knows no database.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mq_protocol::body::InboxAnswer;
use tokio::time::timeout;

use crate::admin::Admin;
use crate::client::Client;
use crate::message::ReceivedMessage;

/// An operator waits, and the broker in between does not wait for ever.
const PATIENCE: Duration = Duration::from_secs(2);

type Looking = Pin<Box<dyn Future<Output = InboxAnswer> + Send>>;

#[derive(Clone)]
pub(crate) struct InboxLookup(Arc<dyn Fn(ReceivedMessage) -> Looking + Send + Sync>);

impl InboxLookup {
    pub(super) fn new<F, L>(look: F) -> Self
    where
        F: Fn(ReceivedMessage) -> L + Send + Sync + 'static,
        L: Future<Output = InboxAnswer> + Send + 'static,
    {
        Self(Arc::new(move |message| Box::pin(look(message))))
    }

    /// `id` is the offset id of a message.
    pub(crate) async fn answer(&self, client: Client, id: &str) -> InboxAnswer {
        let looking = async {
            match Admin::of(client).message_by_offset_id(id).await {
                Ok(message) => (self.0)(message).await,
                Err(error) => InboxAnswer::Unknown { reason: error.to_string() },
            }
        };
        let late = || InboxAnswer::Unknown { reason: format!("no answer within {PATIENCE:?}") };
        timeout(PATIENCE, looking).await.unwrap_or_else(|_| late())
    }
}
