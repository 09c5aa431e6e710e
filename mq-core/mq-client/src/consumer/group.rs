//! A running push consumer: what it subscribes to, the queues it has now, and its loops.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use mq_protocol::ByteString;
use mq_protocol::body::{MessageQueue, Subscription};
use mq_protocol::ids::QueueOffset;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::assigned::Assigned;
use super::builder::PushOptions;
use super::calls::{PullRequest, PullStatus, Pulled};
use super::handler::{Action, Handler};
use super::inbox::InboxLookup;
use super::local_offsets::LocalOffsets;
use super::meters::Meters;
use crate::client::{Client, Inner};
use crate::error::ClientError;
use crate::message::ReceivedMessage;
use crate::producer::Producer;
use crate::trace::Tracer;

/// Pause after a pull that failed.
const FAILED_PULL_PAUSE: Duration = Duration::from_secs(1);
/// A broker that says "nothing" faster than this does not hold pulls; asking it again at once would be a busy loop.
const HELD_AT_LEAST: Duration = Duration::from_millis(10);
const NOT_HELD_PAUSE: Duration = Duration::from_millis(50);

/// How messages of one queue are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Concurrent,
    Orderly,
}

pub(super) struct Group {
    pub(super) client: Client,
    pub(super) name: ByteString,
    pub(super) mode: Mode,
    pub(super) options: PushOptions,
    pub(super) subscriptions: BTreeMap<String, Subscription>,
    pub(super) handler: Handler,
    pub(super) inbox: Option<InboxLookup>,
    pub(super) tracer: Option<Tracer>,
    pub(super) meters: Meters,
    /// Set: every member reads every queue and keeps its own offsets.
    pub(super) broadcast: Option<Arc<LocalOffsets>>,
    /// Sends to the retry topic what a broker would not take back.
    pub(super) producer: Producer,
    pub(super) assigned: Mutex<BTreeMap<Arc<MessageQueue>, Arc<Assigned>>>,
    /// Orderly: given away while their last batch is still handled here. Nobody begins them again before it is done.
    pub(super) leaving: Mutex<BTreeSet<Arc<MessageQueue>>>,
    /// Orderly: every queue whose lock a broker may hold for this client, also where its answer was lost.
    pub(super) locks: Mutex<BTreeSet<Arc<MessageQueue>>>,
    pub(super) plan_changed: Notify,
    /// A broker said that something changed: routes from before are not to be trusted.
    pub(super) told: AtomicBool,
    /// Batches that may be handled at the same time.
    pub(super) places: Arc<Semaphore>,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
    pub(super) started: std::time::SystemTime,
}

impl Group {
    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.client.0
    }

    pub(super) fn start_loops(self: &Arc<Self>) {
        let (rebalancing, committing) = (self.clone(), self.clone());
        self.tasks.spawn(async move { rebalancing.rebalance_loop().await });
        self.tasks.spawn(async move { committing.commit_loop().await });
        if self.mode == Mode::Orderly && self.broadcast.is_none() {
            let locking = self.clone();
            self.tasks.spawn(async move { locking.lock_loop().await });
        }
    }

    /// Runs the queue until it is dropped or the consumer stops.
    pub(super) fn start_queue(self: &Arc<Self>, assigned: Arc<Assigned>) {
        let group = self.clone();
        self.tasks.spawn(async move {
            match group.mode {
                Mode::Concurrent => group.run_concurrent(assigned).await,
                Mode::Orderly => group.run_orderly(assigned).await,
            }
        });
    }

    /// The consumer stops or the queue is dropped.
    pub(super) async fn ended(&self, assigned: &Assigned) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = assigned.dropped.cancelled() => {}
        }
    }

    pub(super) fn has_ended(&self, assigned: &Assigned) -> bool {
        self.stop.is_cancelled() || assigned.dropped.is_cancelled()
    }

    /// The next messages of a queue, noted as in flight; `None` when it has ended.
    pub(super) async fn next_messages(
        self: &Arc<Self>,
        assigned: &Arc<Assigned>,
        broker_id: &mut u64,
    ) -> Option<Vec<ReceivedMessage>> {
        loop {
            let began = Instant::now();
            let from = assigned.next();
            let pulled = tokio::select! {
                () = self.ended(assigned) => return None,
                pulled = self.pull(assigned, from, *broker_id) => pulled,
            };
            let pause = match pulled {
                Ok(pulled) => {
                    *broker_id = pulled.suggested_broker;
                    if pulled.status == PullStatus::OffsetIllegal {
                        self.position_was_wrong(assigned, &pulled).await;
                        return None;
                    }
                    assigned.pulled(&pulled.messages, pulled.next);
                    if pulled.status == PullStatus::Found {
                        self.meters.pulled(&assigned.queue.topic, pulled.messages.len(), began.elapsed());
                    }
                    if !pulled.messages.is_empty() {
                        return Some(pulled.messages);
                    }
                    let stands = pulled.status == PullStatus::NoNewMessage || pulled.next == from;
                    if stands && began.elapsed() < HELD_AT_LEAST { NOT_HELD_PAUSE } else { Duration::ZERO }
                }
                Err(error) => {
                    tracing::warn!(group = %self.name, queue = ?assigned.queue, %error, "pull failed");
                    *broker_id = 0;
                    let topic = assigned.queue.topic.as_str().into();
                    let _ = self.inner().routes.refresh(&topic).await;
                    FAILED_PULL_PAUSE
                }
            };
            if !pause.is_zero() {
                let _ = timeout(pause, self.ended(assigned)).await;
            }
        }
    }

    async fn pull(&self, assigned: &Assigned, from: QueueOffset, broker_id: u64) -> Result<Pulled, ClientError> {
        let subscription = &self.subscriptions[&assigned.queue.topic];
        let request = PullRequest {
            group: &self.name,
            queue: &assigned.queue,
            from,
            max_messages: self.options.pull_batch,
            subscription,
            hold: self.options.hold,
            broker_id,
        };
        self.inner().pull(request).await
    }

    /// The broker says where to go on. The queue starts afresh from there with the next plan.
    async fn position_was_wrong(&self, assigned: &Arc<Assigned>, pulled: &Pulled) {
        let (queue, from, to) = (&assigned.queue, assigned.next(), pulled.next);
        tracing::warn!(group = %self.name, ?queue, %from, %to, "the position is not in the queue, or was reset");
        self.go_to(assigned, to).await;
    }

    pub(super) async fn go_to(&self, assigned: &Arc<Assigned>, to: QueueOffset) {
        let queue = &assigned.queue;
        self.drop_queue(assigned);
        // Whoever still commits for the dropped queue must not bring the wrong position back.
        assigned.restart_at(to);
        if let Some(local) = &self.broadcast {
            local.set(queue, to);
        } else if let Err(error) = self.inner().commit(&self.name, queue, to, true).await {
            tracing::warn!(group = %self.name, %error, "the new position is not committed");
        }
        self.plan_changed.notify_one();
    }

    /// Hands a batch of a queue to the user's code, and notes how that went.
    pub(super) async fn handle(&self, assigned: &Assigned, batch: &[ReceivedMessage]) -> Action {
        let handling = self.tracer.as_ref().and_then(|tracer| Some((tracer, tracer.begun(&self.name, batch)?)));
        let began = Instant::now();
        let action = self.handler.handle(batch.to_vec()).await;
        let (took, acknowledged) = (began.elapsed(), action == Action::Ack);
        self.meters.handled(&assigned.queue.topic, batch.len(), took, acknowledged);
        if let Some((tracer, handling)) = handling {
            tracer.handled(&self.name, handling, took, acknowledged);
        }
        action
    }

    pub(super) fn drop_queue(&self, assigned: &Arc<Assigned>) {
        let mut all = self.assigned.lock();
        if all.get(&assigned.queue).is_some_and(|current| Arc::ptr_eq(current, assigned)) {
            all.remove(&assigned.queue);
            if self.mode == Mode::Orderly {
                self.leaving.lock().insert(assigned.queue.clone());
            }
        }
        drop(all);
        assigned.dropped.cancel();
    }

    async fn commit_loop(&self) {
        let mut due = interval(self.options.commit_interval);
        due.tick().await;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = due.tick() => self.commit_all(false).await,
            }
        }
    }

    pub(super) async fn commit_all(&self, wait: bool) {
        let assigned: Vec<Arc<Assigned>> = self.assigned.lock().values().cloned().collect();
        for assigned in assigned {
            self.commit(&assigned, wait).await;
        }
        let Some(local) = self.broadcast.clone() else { return };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || local.save()).await {
            tracing::error!(group = %self.name, %error, "offsets not saved");
        }
    }

    /// Also when it is no news: what was told without waiting may be lost, and a broker that crashed forgets what it had
    /// not saved.
    pub(super) async fn commit(&self, assigned: &Assigned, wait: bool) {
        let offset = assigned.committable();
        if let Some(local) = &self.broadcast {
            local.set(&assigned.queue, offset);
            return;
        }
        if let Err(error) = self.inner().commit(&self.name, &assigned.queue, offset, wait).await {
            tracing::warn!(group = %self.name, %error, "offset not committed");
        }
    }

    /// Takes no new messages, waits for those in hand, commits, and leaves the group.
    pub(super) async fn shut_down(&self) {
        self.stop.cancel();
        self.tasks.close();
        if timeout(self.options.drain_timeout, self.tasks.wait()).await.is_err() {
            tracing::warn!(group = %self.name, "handlers still run: their messages will be delivered again");
        }
        self.commit_all(true).await;
        if self.mode == Mode::Orderly {
            self.unlock_all().await;
        }
        self.assigned.lock().clear();
        if let Some(tracer) = &self.tracer {
            tracer.flush().await;
        }
        self.inner().unregister(None, Some(self.name.clone())).await;
    }

    /// Waits, unless the consumer stops first or the queue is dropped: false.
    pub(super) async fn pause(&self, assigned: &Assigned, pause: Duration) -> bool {
        tokio::select! {
            () = self.ended(assigned) => false,
            () = sleep(pause) => true,
        }
    }
}
