//! Concurrent consumption: any message at any time, up to a number of batches at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::assigned::Assigned;
use super::group::Group;
use super::handler::Action;
use crate::message::ReceivedMessage;

/// Pause before messages are handled again here that no broker would take back.
const AGAIN_HERE: Duration = Duration::from_secs(5);

impl Group {
    pub(super) async fn run_concurrent(self: Arc<Self>, assigned: Arc<Assigned>) {
        let mut broker_id = 0;
        loop {
            tokio::select! {
                () = self.ended(&assigned) => return,
                () = assigned.room(self.options.flow) => {}
            }
            let Some(messages) = self.next_messages(&assigned, &mut broker_id).await else { return };
            for batch in batches(messages, self.options.batch) {
                let place = tokio::select! {
                    () = self.ended(&assigned) => return,
                    place = self.places.clone().acquire_owned() => place.expect("the semaphore is never closed"),
                };
                let consuming = self.clone().consume(assigned.clone(), batch, place);
                self.tasks.spawn(consuming);
            }
        }
    }

    async fn consume(
        self: Arc<Self>,
        assigned: Arc<Assigned>,
        mut batch: Vec<ReceivedMessage>,
        _place: OwnedSemaphorePermit,
    ) {
        loop {
            let action = self.handle(&assigned, &batch).await;
            if assigned.dropped.is_cancelled() {
                return;
            }
            let again = match action {
                Action::Ack => Vec::new(),
                Action::RetryLater => self.give_back(&batch, 0).await,
                Action::RetryAfterLevel(level) => self.give_back(&batch, i32::from(level)).await,
            };
            batch.retain(|message| !again.contains(message));
            assigned.settle(&batch);
            if again.is_empty() || !self.pause(&assigned, AGAIN_HERE).await {
                return;
            }
            batch = again;
        }
    }

    /// Hands failed messages to a broker for a later delivery; answers those that no broker took.
    async fn give_back(&self, batch: &[ReceivedMessage], delay_level: i32) -> Vec<ReceivedMessage> {
        if self.broadcast.is_some() {
            tracing::warn!(group = %self.name, messages = batch.len(), "broadcast messages are not delivered again");
            return Vec::new();
        }
        let mut kept = Vec::new();
        for message in batch {
            if let Err(error) = self.send_back(message, delay_level).await {
                tracing::warn!(group = %self.name, message_id = %message.message_id, %error, "not sent back");
                kept.push(message.clone());
            }
        }
        kept
    }
}

pub(super) fn batches(messages: Vec<ReceivedMessage>, size: usize) -> impl Iterator<Item = Vec<ReceivedMessage>> {
    let mut rest = messages.into_iter();
    std::iter::from_fn(move || {
        let batch: Vec<ReceivedMessage> = rest.by_ref().take(size.max(1)).collect();
        (!batch.is_empty()).then_some(batch)
    })
}
