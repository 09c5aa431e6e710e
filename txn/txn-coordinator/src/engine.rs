//! The transaction engine: state + input + `now` -> actions. No IO, no clock, no randomness.
//!
//! It learns halves once they are durable ([`Input::Stored`]) and outcomes once they are in the log
//! ([`Input::Written`]); in between it only decides. A driver that fails to carry an action out simply does not report
//! it, and the engine decides the same again. Recovery feeds the same inputs, read back from the log in its order.
//!
//! A transaction has one schedule, one count of checks and one outcome, however many halves its client stored. Its
//! oldest half stands for all: it is the copy that is checked. A transaction of several messages has a part for each;
//! of halves with the same part (the client sent one again) the oldest one counts.

mod facts;
mod half_map;
mod names;
mod open;
mod rules;
mod settled;
mod table;
mod view;

use mq_protocol::ids::{QueueOffset, UnixMillis};

use crate::planted::{Bug, planted};
use crate::types::{
    CheckResult, ClientId, CopyEnd, HalfOffset, Halves, Outcome, ParkReason, Part, Refusal, TransactionKey, Verdict,
};
use crate::verdicts::{CopyEnds, Verdicts};
use names::Names;
use open::{Incomplete, Open, PartSet};
use settled::{EndedTransaction, Settled};
use table::{Slot, Table};

pub use facts::{Action, Count, End, Half, Input, ParkedNow, Pending};
pub use rules::{Counters, Rules, Schedule};

#[derive(Clone, Debug)]
pub struct Engine {
    rules: Rules,
    table: Table,
    names: Names,
    verdicts: Verdicts,
    copies: CopyEnds,
    settled: Settled,
    counters: Counters,
}

impl Engine {
    #[must_use]
    pub fn new(rules: Rules, verdicts: Verdicts) -> Self {
        let settled = Settled::new(rules.settled_max);
        Self {
            rules,
            table: Table::default(),
            names: Names::default(),
            verdicts,
            copies: CopyEnds::default(),
            settled,
            counters: Counters::default(),
        }
    }

    pub fn set_schedule(&mut self, schedule: Schedule) {
        let Schedule { timeout, check_interval, check_max } = schedule;
        self.rules = Rules { timeout, check_interval, check_max, ..self.rules.clone() };
    }

    /// `now` never goes back, and never faster than time does.
    #[must_use]
    pub fn step(&mut self, now: UnixMillis, input: Input) -> Vec<Action> {
        match input {
            Input::Stored(half) => self.stored(half, now),
            Input::End(end) => return self.end(end).into_iter().collect(),
            Input::Due => return self.due(now),
            Input::CheckSent(half, result) => self.check_sent(half, result, now),
            Input::CheckNow(half) => self.check_now(half, now),
            Input::Counted(half, count) => self.counted(half, count, now),
            Input::Decided(half, outcome) => self.decided(half, outcome, now),
            Input::Written(halves, outcome) => self.written(&halves, outcome, now),
            Input::Gone(half) => self.gone(half),
            Input::CopyEnded(copy, end) => self.copy_ended(copy, end),
        }
        Vec::new()
    }

    fn stored(&mut self, half: Half, now: UnixMillis) {
        if let Some(outcome) = self.verdicts.get(half.offset) {
            return self.ended_before(&half, outcome, now);
        }
        if let Some(slot) = self.table.slot_of(half.offset) {
            // Learnt before (from its record, say), now from the one who knows its client.
            return self.set_client(slot, half.client);
        }
        let due = now.plus(self.first_wait(&half, now));
        let open = self.slot_by_key(&half.transaction);
        let slot = open.unwrap_or_else(|| self.begin(&half, due, now));
        if open.is_some() {
            let check_max = self.check_max(slot).min(self.rules.check_max_of(half.check_max));
            self.table.add_half(slot, half.offset, |open| join(open, &half, due, check_max));
        }
        self.set_client(slot, half.client);
    }

    /// The first half of a transaction that is not open: a new one, or one that has ended before.
    fn begin(&mut self, half: &Half, due: UnixMillis, now: UnixMillis) -> Slot {
        let (group, id) = (self.names.take(half.transaction.group()), half.transaction.id());
        let reopens = |ended: &&EndedTransaction| half.resumes && ended.outcome == Outcome::Parked;
        let ended = self.settled.get(group, id).filter(|ended| !reopens(ended));
        let due = if ended.is_some() { now } else { due };
        let mut open = Open::new(group, id.into(), half.offset, half.part, due);
        (open.checks, open.check_max) = (count(half.checks), half.check_max.unwrap_or(0));
        if let Some(ended) = ended {
            open.decided = Some(ended.outcome);
            open.add_done(ended.done);
        }
        self.table.insert(open)
    }

    /// Told late, or read back: what is known of the half holds for its transaction.
    fn ended_before(&mut self, half: &Half, outcome: Outcome, now: UnixMillis) {
        let done = PartSet::default().with(half.part);
        if let Some(slot) = self.slot_by_key(&half.transaction).filter(|_| outcome != Outcome::Parked) {
            self.table.get_mut(slot).add_done(done);
            self.close_soon(slot, outcome, now);
        }
        let group = self.names.take(half.transaction.group());
        let ended = EndedTransaction { group, id: half.transaction.id().into(), outcome, done };
        self.settled.remember(ended, &mut self.names);
    }

    fn set_client(&mut self, slot: Slot, client: Option<ClientId>) {
        let Some(client) = client else { return };
        let client = self.names.take(&client);
        if let Some(old) = self.table.get_mut(slot).client.replace(client) {
            self.names.give_back(old);
        }
    }

    fn slot_by_key(&self, transaction: &TransactionKey) -> Option<Slot> {
        self.table.find(self.names.known(transaction.group())?, transaction.id())
    }

    fn check_max(&self, slot: Slot) -> u32 {
        self.rules.check_max_of(Some(self.table.get(slot).check_max).filter(|max| *max > 0))
    }

    fn first_wait(&self, half: &Half, now: UnixMillis) -> std::time::Duration {
        if half.checks >= self.rules.check_max_of(half.check_max) {
            // Apache counted the last check already; its answer may still come.
            return self.rules.check_interval;
        }
        half.immunity.max(self.rules.timeout).saturating_sub(now.since(half.stored_at))
    }

    fn end(&mut self, end: End) -> Option<Action> {
        match self.judge(end) {
            Ok(action) => {
                self.counters.repeated += u64::from(matches!(action, Some(Action::Acknowledge(_))));
                action
            }
            Err(refusal) => {
                match refusal {
                    Refusal::Contrary(_) => self.counters.contrary += 1,
                    Refusal::Incomplete { .. } => self.counters.incomplete += 1,
                    _ => self.counters.mismatched += 1,
                }
                Some(Action::Refuse(refusal))
            }
        }
    }

    fn judge(&self, end: End) -> Result<Option<Action>, Refusal> {
        end.on_disk?;
        let asked = match end.verdict {
            Verdict::Unknown => return Ok(None),
            Verdict::Commit => Outcome::Committed,
            Verdict::Rollback => Outcome::RolledBack,
        };
        let open = self.table.slot_of(end.half).map(|slot| self.table.get(slot));
        let first = self.verdicts.get(end.half).or(open.and_then(|open| open.decided));
        match (first, open) {
            (Some(first), _) if first == asked => Ok(Some(Action::Acknowledge(first))),
            (Some(_), _) if planted(Bug::SecondVerdictWins) => Ok(Some(Action::Acknowledge(asked))),
            (Some(first), _) => Err(Refusal::Contrary(first)),
            (None, None) => Err(Refusal::NotDurable),
            (None, Some(_)) if planted(Bug::SiblingLeft) && asked == Outcome::Committed => {
                let half = Halves::from_slice(&[end.half]);
                Ok(Some(Action::Commit { copies: half.clone(), ends: half }))
            }
            (None, Some(open)) => Ok(Some(match asked {
                Outcome::Committed => {
                    let copies = open.to_publish();
                    let copies = copies.map_err(|Incomplete { here, of }| Refusal::Incomplete { here, of })?;
                    Action::Commit { copies, ends: open.halves() }
                }
                _ => Action::Rollback { ends: open.halves() },
            })),
        }
    }

    fn due(&mut self, now: UnixMillis) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some((slot, _)) = self.table.next().filter(|(_, due)| *due <= now) {
            // Whatever is decided now: if it fails, or is not answered, this is when to look again.
            let forget = if planted(Bug::ForgetHalf) { 1 << 20 } else { 1 };
            self.table.set_due(slot, now.plus(self.rules.check_interval.max(LEAST_INTERVAL) * forget));
            actions.push(self.visit(slot));
            if actions.len() >= self.rules.due_batch {
                break;
            }
        }
        actions
    }

    /// What to do about a transaction whose time has come.
    fn visit(&mut self, slot: Slot) -> Action {
        let check_max = self.check_max(slot);
        let (rules, names, open) = (&self.rules, &self.names, self.table.get_mut(slot));
        if let Some(outcome) = open.decided {
            return Action::Close { copies: open.unfinished(), ends: open.halves(), outcome };
        }
        let checks = u32::from(open.checks);
        let park = |reason| Action::Park { copies: open.copies(), ends: open.halves(), reason, checks };
        if checks >= check_max {
            return park(ParkReason::Unanswered);
        }
        if open.unasked > 0 && rules.check_interval.saturating_mul(open.unasked) >= rules.reserved {
            return park(ParkReason::NobodyToAsk);
        }
        open.asking = true;
        Action::Check {
            half: open.first(),
            client: open.client.map(|name| names.text(name).clone()),
            attempt: checks + 1,
        }
    }

    fn check_sent(&mut self, half: HalfOffset, result: CheckResult, now: UnixMillis) {
        let Some(slot) = self.table.slot_of(half) else { return };
        let open = self.table.get_mut(slot);
        if !std::mem::take(&mut open.asking) {
            return;
        }
        match result {
            CheckResult::Delivered => {
                open.checks = open.checks.saturating_add(u16::from(!planted(Bug::ForgetCheck)));
                open.unasked = 0;
                self.counters.checks_sent += 1;
            }
            CheckResult::NobodyToAsk => {
                open.checks = open.checks.saturating_add(u16::from(planted(Bug::CountUnsentCheck)));
                open.unasked = open.unasked.saturating_add(1);
                self.counters.nobody_to_ask += 1;
            }
            CheckResult::HeldBack => {
                self.counters.held_back += 1;
                let due = open.due.min(now.plus(HELD_BACK_FOR));
                self.table.set_due(slot, due);
            }
        }
    }

    fn check_now(&mut self, half: HalfOffset, now: UnixMillis) {
        if let Some(slot) = self.table.slot_of(half) {
            let due = self.table.get(slot).due.min(now);
            self.table.set_due(slot, due);
        }
    }

    fn counted(&mut self, half: HalfOffset, Count { checks, unasked }: Count, now: UnixMillis) {
        let Some(slot) = self.table.slot_of(half) else { return };
        let check_max = self.check_max(slot);
        let open = self.table.get_mut(slot);
        let before = open.checks;
        open.checks = before.max(checks);
        open.unasked = open.unasked.max(unasked);
        if u32::from(before) < check_max && u32::from(checks) >= check_max && open.decided.is_none() {
            // As with what Apache counted: the answer to the last check may still come.
            let due = open.due.max(now.plus(self.rules.check_interval));
            self.table.set_due(slot, due);
        }
    }

    fn decided(&mut self, half: HalfOffset, outcome: Outcome, now: UnixMillis) {
        let Some(slot) = self.table.slot_of(half) else { return };
        let open = self.table.get_mut(slot);
        open.add_done(PartSet::default().with(open.part_of(half)));
        self.close_soon(slot, outcome, now);
        let open = self.table.get(slot);
        let done = if open.parts() == 1 { PartSet::default().with(Part::WHOLE) } else { open.done() };
        let ended = EndedTransaction { group: self.names.again(open.group), id: open.id.clone(), outcome, done };
        self.settled.remember(ended, &mut self.names);
    }

    /// The transaction has its outcome: what is left of it gets its OP record at the next look.
    fn close_soon(&mut self, slot: Slot, outcome: Outcome, now: UnixMillis) {
        let open = self.table.get_mut(slot);
        if open.decided.is_none() {
            open.decided = Some(outcome);
            self.table.set_due(slot, now);
        }
    }

    fn written(&mut self, halves: &[HalfOffset], outcome: Option<Outcome>, now: UnixMillis) {
        for half in halves {
            let Some(slot) = self.table.slot_of(*half) else { continue };
            let open = self.table.get_mut(slot);
            let outcome = open.decided.or(outcome).unwrap_or(Outcome::RolledBack);
            open.add_done(PartSet::default().with(open.part_of(*half)));
            self.verdicts.set(*half, outcome);
            if let Some(ended) = self.table.take_half(slot, *half) {
                match outcome {
                    Outcome::Committed => self.counters.committed += 1,
                    Outcome::RolledBack => self.counters.rolled_back += 1,
                    Outcome::Parked => self.counters.parked += 1,
                }
                let done = if ended.parts() == 1 { PartSet::default().with(Part::WHOLE) } else { ended.done() };
                ended.client.into_iter().for_each(|client| self.names.give_back(client));
                self.settled
                    .remember(EndedTransaction { group: ended.group, id: ended.id, outcome, done }, &mut self.names);
            } else if !planted(Bug::SiblingLeft) {
                self.close_soon(slot, outcome, now);
            }
        }
    }

    /// The first end stands: what a start reads again, or another broker did, comes later.
    fn copy_ended(&mut self, copy: QueueOffset, end: CopyEnd) {
        if self.copies.get(copy).is_none() {
            self.copies.set(copy, end);
        }
    }

    fn gone(&mut self, half: HalfOffset) {
        let Some(slot) = self.table.slot_of(half) else { return };
        self.counters.gone += 1;
        if let Some(gone) = self.table.take_half(slot, half) {
            gone.client.into_iter().chain([gone.group]).for_each(|name| self.names.give_back(name));
        }
    }
}

/// Clients answer thousands of questions a second; each look at a half that waits for them reads it again.
const HELD_BACK_FOR: std::time::Duration = std::time::Duration::from_secs(1);
/// A schedule that never comes to rest would hold a tick for ever.
const LEAST_INTERVAL: std::time::Duration = std::time::Duration::from_millis(1);

/// One more half of this transaction; `due` is when it would be checked on its own.
fn join(open: &mut Open, half: &Half, due: UnixMillis, check_max: u32) {
    open.join(half.offset, half.part);
    open.check_max = open.check_max.max(half.check_max.unwrap_or(0));
    if half.resumes && open.decided == Some(Outcome::Parked) {
        // Apache parked it (without an OP record) and its operator has resumed it: it begins anew.
        open.reopen();
        (open.checks, open.unasked, open.due) = (count(half.checks), 0, due);
    } else {
        open.checks = open.checks.max(count(half.checks));
        if half.checks >= check_max && open.decided.is_none() {
            open.due = open.due.max(due);
        }
    }
}

fn count(checks: u32) -> u16 {
    u16::try_from(checks).unwrap_or(u16::MAX)
}

#[cfg(test)]
#[path = "engine_cases.rs"]
mod cases;
