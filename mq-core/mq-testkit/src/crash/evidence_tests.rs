//! Planted bugs: a checker that does not find them proves nothing when it is green.

use super::*;

const PLAN: Plan = Plan { seed: 11 };

fn ids() -> impl Iterator<Item = MessageId> {
    (0..200).map(|sequence| MessageId { producer: 1, sequence })
}

fn with_fate(fate: Fate) -> MessageId {
    ids().find(|id| PLAN.fate(*id) == fate).expect("200 messages have every fate")
}

/// A run in which everything went well: every message sent, acknowledged, ended and read.
fn good() -> Evidence {
    let mut evidence =
        Evidence { plan: PLAN, history: History::default(), view: View::default(), log: LogFacts::default() };
    let Evidence { history, view: View { messages, ends }, log, .. } = &mut evidence;
    for (half_offset, id) in ids().enumerate() {
        let fate = PLAN.fate(id);
        history.tried.insert(id);
        if fate.is_visible() {
            let end = ends.entry(PLAN.queue(id)).or_default();
            let place = (PLAN.queue(id), *end);
            *end += 1;
            messages.insert(place, Seen { id: Some(id), intact: true });
            history.read.insert(place, id);
            if fate == Fate::Plain {
                history.stored.insert(id, place);
            } else {
                log.committed.insert(id, 1);
                history.ended.insert(id, true);
            }
        }
        if fate.is_half() {
            log.halves.insert(half_offset as u64, id);
            log.ended.insert(half_offset as u64);
        }
        if fate == Fate::NeverDecided {
            log.parked.insert(id, 1);
        }
    }
    evidence
}

fn place_of(evidence: &Evidence, id: MessageId) -> Place {
    *evidence.view.messages.iter().find(|(_, seen)| seen.id == Some(id)).expect("it is visible").0
}

fn half_of(evidence: &Evidence, id: MessageId) -> u64 {
    *evidence.log.halves.iter().find(|(_, half)| **half == id).expect("its half is there").0
}

/// A name, and how the bug changes what there is to see.
type Bug = (&'static str, fn(&mut Evidence));

const PLANTED: &[Bug] = &[
    ("an acknowledged message is lost", |evidence| {
        let place = place_of(evidence, with_fate(Fate::Plain));
        evidence.view.messages.remove(&place);
    }),
    ("the tail of a queue is lost, and its end with it", |evidence| {
        let (place, _) = evidence.view.messages.pop_last().expect("not empty");
        *evidence.view.ends.get_mut(&place.0).expect("a queue") -= 1;
        evidence.history.stored.retain(|_, stored| *stored != place);
    }),
    ("bytes changed", |evidence| {
        let place = place_of(evidence, with_fate(Fate::Plain));
        evidence.view.messages.get_mut(&place).expect("visible").intact = false;
    }),
    ("two messages changed places", |evidence| {
        let mut places = evidence.view.messages.keys().copied().filter(|(queue, _)| *queue == 0);
        let (a, b) = (places.next().expect("one"), places.next().expect("two"));
        let (first, second) = (evidence.view.messages[&a], evidence.view.messages[&b]);
        evidence.view.messages.insert(a, second);
        evidence.view.messages.insert(b, first);
    }),
    ("a message came twice", |evidence| {
        let end = evidence.view.ends[&0];
        evidence.view.messages.insert((0, end), Seen { id: Some(with_fate(Fate::Commit)), intact: true });
        evidence.view.ends.insert(0, end + 1);
    }),
    ("a rolled-back message is seen", |evidence| {
        let end = evidence.view.ends[&0];
        evidence.view.messages.insert((0, end), Seen { id: Some(with_fate(Fate::Rollback)), intact: true });
        evidence.view.ends.insert(0, end + 1);
    }),
    ("a message that nobody sent is seen", |evidence| {
        let end = evidence.view.ends[&0];
        evidence.view.messages.insert((0, end), Seen { id: None, intact: false });
        evidence.view.ends.insert(0, end + 1);
    }),
    ("a half never ends", |evidence| {
        let half = half_of(evidence, with_fate(Fate::RollbackWhenAsked));
        evidence.log.ended.remove(&half);
    }),
    ("an acknowledged half is lost", |evidence| {
        let id = with_fate(Fate::Rollback);
        let receipt = super::super::history::HalfReceipt {
            half_offset: mq_protocol::ids::QueueOffset(7),
            log_offset: mq_protocol::ids::LogOffset(7),
        };
        evidence.history.halves.insert(id, receipt);
        let half = half_of(evidence, id);
        evidence.log.halves.remove(&half);
        evidence.log.ended.remove(&half);
    }),
    ("a commit is dropped", |evidence| {
        let id = with_fate(Fate::CommitWhenAsked);
        evidence.log.committed.remove(&id);
    }),
    ("a commit is in the log twice", |evidence| {
        evidence.log.committed.insert(with_fate(Fate::Commit), 2);
    }),
    ("a commit is in the log and in no queue", |evidence| {
        let id = with_fate(Fate::Commit);
        let place = place_of(evidence, id);
        evidence.view.messages.remove(&place);
        evidence.history.read.remove(&place);
        evidence.view.ends.clear();
    }),
    ("an undecided half is dropped instead of parked", |evidence| {
        evidence.log.parked.clear();
    }),
    ("a decided half is parked", |evidence| {
        evidence.log.parked.insert(with_fate(Fate::Commit), 1);
    }),
];

#[test]
fn a_run_without_faults_is_green() {
    assert_eq!(good().violations(), [""; 0]);
}

#[test]
fn every_planted_bug_is_found() {
    for (bug, plant) in PLANTED {
        let mut evidence = good();
        plant(&mut evidence);
        assert!(!evidence.violations().is_empty(), "not found: {bug}");
    }
}

#[test]
fn a_body_says_whose_it_is_and_any_change_shows() {
    for id in ids() {
        let body = PLAN.body(id);
        assert_eq!(Plan::id_of(&body), Some(id));
        assert!(PLAN.is_intact(id, &body) && !PLAN.is_intact(id, &body[..body.len() - 1]));
        assert!(!Plan { seed: 12 }.is_intact(id, &body) || body.len() < 16);
    }
}
