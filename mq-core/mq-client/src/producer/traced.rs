//! What a producer's traces say of its sends and of the ends of its transactions.

use std::time::Duration;

use mq_protocol::ByteString;
use mq_protocol::command::Command;
use mq_protocol::header::SendMessageResponse;
use mq_protocol::ids::UnixMillis;
use mq_protocol::properties::{Properties, name};

use super::outgoing::Outgoing;
use super::{HalfReceipt, Producer, SendReceipt, SendStatus, Verdict};
use crate::client::Inner;
use crate::message::Message;
use crate::trace::{TraceRecord, TracedKind, TracedMessage, Tracer};
use crate::unique_key;

/// Apache's region of a transaction's end whose message names none.
const DEFAULT_REGION: &str = "DefaultRegion";
const DELAYS: [&str; 4] = [name::DELAY, name::TIMER_DELIVER_MS, name::TIMER_DELAY_MS, name::TIMER_DELAY_SEC];

/// A message as its trace will name it.
pub(super) struct Traced {
    id: ByteString,
    tags: Option<ByteString>,
    keys: Option<ByteString>,
    body_bytes: usize,
    kind: TracedKind,
}

impl Traced {
    pub(super) fn of(message: &Message, id: &ByteString) -> Self {
        let properties = &message.properties;
        let has = |property: &str| properties.get(property).is_some();
        let kind = match () {
            () if properties.get(name::TRANSACTION_PREPARED).is_some_and(|half| half == "true") => TracedKind::Half,
            () if DELAYS.into_iter().any(has) => TracedKind::Delayed,
            () => TracedKind::Normal,
        };
        let (tags, keys) = texts(properties);
        Self { id: id.clone(), tags, keys, body_bytes: message.body.len(), kind }
    }
}

fn texts(properties: &Properties) -> (Option<ByteString>, Option<ByteString>) {
    (properties.get(name::TAGS).cloned(), properties.get(name::KEYS).cloned())
}

impl Producer {
    /// As at Apache only what a broker stored is traced, and only if the broker wants it.
    pub(super) fn trace_sent(&self, outgoing: &Outgoing, receipt: &SendReceipt, answer: &Command, took: Duration) {
        let Some(tracer) = &self.0.tracer else { return };
        let Ok(header) = answer.header::<SendMessageResponse>() else { return };
        let (Some(region), true) = (header.region, header.trace_on.unwrap_or(true)) else { return };
        let broker = self.inner().routes.master_of(&receipt.queue.broker_name).unwrap_or_default();
        let cost_ms = took.as_millis() as u64;
        let at = UnixMillis(unique_key::now().0 - cost_ms as i64);
        for (traced, offset_id) in outgoing.traced.iter().zip(header.msg_id.split(',')) {
            tracer.note(TraceRecord::Sent {
                at,
                region: region.clone(),
                group: self.0.group.clone(),
                message: TracedMessage {
                    topic: outgoing.header.topic.clone(),
                    id: traced.id.clone(),
                    tags: traced.tags.clone(),
                    keys: traced.keys.clone(),
                    broker: broker.clone(),
                    kind: traced.kind,
                },
                body_bytes: traced.body_bytes,
                cost_ms,
                offset_id: offset_id.into(),
                success: receipt.status == SendStatus::SendOk,
            });
        }
    }

    pub(super) fn trace_end(&self, half: &HalfReceipt, verdict: Verdict) {
        if let Some(tracer) = &self.0.tracer {
            trace_end(tracer, self.inner(), half, None, verdict);
        }
    }
}

/// `asked_with`: the properties of the half, as a checkback brings them.
pub(super) fn trace_end(
    tracer: &Tracer,
    client: &Inner,
    half: &HalfReceipt,
    asked_with: Option<&Properties>,
    verdict: Verdict,
) {
    let (tags, keys) = asked_with.map(texts).unwrap_or_default();
    let region = asked_with.and_then(|properties| properties.get(name::MSG_REGION)).cloned();
    tracer.note(TraceRecord::Ended {
        at: unique_key::now(),
        region: region.unwrap_or(ByteString::from_static(DEFAULT_REGION)),
        group: half.group.clone(),
        message: TracedMessage {
            topic: half.topic.clone(),
            id: half.message_id.clone(),
            tags,
            keys,
            broker: client.routes.master_of(&half.broker_name).unwrap_or_default(),
            kind: TracedKind::Committed,
        },
        transaction_id: half.transaction_id.clone(),
        verdict,
        by_check: asked_with.is_some(),
    });
}
