//! A visible message: what became of it in each group.

use mq_protocol::body::InboxAnswer;
use mq_protocol::ids::UnixMillis;

use super::super::facts::{GroupFacts, MessageFacts, RetryFate};
use super::super::{Source, Stage};
use super::{Found, clients, lasting};
use crate::trace::TraceRecord;

impl Found {
    pub(super) fn message(&mut self, message: &MessageFacts, traces: &[TraceRecord]) {
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

    /// Without a trace nothing tells a message that was handled from one that the group began after.
    fn passed(&mut self, message: &MessageFacts, facts: &GroupFacts, traces: &[TraceRecord]) {
        let group = &*facts.group;
        let is_done = matches!(facts.inbox, Some(InboxAnswer::Done { .. }));
        if is_done || handled_at(traces, group).is_some() {
            return self.handled(message, facts, traces, "at the first try");
        }
        let what = format!(
            "the position of {group} is past it: acknowledged at the first try, or passed over by a start after it, a reset \
             or a skip (a trace would tell)"
        );
        self.step(&message.id, message.stored_at, Stage::Delivery, Source::Broker, what);
        self.no_effect(message, facts);
    }

    /// The position is past the message, and the effect is not there.
    fn no_effect(&mut self, message: &MessageFacts, facts: &GroupFacts) {
        let GroupFacts { group, .. } = facts;
        let (why, fix) = match &facts.inbox {
            None | Some(InboxAnswer::Done { .. }) => return,
            Some(InboxAnswer::NotThere { key }) => {
                let why = format!(
                    "the position of {group} is past it, and the inbox has no row {key}: its handler never ran (the group \
                     began after it, or was reset or skipped past it), a member with another database took it, or the row is \
                     older than the inbox keeps them"
                );
                let fix = format!(
                    "if the effect is missing, deliver again: `mq admin offset reset {group} {} --to {} --apply`; what is in the \
                     inbox is not done twice",
                    message.topic, message.stored_at.0
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
        let what = format!("acknowledged by {} {when}: its committed position is past it", facts.group);
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
            (why, format!("whether it began after this message: `mq admin group progress {group}`"))
        };
        self.undelivered(message, facts, why, fix);
    }
}

/// When a trace last says that the group was done with it.
fn handled_at(traces: &[TraceRecord], by: &str) -> Option<UnixMillis> {
    let done =
        |record: &&TraceRecord| matches!(record, TraceRecord::Handled { group, success: true, .. } if **group == *by);
    traces.iter().rev().find(done).map(TraceRecord::at)
}
