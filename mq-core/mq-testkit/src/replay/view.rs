//! What somebody on call can find out about open halves.

use anyhow::Result;
use mq_protocol::properties::name;

use super::stage::{PATIENCE, Verdict, wait_for};
use super::{Outcome, Scenario, Setting, Stage};

pub(super) const SCENARIOS: [Scenario; 1] = [Scenario {
    tickets: "dashboard #4343 #4435",
    done: "two halves of one order are stored and one of them is rolled back; somebody on call asks which halves are open",
    right: "the open one is told, and only that",
    setting: Setting::Short,
    run: which_is_open,
}];

/// Where there is no such request, it is what `mqadmin` and the dashboard do: the order's number is looked up.
fn which_is_open(stage: &Stage) -> Result<Outcome> {
    let topic = "replay-which-is-open";
    let mut producer = stage.producer(topic, "p")?;
    // It is to be open while it is looked for.
    let properties = [(name::KEYS, "order-4343"), (name::CHECK_IMMUNITY_SECONDS, "600")];
    let ended = producer.try_half(topic, "ended", &properties)?;
    let open = producer.try_half(topic, "open", &properties)?;
    let (Ok(ended), Ok(open)) = (ended, open) else {
        return Ok(Outcome { did: "the halves are refused".into(), is_right: false });
    };
    producer.end(&ended, Verdict::Rollback)?;
    if let Some(told) = stage.open_halves(topic)? {
        let is_right = told == [open.key];
        let did = if is_right { "the open one".into() } else { format!("{} halves", told.len()) };
        return Ok(Outcome { did, is_right });
    }
    let in_topic = stage.find(topic, "order-4343")?.len();
    let both = wait_for(PATIENCE, || {
        let found = stage.find(mq_protocol::topic::HALF, "order-4343")?;
        Ok([&ended.key, &open.key].iter().all(|key| found.contains(key)))
    })?;
    let halves = if both { "both, the same" } else { "not both" };
    let did = format!("no such request; by the order's number: {in_topic} in the topic, {halves}, in the half topic");
    Ok(Outcome { did, is_right: false })
}
