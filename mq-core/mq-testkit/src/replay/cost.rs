//! What pending halves cost, and whether one of them may hold up the others.

use anyhow::{Context, Result};

use super::stage::{Half, PATIENCE, Producer, Verdict};
use super::{Outcome, Scenario, Setting, Stage};

pub(super) const SCENARIOS: [Scenario; 2] = [
    Scenario {
        tickets: "PR #1543",
        done: "a half with 256 KiB is checked 15 times",
        right: "the log grows by less than one more copy of it",
        setting: Setting::FifteenChecks,
        run: fifteen_checks,
    },
    Scenario {
        tickets: "#9500",
        done: "one half has as many properties as a record can hold; another producer's half comes behind it",
        right: "the other producer is asked",
        setting: Setting::Alone,
        run: one_bad_record,
    },
];

fn fifteen_checks(stage: &Stage) -> Result<Outcome> {
    const BODY_BYTES: u64 = 256 << 10;
    let mut producer = stage.producer("replay-rewriting", "p")?;
    producer.half("replay-rewriting", &"x".repeat(BODY_BYTES as usize))?;
    let before = stage.log_end(&mut producer)?;
    let mut checks = 0;
    while checks < stage.setting.max_checks() {
        let check = producer.must_be_checked()?;
        producer.answer(&check, Verdict::Unknown)?;
        checks += 1;
    }
    let grown = stage.log_end(&mut producer)?.0 - before.0;
    Ok(Outcome { did: format!("{checks} checks wrote {} KiB", grown >> 10), is_right: grown < BODY_BYTES })
}

fn one_bad_record(stage: &Stage) -> Result<Outcome> {
    let mut careless = stage.producer("replay-full-record", "careless")?;
    fullest_half(&mut careless)?;
    let mut other = stage.producer("replay-behind-it", "other")?;
    other.half("replay-behind-it", "paid")?;
    // Longer than a broker may take over one round.
    let asked = other.check(PATIENCE)?.is_some();
    let did = if asked { "asked".into() } else { format!("not asked in {} s", PATIENCE.as_secs()) };
    Ok(Outcome { did, is_right: asked })
}

/// A half whose record has hardly any room for a further property: the longest that the broker takes.
fn fullest_half(producer: &mut Producer) -> Result<Half> {
    const LIMIT: usize = 1 << 15;
    // Less than what a broker adds that counts checks in the record.
    const STEP: usize = 8;
    for bytes in (LIMIT / 2..LIMIT).rev().step_by(STEP).take(200) {
        if let Ok(half) = producer.try_half("replay-full-record", "much to say", &[("note", &"n".repeat(bytes))])? {
            return Ok(half);
        }
    }
    None.context("no half with long properties is taken")
}
