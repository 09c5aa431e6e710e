//! The singles once more, with real processes: `mq`, a service and a consumer, and PostgreSQL. They die or pause at the very
//! point, their network fails, or a second one does the same. Afterwards rows, messages and effects have to agree exactly.

mod cases;
mod child;
mod proxy;
mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use mq_testkit::database::{DatabaseKind, DatabaseServer};
use mq_testkit::report;

use super::points::{Actor, Kind, Point};
use cases::Case;
use stage::{Running, Stage, Ways, armed_mq};

const TOPIC: &str = "ORDER_PAID";
/// Most of a case is waiting.
const SIDE_BY_SIDE: usize = 6;
const PATIENCE: Duration = Duration::from_secs(120);

async fn until(what: impl Fn() -> String, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done().await {
        assert!(Instant::now() < deadline, "{}", what());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn plays_and_settles(server: &DatabaseServer, number: usize, case: &Case) {
    let mut stage = Stage::set(server, number).await;
    let armed =
        |actor, life: usize| if case.actor == actor { case.lives.get(life).map_or("", String::as_str) } else { "" };
    stage.broker.with_environment(&[("FAILPOINTS", armed(Actor::Broker, 0))]);
    stage.broker.start().unwrap();
    let straight = Ways::straight(&stage);
    let failing = Ways::through(&stage, case.network).await;
    let ways = |actor| if case.actor == actor { &failing } else { &straight };
    let mut service = Running::start("service", &stage, ways(Actor::Service), 0, armed(Actor::Service, 0));
    let mut consumer = Running::start("consumer", &stage, ways(Actor::Consumer), 0, armed(Actor::Consumer, 0));
    let second = if case.actor == Actor::Consumer { "second" } else { "service" };
    let second = case.twice.then(|| Running::start(second, &stage, &straight, 0, ""));
    for (life, point) in (1..).zip(case.lives.iter().filter(|life| Case::is_deadly(life))) {
        let dies = |stage: &Stage| format!("{point} was never reached\n{}", stage.said());
        match case.actor {
            Actor::Broker => {
                let deadline = Instant::now() + PATIENCE;
                while !stage.broker.has_ended().unwrap() {
                    assert!(Instant::now() < deadline, "{}", dies(&stage));
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                stage.broker.with_environment(&[]);
                stage.broker.start().unwrap();
            }
            Actor::Service | Actor::Consumer => {
                let running = if case.actor == Actor::Service { &mut service } else { &mut consumer };
                until(|| dies(&stage), async || running.child.try_wait().unwrap().is_some()).await;
                *running = Running::start(running.role, &stage, ways(case.actor), life, armed(case.actor, life));
            }
        }
    }
    let deadline = Instant::now() + PATIENCE;
    until(|| format!("{} did not happen\n{}", case.name(), stage.said()), async || failing.have_failed()).await;
    let is_service = case.actor == Actor::Service;
    let services = if case.twice && is_service { 2 } else { 1 };
    let deaths = case.lives.iter().filter(|life| Case::is_deadly(life)).count();
    let life = if is_service { deaths } else { 0 };
    while let Some(why) = stage.unsettled(services, life, case.outlasts_checks).await {
        assert!(Instant::now() < deadline, "{} is not settled: {why}\n{}", case.name(), stage.said());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop((service, consumer, second));
    assert_eq!(stage.differences(case.outlasts_checks).await, None, "{}", case.name());
    assert!(stage.broker.stop().unwrap().success(), "a graceful end:\n{}", stage.broker.log());
}

/// `PROOF_REAL=txn-begun` plays those only whose name holds it.
fn cases() -> Vec<Case> {
    let wanted = std::env::var("PROOF_REAL").unwrap_or_default();
    cases::all().into_iter().filter(|case| case.name().contains(&wanted)).collect()
}

#[test]
fn rows_messages_and_effects_agree_after_every_single_with_real_processes() {
    let server = DatabaseServer::start(DatabaseKind::Postgres, &[("max_connections", "300")]).unwrap();
    let (cases, next, table) = (cases(), Mutex::new(0), Mutex::new(BTreeMap::new()));
    armed_mq();
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                loop {
                    let number = {
                        let mut next = next.lock().unwrap();
                        *next += 1;
                        *next - 1
                    };
                    let Some(case) = cases.get(number) else { return };
                    let began = Instant::now();
                    runtime.block_on(plays_and_settles(&server, number, case));
                    let singles: Vec<_> =
                        case.singles.iter().map(|(point, kind)| format!("{point:?} {kind:?}")).collect();
                    let row = format!(
                        "{:<9} {:<70} {:>5} ms  {}",
                        format!("{:?}", case.actor),
                        case.name(),
                        began.elapsed().as_millis(),
                        singles.join(", ")
                    );
                    println!("{row}");
                    table.lock().unwrap().insert(number, row);
                }
            });
        }
    });
    let played: BTreeSet<(Point, Kind)> = cases.into_iter().flat_map(|case| case.singles).collect();
    let mut rows: Vec<String> = table.into_inner().unwrap().into_values().collect();
    let runs = rows.len();
    rows.extend(cases::not_played().map(|(point, kind, why)| format!("not played: {point:?} {kind:?}: {why}")));
    report::show(
        "60 proof 4 real",
        &format!(
            "{}\n{} of {} singles with real processes ({runs} runs): rows, messages and effects agree",
            rows.join("\n"),
            played.len(),
            Point::ALL.len() * Kind::ALL.len()
        ),
    );
}
