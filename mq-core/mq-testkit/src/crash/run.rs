//! Drives a broker through its crashes: load, crash, start again, and at the end time for every transaction to end.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::evidence::Evidence;
use super::history::History;
use super::load::{Producer, Reader};
use super::log_scan::LogFacts;
use super::plan::Plan;

/// A broker that can be crashed and started again on what is left.
pub trait Target {
    /// Returns where it listens.
    fn start(&mut self) -> Result<SocketAddr>;
    /// From one moment to the next; nothing is told to it.
    fn crash(&mut self) -> Result<()>;
    /// The log as it is now.
    fn log(&mut self) -> Result<LogFacts>;
}

/// What outlives a crash once it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    Everything,
    /// Half messages. Verdicts may be lost, and are then asked for again: every transaction ends as its producer
    /// decided. Plain messages may be lost, and what was read of them with them.
    Halves,
}

#[derive(Clone, Copy, Debug)]
pub struct CrashTest {
    pub seed: u64,
    pub promise: Promise,
    pub crashes: u32,
    pub producers: u16,
    /// The shortest and the longest time under load before a crash.
    pub load: (Duration, Duration),
    /// By then every transaction must have ended.
    pub settle_within: Duration,
}

#[derive(Debug)]
pub struct Report {
    pub crashes: u32,
    pub evidence: Evidence,
    pub slowest_start: Duration,
}

impl CrashTest {
    pub fn run(&self, target: &mut dyn Target) -> Result<Report> {
        let plan = Plan { seed: self.seed };
        let mut random = SmallRng::seed_from_u64(self.seed);
        let mut producers: Vec<_> = (0..self.producers).map(|number| Producer::new(plan, number)).collect();
        let mut reader = Reader::new(plan);
        let mut history = History::default();
        let mut slowest_start = Duration::ZERO;
        for _ in 0..self.crashes {
            let broker = start(target, &mut slowest_start)?;
            let time = random.random_range(self.load.0..self.load.1);
            let mut learned = under_load(&mut producers, &mut reader, broker, || {
                std::thread::sleep(time);
                target.crash()
            })?;
            if self.promise == Promise::Halves {
                learned.stored.clear();
                learned.read.clear();
                learned.ended.clear();
                reader = Reader::new(plan);
            }
            history.merge(learned);
        }
        let broker = start(target, &mut slowest_start)?;
        let (after, log) = self.settle(&mut producers, broker, target)?;
        history.merge(after);
        let view = Reader::read_all(plan, broker).context("reading everything back")?;
        let evidence = Evidence { plan, history, view, log };
        Ok(Report { crashes: self.crashes, evidence, slowest_start })
    }

    /// The last act: no new messages, but every check is answered, until no half message is open.
    fn settle(
        &self,
        producers: &mut [Producer],
        broker: SocketAddr,
        target: &mut dyn Target,
    ) -> Result<(History, LogFacts)> {
        let (stop, silence) = (AtomicBool::new(true), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let running: Vec<_> =
                producers.iter_mut().map(|producer| scope.spawn(|| producer.run(broker, &stop, &silence))).collect();
            let deadline = Instant::now() + self.settle_within;
            let log = loop {
                std::thread::sleep(Duration::from_millis(250));
                match target.log() {
                    Ok(log) if !log.open_halves().is_empty() && Instant::now() < deadline => {}
                    end => break end,
                }
            };
            silence.store(true, Ordering::Relaxed);
            let mut history = History::default();
            for producer in running {
                history.merge(producer.join().expect("producers do not panic"));
            }
            Ok((history, log?))
        })
    }
}

fn start(target: &mut dyn Target, slowest: &mut Duration) -> Result<SocketAddr> {
    let began = Instant::now();
    let broker = target.start()?;
    *slowest = began.elapsed().max(*slowest);
    Ok(broker)
}

/// Everybody works until `crash` returns.
fn under_load(
    producers: &mut [Producer],
    reader: &mut Reader,
    broker: SocketAddr,
    crash: impl FnOnce() -> Result<()>,
) -> Result<History> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = &stop;
        let mut running: Vec<_> =
            producers.iter_mut().map(|producer| scope.spawn(move || producer.run(broker, stop, stop))).collect();
        running.push(scope.spawn(move || reader.follow(broker, stop)));
        let crashed = crash();
        stop.store(true, Ordering::Relaxed);
        let mut history = History::default();
        for client in running {
            history.merge(client.join().expect("clients do not panic"));
        }
        crashed.map(|()| history)
    })
}

impl Report {
    /// Fails with every broken promise; fails also when too little happened to mean anything.
    pub fn verify(&self, at_least_stored: usize) -> Result<()> {
        let violations = self.evidence.violations();
        let shown = violations.iter().take(20).map(String::as_str).collect::<Vec<_>>().join("\n  ");
        ensure!(violations.is_empty(), "{} promises broken, the first of them:\n  {shown}\n{self}", violations.len());
        let stored = self.evidence.history.stored.len();
        ensure!(
            stored >= at_least_stored,
            "only {stored} plain messages were acknowledged: this proves nothing\n{self}"
        );
        for (fate, count) in self.halves_by_fate() {
            ensure!(count > 0, "no transaction was {fate}: this proves nothing\n{self}");
        }
        Ok(())
    }

    fn halves_by_fate(&self) -> [(&'static str, usize); 3] {
        let Evidence { log, .. } = &self.evidence;
        let others = log.open_halves().len() + log.committed.len() + log.parked.len();
        let rolled_back = log.halves.len().saturating_sub(others);
        [("committed", log.committed.len()), ("rolled back", rolled_back), ("parked", log.parked.len())]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Evidence { plan, history, view, log } = &self.evidence;
        let halves: BTreeMap<_, _> = self.halves_by_fate().into_iter().collect();
        writeln!(f, "seed {}, {} crashes, slowest start {:?}", plan.seed, self.crashes, self.slowest_start)?;
        writeln!(
            f,
            "tried {}, acknowledged {} plain and {} halves, {} verdicts",
            history.tried.len(),
            history.stored.len(),
            history.halves.len(),
            history.ended.len()
        )?;
        writeln!(
            f,
            "visible {}, in the log {} records, {} halves: {halves:?}, {} open",
            view.messages.len(),
            log.records,
            log.halves.len(),
            log.open_halves().len()
        )?;
        write!(
            f,
            "checks {}, read under load {}, refused by code {:?}",
            history.checks,
            history.read.len(),
            history.refused
        )
    }
}
