//! Verdicts that come twice, late, or against an earlier one.

use anyhow::Result;

use super::stage::{PATIENCE, QUIET, ROUND, Verdict, wait_for};
use super::{Outcome, Scenario, Setting, Stage};

pub(super) const SCENARIOS: [Scenario; 6] = [
    Scenario {
        tickets: "no ticket",
        done: "one half is committed in time, another one rolled back",
        right: "one copy of the first, none of the second",
        setting: Setting::Short,
        run: in_time,
    },
    Scenario {
        tickets: "#8158 (1)",
        done: "a check is answered COMMIT; then the producer's own COMMIT arrives",
        right: "one copy",
        setting: Setting::Short,
        run: commit_after_a_checks_commit,
    },
    Scenario {
        tickets: "#8158 (2) #2694",
        done: "a check is answered ROLLBACK; then the producer's own COMMIT arrives",
        right: "no copy: the first verdict stands",
        setting: Setting::Short,
        run: commit_after_a_checks_rollback,
    },
    Scenario {
        tickets: "#8158 (3)",
        done: "two checks are answered UNKNOWN; then the producer's own COMMIT arrives",
        right: "one copy, and no more checks",
        setting: Setting::Short,
        run: commit_between_checks,
    },
    Scenario {
        tickets: "#8158 (4)",
        done: "all checks are answered UNKNOWN and the half is parked; then the producer's COMMIT arrives",
        right: "one outcome: refused and parked, or delivered and not parked",
        setting: Setting::Short,
        run: commit_after_parking,
    },
    Scenario {
        tickets: "#5574",
        done: "the same COMMIT is sent twice",
        right: "one copy",
        setting: Setting::Short,
        run: the_same_commit_twice,
    },
];

fn counted(copies: usize) -> String {
    if copies == 1 { "1 copy".into() } else { format!("{copies} copies") }
}

fn in_time(stage: &Stage) -> Result<Outcome> {
    let [paid, unpaid] = ["replay-in-time-paid", "replay-in-time-unpaid"];
    let mut producer = stage.producer("replay-in-time", "p")?;
    let [first, second] = [producer.half(paid, "paid")?, producer.half(unpaid, "unpaid")?];
    producer.end(&first, Verdict::Commit)?;
    producer.end(&second, Verdict::Rollback)?;
    stage.becomes_visible(paid)?;
    let (first, second) = (stage.copies(paid)?, stage.copies(unpaid)?);
    Ok(Outcome { did: format!("{} and {}", counted(first), counted(second)), is_right: (first, second) == (1, 0) })
}

fn commit_after_a_checks_commit(stage: &Stage) -> Result<Outcome> {
    let topic = "replay-checked-then-committed";
    let mut producer = stage.producer("replay-checked-then-committed", "p")?;
    let half = producer.half(topic, "paid")?;
    let check = producer.must_be_checked()?;
    producer.answer(&check, Verdict::Commit)?;
    stage.becomes_visible(topic)?;
    let late = producer.end(&half, Verdict::Commit)?;
    let copies = stage.copies(topic)?;
    Ok(Outcome { did: format!("{}; the second COMMIT {late}", counted(copies)), is_right: copies == 1 })
}

fn commit_after_a_checks_rollback(stage: &Stage) -> Result<Outcome> {
    let topic = "replay-rolled-back-then-committed";
    let mut producer = stage.producer(topic, "p")?;
    let half = producer.half(topic, "not paid")?;
    let check = producer.must_be_checked()?;
    producer.answer(&check, Verdict::Rollback)?;
    let late = producer.end(&half, Verdict::Commit)?;
    let copies = stage.copies(topic)?;
    Ok(Outcome { did: format!("{}; the COMMIT {late}", counted(copies)), is_right: copies == 0 })
}

fn commit_between_checks(stage: &Stage) -> Result<Outcome> {
    let topic = "replay-committed-between-checks";
    let mut producer = stage.producer(topic, "p")?;
    let half = producer.half(topic, "paid slowly")?;
    for _ in 0..2 {
        let check = producer.must_be_checked()?;
        producer.answer(&check, Verdict::Unknown)?;
    }
    producer.end(&half, Verdict::Commit)?;
    // One may be on its way already.
    producer.say_unknown(ROUND * 2)?;
    let checks = producer.say_unknown(QUIET)?;
    let (copies, parked) = (stage.copies(topic)?, stage.is_parked("paid slowly")?);
    let also = if parked { ", and parked as undecided" } else { "" };
    let did = format!("{}; asked {checks} times after the COMMIT{also}", counted(copies));
    Ok(Outcome { did, is_right: copies == 1 && checks == 0 && !parked })
}

fn commit_after_parking(stage: &Stage) -> Result<Outcome> {
    let topic = "replay-committed-after-parking";
    let mut producer = stage.producer(topic, "p")?;
    let half = producer.half(topic, "paid too late")?;
    let parked = wait_for(PATIENCE, || {
        producer.say_unknown(ROUND / 4)?;
        stage.is_parked("paid too late")
    })?;
    let late = producer.end(&half, Verdict::Commit)?;
    let copies = stage.copies(topic)?;
    let state = if parked { "parked" } else { "not parked" };
    let did = format!("{state}; the COMMIT {late}; {}", counted(copies));
    Ok(Outcome { did, is_right: (parked && copies == 0 && !late.is_yes()) || (!parked && copies == 1) })
}

fn the_same_commit_twice(stage: &Stage) -> Result<Outcome> {
    let topic = "replay-committed-twice";
    let mut producer = stage.producer(topic, "p")?;
    let half = producer.half(topic, "paid")?;
    producer.end(&half, Verdict::Commit)?;
    let again = producer.end(&half, Verdict::Commit)?;
    let copies = stage.copies(topic)?;
    Ok(Outcome { did: format!("{}; the second COMMIT {again}", counted(copies)), is_right: copies == 1 })
}
