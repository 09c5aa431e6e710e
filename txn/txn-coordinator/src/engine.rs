//! The transaction engine: state + input + `now` -> actions. No IO, no clock, no randomness.
//!
//! It learns halves once they are durable ([`Input::Stored`]) and outcomes once they are in the log
//! ([`Input::Written`]); in between it only decides. A driver that fails to carry an action out simply does not report
//! it, and the engine decides the same again. Recovery feeds the same inputs, read back from the log in its order.
//!
//! A transaction has one schedule, one count of checks and one outcome, however many halves its client stored. Its
//! oldest half stands for all: it is the copy that is checked, committed and parked.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use foldhash::quality::RandomState;
use mq_protocol::ByteString;
use mq_protocol::ids::UnixMillis;

use crate::types::{CheckResult, ClientId, HalfOffset, Outcome, ParkReason, Refusal, TransactionKey, Verdict};
use crate::verdicts::Verdicts;

/// The rules of the schedule and the limits of what is kept in memory.
#[derive(Clone, Debug)]
pub struct Rules {
    /// First check after this long (`transactionTimeOut`), or after the half's own immunity when that is longer.
    pub timeout: Duration,
    /// Between two checks (`transactionCheckInterval`).
    pub check_interval: Duration,
    /// Delivered checks before the half is parked (`transactionCheckMax`).
    pub check_max: u32,
    /// A half that nobody could be asked about is parked after this long (`fileReservedTime`). Measured in fruitless
    /// attempts times the interval: a clock that leaps three days ahead parks nothing.
    pub reserved: Duration,
    /// Halves looked at by one [`Input::Due`]: a restart with a million of them must not be one long pause.
    pub due_batch: usize,
    /// Ended transactions whose key is remembered, so that a half which its client sent again and which arrives after
    /// the verdict is closed by it. Client retries come within seconds: this many per second of them are too few only
    /// above some ten thousand transactions a second.
    pub settled_max: usize,
}

/// The part of the rules that may change while the engine runs. See [`Rules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    pub timeout: Duration,
    pub check_interval: Duration,
    pub check_max: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(6),
            check_interval: Duration::from_secs(30),
            check_max: 15,
            reserved: Duration::from_secs(72 * 3600),
            due_batch: 1024,
            settled_max: 100_000,
        }
    }
}

/// A half message that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Half {
    pub offset: HalfOffset,
    pub transaction: TransactionKey,
    /// By the broker's clock; the client's clock decides nothing.
    pub stored_at: UnixMillis,
    /// `CHECK_IMMUNITY_TIME_IN_SECONDS`; zero when the client did not ask for any.
    pub immunity: Duration,
    /// Checks that an Apache broker counted in the record.
    pub checks: u32,
    /// Stored by an operator to open a parked transaction again.
    pub resumes: bool,
    pub client: Option<ClientId>,
}

/// END_TRANSACTION, beside what the half queue holds at the place that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    pub half: HalfOffset,
    pub group: ByteString,
    /// Older clients and some tools leave it out.
    pub transaction_id: Option<ByteString>,
    pub verdict: Verdict,
    /// The transaction of the half on disk, if its commit-log offset is the one that the request names.
    pub on_disk: Result<TransactionKey, Refusal>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The half is durable.
    Stored(Half),
    End(End),
    /// Time has passed.
    Due,
    CheckSent(HalfOffset, CheckResult),
    /// A real message (or a parked copy) of this half is in the log; an OP record may still be missing. Recovery only.
    Decided(HalfOffset, Outcome),
    /// An OP record that ends these halves is in the log. Without an outcome (recovery): what was decided for the
    /// transaction, else rolled back.
    Written(Vec<HalfOffset>, Option<Outcome>),
    /// The half is no longer on disk, or cannot be read.
    Gone(HalfOffset),
}

/// What the driver has to do. `ends` are the halves for the OP record, in order, `half` the copy to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Append the real message and the OP record as one group.
    Commit {
        half: HalfOffset,
        ends: Vec<HalfOffset>,
    },
    /// Append the OP record.
    Rollback {
        ends: Vec<HalfOffset>,
    },
    /// Append the OP record that is missing; the outcome itself is in the log.
    Close {
        ends: Vec<HalfOffset>,
        outcome: Outcome,
    },
    /// Append the copy for the operator and the OP record as one group.
    Park {
        half: HalfOffset,
        ends: Vec<HalfOffset>,
        reason: ParkReason,
        checks: u32,
    },
    /// Ask the client, or whoever else is of its group.
    Check {
        half: HalfOffset,
        client: Option<ClientId>,
        attempt: u32,
    },
    /// Answer that it is so: the same verdict was given before.
    Acknowledge(Outcome),
    Refuse(Refusal),
}

/// Since the start; what recovery replayed is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub committed: u64,
    pub rolled_back: u64,
    pub parked: u64,
    /// Verdicts that contradicted the first one.
    pub contrary: u64,
    /// Verdicts that matched no half.
    pub mismatched: u64,
    pub repeated: u64,
    pub checks_sent: u64,
    pub nobody_to_ask: u64,
    /// Halves that vanished from disk before they ended.
    pub gone: u64,
}

/// A transaction without an outcome in the log.
#[derive(Clone, Debug)]
struct Open {
    /// Ascending; the first stands for all.
    halves: Vec<HalfOffset>,
    client: Option<ClientId>,
    due: UnixMillis,
    checks: u32,
    /// Fruitless attempts since the last delivered check.
    unasked: u32,
    /// A check is out and its result was not told yet.
    asking: bool,
    /// The outcome is in the log, but not every half has its OP record.
    decided: Option<Outcome>,
}

#[derive(Clone, Debug)]
pub struct Engine {
    rules: Rules,
    /// Every half without an outcome.
    halves: BTreeMap<HalfOffset, TransactionKey>,
    open: HashMap<TransactionKey, Open, RandomState>,
    /// Open transactions by due time, each under its oldest half.
    schedule: BTreeSet<(UnixMillis, HalfOffset)>,
    verdicts: Verdicts,
    settled: Settled,
    counters: Counters,
    time: SteadyTime,
}

impl Engine {
    #[must_use]
    pub fn new(rules: Rules, verdicts: Verdicts) -> Self {
        let settled = Settled { max: rules.settled_max, ..Settled::default() };
        Self {
            rules,
            halves: BTreeMap::new(),
            open: HashMap::default(),
            schedule: BTreeSet::new(),
            verdicts,
            settled,
            counters: Counters::default(),
            time: SteadyTime::default(),
        }
    }

    pub fn set_schedule(&mut self, schedule: Schedule) {
        let Schedule { timeout, check_interval, check_max } = schedule;
        self.rules = Rules { timeout, check_interval, check_max, ..self.rules.clone() };
    }

    #[must_use]
    pub fn step(&mut self, now: UnixMillis, input: Input) -> Vec<Action> {
        let steady = self.time.steady(now);
        match input {
            Input::Stored(half) => self.stored(half, now, steady),
            Input::End(end) => return self.end(&end).into_iter().collect(),
            Input::Due => return self.due(steady),
            Input::CheckSent(half, result) => self.check_sent(half, result),
            Input::Decided(half, outcome) => self.decided(half, outcome, steady),
            Input::Written(halves, outcome) => self.written(&halves, outcome, steady),
            Input::Gone(half) => self.gone(half),
        }
        Vec::new()
    }

    fn stored(&mut self, half: Half, now: UnixMillis, steady: UnixMillis) {
        if let Some(outcome) = self.verdicts.get(half.offset) {
            // Told late, or read back: what is known of the half holds for its transaction.
            if outcome != Outcome::Parked {
                self.close_soon(&half.transaction, outcome, steady);
            }
            return self.settled.remember(half.transaction, outcome);
        }
        if let Some(known) = self.halves.get(&half.offset) {
            // Learnt before (from its record, say), now from the one who knows its client.
            let open = self.open.get_mut(known).expect("an open half has its transaction");
            open.client = half.client.or(open.client.take());
            return;
        }
        self.halves.insert(half.offset, half.transaction.clone());
        let due = steady.plus(self.first_wait(&half, now));
        match self.open.get_mut(&half.transaction) {
            Some(open) => {
                self.schedule.remove(&(open.due, open.halves[0]));
                open.join(half, due, self.rules.check_max);
                self.schedule.insert((open.due, open.halves[0]));
            }
            None => {
                let reopens = |outcome: &Outcome| half.resumes && *outcome == Outcome::Parked;
                let decided = self.settled.outcome(&half.transaction).filter(|outcome| !reopens(outcome));
                let due = if decided.is_some() { steady } else { due };
                let (halves, client, checks) = (vec![half.offset], half.client, half.checks);
                self.schedule.insert((due, half.offset));
                self.open
                    .insert(half.transaction, Open { halves, client, due, checks, unasked: 0, asking: false, decided });
            }
        }
    }

    fn first_wait(&self, half: &Half, now: UnixMillis) -> Duration {
        if half.checks >= self.rules.check_max {
            // Apache counted the last check already; its answer may still come.
            return self.rules.check_interval;
        }
        half.immunity.max(self.rules.timeout).saturating_sub(now.since(half.stored_at))
    }

    fn end(&mut self, end: &End) -> Option<Action> {
        match self.judge(end) {
            Ok(action) => {
                self.counters.repeated += u64::from(matches!(action, Some(Action::Acknowledge(_))));
                action
            }
            Err(refusal) => {
                match refusal {
                    Refusal::Contrary(_) => self.counters.contrary += 1,
                    _ => self.counters.mismatched += 1,
                }
                Some(Action::Refuse(refusal))
            }
        }
    }

    fn judge(&self, end: &End) -> Result<Option<Action>, Refusal> {
        let on_disk = end.on_disk.as_ref().map_err(|refusal| *refusal)?;
        if end.group != on_disk.group() {
            return Err(Refusal::WrongGroup);
        }
        if end.transaction_id.as_ref().is_some_and(|id| id != on_disk.id()) {
            return Err(Refusal::WrongTransaction);
        }
        let asked = match end.verdict {
            Verdict::Unknown => return Ok(None),
            Verdict::Commit => Outcome::Committed,
            Verdict::Rollback => Outcome::RolledBack,
        };
        let open = self.halves.get(&end.half).map(|transaction| &self.open[transaction]);
        let first = self.verdicts.get(end.half).or(open.and_then(|open| open.decided));
        match (first, open) {
            (Some(first), _) if first == asked => Ok(Some(Action::Acknowledge(first))),
            (Some(first), _) => Err(Refusal::Contrary(first)),
            (None, None) => Err(Refusal::NotDurable),
            (None, Some(Open { halves, .. })) => Ok(Some(match end.verdict {
                Verdict::Commit => Action::Commit { half: halves[0], ends: halves.clone() },
                _ => Action::Rollback { ends: halves.clone() },
            })),
        }
    }

    fn due(&mut self, steady: UnixMillis) -> Vec<Action> {
        let until = (steady, HalfOffset(u64::MAX));
        let due: Vec<_> = self.schedule.range(..=until).take(self.rules.due_batch).copied().collect();
        due.into_iter()
            .map(|entry @ (_, half)| {
                self.schedule.remove(&entry);
                let open = self.open.get_mut(&self.halves[&half]).expect("a scheduled half has its transaction");
                // Whatever is decided now: if it fails, or is not answered, this is when to look again.
                open.due = steady.plus(self.rules.check_interval);
                self.schedule.insert((open.due, half));
                visit(open, &self.rules)
            })
            .collect()
    }

    fn check_sent(&mut self, half: HalfOffset, result: CheckResult) {
        let Some(open) = self.halves.get(&half).and_then(|transaction| self.open.get_mut(transaction)) else { return };
        if !std::mem::take(&mut open.asking) {
            return;
        }
        match result {
            CheckResult::Delivered => {
                open.checks += 1;
                open.unasked = 0;
                self.counters.checks_sent += 1;
            }
            CheckResult::NobodyToAsk => {
                open.unasked = open.unasked.saturating_add(1);
                self.counters.nobody_to_ask += 1;
            }
        }
    }

    fn decided(&mut self, half: HalfOffset, outcome: Outcome, steady: UnixMillis) {
        let Some(transaction) = self.halves.get(&half).cloned() else { return };
        self.close_soon(&transaction, outcome, steady);
        self.settled.remember(transaction, outcome);
    }

    /// The transaction has its outcome: what is left of it gets its OP record at the next look.
    fn close_soon(&mut self, transaction: &TransactionKey, outcome: Outcome, steady: UnixMillis) {
        let Some(open) = self.open.get_mut(transaction) else { return };
        if open.decided.is_none() {
            open.decided = Some(outcome);
            self.schedule.remove(&(open.due, open.halves[0]));
            open.due = steady;
            self.schedule.insert((open.due, open.halves[0]));
        }
    }

    fn written(&mut self, halves: &[HalfOffset], outcome: Option<Outcome>, steady: UnixMillis) {
        for half in halves {
            let Some(transaction) = self.take_half(*half) else { continue };
            let decided = self.open[&transaction].decided;
            let outcome = decided.or(outcome).unwrap_or(Outcome::RolledBack);
            self.verdicts.set(*half, outcome);
            if self.leave_if_empty(&transaction) {
                match outcome {
                    Outcome::Committed => self.counters.committed += 1,
                    Outcome::RolledBack => self.counters.rolled_back += 1,
                    Outcome::Parked => self.counters.parked += 1,
                }
            } else {
                self.close_soon(&transaction, outcome, steady);
            }
            self.settled.remember(transaction, outcome);
        }
    }

    fn gone(&mut self, half: HalfOffset) {
        if let Some(transaction) = self.take_half(half) {
            self.counters.gone += 1;
            self.leave_if_empty(&transaction);
        }
    }

    /// Takes one half out of its transaction, which may be left without any.
    fn take_half(&mut self, half: HalfOffset) -> Option<TransactionKey> {
        let transaction = self.halves.remove(&half)?;
        let open = self.open.get_mut(&transaction).expect("an open half has its transaction");
        self.schedule.remove(&(open.due, open.halves[0]));
        open.halves.retain(|known| *known != half);
        if let Some(first) = open.halves.first() {
            self.schedule.insert((open.due, *first));
        }
        Some(transaction)
    }

    fn leave_if_empty(&mut self, transaction: &TransactionKey) -> bool {
        let empty = self.open.get(transaction).is_some_and(|open| open.halves.is_empty());
        if empty {
            self.open.remove(transaction);
        }
        empty
    }
}

impl Open {
    /// One more half of this transaction; `due` is when it would be checked on its own.
    fn join(&mut self, half: Half, due: UnixMillis, check_max: u32) {
        let at = self.halves.partition_point(|known| *known < half.offset);
        self.halves.insert(at, half.offset);
        self.client = half.client.or(self.client.take());
        if self.decided.take_if(|outcome| half.resumes && *outcome == Outcome::Parked).is_some() {
            // Apache parked it (without an OP record) and its operator has resumed it: it begins anew.
            (self.checks, self.unasked, self.due) = (half.checks, 0, due);
        } else {
            self.checks = self.checks.max(half.checks);
            if half.checks >= check_max && self.decided.is_none() {
                self.due = self.due.max(due);
            }
        }
    }
}

/// What to do about a transaction whose time has come.
fn visit(open: &mut Open, rules: &Rules) -> Action {
    let (half, ends) = (open.halves[0], || open.halves.clone());
    if let Some(outcome) = open.decided {
        return Action::Close { ends: ends(), outcome };
    }
    let park = |reason| Action::Park { half, ends: ends(), reason, checks: open.checks };
    if open.checks >= rules.check_max {
        return park(ParkReason::Unanswered);
    }
    if open.unasked > 0 && rules.check_interval.saturating_mul(open.unasked) >= rules.reserved {
        return park(ParkReason::NobodyToAsk);
    }
    open.asking = true;
    Action::Check { half, client: open.client.clone(), attempt: open.checks + 1 }
}

/// What the driver reads.
impl Engine {
    /// When the next [`Input::Due`] has something to do, by the clock that `now` is read from.
    #[must_use]
    pub fn next_due(&mut self, now: UnixMillis) -> Option<UnixMillis> {
        self.time.steady(now);
        self.schedule.first().map(|(due, _)| self.time.wall(*due))
    }

    /// Halves without an outcome.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.halves.len()
    }

    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Recovery is over: counts begin here.
    pub fn reset_counters(&mut self) {
        self.counters = Counters::default();
    }

    #[must_use]
    pub fn outcome(&self, half: HalfOffset) -> Option<Outcome> {
        self.verdicts.get(half)
    }

    #[must_use]
    pub fn is_open(&self, half: HalfOffset) -> bool {
        self.halves.contains_key(&half)
    }

    /// The transaction of an open half.
    #[must_use]
    pub fn transaction_of(&self, half: HalfOffset) -> Option<&TransactionKey> {
        self.halves.get(&half)
    }

    /// The open halves of a transaction, oldest first.
    #[must_use]
    pub fn halves_of(&self, transaction: &TransactionKey) -> &[HalfOffset] {
        self.open.get(transaction).map_or(&[], |open| &open.halves)
    }

    /// The oldest half without an outcome: everything below it is finished.
    #[must_use]
    pub fn first_open(&self) -> Option<HalfOffset> {
        self.halves.first_key_value().map(|(half, _)| *half)
    }

    pub fn verdicts_mut(&mut self) -> &mut Verdicts {
        &mut self.verdicts
    }
}

/// The last transactions that ended, for halves that their clients sent again.
#[derive(Clone, Debug, Default)]
struct Settled {
    max: usize,
    outcomes: HashMap<TransactionKey, Outcome, RandomState>,
    order: VecDeque<TransactionKey>,
}

impl Settled {
    fn outcome(&self, transaction: &TransactionKey) -> Option<Outcome> {
        self.outcomes.get(transaction).copied()
    }

    /// A parked transaction may be resumed and then end otherwise: the later outcome counts.
    fn remember(&mut self, transaction: TransactionKey, outcome: Outcome) {
        if self.outcomes.insert(transaction.clone(), outcome).is_none() {
            self.order.push_back(transaction);
        }
        while self.order.len() > self.max {
            let oldest = self.order.pop_front().expect("longer than the limit");
            self.outcomes.remove(&oldest);
        }
    }
}

/// A time that never runs backwards: what a clock loses is added from then on. Due times are kept in it, so that a
/// clock set back by three days delays no check.
#[derive(Clone, Debug, Default)]
struct SteadyTime {
    lost_ms: i64,
    latest: UnixMillis,
}

impl SteadyTime {
    fn steady(&mut self, now: UnixMillis) -> UnixMillis {
        self.lost_ms += (self.latest.0 - now.0 - self.lost_ms).max(0);
        self.latest = UnixMillis(now.0 + self.lost_ms);
        self.latest
    }

    fn wall(&self, steady: UnixMillis) -> UnixMillis {
        UnixMillis(steady.0 - self.lost_ms)
    }
}

#[cfg(test)]
#[path = "engine_cases.rs"]
mod cases;
