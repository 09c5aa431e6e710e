//! Who is asked how a transaction ended, and whether anybody is.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use mq_protocol::ids::UnixMillis;
use mq_protocol::properties::name;

use super::stage::{PATIENCE, ROUND, Verdict, now, wait_for};
use super::{Outcome, Scenario, Setting, Stage};

pub(super) const SCENARIOS: [Scenario; 4] = [
    Scenario {
        tickets: "#9791",
        done: "two members of a producer group are connected; one of them sends a half",
        right: "each check goes to the member that sent it",
        setting: Setting::Short,
        run: two_members,
    },
    Scenario {
        tickets: "#8311",
        done: "a half with CHECK_IMMUNITY_TIME_IN_SECONDS=10, longer than five rounds; each check is answered UNKNOWN",
        right: "five checks are sent before it is parked",
        setting: Setting::Short,
        run: long_immunity,
    },
    Scenario {
        tickets: "#386 #475",
        done: "the producer goes away for eight rounds of five checks at most, and comes back with a heartbeat only",
        right: "it is asked, and its COMMIT delivers",
        setting: Setting::Short,
        run: restarted_producer,
    },
    Scenario {
        tickets: "#9640",
        done: "a half from a client whose clock is 73 hours slow",
        right: "it is asked about, not dropped",
        setting: Setting::Short,
        run: slow_clock,
    },
];

fn two_members(stage: &Stage) -> Result<Outcome> {
    let group = "replay-two-members";
    let mut orders = stage.producer(group, "orders")?;
    let mut refunds = stage.producer(group, "refunds")?;
    orders.half("replay-orders", "whose is it")?;
    let (mut right, mut wrong) = (0, 0);
    wait_for(PATIENCE, || {
        right += orders.say_unknown(ROUND / 8)?;
        wrong += refunds.say_unknown(ROUND / 8)?;
        Ok(right + wrong >= 4)
    })?;
    let did = format!("{right} checks to the sender, {wrong} to the other member");
    Ok(Outcome { did, is_right: right >= 4 && wrong == 0 })
}

fn long_immunity(stage: &Stage) -> Result<Outcome> {
    let mut producer = stage.producer("replay-immunity", "p")?;
    let immunity = [(name::CHECK_IMMUNITY_SECONDS, "10")];
    if let Err(refused) = producer.try_half("replay-immunity", "takes its time", &immunity)? {
        return Ok(Outcome { did: format!("the half {refused}"), is_right: false });
    }
    let mut checks = 0;
    let parked = wait_for(PATIENCE, || {
        checks += producer.say_unknown(ROUND / 4)?;
        stage.is_parked("takes its time")
    })?;
    checks += producer.say_unknown(ROUND / 4)?;
    let end = if parked { "parked" } else { "not parked" };
    Ok(Outcome { did: format!("{checks} checks, {end}"), is_right: parked && checks == stage.setting.max_checks() })
}

fn restarted_producer(stage: &Stage) -> Result<Outcome> {
    let topic = "replay-restarted";
    let mut producer = stage.producer(topic, "p")?;
    producer.half(topic, "paid before the crash")?;
    drop(producer);
    sleep(ROUND * 8);
    let mut again = stage.producer(topic, "p")?;
    let Some(check) = stage.check_or_parked(&mut again, "paid before the crash")? else {
        let parked = stage.is_parked("paid before the crash")?;
        let also = if parked { ": parked meanwhile" } else { "" };
        return Ok(Outcome { did: format!("never asked{also}"), is_right: false });
    };
    let answered = again.answer(&check, Verdict::Commit)?;
    let is_right = stage.becomes_visible(topic)?;
    let delivered = if is_right { "delivered" } else { "not delivered" };
    Ok(Outcome { did: format!("asked; the COMMIT {answered}, {delivered}"), is_right })
}

fn slow_clock(stage: &Stage) -> Result<Outcome> {
    const BEHIND: Duration = Duration::from_secs(73 * 3600);
    let mut producer = stage.producer("replay-slow-clock", "p")?;
    let born = UnixMillis(now().0 - BEHIND.as_millis() as i64);
    producer.half_born_at("replay-slow-clock", "from last week", born)?;
    let asked = stage.check_or_parked(&mut producer, "from last week")?.is_some();
    let parked = !asked && stage.is_parked("from last week")?;
    let did = match (asked, parked) {
        (true, _) => "asked",
        (false, true) => "parked at once, never asked",
        (false, false) => "never asked",
    };
    Ok(Outcome { did: did.into(), is_right: asked })
}
