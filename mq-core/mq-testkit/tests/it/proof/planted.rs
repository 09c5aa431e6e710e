//! Does the proof bite? Each bug is planted in the coordinator or in the SDK, and has to be caught.

use std::panic;

use txn_coordinator::planted as coordinator;
use txn_sdk::simulation as sdk;

use super::points::{Day, Plan, Point};
use mq_testkit::process::workspace;
use mq_testkit::report;

use super::simulation::{beyond, deep, go, pairs, singles};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Bug {
    Coordinator(coordinator::Bug),
    Sdk(sdk::Bug),
}

impl Bug {
    fn all() -> impl Iterator<Item = Self> {
        let ours = coordinator::Bug::ALL.into_iter().map(Self::Coordinator);
        ours.chain(sdk::Bug::ALL.into_iter().map(Self::Sdk))
    }

    pub(crate) fn named(name: &str) -> Self {
        let known = Self::all().find(|bug| bug.name() == name);
        known.unwrap_or_else(|| {
            panic!("PROOF_BUG={name} is none of {:?}", Self::all().map(Self::name).collect::<Vec<_>>())
        })
    }

    fn name(self) -> String {
        match self {
            Self::Coordinator(bug) => format!("{bug:?}"),
            Self::Sdk(bug) => format!("{bug:?}"),
        }
    }

    /// Where to look first: all the same is found, only sooner.
    fn is_near(self, point: Point) -> bool {
        use coordinator::Bug::{FileAhead, SiblingLeft, ToldUnwritten, TornForgotten};
        use sdk::Bug::{
            AckBeforeEffect, DuplicateIsNew, ErrorIsRollback, HorizonIgnored, InboxRowOutside, UnknownIsRefused,
        };
        match self {
            Self::Coordinator(TornForgotten) => point == Point::DecisionDurable,
            Self::Coordinator(ToldUnwritten | FileAhead) => point == Point::DecisionAppended,
            Self::Coordinator(SiblingLeft) => point == Point::HalfSent,
            Self::Sdk(UnknownIsRefused | HorizonIgnored) => point == Point::Committed,
            Self::Sdk(ErrorIsRollback) => point == Point::CommitSent,
            Self::Sdk(InboxRowOutside) => point == Point::EffectWritten,
            Self::Sdk(AckBeforeEffect) => point == Point::EffectCommitted,
            Self::Sdk(DuplicateIsNew) => point == Point::Received,
            _ => point <= Point::HalfAcked,
        }
    }

    /// When it can be seen.
    fn day(self) -> Day {
        use coordinator::Bug::{CopyUsedTwice, DelayFromHalf, OrderOfHalves};
        use sdk::Bug::{
            EmitBeforeCommit, OrderedWaits, OutboxedIsCommitted, RelayEndsEarly, RelayKeepsRow, RelayUnordered,
            RelayWithoutMarker,
        };
        match self {
            Self::Coordinator(CopyUsedTwice | DelayFromHalf | OrderOfHalves) => Day::Beyond,
            Self::Sdk(EmitBeforeCommit | OrderedWaits | OutboxedIsCommitted | RelayEndsEarly) => Day::Beyond,
            Self::Sdk(RelayKeepsRow | RelayUnordered | RelayWithoutMarker) => Day::Beyond,
            _ => Day::Ordinary,
        }
    }

    pub(crate) fn planted<T>(self, work: impl FnOnce() -> T) -> T {
        match self {
            Self::Coordinator(bug) => coordinator::plant(Some(bug)),
            Self::Sdk(bug) => sdk::plant(Some(bug)),
        }
        let done = work();
        coordinator::plant(None);
        sdk::plant(None);
        done
    }
}

/// The first run that sees the bug, and what it says.
fn caught(bug: Bug) -> Option<(Plan, String)> {
    let mut plans = match bug.day() {
        Day::Beyond => [Plan::new([], 0).on(Day::Beyond)].into_iter().chain(beyond()).collect::<Vec<_>>(),
        _ => [Plan::new([], 0)].into_iter().chain(singles()).chain(pairs(Day::Ordinary, 0..1)).collect(),
    };
    plans.sort_by_key(|plan| plan.faults.front().is_some_and(|fault| !bug.is_near(fault.point)));
    let violated = |plan: Plan| go(plan.clone(), 2).violation.map(|violation| (plan, violation));
    bug.planted(|| plans.into_iter().find_map(violated))
}

#[test]
fn every_planted_bug_is_caught() {
    deep(every_bug);
}

fn every_bug() {
    without_a_word();
    let (mut table, mut rows, mut missed) = (Vec::new(), Vec::new(), Vec::new());
    for bug in Bug::all() {
        let name = bug.name();
        let Some((plan, violation)) = caught(bug) else {
            missed.push(name);
            continue;
        };
        let (claim, _) = violation.split_once(": ").unwrap_or(("panic", ""));
        rows.push((format!("| `{name}` | "), format!(" | {claim} |")));
        table.push(format!("{name:<18} {:<32} {violation}", plan.to_string()));
    }
    let all = Bug::all().count();
    report::show("60 proof 3 planted", &format!("{}\n{} of {all} planted bugs caught", table.join("\n"), table.len()));
    assert!(missed.is_empty(), "not caught: {missed:?}");
    let known = std::fs::read_to_string(workspace().join("docs/PROOF.md")).unwrap();
    let has_row =
        |(begin, end): &(String, String)| known.lines().any(|line| line.starts_with(begin) && line.ends_with(end));
    let unknown: Vec<_> = rows.iter().filter(|row| !has_row(row)).collect();
    assert!(unknown.is_empty(), "docs/PROOF.md has no such rows: {unknown:?}");
}

/// This thread panics by the dozen.
fn without_a_word() {
    let usual = panic::take_hook();
    let this = std::thread::current().id();
    panic::set_hook(Box::new(move |panic| {
        if std::thread::current().id() != this {
            usual(panic);
        }
    }));
}
