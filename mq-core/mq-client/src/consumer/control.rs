//! What brokers and operators' tools do with a running consumer: share its queues anew, send it elsewhere, ask what it
//! is doing, hand it one message.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, UNIX_EPOCH};

use mq_protocol::body::{
    self, ConsumeType, ConsumedDirectly, ConsumerData, ConsumerPositions, DirectResult, INBOX_PROPERTY, InboxAnswer,
    MessageModel, ObjectKey, QueueKey, QueueOffsets,
};
use mq_protocol::ids::QueueOffset;
use serde_json::json;

use super::assigned::Assigned;
use super::group::{Group, Mode};
use super::handler::Action;
use super::inbox::InboxLookup;
use crate::client::{Consuming, GroupMember};
use crate::message::ReceivedMessage;

impl GroupMember for Group {
    fn heartbeat(&self) -> ConsumerData {
        ConsumerData {
            consume_from_where: self.options.consume_from.on_the_wire(),
            consume_type: ConsumeType::ConsumePassively,
            group_name: self.name.to_string(),
            message_model: match self.broadcast {
                Some(_) => MessageModel::Broadcasting,
                None => MessageModel::Clustering,
            },
            subscription_data_set: self.subscriptions.values().cloned().collect(),
            unit_mode: false,
        }
    }

    fn members_changed(&self) {
        self.told.store(true, Ordering::Relaxed);
        self.plan_changed.notify_one();
    }

    fn reset(self: Arc<Self>, offsets: QueueOffsets) {
        let assigned = self.assigned.lock().clone();
        for (ObjectKey(queue), offset) in offsets.offset_table {
            let (Some(assigned), Ok(offset)) = (assigned.get(&queue).cloned(), u64::try_from(offset)) else { continue };
            tracing::info!(group = %self.name, ?queue, offset, "sent elsewhere by an operator");
            let group = self.clone();
            self.tasks.spawn(async move { group.go_to(&assigned, QueueOffset(offset)).await });
        }
    }

    fn positions(&self, topic: &str) -> ConsumerPositions {
        let assigned = self.assigned.lock();
        let of_topic = assigned.values().filter(|assigned| assigned.queue.topic == topic);
        let position = |assigned: &Arc<Assigned>| {
            let offset = i64::try_from(assigned.committable().0).unwrap_or(i64::MAX);
            (ObjectKey((*assigned.queue).clone()), offset)
        };
        ConsumerPositions { message_queue_table: of_topic.map(position).collect(), ..ConsumerPositions::default() }
    }

    fn consume_directly(self: Arc<Self>, message: ReceivedMessage) -> Consuming {
        Box::pin(async move {
            let began = Instant::now();
            let consume_result = match self.handler.handle(vec![message]).await {
                Action::Ack => DirectResult::Success,
                Action::RetryLater | Action::RetryAfterLevel(_) => DirectResult::Later,
            };
            ConsumedDirectly {
                auto_commit: true,
                consume_result,
                order: self.mode == Mode::Orderly,
                remark: None,
                spent_time_mills: began.elapsed().as_millis() as u64,
            }
        })
    }

    fn inbox(&self) -> Option<InboxLookup> {
        self.inbox.clone()
    }

    fn running_info(&self, inbox: Option<&InboxAnswer>) -> bytes::Bytes {
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let assigned = self.assigned.lock();
        let queues: BTreeMap<QueueKey, serde_json::Value> =
            assigned.values().map(|assigned| (ObjectKey((*assigned.queue).clone()), queue_info(assigned))).collect();
        let mut properties = json!({
            "PROP_CONSUME_TYPE": "CONSUME_PASSIVELY",
            "PROP_CONSUMEORDERLY": (self.mode == Mode::Orderly).to_string(),
            "PROP_CONSUMER_START_TIMESTAMP": started.to_string(),
            "PROP_CLIENT_VERSION": "V5_3_3",
        });
        if let Some(inbox) = inbox {
            properties[INBOX_PROPERTY] = json!(json!(inbox).to_string());
        }
        body::to_json_with_object_keys(&json!({
            "mqPopTable": {},
            "mqTable": queues,
            "properties": properties,
            "statusTable": self.meters.status(),
            "subscriptionSet": self.subscriptions.values().collect::<Vec<_>>(),
        }))
    }
}

/// Under Java's names, of which one is misspelt.
fn queue_info(assigned: &Assigned) -> serde_json::Value {
    json!({
        "cachedMsgMaxOffset": assigned.next().0,
        "commitOffset": assigned.committable().0,
        "droped": false,
        "locked": assigned.is_locked(),
    })
}
