//! Random histories from a seed: halves, verdicts (late, repeated, contrary, for the wrong half), checks and their
//! answers, full disks, clock jumps, kills and power cuts at any write or sync; transactions of one message and of several;
//! answers that wait for the disk and, in every other seed, verdicts that do not. Two runs of a seed are equal.
//!
//! `TXN_SEED=7 cargo test -p txn-coordinator --test it simulation` replays one seed and prints its history;
//! `TXN_RUNS=5000` runs more of them.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use mq_protocol::ids::{LogOffset, UnixMillis};
use mq_store::Clock;
use mq_store::backend::{CrashBackend, CrashMode, Fault};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use txn_coordinator::{
    Answer, Check, CheckResult, EndError, Ended, HalfOffset, Outcome, Progress, Refusal, StoredHalf, Verdict,
};

use crate::bench::{Bench, Place, end_request, rules};

const RUNS: u64 = 120;
const MOVES: usize = 250;

/// What a transaction's producer would answer, when it can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Producer {
    Says(Verdict),
    Silent,
    Offline,
}

struct Transaction {
    producer: Producer,
    /// Messages that it consists of.
    parts: usize,
    /// Halves whose send was acknowledged, with the keys of their messages.
    halves: Vec<(String, Place)>,
    /// The outcome that was acknowledged. It must never change.
    promised: Option<Outcome>,
}

impl Transaction {
    fn keys(&self, id: &str) -> Vec<String> {
        if self.parts == 1 { vec![id.into()] } else { (1..=self.parts).map(|part| format!("{id}-{part}")).collect() }
    }
}

/// The transaction that a message with this key belongs to.
fn of(key: &str) -> &str {
    key.split('-').next().unwrap()
}

struct Simulation {
    bench: Bench<CrashBackend>,
    dice: StdRng,
    transactions: BTreeMap<String, Transaction>,
    /// Sent and not yet acknowledged.
    sent: Vec<(String, Place, StoredHalf)>,
    /// Verdicts are acknowledged before they are on disk: a power cut may take them.
    asynchronous: bool,
    /// Verdicts that wait for the disk, or may still be lost.
    waiting: Vec<(String, Outcome, LogOffset)>,
    /// Checks delivered for each half since the last start.
    delivered: BTreeMap<HalfOffset, u32>,
    /// What the broker would have persisted for Apache.
    published: Progress,
    fault_at: Option<u64>,
    crashes: u32,
    history: Vec<String>,
}

#[test]
fn simulation_keeps_every_invariant() {
    let seeds: Vec<u64> = match std::env::var("TXN_SEED") {
        Ok(seed) => vec![seed.parse().expect("TXN_SEED is a number")],
        Err(_) => {
            (0..std::env::var("TXN_RUNS").map_or(RUNS, |runs| runs.parse().expect("TXN_RUNS is a number"))).collect()
        }
    };
    let single = seeds.len() == 1;
    let (mut ended, mut crashes) = ([0; 3], 0);
    for seed in seeds {
        let mut simulation = Simulation::new(seed);
        let outcome = catch_unwind(AssertUnwindSafe(|| simulation.run()));
        if single || outcome.is_err() {
            println!("{}", simulation.history.join("\n"));
        }
        if outcome.is_err() {
            panic!("REPLAY: TXN_SEED={seed} cargo test -p txn-coordinator --test it simulation");
        }
        for (total, outcome) in ended.iter_mut().zip([Outcome::Committed, Outcome::RolledBack, Outcome::Parked]) {
            *total += simulation.bench.outcomes().iter().filter(|ended| **ended == Some(outcome)).count();
        }
        crashes += simulation.crashes;
    }
    println!("halves committed, rolled back, parked: {ended:?}; crashes: {crashes}");
    assert!(single || ended.iter().all(|count| *count > 100) && crashes > 100, "the simulation has gone tame");
}

#[test]
fn two_simulations_of_a_seed_are_equal() {
    for seed in 1_000..1_004 {
        let [first, second] = [0, 1].map(|_| {
            let mut simulation = Simulation::new(seed);
            simulation.run();
            simulation.history
        });
        assert_eq!(first, second, "seed {seed}");
    }
}

impl Simulation {
    fn new(seed: u64) -> Self {
        Self {
            bench: Bench::new(CrashBackend::new(), Bench::<CrashBackend>::options()),
            dice: StdRng::seed_from_u64(seed),
            transactions: BTreeMap::new(),
            sent: Vec::new(),
            asynchronous: seed % 2 == 1,
            waiting: Vec::new(),
            delivered: BTreeMap::new(),
            published: Progress::default(),
            fault_at: None,
            crashes: 0,
            history: Vec::new(),
        }
    }

    fn run(&mut self) {
        for _ in 0..MOVES {
            self.step();
            let operations = self.bench.backend.operations();
            if self.bench.store.poisoned().is_some() || self.fault_at.is_some_and(|fault| operations > fault) {
                self.crash();
            }
        }
        self.settle();
    }

    fn step(&mut self) {
        match self.dice.random_range(0..100) {
            0..20 => self.send_half(),
            20..45 => self.flush(),
            45..70 => self.send_verdicts(),
            70..82 => self.tick(),
            82..90 => self.advance(),
            90..92 => self.jump(),
            92..95 => self.checkpoint(),
            95..96 => drop(self.bench.store.settle()),
            96..98 => self.plan_fault(),
            _ => self.crash(),
        }
    }

    fn note(&mut self, line: String) {
        self.history.push(format!("{} {line}", self.bench.clock.now().0 - 1_700_000_000_000));
    }

    fn random_transaction(&mut self) -> Option<String> {
        let ids: Vec<&String> = self.transactions.keys().collect();
        ids.choose(&mut self.dice).map(|id| (*id).clone())
    }

    /// A new transaction, or once more the half of one of the last ones: its client has not seen the answer.
    fn send_half(&mut self) {
        let number = self.transactions.len();
        let number = if number > 0 && self.dice.random_bool(0.2) {
            number - 1 - self.dice.random_range(0..number.min(3))
        } else {
            number
        };
        let id = format!("t{number:04}");
        if !self.transactions.contains_key(&id) {
            let producer = match self.dice.random_range(0..10) {
                0..5 => Producer::Says(Verdict::Commit),
                5..8 => Producer::Says(Verdict::Rollback),
                8 => Producer::Silent,
                _ => Producer::Offline,
            };
            // A commit whose first message names the half at offset 0 of the log is like one that names none.
            let parts = if number > 0 && self.dice.random_bool(0.3) { self.dice.random_range(2..4) } else { 1 };
            self.transactions.insert(id.clone(), Transaction { producer, parts, halves: Vec::new(), promised: None });
        }
        let keys = self.transactions[&id].keys(&id);
        let (number, key) = keys.iter().enumerate().collect::<Vec<_>>().choose(&mut self.dice).copied().unwrap();
        let part = format!("{}/{}", number + 1, keys.len());
        let shared = [("CHECKBACK_SHARED_ID", &*id), ("CHECKBACK_PART", &*part)];
        let message = self.bench.message(key, if keys.len() > 1 { &shared } else { &[] });
        match self.bench.try_append(message) {
            Ok((place, stored)) => {
                self.note(format!("half {} of {key}", place.half));
                self.sent.push((key.clone(), place, stored));
            }
            Err(error) => self.note(format!("half of {key}: {error}")),
        }
    }

    fn flush(&mut self) {
        if self.bench.store.flush().is_err() {
            return self.note("flush failed".into());
        }
        let durable = self.bench.store.durable();
        let (told, sent) = std::mem::take(&mut self.sent).into_iter().partition(|(_, place, _)| place.log < durable);
        let (answered, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|(.., at)| *at <= durable);
        (self.sent, self.waiting) = (sent, waiting);
        for (key, place, stored) in Vec::from_iter(told) as Vec<(String, Place, StoredHalf)> {
            self.bench.coordinator.stored([stored]);
            self.transactions.get_mut(of(&key)).unwrap().halves.push((key, place));
        }
        for (id, outcome, _) in Vec::from_iter(answered) as Vec<(String, Outcome, LogOffset)> {
            self.promise(&id, outcome);
        }
        self.note(format!("flush to {durable}"));
    }

    fn promise(&mut self, id: &str, outcome: Outcome) {
        let first = *self.transactions.get_mut(id).unwrap().promised.get_or_insert(outcome);
        assert_eq!(first, outcome, "{id} was acknowledged with two outcomes");
    }

    /// One verdict, or the batch of a read.
    fn send_verdicts(&mut self) {
        let count = if self.dice.random_bool(0.5) { 1 } else { self.dice.random_range(2..8) };
        let verdicts: Vec<_> = (0..count).filter_map(|_| self.verdict()).collect();
        self.end(&verdicts);
    }

    /// Mostly what the producer means; at times something else, or for a half of another transaction.
    fn verdict(&mut self) -> Option<(String, Place, Verdict)> {
        let id = self.random_transaction()?;
        let transaction = &self.transactions[&id];
        let (key, place) = transaction.halves.choose(&mut self.dice).cloned()?;
        let verdict = match (transaction.producer, self.dice.random_range(0..10)) {
            (Producer::Says(verdict), 0..7) => verdict,
            (Producer::Silent | Producer::Offline, 0..7) => return None,
            (_, 7) => Verdict::Unknown,
            (_, 8) => Verdict::Commit,
            _ => Verdict::Rollback,
        };
        if self.dice.random_bool(0.1) {
            let other = self.random_transaction().filter(|other| *other != id)?;
            let error = self.bench.end(place, &other, verdict).unwrap_err();
            assert!(matches!(error, EndError::Refused(Refusal::WrongTransaction) | EndError::Read(_)), "{error}");
            return None;
        }
        Some((key, place, verdict))
    }

    fn end(&mut self, verdicts: &[(String, Place, Verdict)]) {
        let requests: Vec<_> = verdicts.iter().map(|(id, place, verdict)| end_request(*place, id, *verdict)).collect();
        for ((id, place, verdict), answer) in verdicts.iter().zip(self.bench.coordinator.end(&requests)) {
            self.ended(id, *place, *verdict, answer);
        }
    }

    fn ended(&mut self, key: &str, place: Place, verdict: Verdict, answer: Result<Ended, EndError>) {
        let id = of(key);
        match answer {
            Ok(ended) => {
                self.note(format!("{verdict:?} {} of {id}: {:?}", place.half, ended.answer));
                match ended.answer {
                    Answer::Now(outcome) => {
                        assert_eq!(self.transactions[id].promised, None, "{id} ended twice");
                        self.acknowledge(id, outcome, ended.durable_at);
                    }
                    Answer::Before(outcome) => self.acknowledge(id, outcome, ended.durable_at),
                    Answer::Unknown => assert_eq!(verdict, Verdict::Unknown),
                }
            }
            Err(EndError::Refused(Refusal::Contrary(outcome))) => {
                self.note(format!("{verdict:?} {} of {id}: already {outcome}", place.half));
                assert!(self.transactions[id].promised.is_none_or(|promised| promised == outcome), "{id}");
            }
            Err(EndError::Refused(Refusal::Incomplete { here, of })) => {
                self.note(format!("{verdict:?} {} of {key}: {here} of {of}", place.half));
                let transaction = &self.transactions[id];
                let told: BTreeSet<_> = transaction.halves.iter().map(|(key, _)| key).collect();
                assert!(usize::from(of) == transaction.parts && told.len() < transaction.parts, "{id}: {told:?}");
            }
            Err(error @ (EndError::Append(_) | EndError::Read(_))) => {
                self.note(format!("{verdict:?} {} of {id}: {error}", place.half));
            }
            Err(error) => panic!("{verdict:?} {} of {id}: {error}", place.half),
        }
    }

    fn acknowledge(&mut self, id: &str, outcome: Outcome, durable_at: LogOffset) {
        self.waiting.push((id.to_owned(), outcome, durable_at));
        if self.asynchronous {
            self.promise(id, outcome);
        }
    }

    fn tick(&mut self) {
        let due = self.bench.coordinator.next_due();
        let checks = self.bench.tick();
        assert!(checks.is_empty() || due.is_some_and(|due| due <= self.bench.clock.now()));
        for check in checks {
            self.answer(&check);
        }
    }

    fn answer(&mut self, check: &Check) {
        let asked = mq_protocol::record::StoredMessage::decode(&check.request.body).unwrap();
        let id = asked.message.property("UNIQ_KEY").unwrap().to_owned();
        assert_eq!(asked.message.body, self.bench.message(&id, &[]).body);
        let producer = self.transactions[of(&id)].producer;
        if producer == Producer::Offline {
            return self.bench.coordinator.check_result(check.half, CheckResult::NobodyToAsk);
        }
        self.note(format!("check {} of {} ({id})", check.attempt, check.half));
        self.bench.coordinator.check_result(check.half, CheckResult::Delivered);
        let delivered = self.delivered.entry(check.half).or_default();
        *delivered += 1;
        assert!(*delivered <= rules().check_max && check.attempt <= rules().check_max, "{id} is checked too often");
        if let Producer::Says(verdict) = producer
            && self.dice.random_bool(0.5)
        {
            let place = Place { half: check.half, log: asked.log_offset };
            self.end(&[(id, place, verdict)]);
        }
    }

    fn advance(&mut self) {
        let seconds = self.dice.random_range(1..40);
        self.bench.advance(seconds);
        self.published = self.bench.coordinator.progress();
    }

    fn jump(&mut self) {
        let hours = self.dice.random_range(-73..=73) * 3_600_000;
        self.note(format!("the clock jumps by {hours} ms"));
        self.bench.clock.set(UnixMillis(self.bench.clock.now().0 + hours));
    }

    fn checkpoint(&mut self) {
        let saved = self.bench.coordinator.checkpoint();
        self.note(format!("checkpoint: {}", saved.is_ok()));
        self.published = self.bench.coordinator.progress();
    }

    /// At one of the next writes or syncs: the disk is full, broken, or power fails.
    fn plan_fault(&mut self) {
        let at = self.bench.backend.operations() + self.dice.random_range(0..12);
        let fault = *[Fault::PowerCut, Fault::Fails(std::io::ErrorKind::StorageFull)].choose(&mut self.dice).unwrap();
        self.note(format!("{fault:?} at operation {at}"));
        self.bench.backend.plan(at, fault);
        if fault == Fault::PowerCut && self.fault_at.is_none() {
            self.fault_at = Some(at);
        }
    }

    /// Ends the process, with what was not synced lost or not, and starts it again.
    fn crash(&mut self) {
        let mode = *CrashMode::ALL.choose(&mut self.dice).unwrap();
        let found = self.bench.backend.crash(mode, self.dice.random());
        if mode != CrashMode::Keep || self.bench.store.poisoned().is_some() {
            // Of what was acknowledged early, nothing is sure.
            let durable = self.bench.store.durable();
            for (id, ..) in self.waiting.iter().filter(|(.., at)| *at > durable) {
                self.transactions.get_mut(id).unwrap().promised = None;
            }
        }
        self.note(format!(
            "crash: {mode:?}, the log ends at {}, durable to {}",
            self.bench.store.end(),
            self.bench.store.durable()
        ));
        self.bench.restart_on(found);
        self.note(format!("{:?}", self.bench.recovered));
        self.crashes += 1;
        self.fault_at = None;
        self.sent.clear();
        self.waiting.clear();
        self.delivered.clear();
        // Closes what was torn, a batch at a time.
        while self.bench.coordinator.next_due().is_some_and(|due| due <= self.bench.clock.now()) {
            self.tick();
        }
        self.audit();
    }

    /// Everything is answered and nothing fails any more: in bounded time nothing is pending.
    fn settle(&mut self) {
        self.crash();
        for transaction in
            self.transactions.values_mut().filter(|transaction| transaction.producer == Producer::Offline)
        {
            transaction.producer = *[Producer::Offline, Producer::Silent].choose(&mut self.dice).unwrap();
        }
        for _ in 0..400 {
            self.tick();
            self.flush();
            if self.bench.coordinator.stats().pending_halves == 0 {
                break;
            }
            self.bench.clock.advance(Duration::from_secs(30));
        }
        self.audit();
        assert!(self.bench.outcomes().iter().all(Option::is_some), "every half has ended: {:?}", self.bench.outcomes());
    }

    fn audit(&mut self) {
        self.flush();
        let found = self.bench.found();
        let mut halves: BTreeMap<&str, Vec<Option<Outcome>>> = BTreeMap::new();
        for (half, key) in &found.halves {
            halves.entry(of(key)).or_default().push(self.bench.coordinator.outcome(HalfOffset(*half)));
        }
        for (id, outcomes) in &halves {
            assert!(outcomes.windows(2).all(|pair| pair[0] == pair[1]), "{id} has several outcomes: {outcomes:?}");
            for key in self.transactions[*id].keys(id) {
                let copies = found.real.get(&key).map_or(0, Vec::len);
                let parked = found.parked.get(&key).map_or(0, Vec::len);
                let expected = match outcomes[0] {
                    Some(Outcome::Committed) => (1, 0),
                    Some(Outcome::Parked) => (0, usize::from(found.halves.values().any(|known| *known == key))),
                    Some(Outcome::RolledBack) | None => (0, 0),
                };
                assert_eq!((copies, parked), expected, "copies of {key}, which is {:?}", outcomes[0]);
            }
        }
        for (id, transaction) in &self.transactions {
            let outcome = halves.get(&**id).and_then(|outcomes| outcomes[0]);
            assert!(transaction.promised.is_none_or(|promised| Some(promised) == outcome), "{id}: {outcome:?}");
            assert!(
                transaction.halves.iter().all(|(key, place)| found.halves.get(&place.half.0) == Some(key)),
                "{id} lost a half"
            );
        }
        for real in found.real.values().flatten() {
            let id = real.message.property("UNIQ_KEY").unwrap();
            assert_eq!(real.message.body, self.bench.message(id, &[]).body);
        }
        let open: Vec<u64> = found
            .halves
            .keys()
            .copied()
            .filter(|half| self.bench.coordinator.outcome(HalfOffset(*half)).is_none())
            .collect();
        assert_eq!(self.bench.apache_would_check(self.published), open, "with {:?}", self.published);
        self.published = self.bench.coordinator.progress();
    }
}
