//! The invariants T1 to T6 of transactions, and that of the consumer's effect (C), looked at after every step.

use std::collections::{BTreeMap, BTreeSet};

use mq_client::property::{ORDER_KEY, PART};
use mq_protocol::ids::LogOffset;
use mq_protocol::properties::name;
use mq_protocol::record::StoredMessage;
use mq_protocol::topic;
use mq_store::Clock;
use txn_coordinator::{HalfOffset, Outcome};
use txn_sdk::{TRANSACTION_ID_PROPERTY, TransactionId};

use super::beyond::{DELAY, PACKETS, due};
use super::broker::CHECK_MAX;
use super::database::File;
use super::points::Day;
use super::world::World;

/// The log, as consumers, operators and an Apache broker find it.
#[derive(Default)]
pub(crate) struct Found {
    /// Read so far.
    until: LogOffset,
    /// By half offset.
    halves: BTreeMap<u64, StoredMessage>,
    pub(crate) visible: BTreeMap<String, Vec<StoredMessage>>,
    /// What consumers' handlers have published.
    emitted: BTreeMap<String, Vec<StoredMessage>>,
    /// Committed, and delivered later.
    pub(crate) waiting: BTreeMap<String, StoredMessage>,
    parked: BTreeMap<String, u32>,
    /// Halves that have an OP record.
    ended: BTreeSet<u64>,
}

fn id_of(record: &StoredMessage) -> String {
    record.message.property("UNIQ_KEY").unwrap_or_default().to_owned()
}

fn transaction_of(record: &StoredMessage) -> Option<TransactionId> {
    record.message.property(TRANSACTION_ID_PROPERTY).and_then(|id| id.parse().ok())
}

/// By which checks are counted: several messages under one verdict are asked about as one.
pub(crate) fn asked_by(record: &StoredMessage) -> String {
    transaction_of(record).map_or_else(|| id_of(record), |id| id.to_string())
}

fn order_of(record: &StoredMessage) -> String {
    record.message.property("KEYS").unwrap_or_default().to_owned()
}

impl Found {
    /// How often a half's message was published, or is to be.
    fn published(&self, id: &str) -> usize {
        let at_once = |found: &BTreeMap<String, Vec<StoredMessage>>| {
            found.get(id).map_or(0, |records| records.iter().filter(|record| due(record).is_none()).count())
        };
        at_once(&self.visible) + at_once(&self.emitted) + usize::from(self.waiting.contains_key(id))
    }

    /// What commits have put into the log.
    fn committed(&self) -> impl Iterator<Item = &StoredMessage> {
        let at_once =
            self.visible.values().chain(self.emitted.values()).flatten().filter(|record| due(record).is_none());
        at_once.chain(self.waiting.values())
    }
}

impl World {
    /// What is in the log by now: what was read before is still there, but after a crash.
    pub(crate) fn find(&mut self) -> Found {
        let mut found = std::mem::take(&mut self.found);
        for record in self.running().store.scan(found.until) {
            let record = record.expect("the log can be read");
            found.until = record.log_offset.plus(u64::from(record.size));
            match &*record.message.topic {
                topic::HALF => drop(found.halves.insert(record.queue_offset.0, record)),
                topic::OP_HALF => {
                    let body = std::str::from_utf8(&record.message.body).expect("OP records are text");
                    for half in body.split_terminator(',').map(|half| half.parse().expect("a number")) {
                        if found.halves.get(&half).is_none_or(|half| half.log_offset >= record.log_offset) {
                            self.violation("T6", &format!("the OP record {} precedes its half", record.queue_offset));
                        }
                        found.ended.insert(half);
                    }
                }
                topic::CHECK_MAX_TIME => *found.parked.entry(id_of(&record)).or_default() += 1,
                topic::TIMER => {
                    let id = id_of(&record);
                    if found.waiting.insert(id.clone(), record).is_some() {
                        self.violation("T2", &format!("{id} waits twice"));
                    }
                }
                PACKETS => found.emitted.entry(id_of(&record)).or_default().push(record),
                _ => found.visible.entry(id_of(&record)).or_default().push(record),
            }
        }
        found
    }

    /// What holds at any time.
    pub(crate) fn audit(&mut self) {
        let found = self.find();
        self.audit_halves(&found);
        self.audit_visible(&found);
        self.audit_beyond(&found);
        self.audit_effects(&found);
        self.found = found;
    }

    fn audit_halves(&mut self, found: &Found) {
        let store = &self.running().store;
        let (durable, end) = (store.durable(), store.end());
        for (half, record) in &found.halves {
            let (half, id) = (*half, id_of(record));
            let outcome = self.running().coordinator.outcome(HalfOffset(half));
            let (copies, parked) = (found.published(&id), found.parked.get(&id).copied().unwrap_or(0));
            let resumed = self.facts.beyond.resumed.get(&id).copied().unwrap_or(0);
            let before = self.facts.outcomes.get(&half).copied();
            if before.is_some() && before != outcome {
                self.violation("T2", &format!("{id}: {before:?} became {outcome:?}"));
            }
            let promised = self.facts.promised.get(&id).copied();
            if outcome.is_some() && promised.is_some() && promised != outcome && resumed == 0 {
                self.violation("T2", &format!("{id} was answered {promised:?} and is {outcome:?}"));
            }
            if copies > 1 {
                self.violation("T2", &format!("{id} is visible {copies} times"));
            }
            // What is not on disk yet is neither seen nor promised.
            let written = durable == end || promised.is_some();
            match outcome {
                Some(Outcome::RolledBack) if copies > 0 => {
                    self.violation("T3", &format!("{id} was rolled back and is visible"));
                }
                Some(Outcome::Committed) if copies == 0 && written => {
                    self.violation("T4", &format!("{id} was committed and is nowhere to be seen"));
                }
                Some(Outcome::Parked) if !(1..=1 + resumed).contains(&parked) && written => {
                    self.violation("T5", &format!("{id} was parked; an operator finds {parked} of it"));
                }
                _ => {}
            }
            if outcome.is_some() && written && !found.ended.contains(&half) {
                self.violation("T2", &format!("{id} has ended and has no OP record: Apache would ask again"));
            }
            if outcome == Some(Outcome::Parked) {
                let checks = self.facts.ever_delivered.get(&asked_by(record)).copied().unwrap_or(0);
                if checks < CHECK_MAX || !self.facts.orphans.contains(&id) && promised.is_some() && resumed == 0 {
                    self.violation("T5", &format!("{id} was parked after {checks} checks"));
                }
            }
            if let (Some(outcome), true) = (outcome, durable == end) {
                self.facts.outcomes.insert(half, outcome);
            }
        }
        for (half, outcome) in &self.facts.outcomes {
            if !found.halves.contains_key(half) {
                self.violation("T1", &format!("half {half}, {outcome}, is lost"));
            }
        }
    }

    fn audit_visible(&self, found: &Found) {
        let durable = self.running().store.durable();
        let mut parts: BTreeMap<Option<TransactionId>, (usize, usize)> = BTreeMap::new();
        for record in found.committed().filter(|record| record.log_offset < durable) {
            if let Some((_, of)) = record.message.property(PART).and_then(|part| part.split_once('/')) {
                let of = of.parse().expect("the place of a message among others");
                parts.entry(transaction_of(record)).or_insert((0, of)).0 += 1;
            }
            let id = id_of(record);
            let place = record.message.prepared_transaction_offset;
            let its_half = |half: &&StoredMessage| half.log_offset == place && id_of(half) == id;
            if place >= record.log_offset || !found.halves.values().any(|half| its_half(&half)) {
                self.violation("T6", &format!("{id} is visible without its half"));
            }
            let database = self.behind(record).committed();
            let has_marker =
                |id: &TransactionId| database.markers.get(id) == Some(&true) || database.has_forgotten(*id);
            if !transaction_of(record).is_some_and(|id| has_marker(&id)) || !database.has_row(&order_of(record)) {
                self.violation("T4", &format!("{id} is visible, and its transaction did not commit"));
            }
        }
        if let Some((id, (seen, of))) = parts.into_iter().find(|(_, (seen, of))| seen != of) {
            self.violation("T2", &format!("of the {of} messages of {id:?} {seen} are visible"));
        }
    }

    /// Where the rows of a message's transaction are.
    fn behind(&self, record: &StoredMessage) -> &File {
        let real = record.message.property(name::REAL_TOPIC).unwrap_or(&record.message.topic);
        if real == PACKETS { &self.packets } else { &self.orders }
    }

    /// Delays, the order of commits, and the outbox.
    fn audit_beyond(&self, found: &Found) {
        for record in found.visible.values().flatten() {
            let Some(due) = due(record) else { continue };
            let (id, order) = (id_of(record), order_of(record));
            let paid_at = self.facts.beyond.paid_at.get(&order).copied().unwrap_or(self.clock.now());
            if record.store_timestamp < due || record.store_timestamp < paid_at.plus(DELAY) {
                self.violation(
                    "D",
                    &format!("{id} is delivered {:?} after its commit", record.store_timestamp.since(paid_at)),
                );
            }
        }
        let mut in_order: Vec<_> =
            found.visible.values().flatten().filter(|it| it.message.property(ORDER_KEY).is_some()).collect();
        in_order.sort_by_key(|record| record.queue_offset);
        let place = |record: &&StoredMessage| self.facts.beyond.committed.iter().position(|id| *id == id_of(record));
        let places: Vec<_> = in_order.iter().filter_map(place).collect();
        if !places.is_sorted() {
            self.violation("O", &format!("committed as {:?}, visible as {places:?}", self.facts.beyond.committed));
        }
        let waiting = &self.orders.committed().waiting;
        if let Some((id, _)) = waiting.iter().find(|(_, (_, properties))| properties.contains(ORDER_KEY)) {
            self.violation("O", &format!("{id} waits in the outbox, and those behind it do not"));
        }
        let mut published: BTreeMap<(&str, String), u32> = BTreeMap::new();
        for record in found.visible.values().chain(found.emitted.values()).flatten() {
            let times = published.entry((&record.message.topic, order_of(record))).or_default();
            *times += 1;
            if *times > 1 {
                self.violation(
                    "T2",
                    &format!("{} is published {times} times in {}", order_of(record), record.message.topic),
                );
            }
        }
    }

    fn audit_effects(&self, found: &Found) {
        let mut visible = found.visible.values().flatten();
        let acknowledged = visible.clone().filter(|record| record.queue_offset < self.facts.consumed);
        let mut packets: BTreeMap<String, u32> = BTreeMap::new();
        for packet in &self.packets.committed().rows {
            *packets.entry(packet.split('/').next().unwrap_or_default().to_owned()).or_default() += 1;
        }
        for (order, count) in &packets {
            if *count > 1 {
                self.violation("C", &format!("{order} had its effect {count} times"));
            }
            if !visible.any(|record| order_of(record) == *order) {
                self.violation("C", &format!("{order} had an effect, and no message"));
            }
            visible = found.visible.values().flatten();
        }
        for record in acknowledged {
            if !packets.contains_key(&order_of(record)) {
                self.violation("C", &format!("{} was acknowledged without its effect", order_of(record)));
            }
        }
    }

    /// What a delivery has emitted is published if and only if it has committed.
    fn audit_emitted(&self, found: &Found) {
        if self.plan.day != Day::Beyond {
            return;
        }
        let is_parked = |order: &str| {
            let halves = found.halves.values().filter(|half| order_of(half) == order);
            let outcome = |half: &StoredMessage| self.running().coordinator.outcome(half.queue_offset.into());
            halves
                .filter(|half| half.message.property(name::REAL_TOPIC) == Some(PACKETS))
                .any(|half| outcome(half) == Some(Outcome::Parked))
        };
        for packet in &self.packets.committed().rows {
            let order = packet.split('/').next().unwrap_or_default();
            if !is_parked(order) && !found.emitted.values().flatten().any(|record| order_of(record) == order) {
                self.violation("T4", &format!("the packet of {order} is committed, and nobody is told"));
            }
        }
    }

    /// What holds once everything had time to settle.
    pub(crate) fn audit_settled(&mut self) {
        self.audit();
        let found = self.find();
        let pending = self.running().coordinator.stats().pending_halves;
        if pending > 0 {
            self.violation("T1", &format!("{pending} halves are forgotten"));
        }
        let (mut messages, mut parked): (BTreeMap<String, u32>, BTreeSet<String>) = Default::default();
        for record in found.halves.values() {
            let (id, half) = (id_of(record), record.queue_offset.0);
            let Some(outcome) = self.running().coordinator.outcome(HalfOffset(half)) else {
                self.violation("T1", &format!("{id} has no outcome"));
            };
            let transaction = transaction_of(record);
            let is_orphan = transaction.is_none();
            let is_forgotten = transaction.is_some_and(|id| self.behind(record).committed().has_forgotten(id));
            let is_parked = outcome == Outcome::Parked;
            // A transaction that stays open through all checks is parked too, and one whose marker is gone; nobody else may be.
            if is_orphan && !is_parked || is_parked && !is_orphan && !self.facts.outlasted_checks && !is_forgotten {
                self.violation("T5", &format!("{id} ended {outcome}, orphan: {is_orphan}"));
            }
            if is_parked && record.message.property(name::REAL_TOPIC) != Some(PACKETS) {
                parked.insert(order_of(record));
            }
        }
        for record in found.visible.values().flatten() {
            *messages.entry(order_of(record)).or_default() += 1;
        }
        self.audit_emitted(&found);
        let rows = &self.orders.committed().rows;
        let settled = |order: &String| messages.get(order) == Some(&1) || parked.contains(order);
        if let Some(order) = rows.iter().find(|order| !settled(order)) {
            let count = messages.get(order).copied().unwrap_or(0);
            self.violation("T4", &format!("{order} is committed, and has {count} messages"));
        }
        if let Some(order) = messages.keys().find(|order| !rows.contains(*order)) {
            self.violation("T4", &format!("{order} has a message, and is not committed"));
        }
        let packets: BTreeSet<String> = self
            .packets
            .committed()
            .rows
            .iter()
            .map(|packet| packet.split('/').next().unwrap_or_default().into())
            .collect();
        if let Some(order) = messages.keys().find(|order| !packets.contains(*order)) {
            self.violation("C", &format!("{order} has a message, and no effect"));
        }
        for (order, said) in &self.facts.said {
            if matches!(*said, "refused" | "rolled back") && rows.contains(order) {
                self.violation("T4", &format!("{order} has a row, and the SDK said {said}"));
            }
        }
    }
}
