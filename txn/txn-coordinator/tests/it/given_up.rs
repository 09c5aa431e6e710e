//! Halves that were given up: what their copies tell, and that each is used once, whatever happens in between.

use mq_protocol::ids::{LogOffset, QueueOffset};
use mq_protocol::record::Message;
use mq_protocol::topic;
use mq_store::backend::{CrashBackend, CrashMode, Fault};
use mq_store::{Backend, MemoryBackend};
use txn_coordinator::{Answer, CheckResult, HalfOffset, Outcome, ParkedError, ParkedHalf, ParkedNow, Verdict, half_of};

use crate::bench::{Bench, Place, end_request};

const FIRST: QueueOffset = QueueOffset(0);

fn bench() -> Bench<MemoryBackend> {
    Bench::new(MemoryBackend::new(), Bench::<MemoryBackend>::options())
}

/// Nobody answers until all that is open is parked.
fn give_up<B: Backend + Clone + 'static>(bench: &Bench<B>) {
    bench.advance(6);
    for _ in 0..4 {
        for check in bench.tick() {
            bench.coordinator.check_results([(check.half, CheckResult::Delivered, Some("c1 (10.1.1.1:99)".into()))]);
        }
        bench.advance(30);
    }
    assert!(bench.tick().is_empty());
    bench.store.flush().unwrap();
}

fn parked<B: Backend + Clone + 'static>(bench: &Bench<B>) -> Vec<ParkedHalf> {
    bench.coordinator.parked(FIRST, 100).unwrap().rows
}

fn now<B: Backend + Clone + 'static>(bench: &Bench<B>) -> Vec<ParkedNow> {
    parked(bench).into_iter().map(|row| row.now).collect()
}

/// As the broker does it: the halves are told once they are durable.
fn resume<B: Backend + Clone + 'static>(bench: &Bench<B>, copy: QueueOffset) -> Result<Vec<HalfOffset>, ParkedError> {
    let reopened = bench.coordinator.resume(copy, "eve")?;
    bench.store.flush().unwrap();
    assert!(reopened.durable_at <= bench.store.durable());
    let halves = reopened.halves.iter().map(|half| half.offset()).collect();
    bench.coordinator.stored(reopened.halves);
    Ok(halves)
}

/// Commits and rolls back others until nothing is remembered of the first ones.
fn forget(bench: &Bench<MemoryBackend>) {
    for n in 0..60 {
        let id = format!("other{n}");
        let place = bench.half(&id);
        bench.end(place, &id, Verdict::Rollback).unwrap();
    }
    bench.store.flush().unwrap();
}

fn visible<B: Backend + Clone + 'static>(bench: &Bench<B>) -> Vec<(String, usize)> {
    bench.found().real.into_iter().map(|(id, copies)| (id, copies.len())).collect()
}

fn one(id: &str) -> Vec<(String, usize)> {
    vec![(id.to_owned(), 1)]
}

#[test]
fn a_copy_says_which_half_it_was_why_and_who_answered_what_also_after_a_restart() {
    let mut bench = bench();
    let half = bench.half("a");
    bench.half("b");
    let peer = "10.1.1.1:99".parse().unwrap();
    bench.advance(6);
    for _ in 0..4 {
        for check in bench.tick() {
            let is_a = check.half == half.half;
            let result = if is_a { CheckResult::Delivered } else { CheckResult::NobodyToAsk };
            bench.coordinator.check_results([(check.half, result, is_a.then(|| "c|1".into()))]);
            if is_a {
                bench.coordinator.end_by(peer, &[end_request(half, "a", Verdict::Unknown)]).remove(0).unwrap();
            }
        }
        bench.advance(30);
    }
    assert!(bench.tick().is_empty());
    bench.store.flush().unwrap();
    for restarted in [false, true] {
        let rows = parked(&bench);
        let told: Vec<_> = rows.iter().map(|row| (&*row.subject.transaction_id, row.reason.as_deref())).collect();
        assert_eq!(told, [("a", Some("no verdict")), ("b", Some("nobody to ask"))]);
        assert_eq!(rows.iter().map(|row| row.half).collect::<Vec<_>>(), [Some(HalfOffset(0)), Some(HalfOffset(1))]);
        let row = &rows[0];
        let client = row.subject.client.as_deref();
        assert_eq!((row.checks, row.max_checks, client, row.now), (3, 3, Some("client-1"), ParkedNow::Parked));
        let (_, told) = bench.coordinator.show_parked(FIRST).unwrap().unwrap();
        let told: Vec<_> = told.iter().map(|told| format!("{}: {}", told.by, told.what)).collect();
        let mut expected = vec!["client-1: sent it".to_owned()];
        for check in 1..=3 {
            expected.push(format!("{}: was asked (check {check})", "c_1"));
            expected.push("10.1.1.1:99: said unknown".to_owned());
        }
        if !restarted {
            expected.push("the broker: parked: no check was answered with a verdict".to_owned());
        }
        assert_eq!(told, expected, "restarted: {restarted}");
        bench.restart_on(bench.backend.clone());
    }
    let first = bench.coordinator.parked(FIRST, 1).unwrap();
    assert_eq!((first.rows.len(), first.next), (1, Some(1)));
    assert_eq!(bench.coordinator.show_parked(QueueOffset(7)).unwrap(), None);
    assert!(matches!(bench.coordinator.resume(QueueOffset(7), "eve"), Err(ParkedError::NotThere(QueueOffset(7)))));
}

/// What an operator does with a copy, and what may be forgotten before he tries again.
#[test]
fn a_copy_is_used_once_whatever_was_forgotten_since() {
    enum Use {
        Resume(Option<Verdict>),
        Resolve(Verdict),
    }
    for (used, count) in [
        (Use::Resume(Some(Verdict::Commit)), 1),
        (Use::Resume(Some(Verdict::Rollback)), 0),
        (Use::Resume(None), 0),
        (Use::Resolve(Verdict::Commit), 1),
        (Use::Resolve(Verdict::Rollback), 0),
    ] {
        for saved in [None, Some(false), Some(true)] {
            for lost in
                [&[][..], &["checkback/verdicts"], &["checkback/parked"], &["checkback/verdicts", "checkback/parked"]]
            {
                let mut bench = bench();
                bench.half("a");
                give_up(&bench);
                if saved == Some(false) {
                    bench.coordinator.checkpoint().unwrap();
                }
                match used {
                    Use::Resume(verdict) => {
                        let half = resume(&bench, FIRST).unwrap()[0];
                        assert_eq!(now(&bench), [ParkedNow::OpenAgain(half)]);
                        verdict.map(|verdict| bench.coordinator.resolve(half, verdict, "eve").unwrap());
                    }
                    Use::Resolve(verdict) => {
                        let ended = bench.coordinator.resolve_parked(FIRST, verdict, "eve").unwrap();
                        assert!(matches!(ended.answer, Answer::Now(_)));
                    }
                }
                bench.store.flush().unwrap();
                forget(&bench);
                if saved == Some(true) {
                    bench.coordinator.checkpoint().unwrap();
                }
                for restarts in 0..3 {
                    let refused = resume(&bench, FIRST).unwrap_err();
                    assert!(matches!(refused, ParkedError::Used { .. }) && refused.code() == 604, "{refused}");
                    let refused = bench.coordinator.resolve_parked(FIRST, Verdict::Commit, "eve").unwrap_err();
                    assert!(matches!(refused, ParkedError::Used { .. }), "{refused}");
                    assert!(!now(&bench).contains(&ParkedNow::Parked), "{restarts} restarts, saved {saved:?}");
                    for path in lost.iter().filter(|path| bench.backend.open(path).is_ok()) {
                        bench.backend.remove(path).unwrap();
                    }
                    bench.restart_on(bench.backend.clone());
                }
                let copies = visible(&bench);
                assert_eq!(copies, if count == 1 { one("a") } else { vec![] }, "saved {saved:?}, lost {lost:?}");
            }
        }
    }
}

#[test]
fn a_transaction_that_is_given_up_again_waits_again() {
    let mut bench = bench();
    bench.half("a");
    for round in 0..3 {
        give_up(&bench);
        let mut expected = vec![ParkedNow::Resumed; round];
        expected.push(ParkedNow::Parked);
        assert_eq!(now(&bench), expected);
        assert_eq!(parked(&bench)[round].half, Some(HalfOffset(round as u64)));
        resume(&bench, QueueOffset(round as u64)).unwrap();
        bench.restart_on(bench.backend.clone());
    }
    let half = HalfOffset(3);
    assert_eq!(now(&bench), [ParkedNow::OpenAgain(half); 3]);
    bench.coordinator.resolve(half, Verdict::Commit, "eve").unwrap();
    assert_eq!((now(&bench), visible(&bench)), (vec![ParkedNow::Ended(Outcome::Committed); 3], one("a")));
}

fn set<B: Backend + Clone + 'static>(bench: &Bench<B>, of: u8) -> Vec<Place> {
    let half = |number| {
        let (key, part) = (format!("t-{number}"), format!("{number}/{of}"));
        bench.half_with(&key, &[("CHECKBACK_SHARED_ID", "t"), ("CHECKBACK_PART", &part)])
    };
    (1..=of).map(half).collect()
}

#[test]
fn all_messages_of_one_verdict_are_resumed_and_resolved_together() {
    for verdict in [None, Some(Verdict::Commit), Some(Verdict::Rollback)] {
        let mut bench = bench();
        bench.half("before");
        set(&bench, 3);
        give_up(&bench);
        let named = QueueOffset(2);
        match verdict {
            None => {
                let halves = resume(&bench, named).unwrap();
                assert_eq!(halves, [HalfOffset(4), HalfOffset(5), HalfOffset(6)]);
                bench.coordinator.resolve(halves[1], Verdict::Commit, "eve").unwrap();
            }
            Some(verdict) => drop(bench.coordinator.resolve_parked(named, verdict, "eve").unwrap()),
        }
        let committed = verdict != Some(Verdict::Rollback);
        let expected = if committed { vec![1; 3] } else { vec![] };
        assert_eq!(visible(&bench).iter().map(|(_, copies)| *copies).collect::<Vec<_>>(), expected);
        bench.restart_on(bench.backend.clone());
        assert_eq!(now(&bench).iter().filter(|now| **now == ParkedNow::Parked).count(), 1, "the one before");
        for copy in (1..4).map(QueueOffset) {
            assert!(matches!(resume(&bench, copy), Err(ParkedError::Used { .. })));
        }
    }
}

#[test]
fn a_set_that_is_not_whole_is_not_published_by_an_operator() {
    let mut bench = bench();
    let place = bench.half_with("t-1", &[("CHECKBACK_SHARED_ID", "t"), ("CHECKBACK_PART", "1/2")]);
    bench.end(place, "t-1", Verdict::Commit).unwrap_err();
    give_up(&bench);
    // `mq explain` reads these words off the copy: whole.
    bench.restart_on(bench.backend.clone());
    let (_, told) = bench.coordinator.show_parked(FIRST).unwrap().unwrap();
    let words = "said commit, refused: the transaction has 1 of its 2 messages; send the others first, or roll it back";
    assert!(told.iter().any(|told| told.what == words), "{told:?}");
    let refused = bench.coordinator.resolve_parked(FIRST, Verdict::Commit, "eve").unwrap_err();
    assert!(matches!(refused, ParkedError::Incomplete { here: 1, of: 2 }), "{refused}");
    bench.coordinator.resolve_parked(FIRST, Verdict::Rollback, "eve").unwrap();
    assert_eq!((visible(&bench), now(&bench)), (vec![], vec![ParkedNow::Ended(Outcome::RolledBack)]));
}

/// Power fails at each write and sync of a deed, with every way to lose what was not synced. What was promised holds, no
/// message is there twice, and what did not happen can be done again.
#[test]
fn what_an_operator_did_holds_or_can_be_done_again_after_a_power_cut() {
    let (mut kept, mut undone) = (0, 0);
    for verdict in [None, Some(Verdict::Commit), Some(Verdict::Rollback)] {
        for operation in 0..6 {
            for mode in CrashMode::ALL {
                for seed in 0..8 {
                    let mut bench = Bench::new(CrashBackend::new(), Bench::<CrashBackend>::options());
                    bench.half("before");
                    set(&bench, 2);
                    give_up(&bench);
                    let named = QueueOffset(1);
                    bench.backend.plan(bench.backend.operations() + operation, Fault::PowerCut);
                    let done = match verdict {
                        None => bench.coordinator.resume(named, "eve").map(|reopened| reopened.durable_at),
                        Some(verdict) => {
                            bench.coordinator.resolve_parked(named, verdict, "eve").map(|ended| ended.durable_at)
                        }
                    };
                    let _ = bench.store.flush();
                    let promised = done.is_ok_and(|durable_at| durable_at <= bench.store.durable());
                    let _ = bench.coordinator.checkpoint();
                    let found = bench.backend.crash(mode, seed);
                    bench.restart_on(found);
                    while !bench.tick().is_empty() {}
                    let told = format!("{verdict:?}, operation {operation}, {mode:?}, seed {seed}: {:?}", now(&bench));
                    let waiting: Vec<_> = [1, 2].into_iter().filter(|n| now(&bench)[*n] == ParkedNow::Parked).collect();
                    assert!(!promised || waiting.is_empty(), "a promise was broken: {told}");
                    if let Some(copy) = waiting.first() {
                        undone += 1;
                        assert_eq!(visible(&bench), [], "{told}");
                        resume(&bench, QueueOffset(*copy as u64)).expect(&told);
                    } else {
                        kept += 1;
                    }
                    if let ParkedNow::OpenAgain(half) = now(&bench)[1] {
                        let other = bench.coordinator.show(half).unwrap().unwrap().members.len();
                        let whole = verdict.is_some() || other == 2;
                        assert!(whole, "{told}");
                        if other == 2 {
                            bench.coordinator.resolve(half, Verdict::Commit, "eve").expect(&told);
                        }
                    }
                    assert!(visible(&bench).iter().all(|(_, copies)| *copies == 1), "{told}");
                }
            }
        }
    }
    println!("deeds kept: {kept}, undone: {undone}");
    assert!(kept > 0 && undone > 0, "{kept} kept, {undone} undone");
}

/// What Apache's broker leaves: copies that name no half, resumed halves that name no copy, and messages of halves that it
/// had given up.
#[test]
fn copies_that_an_apache_broker_used_are_not_used_again() {
    for by_resuming in [true, false] {
        let mut bench = bench();
        let place = bench.half("a");
        bench.half("b");
        give_up(&bench);
        let plain = |copy: &Message, topic: &'static str, times: &str| {
            let mut properties = copy.parsed_properties();
            properties.set("TRANSACTION_CHECK_TIMES", times);
            Message {
                topic: topic.into(),
                prepared_transaction_offset: LogOffset::ZERO,
                properties: properties.encode(),
                ..copy.clone()
            }
        };
        let half = half_of(bench.message("a", &[])).unwrap().0;
        bench.append_raw(plain(&half, topic::CHECK_MAX_TIME, "15"));
        bench.coordinator.checkpoint().unwrap();
        if by_resuming {
            bench.append_raw(plain(&half, topic::HALF, "0"));
        } else {
            let properties = half.properties.clone();
            bench.append_raw(Message {
                sys_flag: 8,
                prepared_transaction_offset: place.log,
                properties,
                ..bench.message("a", &[])
            });
        }
        bench.append_raw(plain(&half_of(bench.message("c", &[])).unwrap().0, topic::CHECK_MAX_TIME, "15"));
        for lost in [false, true] {
            if lost {
                bench.backend.remove("checkback/verdicts").unwrap();
            }
            bench.restart_on(bench.backend.clone());
            let waiting: Vec<_> = parked(&bench).into_iter().filter(|row| row.now == ParkedNow::Parked).collect();
            let waiting: Vec<_> = waiting.iter().map(|row| (&*row.subject.transaction_id, row.half)).collect();
            assert_eq!(waiting, [("b", Some(HalfOffset(1))), ("c", None)], "lost: {lost}");
            assert!(matches!(resume(&bench, FIRST), Err(ParkedError::Used { .. })));
        }
        resume(&bench, QueueOffset(3)).expect("Apache's copy can be resumed");
        bench.coordinator.resolve_parked(QueueOffset(1), Verdict::Commit, "eve").unwrap();
        assert!(visible(&bench).contains(&("b".to_owned(), 1)));
    }
}
