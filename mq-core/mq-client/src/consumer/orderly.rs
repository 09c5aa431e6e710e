//! Orderly consumption: one batch of a queue at a time, and the next only after it is acknowledged, under a lock that the
//! broker grants to one client of the group.

use std::collections::BTreeMap;
use std::sync::Arc;

use mq_protocol::ByteString;
use mq_protocol::body::MessageQueue;
use tokio::time::interval;

use super::assigned::Assigned;
use super::concurrent::batches;
use super::group::Group;
use super::handler::Action;
use crate::message::ReceivedMessage;

impl Group {
    pub(super) async fn run_orderly(self: Arc<Self>, assigned: Arc<Assigned>) {
        let mut broker_id = 0;
        while self.hold_lock(&assigned).await {
            let Some(messages) = self.next_messages(&assigned, &mut broker_id).await else { break };
            for batch in batches(messages, self.options.batch) {
                if self.has_ended(&assigned) || !self.consume_in_order(&assigned, batch).await {
                    assigned.restart();
                    break;
                }
            }
        }
        if assigned.dropped.is_cancelled() && self.broadcast.is_none() {
            self.commit(&assigned, true).await;
            self.unlock(vec![assigned.queue.clone()]).await;
        }
        if self.leaving.lock().remove(&assigned.queue) {
            self.plan_changed.notify_one();
        }
    }

    /// Waits for the lock; false when the queue has ended. Whoever lost the lock meanwhile begins where the group stands.
    async fn hold_lock(&self, assigned: &Assigned) -> bool {
        if self.broadcast.is_some() || assigned.is_locked() {
            return !self.has_ended(assigned);
        }
        tracing::warn!(group = %self.name, queue = ?assigned.queue, "lost the lock, waiting for it");
        tokio::select! {
            () = self.ended(assigned) => return false,
            () = assigned.locked() => {}
        }
        if let Ok(Some(committed)) = self.inner().committed(&self.name, &assigned.queue).await {
            assigned.restart_at(committed);
        }
        true
    }

    /// Handles a batch until it is acknowledged or given up. False: what was pulled behind it must be pulled again.
    async fn consume_in_order(&self, assigned: &Assigned, mut batch: Vec<ReceivedMessage>) -> bool {
        loop {
            if self.broadcast.is_none() && !assigned.is_locked() {
                return false;
            }
            let place = self.places.acquire().await.expect("the semaphore is never closed");
            let action = self.handle(assigned, &batch).await;
            drop(place);
            if action == Action::Ack || self.give_up(&batch).await {
                assigned.settle(&batch);
                return true;
            }
            for message in &mut batch {
                message.reconsume_times += 1;
            }
            if !self.pause(assigned, self.options.orderly_pause).await {
                return false;
            }
        }
    }

    /// Moves messages that failed too often to the dead-letter topic; true when all are there.
    async fn give_up(&self, batch: &[ReceivedMessage]) -> bool {
        let max = self.max_reconsume_times().unwrap_or(i32::MAX);
        if self.broadcast.is_some() || batch.iter().any(|message| message.reconsume_times < max) {
            return false;
        }
        for message in batch {
            if let Err(error) = self.send_retry_copy(message, message.reconsume_times + 1).await {
                tracing::warn!(group = %self.name, message_id = %message.message_id, %error, "not given up");
                return false;
            }
        }
        true
    }

    pub(super) async fn lock_loop(&self) {
        let mut due = interval(self.options.lock_interval);
        due.tick().await;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = due.tick() => {}
            }
            let assigned: Vec<Arc<Assigned>> = self.assigned.lock().values().cloned().collect();
            // A batch that is still handled keeps others away, even from a queue that was given away.
            let leaving = self.leaving.lock().clone();
            let queues = assigned.iter().map(|assigned| assigned.queue.clone()).chain(leaving).collect();
            let Some(locked) = self.lock(queues).await else { continue };
            for assigned in assigned {
                assigned.set_locked(locked.contains(&assigned.queue));
            }
            if !self.unused_locks().is_empty() {
                // A queue was freed while its lock was renewed.
                self.plan_changed.notify_one();
            }
        }
    }

    /// Which of these queues this client holds now. `None`: a broker did not say, so nothing is known to be lost.
    pub(super) async fn lock(&self, queues: Vec<Arc<MessageQueue>>) -> Option<Vec<MessageQueue>> {
        let mut locked = Vec::new();
        for (address, queues) in self.by_master(queues) {
            let asked: Vec<Arc<MessageQueue>> = queues.iter().cloned().map(Arc::new).collect();
            self.locks.lock().extend(asked.iter().cloned());
            match self.inner().lock(&address, &self.name, queues).await {
                Ok(granted) => {
                    let mut locks = self.locks.lock();
                    for queue in asked {
                        if granted.contains(&queue) {
                            locks.insert(queue);
                        } else {
                            locks.remove(&queue);
                        }
                    }
                    locked.extend(granted);
                }
                Err(error) => {
                    tracing::warn!(group = %self.name, %error, "queues not locked");
                    return None;
                }
            }
        }
        Some(locked)
    }

    pub(super) async fn unlock_all(&self) {
        let queues = self.locks.lock().iter().cloned().collect();
        self.unlock(queues).await;
    }

    /// A lock that nobody here uses would keep the others from the queue until it expires: its queue could not be begun,
    /// or the broker granted it and the answer was lost. False: some are left.
    pub(super) async fn free_unused_locks(&self) -> bool {
        let unused = self.unused_locks();
        unused.is_empty() || self.unlock(unused).await
    }

    fn unused_locks(&self) -> Vec<Arc<MessageQueue>> {
        let (assigned, leaving) = (self.assigned.lock(), self.leaving.lock());
        let in_use = |queue: &Arc<MessageQueue>| assigned.contains_key(queue) || leaving.contains(queue);
        self.locks.lock().iter().filter(|queue| !in_use(queue)).cloned().collect()
    }

    /// False: a broker did not say that it did.
    async fn unlock(&self, queues: Vec<Arc<MessageQueue>>) -> bool {
        let mut unlocked = true;
        for (address, queues) in self.by_master(queues) {
            match self.inner().unlock(&address, &self.name, queues.clone()).await {
                Ok(()) => self.locks.lock().retain(|lock| !queues.contains(lock)),
                Err(error) => {
                    tracing::debug!(group = %self.name, %error, "queues not unlocked");
                    unlocked = false;
                }
            }
        }
        unlocked
    }

    fn by_master(&self, queues: Vec<Arc<MessageQueue>>) -> BTreeMap<ByteString, Vec<MessageQueue>> {
        let mut by_master: BTreeMap<ByteString, Vec<MessageQueue>> = BTreeMap::new();
        for queue in queues {
            if let Some(master) = self.inner().routes.master_of(&queue.broker_name) {
                by_master.entry(master).or_default().push((*queue).clone());
            }
        }
        by_master
    }
}
