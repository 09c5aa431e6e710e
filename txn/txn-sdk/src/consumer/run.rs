//! Runs a consumer on a broker: deliveries come in through a channel, so that handlers run on the consumer's own task.

use std::{future::Future, pin::pin};

use futures_util::{StreamExt, stream::FuturesUnordered};
use mq_client::{Action, ClientError, ConsumeFrom, Filter, PushConsumer, ReceivedMessage};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Consumer, Delivered, Handlers};
use crate::{
    database::{Database, DatabaseError},
    failpoints::soon,
};

#[derive(Debug, thiserror::Error)]
pub enum ConsumeError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Client(#[from] Box<ClientError>),
    #[error("topic {0} has two handlers")]
    TwoHandlers(String),
}

/// A message that a broker delivered, and who waits for its end.
struct Delivery {
    message: ReceivedMessage,
    ended: oneshot::Sender<Action>,
}

impl<D: Database, H: Handlers<D>> Consumer<D, H> {
    /// Consumes until `shutdown` is done, then finishes what is in hand. A group that is new begins with the oldest
    /// message there is: nothing that was published before its first start is missed.
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> Result<(), ConsumeError> {
        self.prepare().await?;
        let stopped = CancellationToken::new();
        let _stop = stopped.clone().drop_guard();
        tokio::spawn(self.inbox.housekeeper(&self.group)?.run_until(stopped));

        let (hand_over, mut deliveries) = mpsc::channel(1);
        let consumer = self.subscribe(hand_over)?.start().await.map_err(Box::new)?;
        let mut stopping = pin!(async {
            shutdown.await;
            consumer.shut_down().await; // waits for the handlers, and they for this loop
        });
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(delivery) = deliveries.recv() => running.push(self.end(delivery)),
                Some(()) = running.next(), if !running.is_empty() => {}
                () = &mut stopping => return Ok(()),
            }
        }
    }

    fn subscribe(&self, hand_over: mpsc::Sender<Delivery>) -> Result<mq_client::PushConsumerBuilder, ConsumeError> {
        let mut topics = self.handlers.topics();
        topics.sort_unstable();
        if let Some(twice) = topics.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ConsumeError::TwoHandlers(twice[0].clone()));
        }
        let witness = self.inbox.witness(self.group.as_str())?;
        let builder = PushConsumer::builder(self.name_servers.as_str())
            .group(self.group.as_str())
            .consume_from(ConsumeFrom::First)
            .options(|options| {
                (options.concurrency, options.batch) = (self.concurrency, 1);
                options.max_reconsume_times = self.max_retries;
            })
            .inbox(move |message| {
                let witness = witness.clone();
                async move { witness.look(&message).await }
            })
            .concurrent(move |batch| handed_over(hand_over.clone(), batch));
        Ok(topics.into_iter().fold(builder, |builder, topic| builder.subscribe(topic, Filter::all())))
    }

    async fn end(&self, delivery: Delivery) {
        let action = match self.deliver(delivery.message).await {
            Delivered::Done | Delivered::Duplicate => Action::Ack,
            Delivered::Later(_) => Action::RetryLater,
        };
        // Nobody waits any more when the shutdown ran out of patience; the row makes the redelivery a duplicate.
        let _ = delivery.ended.send(action);
        soon("inbox-after-ack");
    }
}

/// The broker client's side: hands each message over and waits for its end.
async fn handed_over(to: mpsc::Sender<Delivery>, batch: Vec<ReceivedMessage>) -> Action {
    for message in batch {
        let (ended, end) = oneshot::channel();
        if to.send(Delivery { message, ended }).await.is_err() {
            return Action::RetryLater;
        }
        match end.await {
            Ok(Action::Ack) => {}
            _ => return Action::RetryLater,
        }
    }
    Action::Ack
}
