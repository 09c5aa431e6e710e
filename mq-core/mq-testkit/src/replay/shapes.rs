//! Halves that are not one plain message for now.

use std::time::Instant;

use anyhow::Result;
use mq_protocol::compression::deflate_zlib;
use mq_protocol::properties::name;

use super::stage::{PATIENCE, QUIET, ROUND, Verdict, wait_for};
use super::{Outcome, Scenario, Setting, Stage};

pub(super) const SCENARIOS: [Scenario; 4] = [
    Scenario {
        tickets: "#477 #2971",
        done: "two halves on two topics belong to one transaction; the producer commits the first and is gone before it \
               could commit the second",
        right: "both are delivered, or none",
        setting: Setting::Short,
        run: several_messages,
    },
    Scenario {
        tickets: "#1375",
        done: "a half with a compressed body is asked about, and the check is answered COMMIT",
        right: "one copy with the bytes that were sent",
        setting: Setting::Short,
        run: compressed,
    },
    Scenario {
        tickets: "#546",
        done: "a half with DELAY=3 (three seconds), which is committed",
        right: "refused by name, or delivered once and not before its time",
        setting: Setting::Short,
        run: |stage| delayed(stage, "replay-delay", (name::DELAY, "3")),
    },
    Scenario {
        tickets: "#9923",
        done: "a half with TIMER_DELAY_SEC=3, which is committed",
        right: "refused by name, or delivered once and not before its time",
        setting: Setting::Short,
        run: |stage| delayed(stage, "replay-timer", (name::TIMER_DELAY_SEC, "3")),
    },
];

/// Apache carries the properties that say so, and does not know them.
fn several_messages(stage: &Stage) -> Result<Outcome> {
    let topics = ["replay-several-orders", "replay-several-stock"];
    let mut producer = stage.producer("replay-several", "p")?;
    let mut halves = Vec::new();
    for (topic, part) in topics.into_iter().zip(["1/2", "2/2"]) {
        let together = [(name::SHARED_ID, "replay-several"), (name::PART, part)];
        match producer.try_half(topic, "paid", &together)? {
            Ok(half) => halves.push(half),
            Err(refused) => return Ok(Outcome { did: format!("the half {refused}"), is_right: false }),
        }
    }
    let answered = producer.end(&halves[0], Verdict::Commit)?;
    drop(producer);
    if answered.is_yes() {
        stage.becomes_visible(topics[0])?;
    }
    let [first, second] = [stage.copies(topics[0])?, stage.copies(topics[1])?];
    let did = format!("the COMMIT {answered}; {first} of the first topic, {second} of the second");
    Ok(Outcome { did, is_right: (first, second) == (usize::from(answered.is_yes()), first) })
}

fn compressed(stage: &Stage) -> Result<Outcome> {
    let topic = "replay-compressed";
    let body = deflate_zlib(&b"paid ".repeat(2000));
    let mut producer = stage.producer(topic, "p")?;
    producer.compressed_half(topic, &body)?;
    let check = producer.must_be_checked()?;
    let answered = producer.answer(&check, Verdict::Commit)?;
    stage.becomes_visible(topic)?;
    stage.copies(topic)?;
    let is_right = stage.visible(topic)? == [body.to_vec()];
    let copy = if is_right { "one copy, the same bytes" } else { "not as it was sent" };
    Ok(Outcome { did: format!("the COMMIT {answered}; {copy}"), is_right })
}

fn delayed(stage: &Stage, topic: &str, delay: (&str, &str)) -> Result<Outcome> {
    let mut producer = stage.producer(topic, "p")?;
    let half = match producer.try_half(topic, "later", &[delay])? {
        Err(refused) => return Ok(Outcome { did: format!("the half {refused}"), is_right: true }),
        Ok(half) => half,
    };
    let committed = Instant::now();
    let answered = producer.end(&half, Verdict::Commit)?;
    let mut visible_after = None;
    wait_for(QUIET * 2, || {
        producer.say_unknown(ROUND / 8)?;
        visible_after = (!stage.visible(topic)?.is_empty()).then(|| committed.elapsed());
        Ok(visible_after.is_some())
    })?;
    let copies = stage.copies(topic)?;
    let when = visible_after.map_or("never delivered".into(), |after| format!("delivered after {} s", after.as_secs()));
    let is_right = copies == 1 && visible_after.is_some_and(|after| (ROUND * 3..PATIENCE).contains(&after));
    Ok(Outcome { did: format!("the half accepted, the COMMIT {answered}; {when}"), is_right })
}
