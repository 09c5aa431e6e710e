//! Transactions of several messages (apache/rocketmq #477, #2971): one verdict, one append, all or none.

use std::collections::BTreeMap;

use mq_protocol::ids::LogOffset;
use mq_protocol::record::Message;
use mq_protocol::topic;
use mq_store::backend::{CrashBackend, CrashMode, Fault};
use mq_store::{Backend, MemoryBackend};
use txn_coordinator::{Answer, CheckResult, EndError, HalfError, HalfOffset, Outcome, Refusal, Verdict, half_of};

use crate::bench::{Bench, Place, end_request};

fn bench() -> Bench<MemoryBackend> {
    Bench::new(MemoryBackend::new(), Bench::<MemoryBackend>::options())
}

/// The parts of one transaction, `of` in all, each with a key of its own.
fn parts<B: mq_store::Backend + Clone + 'static>(
    bench: &Bench<B>,
    id: &str,
    which: &[u8],
    of: u8,
) -> Vec<(String, Place)> {
    let part = |number: &u8| {
        let (key, part) = (format!("{id}-{number}"), format!("{number}/{of}"));
        let place = bench.half_with(&key, &[("CHECKBACK_SHARED_ID", id), ("CHECKBACK_PART", &part)]);
        (key, place)
    };
    which.iter().map(part).collect()
}

fn counts<B: mq_store::Backend + Clone + 'static>(bench: &Bench<B>) -> Vec<(String, usize)> {
    bench.found().real.into_iter().map(|(id, copies)| (id, copies.len())).collect()
}

fn each(ids: &[&str]) -> Vec<(String, usize)> {
    ids.iter().map(|id| ((*id).to_owned(), 1)).collect()
}

#[test]
fn one_verdict_publishes_all_messages_in_one_append_in_their_order() {
    let mut bench = bench();
    bench.half("before");
    let all = parts(&bench, "t", &[2, 3, 1], 3);
    let before = bench.store.end();
    let (key, place) = &all[1];
    assert_eq!(bench.end(*place, key, Verdict::Commit).unwrap().answer, Answer::Now(Outcome::Committed));
    let tail: Vec<_> = bench.store.flush().map(|()| bench.store.scan(before).map(Result::unwrap).collect()).unwrap();
    let told = |record: &mq_protocol::record::StoredMessage| {
        let message = &record.message;
        if message.topic == topic::OP_HALF { "op".into() } else { message.property("UNIQ_KEY").unwrap().to_owned() }
    };
    assert_eq!(Vec::from_iter(tail.iter().map(told)), ["t-1", "t-2", "t-3", "op"]);
    assert_eq!(Vec::from_iter(tail.iter().map(txn_coordinator::followers)), [2, 1, 0, 0]);
    for _ in 0..2 {
        for (key, place) in &all {
            assert_eq!(bench.end(*place, key, Verdict::Commit).unwrap().answer, Answer::Before(Outcome::Committed));
            assert_eq!(bench.end(*place, key, Verdict::Rollback).unwrap_err().code(), 604);
        }
        assert_eq!(counts(&bench), each(&["t-1", "t-2", "t-3"]));
        bench.restart_on(bench.backend.clone());
    }
}

#[test]
fn an_incomplete_set_is_never_published_and_its_rollback_meets_what_comes_late() {
    let mut bench = bench();
    let some = parts(&bench, "t", &[1, 3], 3);
    let (key, place) = &some[1];
    let error = bench.end(*place, key, Verdict::Commit).unwrap_err();
    assert!(matches!(error, EndError::Refused(Refusal::Incomplete { here: 2, of: 3 })), "{error}");
    assert_eq!(error.code(), 2);
    bench.advance(6);
    let [check] = &bench.tick()[..] else { panic!("one question for the whole") };
    assert_eq!(check.half, some[0].1.half);
    bench.end(some[0].1, &some[0].0, Verdict::Rollback).unwrap();
    parts(&bench, "t", &[2], 3);
    assert!(bench.tick().is_empty());
    assert_eq!((bench.outcomes(), counts(&bench)), (vec![Some(Outcome::RolledBack); 3], vec![]));
    bench.restart_on(bench.backend.clone());
    assert_eq!(bench.outcomes(), [Some(Outcome::RolledBack); 3]);
}

#[test]
fn a_shared_id_and_a_unique_key_of_the_same_text_are_two_transactions() {
    let bench = bench();
    let plain = bench.half("t");
    let all = parts(&bench, "t", &[1, 2], 2);
    bench.end(plain, "t", Verdict::Rollback).unwrap();
    bench.end(all[0].1, &all[0].0, Verdict::Commit).unwrap();
    assert_eq!(counts(&bench), each(&["t-1", "t-2"]));
}

#[test]
fn a_set_that_nobody_ends_is_parked_whole() {
    let bench = bench();
    parts(&bench, "t", &[1, 2], 2);
    bench.advance(6);
    for _ in 0..3 {
        let [check] = &bench.tick()[..] else { panic!("one question for the whole") };
        bench.coordinator.check_result(check.half, CheckResult::Delivered);
        bench.advance(30);
    }
    assert!(bench.tick().is_empty());
    assert_eq!(bench.outcomes(), [Some(Outcome::Parked); 2]);
    assert_eq!(bench.found().parked.keys().collect::<Vec<_>>(), ["t-1", "t-2"]);
}

/// Power fails at each write and sync of a commit, with every way to lose what was not synced: all are readable or none.
#[test]
fn a_torn_commit_of_a_set_is_cut_back_whole() {
    let (mut whole, mut none, mut torn) = (0, 0, 0);
    for operation in 0..6 {
        for mode in CrashMode::ALL {
            for seed in 0..40 {
                let mut bench = Bench::new(CrashBackend::new(), Bench::<CrashBackend>::options());
                if seed % 2 == 0 {
                    bench.half("before");
                }
                let all = parts(&bench, "t", &[1, 2, 3], 3);
                bench.store.flush().unwrap();
                let at = bench.backend.operations() + operation;
                bench.backend.plan(at, Fault::PowerCut);
                let ended = bench.end(all[0].1, &all[0].0, Verdict::Commit);
                let _ = bench.store.flush();
                let promised = ended.is_ok_and(|ended| ended.durable_at <= bench.store.durable());
                let found = bench.backend.crash(mode, seed);
                bench.restart_on(found);
                torn += u32::from(bench.recovered.torn_group.is_some());
                while !bench.tick().is_empty() {}
                let outcomes = [0, 1, 2].map(|part: usize| bench.coordinator.outcome(all[part].1.half));
                let copies = counts(&bench);
                match outcomes {
                    [Some(Outcome::Committed), ..] => {
                        assert_eq!((outcomes, copies), ([Some(Outcome::Committed); 3], each(&["t-1", "t-2", "t-3"])));
                        whole += 1;
                    }
                    _ => {
                        assert!(!promised, "a promise was broken: {mode:?}, seed {seed}");
                        assert_eq!((outcomes, copies), ([None; 3], vec![]), "{mode:?}, seed {seed}");
                        none += 1;
                        bench.end(all[1].1, &all[1].0, Verdict::Commit).unwrap();
                        assert_eq!(counts(&bench), each(&["t-1", "t-2", "t-3"]));
                    }
                }
            }
        }
    }
    println!("commits found whole: {whole}, not at all: {none}; torn ones cut back: {torn}");
    assert!(whole > 0 && none > 0 && torn > 0, "{whole} whole, {none} not there, {torn} torn");
}

/// A disk writes sectors: with halves of many lengths they end anywhere in the set. Also in a log that begins with the set: a
/// message that names log offset 0 as its half would be taken for a copy.
#[test]
fn a_commit_of_a_set_that_is_torn_at_any_sector_is_cut_back_whole() {
    let whole = ([Some(Outcome::Committed); 3], each(&["t-1", "t-2", "t-3"]));
    let (mut committed, mut not_there) = (0, 0);
    for (before, padding) in [true, false].into_iter().flat_map(|before| (0..512).step_by(11).map(move |n| (before, n)))
    {
        for found in (0..).map_while(|sector| torn_at(before, padding, sector)) {
            if found == whole {
                committed += 1;
            } else {
                assert_eq!(found, ([None; 3], vec![]), "{padding} bytes longer, behind another half: {before}");
                not_there += 1;
            }
        }
    }
    println!("torn commits found whole: {committed}, not at all: {not_there}");
    // Whole are those of which only the OP record is torn.
    assert!(committed > 20 && not_there > 200, "{committed} whole, {not_there} not there");
}

/// Outcomes and messages of a set.
type FoundOfSet = ([Option<Outcome>; 3], Vec<(String, usize)>);

/// What is found of a set whose commit is lost from a sector on; `None` behind its end.
fn torn_at(before: bool, padding: usize, sector: u64) -> Option<FoundOfSet> {
    const SECTOR: u64 = 512;
    let mut bench = bench();
    if before {
        bench.half("before");
    }
    let padding = "x".repeat(padding);
    let all = [1, 2, 3].map(|number| {
        let part = format!("{number}/3");
        let extra = [("CHECKBACK_SHARED_ID", "t"), ("CHECKBACK_PART", &*part), ("PAD", &*padding)];
        bench.half_with(&format!("t-{number}"), &extra)
    });
    let begin = bench.store.end().0;
    // Not flushed: the mark stays before it.
    bench.end(all[0], "t-1", Verdict::Commit).unwrap();
    let cut = begin.max((begin / SECTOR + sector) * SECTOR);
    let lost = bench.store.end().0.checked_sub(cut).filter(|lost| *lost > 0)?;
    let log = bench.backend.open("commitlog/00000000000000000000").unwrap();
    log.write_at(cut, &vec![0; lost as usize]).unwrap();
    bench.restart_on(bench.backend.clone());
    let published = counts(&bench);
    while !bench.tick().is_empty() {}
    assert_eq!(published, counts(&bench), "nothing is left to be published one after the other");
    Some((all.map(|at| bench.coordinator.outcome(at.half)), published))
}

#[test]
fn what_apache_ended_of_a_set_is_finished_for_the_others() {
    let mut bench = bench();
    bench.half("before");
    let all = parts(&bench, "t", &[1, 2], 2);
    let like = bench.message("t-1", &[("CHECKBACK_SHARED_ID", "t"), ("CHECKBACK_PART", "1/2")]);
    bench.append_raw(Message { sys_flag: 8, prepared_transaction_offset: all[0].1.log, ..like.clone() });
    bench.append_raw(Message {
        topic: topic::OP_HALF.into(),
        sys_flag: 0,
        queue_id: mq_protocol::ids::QueueId(0),
        prepared_transaction_offset: LogOffset::ZERO,
        properties: "TAGS\u{1}d\u{2}".into(),
        body: format!("{},", all[0].1.half).into(),
        ..like
    });
    bench.restart_on(bench.backend.clone());
    assert!(bench.tick().is_empty());
    assert_eq!(counts(&bench), each(&["t-1", "t-2"]));
    let ended: BTreeMap<_, _> = [1, 2].map(|half| (half, bench.coordinator.outcome(HalfOffset(half)))).into();
    assert!(ended.values().all(|outcome| *outcome == Some(Outcome::Committed)), "{ended:?}");
}

#[test]
fn what_cannot_be_part_of_a_set_is_named() {
    let bench = bench();
    let refused = |extra: &[(&str, &str)]| half_of(bench.message("a", extra)).map(drop).unwrap_err();
    let id = ("CHECKBACK_SHARED_ID", "t");
    assert_eq!(refused(&[id]), HalfError::Missing("CHECKBACK_PART"));
    assert_eq!(refused(&[("CHECKBACK_PART", "1/2")]), HalfError::Missing("CHECKBACK_SHARED_ID"));
    for part in ["0/2", "3/2", "1/33", "1", "a/b", "-1/2"] {
        let error = refused(&[id, ("CHECKBACK_PART", part)]);
        assert!(
            matches!(&error, HalfError::Malformed { name: "CHECKBACK_PART", .. }) && error.code() == 13,
            "{part}: {error}"
        );
    }
    for (name, value) in [
        ("CHECKBACK_MAX_CHECKS", "0"),
        ("CHECKBACK_MAX_CHECKS", "1001"),
        ("CHECKBACK_DELAY_MS", "0"),
        ("CHECKBACK_DELAY_MS", "soon"),
    ] {
        assert!(matches!(refused(&[(name, value)]), HalfError::Malformed { .. }), "{name}={value}");
    }
    let long = "k".repeat(300);
    for name in ["CHECKBACK_ORDER_KEY", "CHECKBACK_SHARED_ID", "PGROUP", "UNIQ_KEY"] {
        let mut message = bench.message("a", &[id, ("CHECKBACK_PART", "1/2")]);
        let mut properties = message.parsed_properties();
        properties.set(name, long.clone());
        message.properties = properties.encode();
        assert!(matches!(half_of(message), Err(HalfError::TooLong { .. })), "{name}");
    }
    assert_eq!(refused(&[("CHECKBACK_DELAY_MS", "5"), ("CHECKBACK_ORDER_KEY", "k")]), HalfError::DelayedInOrder);
}

#[test]
fn the_verdicts_of_a_read_hold_for_sets_too() {
    let bench = bench();
    let (one, other) = (parts(&bench, "t", &[1, 2], 2), parts(&bench, "u", &[1, 2], 2));
    let said = [
        (&one[0], Verdict::Commit),
        (&other[1], Verdict::Rollback),
        (&one[1], Verdict::Commit),
        (&other[0], Verdict::Commit),
    ];
    let requests = said.map(|((key, place), verdict)| end_request(*place, key, verdict));
    let answers = bench.coordinator.end(&requests);
    let told: Vec<_> =
        answers.into_iter().map(|answer| answer.map(|ended| ended.answer).map_err(|error| error.code())).collect();
    let (now, before) = (Answer::Now, Answer::Before(Outcome::Committed));
    assert_eq!(told, [Ok(now(Outcome::Committed)), Ok(now(Outcome::RolledBack)), Ok(before), Err(604)]);
    assert_eq!(counts(&bench), each(&["t-1", "t-2"]));
}
