//! From facts to a timeline, and from what is not in it to its likely cause. Pure: the same facts, the same answer.

use std::time::Duration;

use mq_protocol::body::{InboxAnswer, TxnEvent, TxnShown, TxnState};
use mq_protocol::ids::UnixMillis;

use super::facts::{DelayedFacts, Facts, GroupFacts, MessageFacts, RetryFate, TransactionFacts};
use super::{Explanation, Missing, Source, Stage, Step};
use crate::producer::Verdict;
use crate::trace::TraceRecord;

/// Topics that are named where nothing was found.
const NAMED_TOPICS: usize = 5;
/// How our broker tells of verdicts and the like.
const SAID_ROLLBACK: &str = "said rollback";
const SAID_UNKNOWN: &str = "said unknown";
const SENT: &str = "sent it";
const PARKED: &str = "parked: ";

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
    // Stable: what has no time of its own stays behind what led to it.
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

    /// `relayed`: the copy that its producer sent from its outbox.
    fn transaction(
        &mut self,
        half: &TransactionFacts,
        visible: Option<&MessageFacts>,
        delayed: bool,
        relayed: Option<&str>,
    ) {
        let (id, topic) = (&half.id, &half.topic);
        let last = self.halves_and_checks(half);
        let is_out = visible.is_some() || delayed;
        match state_of(half, is_out) {
            Some(TxnState::Committed) => {
                let at = visible.map_or(last, |message| message.stored_at);
                self.step(id, at, Stage::Verdict, Source::Broker, "committed");
                if !is_out {
                    let why = format!(
                        "committed, and not in the index of {topic}: it is older than the log, or {topic} was deleted"
                    );
                    self.lacks(id, Stage::Visible, why, "");
                }
            }
            Some(TxnState::RolledBack) => {
                self.step(id, last, Stage::Verdict, Source::Broker, rolled_back(half, relayed));
            }
            Some(TxnState::Parked) => self.parked(half),
            Some(TxnState::Open | TxnState::Resumed) => self.open(half),
            None => {
                let why = "its broker does not tell whether it is open or rolled back: Apache's does not keep that, ours \
                           keeps it as long as the half is on disk";
                self.lacks(id, Stage::Verdict, why, "");
            }
        }
    }

    /// Up to its verdict. Returns when the last of it was.
    fn halves_and_checks(&mut self, half: &TransactionFacts) -> UnixMillis {
        let TransactionFacts { id, group, topic, broker, .. } = half;
        let told = half.shown.as_ref().map(|shown| &shown.half).filter(|told| told.parts > 1);
        let part = told.map(|told| format!(", {} of {} under one verdict", told.part, told.parts)).unwrap_or_default();
        let history = half.shown.as_ref().map_or(&[][..], |shown| &shown.history);
        let client = history.iter().find(|event| event.what == SENT).and_then(|event| event.by.as_ref());
        let client = client.map(|client| format!(" (client {client})")).unwrap_or_default();
        let what = format!("half {} for {topic} stored on {broker} by producer group {group}{client}{part}", half.half);
        self.step(id, half.stored_at, Stage::Half, Source::Log, what);
        for (at, number) in &half.again {
            let why = match half.parked.iter().rev().find(|(given_up, _)| given_up <= at) {
                Some((_, copy)) => format!("an operator resumed p{copy}"),
                None => "its client sent it once more".to_owned(),
            };
            self.step(id, *at, Stage::Half, Source::Log, format!("half {number} for {topic} stored: {why}"));
        }
        let told = history.iter().filter(|event| event.what != SENT && !event.what.starts_with(PARKED));
        let told: Vec<&TxnEvent> = told.collect();
        for alike in told.chunk_by(|one, next| (&one.what, &one.by) == (&next.what, &next.by)) {
            let times = if alike.len() > 1 { format!(", {} times since", alike.len()) } else { String::new() };
            let what = format!("{}{times}", said(alike[0]));
            self.step(id, UnixMillis(alike[0].at), Stage::Check, Source::Broker, what);
        }
        for (at, copy) in &half.parked {
            let reason =
                history.iter().rev().filter(|event| event.at <= at.0).find_map(|it| it.what.strip_prefix(PARKED));
            let reason = reason.map(|reason| format!(", for {reason}")).unwrap_or_default();
            self.step(id, *at, Stage::Parked, Source::Log, format!("given up{reason}: its copy is p{copy}"));
        }
        let events = history.iter().map(|event| UnixMillis(event.at));
        events.chain(half.parked.iter().map(|(at, _)| *at)).fold(half.last().0, UnixMillis::max)
    }

    fn parked(&mut self, half: &TransactionFacts) {
        let group = &half.group;
        let checks = half.shown.as_ref().map(|shown| shown.half.checks);
        let unknown = half.shown.iter().flat_map(|shown| &shown.history).filter(|event| event.what == SAID_UNKNOWN);
        let why = match (checks, unknown.count()) {
            (Some(0), _) => format!("given up: no client of producer group {group} was there to be asked"),
            (Some(checks), 1..) => format!(
                "given up after {}: producer group {group} answered, and never with a verdict",
                checked(checks, None)
            ),
            (Some(checks), 0) => {
                format!("given up after {}: no client of producer group {group} answered", checked(checks, None))
            }
            (None, _) => format!("given up: no client of producer group {group} answered with a verdict"),
        };
        let fix = match half.parked.last() {
            Some((_, copy)) => format!("once the group knows: `mq admin txn resume p{copy}`"),
            None => "once the group knows: `mq admin txn list --parked`, then `mq admin txn resume`".to_owned(),
        };
        self.lacks(&half.id, Stage::Verdict, why, fix);
    }

    /// No verdict yet: nobody is there, nobody was asked yet, or nobody knew.
    fn open(&mut self, half: &TransactionFacts) {
        let TransactionFacts { id, group, .. } = half;
        let (stored_at, number) = half.last();
        let ago = lasting(self.now.since(stored_at));
        let told = half.shown.as_ref().map(|shown| &shown.half);
        let checks = told.map_or(0, |told| told.checks);
        let so_far =
            format!("half stored {ago} ago, {}, no verdict", checked(checks, told.and_then(|told| told.max_checks)));
        let next = told.and_then(|told| told.next_check_at).map(UnixMillis).filter(|next| *next > self.now);
        let next = next
            .map(|next| format!("; the next check is due in {}", lasting(next.since(self.now))))
            .unwrap_or_default();
        let settle = format!("or settle it: `mq admin txn resolve {number} commit|rollback`");
        if half.producers == 0 {
            let why = format!("{so_far}: producer group {group} has no client online{next}");
            self.lacks(id, Stage::Verdict, why, format!("start a client of {group}; {settle}"));
        } else if checks == 0 {
            let why =
                format!("{so_far}: the producer has not said how its transaction ended, and was not asked yet{next}");
            self.lacks(id, Stage::Verdict, why, format!("ask now: `mq admin txn check {number}`"));
        } else {
            let why = format!(
                "{so_far}: {} of {group} online, but none knows how the transaction ended, or answers checks at all{next}",
                clients(half.producers)
            );
            self.lacks(id, Stage::Verdict, why, format!("look at the checker of {group}; {settle}"));
        }
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

    fn message(&mut self, message: &MessageFacts, traces: &[TraceRecord]) {
        let MessageFacts { id, topic, broker, queue, offset, .. } = message;
        let what = format!("visible at offset {offset} of queue {queue} of {topic} on {broker}");
        self.step(id, message.stored_at, Stage::Visible, Source::Log, what);
        if message.groups.is_empty() {
            let why = format!("no group reads {topic}: none is online, and none has left a position there");
            self.lacks(id, Stage::Delivery, why, "start a consumer that subscribes to it");
        }
        for group in &message.groups {
            self.group(message, group, traces);
        }
    }

    fn group(&mut self, message: &MessageFacts, facts: &GroupFacts, traces: &[TraceRecord]) {
        let (id, group) = (&message.id, &facts.group);
        if let Some(InboxAnswer::Done { key, at }) = &facts.inbox {
            let what = format!("the inbox of {group} has its row, {key}: the effect is committed");
            self.step(id, *at, Stage::Inbox, Source::Consumer, what);
        }
        for retry in &facts.retries {
            let what = match retry.fate {
                _ if retry.number < 2 => format!("{group} gets it again: an operator has sent it"),
                RetryFate::Resting => format!("{group} failed it and sent it back for try {}", retry.number),
                RetryFate::Ready | RetryFate::Done => {
                    format!("try {} for {group}: the one before failed", retry.number)
                }
            };
            self.step(id, retry.at, Stage::Retry, Source::Log, what);
        }
        if let Some(at) = facts.dead_at {
            self.step(id, at, Stage::DeadLetter, Source::Log, format!("a dead letter of {group}"));
            if facts.retries.last().is_none_or(|retry| retry.at <= at) {
                return self.gave_up(message, facts);
            }
        }
        if let Some(retry) = facts.retries.last() {
            let why = match retry.fate {
                RetryFate::Done => {
                    return self.handled(message, facts, traces, &format!("at try {}", retry.number));
                }
                RetryFate::Resting => format!("{group} failed it; try {} rests until its time", retry.number),
                RetryFate::Ready if facts.consumers == 0 => {
                    format!("{group} failed it, and has no consumer online for try {}", retry.number)
                }
                RetryFate::Ready => format!("{group} failed it; try {} is on its way", retry.number),
            };
            return self.undelivered(message, facts, why, format!("`mq admin group status {group}`"));
        }
        if let Some(filter) = &facts.passes_over {
            let what = format!("not for {group}, which subscribes to {filter}");
            return self.step(id, message.stored_at, Stage::Delivery, Source::Broker, what);
        }
        if facts.broadcast {
            let what = format!("{group} broadcasts: each of its {} keeps its own position", clients(facts.consumers));
            return self.step(id, message.stored_at, Stage::Delivery, Source::Broker, what);
        }
        if let Some((at, until)) = facts.popped {
            self.step(id, at, Stage::Delivery, Source::Broker, format!("popped by {group}"));
            let until = until.filter(|until| *until > self.now).map(|until| lasting(until.since(self.now)));
            let until = until.map_or_else(|| "soon".to_owned(), |left| format!("in {left}"));
            let why = format!("{group} popped it and has not acknowledged it; unless it does, it comes again {until}");
            return self.undelivered(message, facts, why, format!("`mq admin group clients {group}` shows who pops"));
        }
        match facts.committed {
            Some(committed) if committed > message.offset && facts.pops_untold => {
                let what = format!("given to {group} by a pop; its broker does not tell whether it was acknowledged");
                self.step(id, message.stored_at, Stage::Delivery, Source::Broker, what);
            }
            Some(committed) if committed > message.offset => self.passed(message, facts, traces),
            committed => self.waits(message, facts, committed),
        }
    }

    fn gave_up(&mut self, message: &MessageFacts, facts: &GroupFacts) {
        let group = &facts.group;
        let tries = facts.retries.last().map(|retry| format!(" after {} tries", retry.number)).unwrap_or_default();
        let why = format!("{group} gave it up{tries}: its handler failed every time");
        let again = format!("`mq admin message resend {group} --key {}`", message.id);
        self.undelivered(message, facts, why, format!("mend the handler, then have it tried again: {again}"));
    }

    /// Without a trace nothing tells a message that was handled from one that the group began behind.
    fn passed(&mut self, message: &MessageFacts, facts: &GroupFacts, traces: &[TraceRecord]) {
        let group = &*facts.group;
        let is_done = matches!(facts.inbox, Some(InboxAnswer::Done { .. }));
        if is_done || handled_at(traces, group).is_some() {
            return self.handled(message, facts, traces, "at the first try");
        }
        let what = format!(
            "behind the position of {group}: acknowledged at the first try, or passed over by a start behind it, a reset \
             or a skip (a trace would tell)"
        );
        self.step(&message.id, message.stored_at, Stage::Delivery, Source::Broker, what);
        self.no_effect(message, facts);
    }

    /// The position is behind the message, and the effect is not there.
    fn no_effect(&mut self, message: &MessageFacts, facts: &GroupFacts) {
        let GroupFacts { group, .. } = facts;
        let (why, fix) = match &facts.inbox {
            None | Some(InboxAnswer::Done { .. }) => return,
            Some(InboxAnswer::NotThere { key }) => {
                let why = format!(
                    "the position of {group} is behind it, and the inbox has no row {key}: its handler never ran (the group \
                     began behind it, or was reset or skipped past it), or the row is older than the inbox keeps them"
                );
                let fix = format!(
                    "if the effect is missing, deliver again: `mq admin offset reset {group} {}`; what is in the inbox is not \
                     done twice",
                    message.topic
                );
                (why, fix)
            }
            Some(InboxAnswer::Unknown { reason }) => {
                (format!("the inbox of {group} does not answer: {reason}"), format!("look at the database of {group}"))
            }
        };
        self.lacks(&message.id, Stage::Inbox, why, fix);
    }

    /// Not acknowledged; and what the group's database says meanwhile.
    fn undelivered(&mut self, message: &MessageFacts, facts: &GroupFacts, why: String, fix: String) {
        let meanwhile = match &facts.inbox {
            None => String::new(),
            Some(InboxAnswer::Done { .. }) => {
                "; the effect is committed, only the acknowledgement is missing".to_owned()
            }
            Some(InboxAnswer::NotThere { key }) => {
                format!("; its inbox has no row {key}: nothing of the effect is in its database")
            }
            Some(InboxAnswer::Unknown { reason }) => format!("; its inbox does not answer: {reason}"),
        };
        self.lacks(&message.id, Stage::Delivery, why + &meanwhile, fix);
    }

    /// The time is the trace's; the committed position has none.
    fn handled(&mut self, message: &MessageFacts, facts: &GroupFacts, traces: &[TraceRecord], when: &str) {
        let traced = handled_at(traces, &facts.group);
        let retried = facts.retries.last().map(|retry| retry.at);
        let at = traced.or(retried).unwrap_or(message.stored_at);
        let what = format!("acknowledged by {} {when}: its committed position is behind it", facts.group);
        self.step(&message.id, at, Stage::Delivery, Source::Broker, what);
        self.no_effect(message, facts);
    }

    fn waits(&mut self, message: &MessageFacts, facts: &GroupFacts, committed: Option<u64>) {
        let GroupFacts { group, consumers, .. } = facts;
        let (why, fix) = if message.offset < facts.handed_out_to {
            if matches!(facts.inbox, Some(InboxAnswer::Done { .. })) {
                return; // Its position is told within seconds.
            }
            let why = format!(
                "{group} was handed it and has not told that it is past it: a handler is at work, slow or stuck, or done just \
                 now (consumers tell every few seconds)"
            );
            (why, format!("`mq admin group status {group}`"))
        } else if *consumers == 0 {
            let why = format!("{group} has no consumer online");
            (why, format!("start one; `mq admin group clients {group}` shows them"))
        } else if let Some(committed) = committed {
            let why = match message.offset - committed {
                0 => format!("{group} is online and reads it next"),
                before => format!("{group} is {before} messages away from it in its queue"),
            };
            (why, format!("more consumers, or faster ones: `mq admin group status {group}`"))
        } else {
            let why = format!("{group} is online and has not committed anything in its queue yet");
            (why, format!("whether it began behind this message: `mq admin group progress {group}`"))
        };
        self.undelivered(message, facts, why, fix);
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

/// By whom, as far as the broker remembers, and what that means.
fn rolled_back(half: &TransactionFacts, relayed: Option<&str>) -> String {
    let said = |event: &&TxnEvent| event.what == SAID_ROLLBACK;
    let event = half.shown.iter().flat_map(|shown| &shown.history).rev().find(said);
    let by = event.and_then(|event| event.by.as_ref()).map(|by| format!(" by {by}")).unwrap_or_default();
    match relayed {
        Some(copy) => format!("rolled back{by}: the transaction went to its producer's outbox, and came as {copy}"),
        None => format!("rolled back{by}: nothing is published"),
    }
}

/// The broker need not be named for what it does unasked.
fn said(event: &TxnEvent) -> String {
    match event.by.as_deref() {
        None | Some(TxnEvent::THE_BROKER) => event.what.clone(),
        Some(by) => format!("{by} {}", event.what),
    }
}

/// `None`: nobody tells.
fn state_of(half: &TransactionFacts, is_out: bool) -> Option<TxnState> {
    match &half.shown {
        Some(TxnShown { half: told, .. }) => Some(told.state),
        None if is_out => Some(TxnState::Committed),
        None if half.parked.is_empty() => None,
        None => Some(TxnState::Parked),
    }
}

/// When a trace last says that the group was done with it.
fn handled_at(traces: &[TraceRecord], by: &str) -> Option<UnixMillis> {
    let done =
        |record: &&TraceRecord| matches!(record, TraceRecord::Handled { group, success: true, .. } if **group == *by);
    traces.iter().rev().find(done).map(TraceRecord::at)
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

fn checked(checks: u32, of: Option<u32>) -> String {
    match (checks, of) {
        (0, _) => "not checked".to_owned(),
        (1, None) => "1 check".to_owned(),
        (checks, None) => format!("{checks} checks"),
        (checks, Some(of)) => format!("{checks} of {of} checks"),
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
