//! From facts to a timeline, and from what is not in it to its likely cause. Pure: the same facts, the same answer.

mod deliveries;
mod halves;

use std::time::Duration;

use mq_protocol::ids::UnixMillis;

use super::facts::{DelayedFacts, Facts, MessageFacts};
use super::{Explanation, Missing, Source, Stage, Step};
use crate::producer::Verdict;
use crate::trace::TraceRecord;

/// Topics that are named where nothing was found.
const NAMED_TOPICS: usize = 5;

pub(super) fn decide(facts: &Facts) -> Explanation {
    let mut found = Found { now: facts.now, steps: Vec::new(), missing: Vec::new() };
    for transaction in &facts.transactions {
        let is_it = |message: &&MessageFacts| message.id == transaction.id && message.topic == transaction.topic;
        let visible = facts.messages.iter().find(is_it);
        let delayed = facts.delayed.iter().any(|one| one.id == transaction.id && one.topic == transaction.topic);
        let relayed =
            |message: &&MessageFacts| message.outbox_of.is_some() && message.outbox_of == transaction.sdk_transaction;
        let relayed = facts.messages.iter().find(relayed).map(|message| message.id.as_str());
        found.transaction(transaction, visible, delayed, relayed);
    }
    for delayed in &facts.delayed {
        let is_out = facts.messages.iter().any(|message| message.id == delayed.id && message.topic == delayed.topic);
        found.delayed(delayed, is_out);
    }
    for message in &facts.messages {
        found.message(message, facts.traces_of(&message.id));
    }
    for (id, record) in facts.traces.iter().flat_map(|(id, records)| records.iter().map(move |record| (id, record))) {
        let (stage, what) = traced(record);
        found.step(id, record.at(), stage, Source::Trace, what);
    }
    if found.steps.is_empty() {
        found.nothing(facts);
    }
    // Stable: what has no time of its own stays after what led to it.
    found.steps.sort_by_key(|step| step.at);
    Explanation { key: facts.key.clone(), timeline: found.steps, missing: found.missing }
}

struct Found {
    now: UnixMillis,
    steps: Vec<Step>,
    missing: Vec<Missing>,
}

impl Found {
    fn step(&mut self, message: &str, at: UnixMillis, stage: Stage, source: Source, what: impl Into<String>) {
        self.steps.push(Step { at, stage, message: message.to_owned(), what: what.into(), source });
    }

    fn lacks(&mut self, message: &str, stage: Stage, why: impl Into<String>, fix: impl Into<String>) {
        self.missing.push(Missing { stage, message: message.to_owned(), why: why.into(), fix: fix.into() });
    }

    fn delayed(&mut self, delayed: &DelayedFacts, is_out: bool) {
        let until = match delayed.due {
            Some(due) if due > self.now => format!("for another {}", lasting(due.since(self.now))),
            Some(_) => "and is due".to_owned(),
            None => "for the time of its delay level".to_owned(),
        };
        let what = format!("kept back for {}", delayed.topic);
        self.step(&delayed.id, delayed.stored_at, Stage::Delayed, Source::Log, what);
        if !is_out {
            self.lacks(&delayed.id, Stage::Visible, format!("it waits {until}"), "");
        }
    }

    fn nothing(&mut self, facts: &Facts) {
        let mut topics = facts.topics.iter().take(NAMED_TOPICS).cloned().collect::<Vec<_>>().join(", ");
        if facts.topics.len() > NAMED_TOPICS {
            topics.push_str(&format!(" and {} more", facts.topics.len() - NAMED_TOPICS));
        }
        let why = format!(
            "no half message and no message of {} has the key: the producer did not come so far (no half, no message), keeps \
             it in its outbox until a broker takes it, sent it without this key (KEYS), or the log no longer has it",
            if topics.is_empty() { "any topic" } else { topics.as_str() }
        );
        self.lacks(
            "",
            Stage::Half,
            why,
            "look into the producer's own log and database (with an outbox: table checkback_outbox)",
        );
    }
}

fn traced(record: &TraceRecord) -> (Stage, String) {
    match record {
        TraceRecord::Sent { group, cost_ms, success, .. } => {
            let how = if *success { "sent" } else { "failed to send" };
            (Stage::Visible, format!("{group} {how} it in {cost_ms} ms"))
        }
        TraceRecord::Begun { group, failed_before, .. } => {
            let again =
                if *failed_before > 0 { format!(", which failed {failed_before} times") } else { String::new() };
            (Stage::Delivery, format!("{group} began to handle it{again}"))
        }
        TraceRecord::Handled { group, cost_ms, success, .. } => {
            let how = if *success { "handled" } else { "failed to handle" };
            (Stage::Delivery, format!("{group} {how} it in {cost_ms} ms"))
        }
        TraceRecord::Ended { group, verdict, by_check, .. } => {
            let verdict = match verdict {
                Verdict::Commit => "committed",
                Verdict::Rollback => "rolled back",
                Verdict::Unknown => "not known yet",
            };
            let asked = if *by_check { "asked, " } else { "" };
            (Stage::Verdict, format!("{group} said, {asked}{verdict}"))
        }
    }
}

fn clients(count: usize) -> String {
    if count == 1 { "1 client".to_owned() } else { format!("{count} clients") }
}

/// Roughly, as people say it.
fn lasting(time: Duration) -> String {
    match time.as_secs() {
        0 => "less than a second".to_owned(),
        seconds @ 1..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds @ 7200..=172_799 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
