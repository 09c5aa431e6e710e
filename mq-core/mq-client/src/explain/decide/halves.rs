//! A transaction: its halves, checks and verdict, and why it has none.

use mq_protocol::body::{TxnEvent, TxnShown, TxnState};
use mq_protocol::ids::UnixMillis;

use super::super::facts::{MessageFacts, TransactionFacts};
use super::super::{Source, Stage};
use super::{Found, clients, lasting};

const UNKNOWN: &str = "unknown";
const ROLLBACK: &str = "rollback";

impl Found {
    /// `relayed`: the copy that its producer sent from its outbox.
    pub(super) fn transaction(
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
        let client = history.iter().find(|event| event.what == TxnEvent::SENT).and_then(|event| event.by.as_ref());
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
        let told =
            history.iter().filter(|event| event.what != TxnEvent::SENT && !event.what.starts_with(TxnEvent::PARKED));
        let told: Vec<&TxnEvent> = told.collect();
        for alike in told.chunk_by(|one, next| (&one.what, &one.by) == (&next.what, &next.by)) {
            let times = if alike.len() > 1 { format!(", {} times since", alike.len()) } else { String::new() };
            let what = format!("{}{times}", said(alike[0]));
            let stage = if is_by_hand(alike[0]) { Stage::Operator } else { Stage::Check };
            self.step(id, UnixMillis(alike[0].at), stage, Source::Broker, what);
        }
        for (at, copy) in &half.parked {
            let by_then = history.iter().rev().filter(|event| event.at <= at.0);
            let reason = by_then.filter_map(|event| event.what.strip_prefix(TxnEvent::PARKED)).next();
            let reason = reason.map(|reason| format!(", for {reason}")).unwrap_or_default();
            self.step(id, *at, Stage::Parked, Source::Log, format!("given up{reason}: its copy is p{copy}"));
        }
        let events = history.iter().map(|event| UnixMillis(event.at));
        events.chain(half.parked.iter().map(|(at, _)| *at)).fold(half.last().0, UnixMillis::max)
    }

    fn parked(&mut self, half: &TransactionFacts) {
        let group = &half.group;
        let checks = half.shown.as_ref().and_then(|shown| shown.half.checks);
        let parked_at = half.parked.last().map_or(half.stored_at, |(at, _)| *at);
        let is_too_late = |event: &TxnEvent| event.at >= parked_at.0 && event.what.contains(TxnEvent::ALREADY);
        let (why, when) = if half.told(|event| is_refusal(event) && is_too_late(event)).next().is_some() {
            let why = format!("producer group {group} has said how the transaction ended only since then");
            (why, "it will say so again when asked")
        } else if let Some(event) = half.told(|event| is_in_vain(event) && event.at <= parked_at.0).last() {
            (format!("producer group {group} {}", event.what), "once that is mended")
        } else {
            let why = match checks {
                Some(0) => format!("no client of producer group {group} was there to be asked"),
                Some(_) if half.told(|event| says(event, UNKNOWN)).next().is_some() => {
                    format!("producer group {group} answered, and never with a verdict")
                }
                Some(_) => format!("no client of producer group {group} answered"),
                None => format!("no client of producer group {group} answered with a verdict"),
            };
            (why, "once the group knows")
        };
        let after = checks.filter(|checks| *checks > 0).map(|checks| format!(" after {}", checked(checks, None)));
        let why = format!("given up{}: {why}", after.unwrap_or_default());
        let fix = match half.parked.last() {
            Some((_, copy)) => format!("{when}: `mq admin txn resume p{copy}`"),
            None => format!("{when}: `mq admin txn list --parked`, then `mq admin txn resume`"),
        };
        self.lacks(&half.id, Stage::Verdict, why, fix);
    }

    /// No verdict yet: nobody is there, nobody was asked yet, or nobody knew.
    fn open(&mut self, half: &TransactionFacts) {
        let TransactionFacts { id, group, .. } = half;
        let (stored_at, number) = half.last();
        let ago = lasting(self.now.since(stored_at));
        let told = half.shown.as_ref().map(|shown| &shown.half);
        let checks = told.and_then(|told| told.checks).unwrap_or(0);
        let so_far =
            format!("half stored {ago} ago, {}, no verdict", checked(checks, told.and_then(|told| told.max_checks)));
        let next = told.and_then(|told| told.next_check_at).map(UnixMillis).filter(|next| *next > self.now);
        let is_last = told.and_then(|told| told.max_checks).is_some_and(|max| checks >= max);
        let then = if is_last { "unless it is told before, it is given up" } else { "the next check is due" };
        let next = next.map(|next| format!("; {then} in {}", lasting(next.since(self.now)))).unwrap_or_default();
        let is_answer = |event: &TxnEvent| event.what.starts_with(TxnEvent::SAID) && !is_by_hand(event);
        let answer = half.told(|event| is_answer(event) && event.at >= stored_at.0).last();
        let says_unknown = answer.is_some_and(|event| says(event, UNKNOWN));
        let settle = format!("or settle it: `mq admin txn resolve {number} commit|rollback`");
        if let Some(event) = answer.filter(|event| is_in_vain(event)) {
            let why = format!("{so_far}: producer group {group} {}{next}", event.what);
            let fix = format!("send what is missing, or `mq admin txn resolve {number} rollback`");
            self.lacks(id, Stage::Verdict, why, fix);
        } else if half.producers == 0 {
            let why = format!("{so_far}: producer group {group} has no client online{next}");
            self.lacks(id, Stage::Verdict, why, format!("start a client of {group}; {settle}"));
        } else if checks == 0 {
            let why =
                format!("{so_far}: the producer has not said how its transaction ended, and was not asked yet{next}");
            self.lacks(id, Stage::Verdict, why, format!("ask now: `mq admin txn check {number}`"));
        } else if says_unknown && told.is_some_and(|told| told.next_check_at.is_some()) {
            let why = format!(
                "{so_far}: {group} answers `unknown`: the transaction is not over, or died and is younger than its SDK's \
                 deadline (60 s unless set), which a later check settles; or whoever is asked cannot read its row{next}"
            );
            self.lacks(id, Stage::Verdict, why, format!("wait; if it never knows, the log of {group} says why"));
        } else {
            let why = format!("{so_far}: {} of {group} online, but none answers checks{next}", clients(half.producers));
            self.lacks(id, Stage::Verdict, why, format!("look at the checker of {group}; {settle}"));
        }
    }
}

fn is_by_hand(event: &TxnEvent) -> bool {
    event.by.as_ref().is_some_and(|by| by.starts_with(TxnEvent::OPERATOR))
}

fn says(event: &TxnEvent, verdict: &str) -> bool {
    event.what.strip_prefix(TxnEvent::SAID) == Some(verdict)
}

/// A verdict of its producers that changed nothing.
fn is_refusal(event: &TxnEvent) -> bool {
    event.what.starts_with(TxnEvent::SAID) && event.what.contains(TxnEvent::REFUSED) && !is_by_hand(event)
}

/// One for which something is missing yet.
fn is_in_vain(event: &TxnEvent) -> bool {
    is_refusal(event) && !event.what.contains(TxnEvent::ALREADY)
}

/// By whom, as far as the broker remembers, and what that means.
fn rolled_back(half: &TransactionFacts, relayed: Option<&str>) -> String {
    let said = |event: &&TxnEvent| says(event, ROLLBACK);
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

fn checked(checks: u32, of: Option<u32>) -> String {
    match (checks, of) {
        (0, _) => "not checked".to_owned(),
        (1, None) => "1 check".to_owned(),
        (checks, None) => format!("{checks} checks"),
        (checks, Some(of)) => format!("{checks} of {of} checks"),
    }
}
