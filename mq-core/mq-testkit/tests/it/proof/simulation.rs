//! Runs plans: all singles, all pairs, and one by hand.

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use mq_testkit::report;
use tokio::runtime::Builder;

use super::planted::Bug;
use super::points::{Fault, Kind, Plan, Point};
use super::service::Work;
use super::world::World;

/// Steps of time in which everything has to be settled.
const PATIENCE: u32 = 40;
/// Of the visits of one day, the first so many are tried.
const MAX_VISITS: u32 = 5;

impl World {
    async fn run(&mut self, rounds: u32) {
        for round in 0..rounds {
            self.start_what_is_down().await;
            self.ordinary_day(round).await;
        }
        for _ in 0..PATIENCE {
            self.pass_time(Duration::from_secs(30)).await;
            self.consume().await;
            if self.running().coordinator.stats().pending_halves == 0 && self.is_drained() {
                break;
            }
        }
        self.audit_settled();
    }

    /// Everything that happens on a day without faults, so that each point is passed.
    async fn ordinary_day(&mut self, round: u32) {
        let works = [Work::Pays, Work::PaysInParts, Work::Declines, Work::Pays, Work::BeginsAnew];
        for (number, work) in (1..).zip(works) {
            self.facts.loses_end = number == 4;
            self.facts.order = format!("order-{round}-{number}");
            let order = self.facts.order.clone();
            self.place_order(&order, work).await;
            self.facts.loses_end = false;
            self.consume().await;
        }
        self.send_orphan().await;
        for seconds in [40, 120] {
            self.pass_time(Duration::from_secs(seconds)).await;
            self.consume().await;
            self.facts.consumed_saved = self.facts.consumed;
        }
        self.clean().await;
    }
}

/// Plays the plan that `PROOF` names, and nothing else.
const REPLAY: &str = "cargo test -p mq-testkit --features proof --test it -- proof::simulation::the_plan --nocapture";

/// How a run went.
pub(crate) struct Went {
    world: World,
    pub(crate) violation: Option<String>,
}

pub(crate) fn go(plan: Plan, rounds: u32) -> Went {
    let mut world = World::new(plan);
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(world.run(rounds))));
    let violation = ended.err().map(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    });
    Went { world, violation }
}

fn holds(plan: &Plan, rounds: u32) -> World {
    let Went { world, violation } = go(plan.clone(), rounds);
    if let Some(violation) = violation {
        println!("{}", world.history.join("\n"));
        let bug = std::env::var("PROOF_BUG").map(|bug| format!("PROOF_BUG={bug} ")).unwrap_or_default();
        panic!("{violation}\nREPLAY: {bug}PROOF={plan} {REPLAY}");
    }
    assert!(world.plan.faults.is_empty(), "{plan}: not reached: {}", world.plan);
    world
}

/// How often each point is passed on an ordinary day.
fn visits() -> BTreeMap<Point, u32> {
    let world = holds(&Plan::new([], 0), 1);
    assert!(Point::ALL.iter().all(|point| world.visits.contains_key(point)), "{:?}", world.visits);
    world.visits
}

/// Every kind of fault at each point, at each of its first visits of a day, with short and long delays and downtimes.
pub(crate) fn singles() -> impl Iterator<Item = Plan> {
    let visits = visits();
    let each = |point| Kind::ALL.into_iter().map(move |kind| (point, kind));
    Point::ALL.into_iter().flat_map(each).flat_map(move |(point, kind)| {
        let visits = visits[&point].min(MAX_VISITS);
        (0..visits).flat_map(move |visit| (0..3).map(move |seed| Plan::new([Fault { point, kind, visit }], seed)))
    })
}

/// A crash at each point, and when that is over, or while it is being mended, one at each point again.
pub(crate) fn pairs(seeds: Range<u64>) -> impl Iterator<Item = Plan> {
    let visits = visits();
    let ordered = Point::ALL.into_iter().flat_map(|first| Point::ALL.map(|second| (first, second)));
    ordered.enumerate().flat_map(move |(number, (first, second))| {
        let visits = u64::from(visits[&first].min(MAX_VISITS));
        seeds.clone().map(move |seed| {
            let mixed = (number as u64 + 1).wrapping_mul(seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
            let kind = |bit: u64| if mixed & bit == 0 { Kind::CrashBefore } else { Kind::CrashAfter };
            let visit = |spread: u64| (mixed / 16 % spread) as u32;
            let first = Fault { point: first, kind: kind(1), visit: visit(visits) };
            let second = Fault { point: second, kind: kind(2), visit: visit(2) };
            Plan::new([first, second], mixed)
        })
    })
}

#[test]
fn every_single_fault_keeps_every_invariant() {
    let runs = singles().inspect(|plan| drop(holds(plan, 2))).count();
    report::show(
        "60 proof 1 singles",
        &format!("{} singles ({runs} runs), 0 violations", Point::ALL.len() * Kind::ALL.len()),
    );
}

#[test]
fn every_pair_of_crashes_keeps_every_invariant() {
    let runs = pairs(0..seeds()).inspect(|plan| drop(holds(plan, 3))).count();
    report::show(
        "60 proof 2 pairs",
        &format!("{} pairs ({runs} runs), 0 violations", Point::ALL.len() * Point::ALL.len()),
    );
}

/// `PROOF_SEEDS`: for a longer run by hand.
fn seeds() -> u64 {
    std::env::var("PROOF_SEEDS").map_or(2, |seeds| seeds.parse().expect("PROOF_SEEDS is a number"))
}

#[test]
fn the_plan_that_the_environment_names() {
    let Ok(plan) = std::env::var("PROOF") else { return };
    let runs = || holds(&plan.parse().expect("PROOF is point:kind:visit,…,seed, as it is printed"), 3);
    let world = match std::env::var("PROOF_BUG") {
        Ok(name) => Bug::named(&name).planted(runs),
        Err(_) => runs(),
    };
    println!("{}", world.history.join("\n"));
}

#[test]
fn two_runs_of_a_plan_are_equal() {
    for plan in pairs(100..101).step_by(97).chain(singles().step_by(211)) {
        let [first, second] = [0, 1].map(|_| holds(&plan, 3).history);
        assert_eq!(first, second, "{plan}");
    }
}
