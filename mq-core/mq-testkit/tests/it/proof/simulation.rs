//! Runs plans: all singles, all pairs, and one by hand.

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use mq_testkit::report;
use tokio::runtime::Builder;

use super::planted::Bug;
use super::points::{Day, Fault, Kind, Plan, Point};
use super::service::Work;
use super::world::World;

/// Steps of time in which everything has to be settled.
const PATIENCE: u32 = 40;
/// Days more, if a second fault is not reached before.
const EXTRA: u32 = 4;
/// Of the visits of one day, the first so many are tried.
const MAX_VISITS: u32 = 5;

impl World {
    async fn run(&mut self, rounds: u32) {
        for round in 0..rounds + EXTRA {
            if round >= rounds && (self.plan.day != Day::Beyond || self.plan.faults.is_empty()) {
                break;
            }
            self.start_what_is_down().await;
            match self.plan.day {
                Day::Beyond => self.beyond_day(round).await,
                _ => self.ordinary_day(round).await,
            }
        }
        for _ in 0..PATIENCE {
            self.pass_time(Duration::from_secs(30)).await;
            self.consume().await;
            if self.running().coordinator.stats().pending_halves == 0 && self.is_drained() && self.outboxes_are_empty()
            {
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

/// How often each point is passed on such a day.
fn visits(day: Day) -> BTreeMap<Point, u32> {
    let world = holds(&Plan::new([], 0).on(day), 1);
    assert!(Point::ALL.iter().all(|point| world.visits.contains_key(point)), "{:?}", world.visits);
    world.visits
}

/// Every kind of fault at each point, at each of its first visits of a day, with short and long delays and downtimes.
pub(crate) fn singles() -> impl Iterator<Item = Plan> {
    let visits = visits(Day::Ordinary);
    let each = |point| Kind::ALL.into_iter().map(move |kind| (point, kind));
    Point::ALL.into_iter().flat_map(each).flat_map(move |(point, kind)| {
        let visits = visits[&point].min(MAX_VISITS);
        (0..visits).flat_map(move |visit| (0..3).map(move |seed| Plan::new([Fault { point, kind, visit }], seed)))
    })
}

/// Every kind of fault at each point on a day with all else that a transaction can have, at visits all over the day.
pub(crate) fn beyond() -> impl Iterator<Item = Plan> {
    let visits = visits(Day::Beyond);
    let each = |point| Kind::ALL.into_iter().map(move |kind| (point, kind));
    Point::ALL.into_iter().flat_map(each).enumerate().flat_map(move |(number, (point, kind))| {
        let (visits, tried) = (visits[&point], visits[&point].min(3));
        let plan = move |visit| Plan::new([Fault { point, kind, visit }], u64::from(visit) + number as u64);
        (0..tried).map(move |at| plan(at * visits / tried).on(Day::Beyond))
    })
}

/// The clock leaps at each point: that of the broker, of the services, or of all.
pub(crate) fn leaps() -> impl Iterator<Item = Plan> {
    let visits = visits(Day::Clocks);
    let each = |point| Kind::LEAPS.into_iter().map(move |kind| (point, kind));
    Point::ALL.into_iter().flat_map(each).enumerate().flat_map(move |(number, (point, kind))| {
        let visit = number as u32 % visits[&point].min(MAX_VISITS);
        (0..3).map(move |seed| Plan::new([Fault { point, kind, visit }], seed).on(Day::Clocks))
    })
}

/// A crash at each point, and when that is over, or while it is being mended, one at each point again.
pub(crate) fn pairs(day: Day, seeds: Range<u64>) -> impl Iterator<Item = Plan> {
    let visits = visits(day);
    let ordered = Point::ALL.into_iter().flat_map(|first| Point::ALL.map(|second| (first, second)));
    ordered.enumerate().flat_map(move |(number, (first, second))| {
        let visits = u64::from(visits[&first].min(MAX_VISITS));
        seeds.clone().map(move |seed| {
            let mixed = (number as u64 + 1).wrapping_mul(seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
            let kind = |bit: u64| if mixed & bit == 0 { Kind::CrashBefore } else { Kind::CrashAfter };
            let visit = |spread: u64| (mixed / 16 % spread) as u32;
            let first = Fault { point: first, kind: kind(1), visit: visit(visits) };
            let second = Fault { point: second, kind: kind(2), visit: visit(2) };
            Plan::new([first, second], mixed).on(day)
        })
    })
}

/// A process that asks while another one is asked, and so on, takes more stack than a test's thread has.
pub(crate) fn deep<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    const STACK_BYTES: usize = 256 << 20;
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work).expect("a thread");
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// How many plans there are, all of which hold.
fn all_hold(plans: impl Iterator<Item = Plan>, rounds: u32) -> usize {
    plans.inspect(|plan| drop(holds(plan, rounds))).count()
}

#[test]
fn every_single_fault_keeps_every_invariant() {
    let runs = deep(|| all_hold(singles(), 2));
    report::show(
        "60 proof 1 singles",
        &format!("{} singles ({runs} runs), 0 violations", Point::ALL.len() * Kind::ALL.len()),
    );
}

#[test]
fn every_pair_of_crashes_keeps_every_invariant() {
    let runs = deep(|| all_hold(pairs(Day::Ordinary, 0..seeds()), 3));
    report::show(
        "60 proof 2 pairs",
        &format!("{} pairs ({runs} runs), 0 violations", Point::ALL.len() * Point::ALL.len()),
    );
}

#[test]
fn outbox_emitted_messages_delays_and_order_keep_every_invariant() {
    let singles = deep(|| all_hold(beyond(), 1));
    let pairs = deep(|| all_hold(pairs(Day::Beyond, 0..seeds() / 2), 1));
    let text = "with outbox, emitted messages, delays, order and operators";
    report::show(
        "60 proof 2b beyond",
        &format!(
            "{text}: {} singles ({singles} runs), {pairs} pairs, 0 violations",
            Point::ALL.len() * Kind::ALL.len()
        ),
    );
}

#[test]
fn clocks_that_leap_keep_every_invariant() {
    let runs = deep(|| all_hold(leaps(), 2));
    let leaps = Point::ALL.len() * Kind::LEAPS.len();
    report::show(
        "60 proof 2c leaps",
        &format!("{leaps} leaps of a clock, back and up to 73 h ahead ({runs} runs), 0 violations"),
    );
}

/// `PROOF_SEEDS`: for a longer run by hand.
fn seeds() -> u64 {
    std::env::var("PROOF_SEEDS").map_or(2, |seeds| seeds.parse().expect("PROOF_SEEDS is a number"))
}

#[test]
fn the_plan_that_the_environment_names() {
    let Ok(plan) = std::env::var("PROOF") else { return };
    let history = deep(move || {
        let runs = || holds(&plan.parse().expect("PROOF is point:kind:visit,…,seed, as it is printed"), 3).history;
        match std::env::var("PROOF_BUG") {
            Ok(name) => Bug::named(&name).planted(runs),
            Err(_) => runs(),
        }
    });
    println!("{}", history.join("\n"));
}

#[test]
fn two_runs_of_a_plan_are_equal() {
    deep(|| {
        let plans = pairs(Day::Ordinary, 100..101).step_by(97).chain(singles().step_by(211));
        for plan in plans.chain(beyond().step_by(149)).chain(leaps().step_by(67)) {
            let [first, second] = [0, 1].map(|_| holds(&plan, 3).history);
            assert_eq!(first, second, "{plan}");
        }
    });
}
