//! Every single fault again, as real processes can have it: where a process dies, pauses, or is done by two at once, by
//! its failpoints; what the network does to its broker or its database; and what cannot be had so, and why.

use super::proxy::{Does, From, Rule, Through};
use crate::proof::points::{Actor, Kind, Point};
use Kind::{CrashAfter as After, CrashBefore as Before, Delay, Duplicate, Error};

/// Past the immunity and the deadline, and past all checks.
const DELAYS_MS: [u32; 2] = [1200, 5000];
/// Time enough for another process to do the same meanwhile.
const MEANWHILE_MS: u32 = 1200;

/// What one run plays.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) actor: Actor,
    /// The failpoints of each of the actor's processes, one after the other.
    pub(super) lives: Vec<String>,
    pub(super) network: Option<(Through, Rule)>,
    /// Another process does the same work.
    pub(super) twice: bool,
    /// A transaction may stay open through all checks, and is parked then.
    pub(super) outlasts_checks: bool,
    pub(super) singles: Vec<(Point, Kind)>,
}

impl Case {
    /// Whether a process with these failpoints dies of them.
    pub(super) fn is_deadly(failpoints: &str) -> bool {
        failpoints.contains("return")
    }

    pub(super) fn name(&self) -> String {
        let network = self.network.iter().map(|(through, rule)| format!("{through:?} {rule}"));
        let second = self.twice.then(|| "and another one".to_owned());
        let lives = self.lives.iter().filter(|life| !life.is_empty()).cloned();
        lives.chain(network).chain(second).collect::<Vec<_>>().join(", ")
    }
}

/// One place in a process's way where it dies, by the failpoints of its lives, and the kills of the singles that this is.
struct Death {
    actor: Actor,
    lives: &'static [&'static str],
    kills: &'static [(Point, Kind)],
}

const fn death(actor: Actor, lives: &'static [&'static str], kills: &'static [(Point, Kind)]) -> Death {
    Death { actor, lives, kills }
}

/// "After" one step is "before" the next where a process does nothing in between. An order takes two appends and two
/// syncs of the log: half and verdict; the orphan that a service sends first takes one.
const DEATHS: &[Death] = {
    use Actor::{Broker, Consumer, Service};
    use Point::*;
    &[
        death(
            Service,
            &["txn-before-half=1*off->return"],
            &[(BeforeHalf, Before), (BeforeHalf, After), (HalfSent, Before)],
        ),
        death(Service, &["txn-half-sent=1*off->return"], &[(HalfSent, After)]),
        death(
            Service,
            &["txn-after-half=1*off->return"],
            &[(HalfAcked, Before), (HalfAcked, After), (TxBegun, Before)],
        ),
        death(Service, &["txn-begun=1*off->return"], &[(TxBegun, After), (MarkerWritten, Before)]),
        death(Service, &["txn-marked=1*off->return"], &[(MarkerWritten, After)]),
        death(Service, &["txn-after-rows=1*off->return"], &[(CommitSent, Before)]),
        death(Service, &["txn-commit-sent=return"], &[(CommitSent, After), (Committed, Before)]),
        death(Service, &["txn-between-commit-and-end=1*off->return"], &[(Committed, After), (EndSent, Before)]),
        death(Service, &["txn-end-sent=return"], &[(EndSent, After)]),
        death(Service, &["txn-after-end=1*off->return"], &[(EndAcked, Before), (EndAcked, After)]),
        death(Service, &["txn-between-commit-and-end=return", "check-received=return"], &[(CheckReceived, Before)]),
        death(
            Service,
            &["txn-between-commit-and-end=return", "check-decided=return"],
            &[(CheckReceived, After), (CheckAnswered, Before)],
        ),
        death(Service, &["txn-between-commit-and-end=return", "check-answered=return"], &[(CheckAnswered, After)]),
        death(
            Broker,
            &["half-parsed=2*off->return"],
            &[(HalfParsed, Before), (HalfParsed, After), (HalfAppended, Before)],
        ),
        death(Broker, &["store-after-append=3*off->return(kill)"], &[(HalfAppended, After), (HalfDurable, Before)]),
        death(Broker, &["store-after-flush=3*off->return(kill)"], &[(HalfDurable, After), (HalfReplied, Before)]),
        death(
            Broker,
            &["end-parsed=1*off->return"],
            &[(HalfReplied, After), (EndParsed, Before), (EndParsed, After), (DecisionAppended, Before)],
        ),
        death(
            Broker,
            &["store-after-append=4*off->return(power-cut)"],
            &[(DecisionAppended, After), (DecisionDurable, Before)],
        ),
        death(Broker, &["store-torn-group=return"], &[(DecisionAppended, After)]),
        death(Broker, &["store-after-flush=4*off->return(kill)"], &[(DecisionDurable, After), (Visible, Before)]),
        death(Broker, &["verdicts-before-save=return"], &[(Visible, After), (OpNoted, Before)]),
        death(Broker, &["verdicts-saved=return"], &[(OpNoted, After)]),
        death(Broker, &["check-due=return"], &[(CheckScanned, Before)]),
        death(Broker, &["check-scanned=return"], &[(CheckScanned, After), (CheckSent, Before)]),
        death(Broker, &["check-sent=return"], &[(CheckSent, After)]),
        death(Broker, &["check-due=8*off->return"], &[(ParkWritten, Before)]),
        death(Broker, &["half-parked=return"], &[(ParkWritten, After)]),
        death(
            Consumer,
            &["inbox-before-row=1*off->return"],
            &[(Received, Before), (Received, After), (InboxRow, Before)],
        ),
        death(Consumer, &["inbox-after-row=1*off->return"], &[(InboxRow, After), (EffectWritten, Before)]),
        death(Consumer, &["inbox-after-effect=1*off->return"], &[(EffectWritten, After), (EffectCommitted, Before)]),
        death(Consumer, &["inbox-commit-sent=return"], &[(EffectCommitted, Before)]),
        death(Consumer, &["inbox-before-ack=1*off->return"], &[(EffectCommitted, After), (BeforeAck, Before)]),
        death(Consumer, &["inbox-after-ack=1*off->return"], &[(BeforeAck, After), (AckLost, Before), (AckLost, After)]),
    ]
};

const fn rule(from: From, after: &'static str, holds: &'static [&'static str], does: Does) -> Rule {
    Rule { from, after, holds, does }
}

struct Cut {
    actor: Actor,
    lives: &'static [&'static str],
    through: Through,
    rule: Rule,
    singles: &'static [(Point, Kind)],
}

/// What the network does. A request that does not arrive is refused by nobody, so "not sent" and "not taken" are one.
const CUTS: &[Cut] = {
    use Actor::{Consumer, Service};
    use Does::{Cuts, LosesAnswer, Repeats};
    use From::{Process, Server};
    use Point::*;
    use Through::{Broker, Database};
    const HALF: &[&str] = &["\"code\":310,", "order-0-3"];
    const HALF_ANSWER: &[&str] = &["\"queueOffset\""];
    const END: &[&str] = &["\"code\":37,", "\"commitOrRollback\":\"8\""];
    const CHECK: &[&str] = &["order-0-"];
    const CHECK_ANSWER: &[&str] = &["\"code\":37,", "\"commitOrRollback\":\"8\"", "\"fromTransactionCheck\":\"true\""];
    const COMMIT: &[&str] = &["COMMIT"];
    const OFFSET: &[&str] = &["\"code\":15,", "ORDER_PAID"];
    const ONE: &[&str] = &[""];
    /// Its first life leaves a transaction for the checkback.
    const ASKED: &[&str] = &["txn-between-commit-and-end=return", ""];
    const fn cut(
        actor: Actor,
        lives: &'static [&'static str],
        through: Through,
        rule: Rule,
        singles: &'static [(Point, Kind)],
    ) -> Cut {
        Cut { actor, lives, through, rule, singles }
    }
    &[
        cut(
            Service,
            ONE,
            Broker,
            rule(Process, "", HALF, Cuts),
            &[(BeforeHalf, Error), (HalfSent, Error), (HalfParsed, Error)],
        ),
        cut(Service, ONE, Broker, rule(Process, "", HALF, LosesAnswer), &[(HalfReplied, Error), (HalfAcked, Error)]),
        cut(
            Service,
            ONE,
            Broker,
            rule(Process, "", HALF, Repeats),
            &[(HalfSent, Duplicate), (HalfParsed, Duplicate), (HalfAppended, Duplicate)],
        ),
        cut(Service, ONE, Broker, rule(Server, "", HALF_ANSWER, Repeats), &[(HalfReplied, Duplicate)]),
        cut(Service, ONE, Database, rule(Process, "INSERT INTO orders", &["BEGIN"], Cuts), &[(TxBegun, Error)]),
        cut(
            Service,
            ONE,
            Database,
            rule(Process, "", &["INSERT INTO checkback_marker"], Cuts),
            &[(MarkerWritten, Error)],
        ),
        cut(Service, ONE, Database, rule(Process, "INSERT INTO orders", COMMIT, Cuts), &[(CommitSent, Error)]),
        cut(Service, ONE, Database, rule(Process, "INSERT INTO orders", COMMIT, LosesAnswer), &[(Committed, Error)]),
        cut(Service, ONE, Broker, rule(Process, "", END, Cuts), &[(EndSent, Error), (EndParsed, Error)]),
        cut(Service, ONE, Broker, rule(Process, "", END, LosesAnswer), &[(EndAcked, Error)]),
        cut(
            Service,
            ONE,
            Broker,
            rule(Process, "", END, Repeats),
            &[(EndSent, Duplicate), (EndParsed, Duplicate), (DecisionAppended, Duplicate)],
        ),
        cut(Service, ASKED, Broker, rule(Server, "", CHECK, Cuts), &[(CheckSent, Error), (CheckReceived, Error)]),
        cut(
            Service,
            ASKED,
            Broker,
            rule(Server, "", CHECK, Repeats),
            &[(CheckSent, Duplicate), (CheckReceived, Duplicate)],
        ),
        cut(Service, ASKED, Broker, rule(Process, "", CHECK_ANSWER, Cuts), &[(CheckAnswered, Error)]),
        cut(Service, ASKED, Broker, rule(Process, "", CHECK_ANSWER, Repeats), &[(CheckAnswered, Duplicate)]),
        cut(Consumer, ONE, Broker, rule(Server, "", &["order-0-"], Cuts), &[(Received, Error)]),
        cut(Consumer, ONE, Database, rule(Process, "", &["INSERT INTO checkback_inbox"], Cuts), &[(InboxRow, Error)]),
        cut(Consumer, ONE, Database, rule(Process, "", &["INSERT INTO packets"], Cuts), &[(EffectWritten, Error)]),
        cut(Consumer, ONE, Database, rule(Process, "INSERT INTO packets", COMMIT, Cuts), &[(EffectCommitted, Error)]),
        cut(Consumer, ONE, Broker, rule(Process, "", OFFSET, Cuts), &[(BeforeAck, Error)]),
        cut(Consumer, ONE, Broker, rule(Process, "", OFFSET, LosesAnswer), &[(AckLost, Error)]),
    ]
};

/// A caller who tries again at another instance, a delivery to another consumer, while the first is at that point.
const BY_TWO: &[Point] = {
    use Point::*;
    &[
        BeforeHalf,
        HalfAcked,
        TxBegun,
        MarkerWritten,
        CommitSent,
        Committed,
        EndAcked,
        Received,
        InboxRow,
        EffectWritten,
        EffectCommitted,
        BeforeAck,
        AckLost,
    ]
};

/// What real processes cannot have, and why.
const NOT_REAL: &[(&str, &[(Point, Kind)])] = {
    use Point::*;
    &[
        (
            "takes a disk that refuses a write and works on; the store's own tests fill one",
            &[(HalfAppended, Error), (DecisionAppended, Error), (OpNoted, Error), (ParkWritten, Error)],
        ),
        ("a sync that fails ends the process: the crash before it", &[(HalfDurable, Error), (DecisionDurable, Error)]),
        ("a second sync finds nothing to do", &[(HalfDurable, Duplicate), (DecisionDurable, Duplicate)]),
        ("nothing there can fail", &[(Visible, Error), (CheckScanned, Error)]),
        ("a consumer reads all the time", &[(Visible, Duplicate)]),
        (
            "one task does it, and nobody beside it",
            &[(OpNoted, Duplicate), (CheckScanned, Duplicate), (ParkWritten, Duplicate)],
        ),
    ]
};

impl Death {
    fn case(&self, kills: &[(Point, Kind)]) -> Case {
        Case {
            actor: self.actor,
            lives: self.lives.iter().map(|life| (*life).to_owned()).collect(),
            network: None,
            twice: false,
            outlasts_checks: false,
            singles: kills.to_vec(),
        }
    }

    /// Its points that are reached right after this place.
    fn points(&self) -> impl Iterator<Item = Point> {
        self.kills.iter().filter(|(_, kind)| *kind == Before).map(|(point, _)| *point)
    }

    /// It pauses there instead.
    fn pause(&self, kind: Kind, millis: u32, points: impl Iterator<Item = Point>) -> Option<Case> {
        let mut case = self.case(&points.map(|point| (point, kind)).collect::<Vec<_>>());
        let last = case.lives.last_mut()?;
        let dies = last.find("return")?;
        last.replace_range(dies.., &format!("1*sleep({millis})"));
        (!case.singles.is_empty()).then_some(case)
    }
}

pub(super) fn all() -> Vec<Case> {
    let deaths = DEATHS.iter().map(|death| death.case(death.kills));
    let delays = DEATHS.iter().flat_map(|death| {
        DELAYS_MS.into_iter().filter_map(|millis| {
            let case = death.pause(Delay, millis, death.points())?;
            Some(Case { outlasts_checks: millis == DELAYS_MS[1], ..case })
        })
    });
    let by_two = DEATHS.iter().filter_map(|death| {
        let case = death.pause(Duplicate, MEANWHILE_MS, death.points().filter(|point| BY_TWO.contains(point)))?;
        Some(Case { twice: true, ..case })
    });
    let cuts = CUTS.iter().map(|cut| Case {
        actor: cut.actor,
        lives: cut.lives.iter().map(|life| (*life).to_owned()).collect(),
        network: Some((cut.through, cut.rule)),
        twice: false,
        outlasts_checks: false,
        singles: cut.singles.to_vec(),
    });
    deaths.chain(delays).chain(by_two).chain(cuts).collect()
}

/// Each single, and why it is not played, if it is not.
pub(super) fn not_played() -> impl Iterator<Item = (Point, Kind, &'static str)> {
    NOT_REAL.iter().flat_map(|(why, singles)| singles.iter().map(move |(point, kind)| (*point, *kind, *why)))
}

#[test]
fn every_single_is_played_or_has_its_reason() {
    use std::collections::BTreeSet;
    let played: BTreeSet<_> = all().into_iter().flat_map(|case| case.singles).collect();
    let not: BTreeSet<_> = not_played().map(|(point, kind, _)| (point, kind)).collect();
    let every = |point| Kind::ALL.map(|kind| (point, kind));
    assert_eq!(played.intersection(&not).count(), 0);
    assert_eq!(played.union(&not).copied().collect::<BTreeSet<_>>(), Point::ALL.into_iter().flat_map(every).collect());
}
