//! Which queues this member reads: every member computes the same plan from the same lists and takes its own share.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mq_protocol::ByteString;
use mq_protocol::body::MessageQueue;
use mq_protocol::ids::QueueOffset;

use super::assigned::Assigned;
use super::group::{Group, Mode};
use crate::error::{CallError, ClientError};
use crate::route::Route;

/// A plan that could not be carried out whole is tried again after this.
const UNSETTLED_PAUSE: Duration = Duration::from_secs(1);

type Queue = Arc<MessageQueue>;

impl Group {
    pub(super) async fn rebalance_loop(self: &Arc<Self>) {
        let mut settled = false;
        loop {
            let pause = if settled { self.options.rebalance_interval } else { UNSETTLED_PAUSE };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.plan_changed.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
            settled = self.rebalance().await;
        }
    }

    /// True when every topic's plan is carried out.
    pub(super) async fn rebalance(self: &Arc<Self>) -> bool {
        let mut settled = true;
        if self.told.swap(false, Ordering::Relaxed) {
            for topic in self.subscriptions.keys() {
                // A topic that is still unknown is looked for below, too.
                let _ = self.inner().routes.refresh(&topic.as_str().into()).await;
            }
        }
        for topic in self.subscriptions.keys() {
            match self.share(topic).await {
                Ok(Some(share)) => settled &= self.take_share(topic, share).await,
                Ok(None) => settled = false,
                Err(error) => {
                    tracing::debug!(group = %self.name, topic, %error, "no plan yet");
                    settled = false;
                }
            }
        }
        settled & self.free_unused_locks().await
    }

    /// This member's queues of a topic; `None` while the brokers do not know it as a member.
    async fn share(&self, topic: &str) -> Result<Option<Vec<Queue>>, ClientError> {
        let route = self.inner().routes.get(&topic.into()).await?;
        if self.broadcast.is_some() {
            return Ok(Some(route.readable.clone()));
        }
        let members = self.members(&route).await?;
        let me = &*self.inner().id;
        if !members.iter().any(|member| member == me) {
            self.inner().heartbeat_all().await;
            return Ok(None);
        }
        Ok(Some(self.options.allocation.allocate(me, &route.readable, &members)))
    }

    /// From the first broker that answers; all know all members.
    async fn members(&self, route: &Route) -> Result<Vec<String>, ClientError> {
        let mut failed = None;
        for address in route.addresses() {
            match self.inner().members(address, &self.name).await {
                Ok(members) => return Ok(members),
                Err(error) => failed = Some(error),
            }
        }
        let nobody = || ClientError::Invalid("the route has no broker".into());
        Err(failed.map_or_else(nobody, |error: CallError| error.into()))
    }

    async fn take_share(self: &Arc<Self>, topic: &str, share: Vec<Queue>) -> bool {
        let share: BTreeSet<Queue> = share.into_iter().collect();
        for assigned in self.others_share(topic, &share) {
            tracing::info!(group = %self.name, queue = ?assigned.queue, "queue given away");
            self.drop_queue(&assigned);
            self.commit(&assigned, false).await;
        }
        let mut new: Vec<Queue> = {
            let assigned = self.assigned.lock();
            share.into_iter().filter(|queue| !assigned.contains_key(queue)).collect()
        };
        let wanted = new.len();
        new.retain(|queue| !self.leaving.lock().contains(queue));
        if self.mode == Mode::Orderly && self.broadcast.is_none() && !new.is_empty() {
            let locked = self.lock(new.clone()).await.unwrap_or_default();
            new.retain(|queue| locked.contains(queue));
        }
        let mut taken = 0;
        for queue in new {
            taken += usize::from(self.take(queue).await);
        }
        taken == wanted
    }

    /// Queues that are in hand and not in the plan any more.
    fn others_share(&self, topic: &str, share: &BTreeSet<Queue>) -> Vec<Arc<Assigned>> {
        let assigned = self.assigned.lock();
        let others = assigned.iter().filter(|(queue, _)| queue.topic == topic && !share.contains(*queue));
        others.map(|(_, assigned)| assigned.clone()).collect()
    }

    /// Begins to read a queue. Orderly consumers hold its lock already.
    async fn take(self: &Arc<Self>, queue: Queue) -> bool {
        let position = match self.position(&queue).await {
            Ok(position) => position,
            Err(error) => {
                tracing::warn!(group = %self.name, ?queue, %error, "no position to begin at");
                return false;
            }
        };
        tracing::info!(group = %self.name, ?queue, %position, "queue taken");
        let assigned = Arc::new(Assigned::new(queue.clone(), position));
        assigned.set_locked(true);
        self.assigned.lock().insert(queue, assigned.clone());
        self.start_queue(assigned);
        true
    }

    async fn position(&self, queue: &MessageQueue) -> Result<QueueOffset, ClientError> {
        let from = self.options.consume_from;
        match &self.broadcast {
            None => from.position(self.inner(), &self.name, queue).await,
            Some(local) => match local.get(queue) {
                Some(offset) => Ok(offset),
                None => from.first_position(self.inner(), queue).await,
            },
        }
    }

    pub(super) fn retry_topic(group: &str) -> ByteString {
        mq_protocol::topic::retry_topic(group).into()
    }
}
