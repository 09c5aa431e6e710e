//! What else a transaction can have, day by day: a broker that is away and the outbox, what handlers emit, a delay from the
//! commit, an order of commits, and operators who take care of halves that were given up.

use std::collections::BTreeMap;
use std::time::Duration;

use mq_client::{HalfReceipt, Verdict, property};
use mq_protocol::ByteString;
use mq_protocol::ids::{LogOffset, UnixMillis};
use mq_protocol::properties::name;
use mq_protocol::record::{Message, StoredMessage};
use mq_protocol::{sys_flag, topic};
use mq_store::Clock;
use txn_coordinator::{EndRequest, ParkedError, ParkedNow, Placing, Verdict as Ordered};
use txn_sdk::TransactionId;
use txn_sdk::simulation::Beside;

use super::broker::QUEUE;
use super::database::{Database, File};
use super::points::Actor;
use super::service::Work;
use super::world::{Dead, World};

/// What a consumer says of the packets that it has issued.
pub(crate) const PACKETS: &str = "PACKET_ISSUED";
pub(crate) const PACKETS_GROUP: &str = "red-packet";
/// Longer than any single fault but the longest keeps a transaction from its commit.
pub(crate) const DELAY: Duration = Duration::from_secs(60);
/// Less than a checkback waits for.
const SLOW: Duration = Duration::from_secs(5);
/// Batches of the outbox that a relay may take in a row.
const BATCHES: usize = 4;

#[derive(Default)]
pub(crate) struct Beyond {
    pub(crate) broker_is_away: bool,
    /// The order that is placed next takes its time between its half and its begin.
    is_slow: bool,
    /// Another caller's order, which overtakes the one that is placed next between its half and its begin.
    overtakes: Option<String>,
    /// The half whose END arrives together with the next one.
    pub(crate) next_end_is_unread: Option<String>,
    pub(crate) unread: Vec<EndRequest>,
    /// Messages that were committed, in the order in which their verdicts came.
    pub(crate) committed: Vec<String>,
    /// When the rows of an order were committed.
    pub(crate) paid_at: BTreeMap<String, UnixMillis>,
    /// What waited in an outbox when its relay looked.
    relayed_from: BTreeMap<TransactionId, String>,
    relays: bool,
    /// How often operators opened a transaction again.
    pub(crate) resumed: BTreeMap<String, u32>,
}

/// A message that waits, as a broker keeps it.
#[derive(Debug)]
pub(crate) struct Waits;

impl Placing for Waits {
    fn delayed(&self, message: Message, due: UnixMillis) -> Message {
        let mut properties = message.parsed_properties();
        properties.set(name::TIMER_OUT_MS, due.0.to_string());
        properties.set(name::REAL_TOPIC, message.topic.clone());
        Message { topic: ByteString::from_static(topic::TIMER), properties: properties.encode(), ..message }
    }
}

/// When a message was to be delivered, if it had to wait.
pub(crate) fn due(record: &StoredMessage) -> Option<UnixMillis> {
    record.message.property(name::TIMER_OUT_MS).map(|due| UnixMillis(due.parse().expect("a time")))
}

impl World {
    pub(crate) async fn beyond_day(&mut self, round: u32) {
        let order = |what: &str| format!("order-{round}-{what}");
        self.facts.beyond.overtakes = Some(order("second"));
        self.places(order("first"), Work::PaysInOrder).await;
        self.facts.beyond.overtakes = None;
        self.consume().await;
        self.facts.beyond.is_slow = true;
        self.places(order("later"), Work::PaysLater).await;
        self.facts.beyond.is_slow = false;

        self.facts.beyond.broker_is_away = true;
        for what in ["away-1", "away-2", "away-3"] {
            self.places(order(what), Work::Pays).await;
        }
        self.places(order("away-4"), Work::PaysInOrder).await;
        self.facts.beyond.broker_is_away = false;
        self.pass_time(Duration::from_secs(2)).await;
        self.places(order("back"), Work::Pays).await;

        // One delivery comes while the broker is away for whoever emits.
        self.facts.beyond.broker_is_away = self.plan.seed.is_multiple_of(2);
        self.consume().await;
        self.facts.beyond.broker_is_away = false;
        self.send_orphan().await;
        for seconds in [20, 20, 140] {
            self.pass_time(Duration::from_secs(seconds)).await;
            self.consume().await;
            self.facts.consumed_saved = self.facts.consumed;
        }
        let _ = self.operate();
        self.clean().await;
    }

    async fn places(&mut self, order: String, work: Work) {
        self.facts.order = order.clone();
        self.place_order(&order, work).await;
    }

    /// Between half and begin: time passes; or another caller is faster, and its END waits in the broker's socket until the
    /// next one is there.
    pub(crate) async fn before_begin(&mut self) {
        if std::mem::take(&mut self.facts.beyond.is_slow) {
            self.pass_time(SLOW).await;
        }
        let Some(second) = self.facts.beyond.overtakes.take() else { return };
        let first = std::mem::replace(&mut self.facts.order, second.clone());
        self.facts.beyond.next_end_is_unread = Some(format!("m{:04}", self.facts.messages + 1));
        self.place_order(&second, Work::PaysInOrder).await;
        self.facts.beyond.next_end_is_unread = None;
        self.facts.order = first;
    }

    /// What services and the broker do beside, as time goes on.
    pub(crate) async fn beyond_ticks(&mut self) {
        for order in &self.orders.committed().rows {
            self.facts.beyond.paid_at.entry(order.clone()).or_insert(self.clock.now());
        }
        self.relay(Actor::Service).await;
        self.relay(Actor::Consumer).await;
        let _ = self.deliver_due();
    }

    fn beside(&self, actor: Actor) -> Option<Beside<Database>> {
        match actor {
            Actor::Service => self.service.as_ref()?.beside.clone(),
            _ => self.consumer.as_ref()?.sender.as_ref()?.beside.clone(),
        }
    }

    pub(crate) fn outboxes_are_empty(&self) -> bool {
        let is_empty = |file: &File| file.committed().waiting.is_empty();
        is_empty(&self.orders) && is_empty(&self.packets)
    }

    fn database_of(&self, actor: Actor) -> &File {
        if actor == Actor::Service { &self.orders } else { &self.packets }
    }

    async fn relay(&mut self, actor: Actor) {
        if std::mem::replace(&mut self.facts.beyond.relays, true) {
            // One task does this, and it is at it.
            return;
        }
        for _ in 0..BATCHES {
            let waiting = self.database_of(actor).committed().waiting.clone();
            let Some(beside) = self.beside(actor).filter(|_| !waiting.is_empty()) else { break };
            self.note(format!("{actor:?} relays {}", waiting.len()));
            self.facts.beyond.relayed_from = waiting.into_iter().map(|(id, (topic, _))| (id, topic)).collect();
            let relays = Box::pin(self.drive(actor, async move { beside.relays().await }));
            if !matches!(relays.await, Some(Ok(true))) {
                break;
            }
        }
        self.facts.beyond.relays = false;
        self.let_tasks_run_boxed().await;
    }

    async fn let_tasks_run_boxed(&mut self) {
        Box::pin(self.let_tasks_run()).await;
    }

    /// A relay publishes nothing before what has waited longer.
    pub(crate) fn nothing_is_overtaken(&self, actor: Actor, half: &HalfReceipt, verdict: Verdict) {
        let Some(id) = self.outbox_id(half).filter(|_| verdict == Verdict::Commit) else { return };
        let still = &self.database_of(actor).committed().waiting;
        let older = self
            .facts
            .beyond
            .relayed_from
            .iter()
            .find(|(older, topic)| **older < id && ***topic == *half.topic && still.contains_key(older));
        if let Some((older, _)) = older {
            self.violation("O", &format!("{id} leaves the outbox before {older}"));
        }
    }

    fn outbox_id(&self, half: &HalfReceipt) -> Option<TransactionId> {
        let record = self.running().store.read(half.log_offset).ok()??;
        record.message.property(property::SDK_OUTBOX_TRANSACTION)?.parse().ok()
    }

    /// When the next message that waits is due.
    pub(crate) fn next_delivery(&self) -> Option<UnixMillis> {
        let waits = |(id, _): &(&String, &StoredMessage)| !self.found.visible.contains_key(*id);
        self.found.waiting.iter().filter(waits).filter_map(|(_, record)| due(record)).min()
    }

    /// The timers of a broker: each message once, when it is due.
    fn deliver_due(&mut self) -> Result<(), Dead> {
        self.found = self.find();
        let (now, store, found) = (self.clock.now(), &self.running().store, &self.found);
        let waits = |(id, record): &(&String, &StoredMessage)| {
            let is_due = record.log_offset < store.durable() && due(record).is_some_and(|due| due <= now);
            is_due && !found.visible.contains_key(*id)
        };
        let copies: Vec<[Message; 1]> =
            found.waiting.iter().filter(waits).map(|(_, record)| [delivery(record)]).collect();
        if copies.is_empty() || store.append(&copies).is_err() {
            return Ok(());
        }
        self.note(format!("{} messages are due", copies.len()));
        self.flush()
    }

    /// Whoever looks after what was given up opens it again, or rolls it back, and may do so once.
    fn operate(&mut self) -> Result<(), Dead> {
        let page = self.running().coordinator.parked(Default::default(), 100).expect("copies can be read");
        for row in page.rows {
            let is_orphan = self.facts.orphans.contains(&row.subject.transaction_id);
            let is_rolled_back = is_orphan && self.plan.seed % 2 == 1;
            for may in [true, false] {
                let now =
                    self.running().coordinator.parked(row.copy, 1).expect("copies can be read").rows.remove(0).now;
                if may && now != ParkedNow::Parked {
                    break;
                }
                let coordinator = &self.running().coordinator;
                let done = match is_rolled_back {
                    true => coordinator.resolve_parked(row.copy, Ordered::Rollback, "somebody").map(|_| None),
                    false => coordinator.resume(row.copy, "somebody").map(Some),
                };
                match done {
                    Ok(reopened) if may => {
                        self.flush()?;
                        let Some(reopened) = reopened else { continue };
                        self.running().coordinator.stored(reopened.halves);
                        *self.facts.beyond.resumed.entry(row.subject.transaction_id.clone()).or_default() += 1;
                    }
                    Err(ParkedError::Append(_)) => break,
                    Err(ParkedError::Used { .. }) if !may => {}
                    other => {
                        let text = format!("the copy {} is used again: {:?}", row.copy, other.map(|_| ()));
                        self.violation("T2", &text);
                    }
                }
            }
        }
        self.audit();
        Ok(())
    }
}

/// As a broker delivers what has waited.
fn delivery(record: &StoredMessage) -> Message {
    let message = &record.message;
    Message {
        topic: message.property(name::REAL_TOPIC).expect("it waits for its topic").into(),
        queue_id: QUEUE,
        sys_flag: sys_flag::with_transaction_bits(message.sys_flag, sys_flag::TRANSACTION_NONE),
        prepared_transaction_offset: LogOffset::ZERO,
        ..message.clone()
    }
}
