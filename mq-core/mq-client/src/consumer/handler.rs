//! What the user's code is to a consumer: a batch of messages in, an action out.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use crate::message::ReceivedMessage;

/// What becomes of a handled batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Ack,
    /// Concurrent consumers: the broker delivers each again after 10 s, 30 s, 1 min … and after the last time to the
    /// group's dead-letter topic. Orderly consumers: the same batch again after a short pause, before any later one.
    RetryLater,
    /// Concurrent consumers: again after this delay level (1 to 18). Orderly ones treat it as `RetryLater`.
    RetryAfterLevel(u8),
}

/// Handles messages. A panic counts as [`Action::RetryLater`].
///
/// The batch has one message unless the consumer was built with a larger batch size.
pub trait MessageHandler: Send + Sync + 'static {
    fn handle(&self, batch: Vec<ReceivedMessage>) -> impl Future<Output = Action> + Send;
}

impl<F, Handling> MessageHandler for F
where
    F: Fn(Vec<ReceivedMessage>) -> Handling + Send + Sync + 'static,
    Handling: Future<Output = Action> + Send,
{
    fn handle(&self, batch: Vec<ReceivedMessage>) -> impl Future<Output = Action> + Send {
        self(batch)
    }
}

type Handling = Pin<Box<dyn Future<Output = Action> + Send>>;

#[derive(Clone)]
pub(super) struct Handler(Arc<dyn Fn(Vec<ReceivedMessage>) -> Handling + Send + Sync>);

impl Handler {
    pub(super) fn new(handler: impl MessageHandler) -> Self {
        let handler = Arc::new(handler);
        Self(Arc::new(move |batch| {
            let handler = handler.clone();
            Box::pin(async move { handler.handle(batch).await })
        }))
    }

    pub(super) async fn handle(&self, batch: Vec<ReceivedMessage>) -> Action {
        let mut handling = pin!((self.0)(batch));
        std::future::poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| handling.as_mut().poll(context))) {
            Ok(polled) => polled,
            Err(_) => {
                tracing::error!("a message handler panicked; its messages will be delivered again");
                Poll::Ready(Action::RetryLater)
            }
        })
        .await
    }
}
