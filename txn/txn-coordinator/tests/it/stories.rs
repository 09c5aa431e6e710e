//! One claim each: what a producer, a consumer, an operator or an Apache broker finds.

use std::collections::BTreeMap;

use bytes::Bytes;
use mq_protocol::ids::{LogOffset, QueueId, UnixMillis};
use mq_protocol::record::{Message, StoredMessage};
use mq_protocol::topic;
use mq_store::MemoryBackend;
use txn_coordinator::{
    Answer, CheckResult, EndError, Ended, HalfError, HalfOffset, Outcome, Progress, Refusal, TransactionOptions,
    Verdict, half_of,
};

use crate::bench::{Bench, Place, TOPIC, end_request};

fn bench() -> Bench<MemoryBackend> {
    Bench::new(MemoryBackend::new(), Bench::<MemoryBackend>::options())
}

fn restart(bench: &mut Bench<MemoryBackend>) {
    bench.restart_on(bench.backend.clone());
}

fn op_record(ends: &str, like: &Message) -> Message {
    Message {
        topic: topic::OP_HALF.into(),
        queue_id: QueueId(0),
        sys_flag: 0,
        properties: "TAGS\u{1}d\u{2}".into(),
        body: Bytes::from(ends.to_owned()),
        ..like.clone()
    }
}

/// The real message as an Apache broker writes it, without its OP record.
fn real_record(bench: &Bench<MemoryBackend>, id: &str, half: Place) -> Message {
    Message { sys_flag: 8, prepared_transaction_offset: half.log, ..bench.message(id, &[("__transactionId__", id)]) }
}

#[test]
fn half_message_is_invisible_until_commit_and_then_visible_once() {
    let bench = bench();
    let half = bench.half("a");
    assert!(bench.found().real.is_empty());
    let ended = bench.end(half, "a", Verdict::Commit).unwrap();
    assert_eq!(ended.answer, Answer::Now(Outcome::Committed));
    assert_eq!(ended.durable_at, bench.store.end());
    assert_eq!(bench.end(half, "a", Verdict::Commit).unwrap().answer, Answer::Before(Outcome::Committed));
    let found = bench.found();
    let [real] = &found.real["a"][..] else { panic!("one copy: {found:?}") };
    let sent = bench.message("a", &[]);
    assert_eq!(
        (&real.message.topic, real.message.queue_id, &real.message.body),
        (&sent.topic, sent.queue_id, &sent.body)
    );
    assert_eq!((real.message.flag, real.message.sys_flag & 0xC), (5, 8));
    assert_eq!(real.message.prepared_transaction_offset, half.log);
    assert_eq!(found.ops.into_values().collect::<Vec<_>>(), [vec![half.half.0]]);
}

#[test]
fn real_message_and_op_record_are_one_append() {
    let bench = bench();
    let half = bench.half("a");
    let before = bench.store.end();
    bench.end(half, "a", Verdict::Commit).unwrap();
    bench.half("b");
    let tail: Vec<StoredMessage> = bench.store.scan(before).map(Result::unwrap).collect();
    let topics: Vec<_> = tail.iter().map(|record| &*record.message.topic).collect();
    assert_eq!(topics, [TOPIC, topic::OP_HALF, topic::HALF]);
}

/// Second, contrary, unknown and wrong verdicts among them: each gets the answer that it would get alone.
#[test]
fn verdicts_of_one_batch_are_decided_in_order_and_share_an_op_record() {
    use Verdict::{Commit, Rollback, Unknown};
    let mut bench = bench();
    let halves: BTreeMap<&str, Place> = ["a", "b", "c", "d"].map(|id| (id, bench.half(id))).into();
    let sibling = bench.half("c");
    let said = [
        ("a", halves["a"], Commit, "now committed"),
        ("b", halves["b"], Rollback, "now rolled back"),
        ("x", halves["a"], Commit, "the half message belongs to another transaction"),
        ("d", halves["d"], Unknown, "unknown"),
        ("c", sibling, Commit, "now committed"),
        ("b", halves["b"], Commit, "the transaction is already rolled back; its first outcome stands"),
        ("c", halves["c"], Commit, "before committed"),
        ("d", halves["d"], Commit, "now committed"),
    ];
    let requests: Vec<_> = said.iter().map(|(id, place, verdict, _)| end_request(*place, id, *verdict)).collect();
    let answers = bench.coordinator.end(&requests);
    for ((id, _, verdict, expected), answer) in said.iter().zip(&answers) {
        let text = match answer {
            Ok(Ended { answer: Answer::Now(outcome), .. }) => format!("now {outcome}"),
            Ok(Ended { answer: Answer::Before(outcome), .. }) => format!("before {outcome}"),
            Ok(Ended { answer: Answer::Unknown, .. }) => "unknown".into(),
            Err(error) => error.to_string(),
        };
        assert_eq!(text, *expected, "{verdict:?} {id}");
    }
    let durable_at = |index: usize| answers[index].as_ref().unwrap().durable_at;
    assert!(durable_at(0) == durable_at(4) && durable_at(6) == durable_at(4) && durable_at(7) == bench.store.end());
    for _ in 0..2 {
        let found = bench.found();
        // The first four until the second verdict for b, then d.
        assert_eq!(found.ops.values().collect::<Vec<_>>(), [&vec![0, 1, 2, 4], &vec![3]]);
        let copies: Vec<_> = found.real.iter().map(|(id, copies)| (&**id, copies.len())).collect();
        assert_eq!(copies, [("a", 1), ("c", 1), ("d", 1)]);
        restart(&mut bench);
    }
}

/// A half may be durable before the broker has told it: the verdict that names it is the first to say so.
#[test]
fn verdicts_of_one_batch_for_two_halves_of_a_transaction_commit_it_once_whichever_was_told() {
    for told in [0, 1] {
        let bench = bench();
        let halves = [bench.append_half("a"), bench.append_half("a")];
        bench.store.flush().unwrap();
        bench.coordinator.stored([halves[told].1.clone()]);
        let requests = [told, 1 - told].map(|nth| end_request(halves[nth].0, "a", Verdict::Commit));
        let answers = bench.coordinator.end(&requests).into_iter().map(|ended| ended.unwrap().answer);
        let expected = [Answer::Now(Outcome::Committed), Answer::Before(Outcome::Committed)];
        assert_eq!(answers.collect::<Vec<_>>(), expected, "the half {told} was told");
        assert_eq!(bench.found().real["a"].len(), 1, "the half {told} was told");
    }
}

#[test]
fn rolled_back_message_is_never_visible_and_a_late_commit_is_refused_by_name() {
    let mut bench = bench();
    let half = bench.half("a");
    bench.end(half, "a", Verdict::Rollback).unwrap();
    for _ in 0..2 {
        let error = bench.end(half, "a", Verdict::Commit).unwrap_err();
        assert!(matches!(error, EndError::Refused(Refusal::Contrary(Outcome::RolledBack))), "{error}");
        assert_eq!(error.code(), 604);
        assert!(bench.found().real.is_empty());
        assert_eq!(bench.coordinator.stats().counters.contrary, 1);
        restart(&mut bench);
    }
}

#[test]
fn an_unknown_verdict_changes_nothing() {
    let bench = bench();
    let half = bench.half("a");
    let before = bench.store.end();
    assert_eq!(bench.end(half, "a", Verdict::Unknown).unwrap().answer, Answer::Unknown);
    assert_eq!((bench.store.end(), bench.outcomes()), (before, vec![None]));
}

#[test]
fn a_verdict_is_matched_by_both_offsets_group_and_transaction() {
    let bench = bench();
    let (a, b) = (bench.half("a"), bench.half("b"));
    bench.append_raw(Message {
        topic: topic::HALF.into(),
        queue_id: QueueId(0),
        sys_flag: 0,
        ..bench.message("no half", &[])
    });
    let crossed = Place { half: a.half, log: b.log };
    let beyond = Place { half: HalfOffset(9), log: a.log };
    let not_a_half =
        Place { half: HalfOffset(2), log: bench.store.scan(LogOffset::ZERO).last().unwrap().unwrap().log_offset };
    for (place, id, expected) in [
        (crossed, "a", Refusal::WrongLogOffset),
        (beyond, "a", Refusal::NoSuchHalf),
        (Place { half: HalfOffset(u64::MAX), log: LogOffset(u64::MAX) }, "a", Refusal::NoSuchHalf),
        (not_a_half, "no half", Refusal::NoSuchHalf),
        (a, "b", Refusal::WrongTransaction),
    ] {
        let error = bench.end(place, id, Verdict::Commit).unwrap_err();
        assert!(matches!(&error, EndError::Refused(refusal) if *refusal == expected), "{place:?}: {error}");
        assert_eq!(error.code(), 1);
    }
    let stranger = txn_coordinator::EndRequest {
        half: a.half,
        log_offset: a.log,
        producer_group: "strangers".into(),
        transaction_id: None,
        verdict: Verdict::Commit,
    };
    let refused = bench.coordinator.end(&[stranger]).remove(0);
    assert!(matches!(refused, Err(EndError::Refused(Refusal::WrongGroup))));
    assert_eq!(bench.coordinator.stats().counters.mismatched, 6);
    assert_eq!(bench.outcomes(), [None, None, None]);
    assert!(bench.found().real.is_empty());
}

#[test]
fn a_half_can_be_ended_only_once_it_is_durable() {
    let bench = bench();
    let (place, stored) = bench.append_half("a");
    assert!(bench.end(place, "a", Verdict::Commit).is_err());
    bench.store.flush().unwrap();
    // Its sender is quicker than the broker's own bookkeeping.
    assert_eq!(bench.end(place, "a", Verdict::Commit).unwrap().answer, Answer::Now(Outcome::Committed));
    bench.coordinator.stored([stored]);
    assert_eq!(bench.coordinator.stats().pending_halves, 0);
}

#[test]
fn halves_that_a_client_sent_twice_end_with_one_verdict_and_one_message() {
    let mut bench = bench();
    let (first, second) = (bench.half("a"), bench.half("a"));
    bench.end(second, "a", Verdict::Commit).unwrap();
    assert_eq!(bench.end(first, "a", Verdict::Commit).unwrap().answer, Answer::Before(Outcome::Committed));
    let late = bench.half("a");
    assert!(bench.tick().is_empty(), "a half whose verdict is known is closed, not checked");
    assert_eq!(bench.outcomes(), [Some(Outcome::Committed); 3]);
    restart(&mut bench);
    let later = bench.half("a");
    assert!(bench.tick().is_empty());
    for place in [late, later] {
        assert_eq!(bench.end(place, "a", Verdict::Commit).unwrap().answer, Answer::Before(Outcome::Committed));
        assert_eq!(bench.end(place, "a", Verdict::Rollback).unwrap_err().code(), 604);
    }
    assert_eq!(bench.found().real["a"].len(), 1);
}

#[test]
fn checks_ask_the_sender_with_the_message_as_it_sent_it() {
    let bench = bench();
    let half = bench.half("a");
    bench.advance(5);
    assert!(bench.tick().is_empty());
    bench.advance(1);
    let [check] = &bench.tick()[..] else { panic!("one check is due") };
    assert_eq!((&*check.producer_group, &*check.topic, check.attempt), ("producers", TOPIC, 1));
    assert_eq!(check.prefer_client.as_deref(), Some("client-1"));
    let header: mq_protocol::header::CheckTransactionState = check.request.header().unwrap();
    assert_eq!((HalfOffset::from(header.tran_state_table_offset), header.commit_log_offset), (half.half, half.log));
    let asked = StoredMessage::decode(&check.request.body).unwrap().message;
    assert_eq!((&asked.topic, &asked.body), (&bench.message("a", &[]).topic, &bench.message("a", &[]).body));
    assert_eq!(bench.coordinator.next_due(), Some(UnixMillis(1_700_000_036_000)));
}

#[test]
fn after_the_last_unanswered_check_the_half_is_parked_with_its_op_record() {
    let mut bench = bench();
    let half = bench.half("a");
    bench.advance(6);
    for attempt in 1..=3 {
        let before = bench.store.end();
        let [check] = &bench.tick()[..] else { panic!("check {attempt} is due") };
        assert_eq!((check.attempt, bench.store.end()), (attempt, before), "counting a check writes nothing");
        bench.coordinator.check_result(check.half, CheckResult::Delivered);
        bench.advance(30);
    }
    assert!(bench.tick().is_empty(), "there is no fourth check");
    for _ in 0..2 {
        let found = bench.found();
        let [copy] = &found.parked["a"][..] else { panic!("one copy for the operator: {found:?}") };
        assert_eq!(copy.message.property("REAL_TOPIC"), Some(TOPIC));
        assert_eq!(copy.message.property("TRANSACTION_CHECK_TIMES"), Some("3"));
        assert_eq!((found.ended().collect::<Vec<_>>(), found.real.len()), (vec![half.half.0], 0));
        assert_eq!(bench.outcomes(), [Some(Outcome::Parked)]);
        assert_eq!(bench.end(half, "a", Verdict::Commit).unwrap_err().code(), 604);
        restart(&mut bench);
        assert!(bench.tick().is_empty());
    }
}

#[test]
fn a_half_that_nobody_could_be_asked_about_is_parked_after_the_reserved_time() {
    let bench = bench();
    bench.half("a");
    bench.advance(6);
    for _ in 0..4 {
        let [check] = &bench.tick()[..] else { panic!("a check is due") };
        assert_eq!(check.attempt, 1, "a check that nobody got is not counted");
        bench.coordinator.check_result(check.half, CheckResult::NobodyToAsk);
        bench.advance(30);
    }
    assert!(bench.tick().is_empty());
    assert_eq!(bench.outcomes(), [Some(Outcome::Parked)]);
}

#[test]
fn pending_halves_survive_a_restart_with_and_without_the_verdict_file() {
    for checkpoint in [false, true] {
        let mut bench = bench();
        let places: Vec<_> = ["a", "b", "c", "d"].map(|id| bench.half(id)).into();
        bench.end(places[0], "a", Verdict::Commit).unwrap();
        bench.end(places[1], "b", Verdict::Rollback).unwrap();
        if checkpoint {
            bench.store.flush().unwrap();
            bench.coordinator.checkpoint().unwrap();
        }
        bench.end(places[2], "c", Verdict::Commit).unwrap();
        bench.store.flush().unwrap();
        restart(&mut bench);
        let expected = [Some(Outcome::Committed), Some(Outcome::RolledBack), Some(Outcome::Committed), None];
        assert_eq!(bench.outcomes(), expected, "with verdict file: {checkpoint}");
        bench.advance(6);
        assert_eq!(bench.tick().iter().map(|check| check.half).collect::<Vec<_>>(), [places[3].half]);
        bench.end(places[3], "d", Verdict::Commit).unwrap();
        assert_eq!(bench.found().real.keys().collect::<Vec<_>>(), ["a", "c", "d"]);
    }
}

#[test]
fn a_damaged_or_foreign_verdict_file_is_not_believed() {
    use mq_store::Backend;
    for (at, byte) in [(0, 0xFF), (16, 0x55), (24, 0x01), (4096 + 4, 0xAA), (4096 + 4, 0x00)] {
        let mut bench = bench();
        let places: Vec<_> = ["a", "b", "c"].map(|id| bench.half(id)).into();
        bench.end(places[0], "a", Verdict::Commit).unwrap();
        bench.end(places[1], "b", Verdict::Rollback).unwrap();
        bench.store.flush().unwrap();
        bench.coordinator.checkpoint().unwrap();
        bench.backend.open("checkback/verdicts").unwrap().write_at(at, &[byte]).unwrap();
        restart(&mut bench);
        assert_eq!(bench.outcomes(), [Some(Outcome::Committed), Some(Outcome::RolledBack), None], "byte {at}");
    }
}

#[test]
fn a_torn_commit_is_healed_by_its_op_record_and_delivered_once() {
    for checkpoint in [false, true] {
        let mut bench = bench();
        let half = bench.half("a");
        if checkpoint {
            bench.coordinator.checkpoint().unwrap();
        }
        bench.append_raw(real_record(&bench, "a", half));
        restart(&mut bench);
        assert_eq!(bench.end(half, "a", Verdict::Rollback).unwrap_err().code(), 604);
        assert!(bench.tick().is_empty());
        assert_eq!(bench.outcomes(), [Some(Outcome::Committed)]);
        assert_eq!(bench.end(half, "a", Verdict::Commit).unwrap().answer, Answer::Before(Outcome::Committed));
        let found = bench.found();
        assert_eq!((found.real["a"].len(), found.ended().collect::<Vec<_>>()), (1, vec![half.half.0]));
    }
}

#[test]
fn a_real_message_of_another_half_or_transaction_decides_nothing() {
    let mut bench = bench();
    let (a, b) = (bench.half("a"), bench.half("b"));
    bench.append_raw(real_record(&bench, "a", b));
    bench.append_raw(Message { sys_flag: 0, ..real_record(&bench, "a", a) });
    restart(&mut bench);
    assert_eq!(bench.outcomes(), [None, None]);
    bench.advance(6);
    assert_eq!(bench.tick().len(), 2);
}

/// Renewed copies without OP records for the old ones, batched and single OP records, one parked without any.
#[test]
fn a_directory_that_apache_wrote_is_understood() {
    let mut bench = bench();
    let half = |id: &str, checks: &str| {
        let (mut half, _) = half_of(bench.message(id, &[])).unwrap();
        if !checks.is_empty() {
            half.properties = format!("{}TRANSACTION_CHECK_TIMES\u{1}{checks}\u{2}", half.properties).into();
        }
        let (log, offset) = bench.append_raw(half);
        Place { half: offset.into(), log }
    };
    let like = bench.message("x", &[]);
    let committed = half("committed", "");
    let _renewed = [half("renewed", ""), half("renewed", "1")];
    let rolled_back = half("rolled-back", "");
    let renewed = half("renewed", "2");
    let _parked = half("parked", "3");
    let _open = half("open", "2");
    bench.append_raw(real_record(&bench, "committed", committed));
    bench.append_raw(op_record(&format!("{},", committed.half), &like));
    bench.append_raw(op_record(&rolled_back.half.to_string(), &like));
    bench.append_raw(real_record(&bench, "renewed", renewed));
    bench.append_raw(op_record(&format!("{},", renewed.half), &like));
    bench.append_raw(Message {
        topic: topic::CHECK_MAX_TIME.into(),
        queue_id: QueueId(0),
        ..half_of(bench.message("parked", &[])).unwrap().0
    });
    restart(&mut bench);
    bench.advance(6);
    let checks = bench.tick();
    assert_eq!(
        checks.iter().map(|check| check.attempt).collect::<Vec<_>>(),
        [3],
        "only the open one, and it counts on"
    );
    let (c, r, p) = (Some(Outcome::Committed), Some(Outcome::RolledBack), Some(Outcome::Parked));
    assert_eq!(bench.outcomes(), [c, c, c, r, c, p, None]);
    assert_eq!(bench.apache_would_check(Progress::default()), [6]);
    assert_eq!(bench.found().real["renewed"].len(), 1);
}

#[test]
fn an_apache_broker_neither_checks_finished_halves_again_nor_skips_open_ones() {
    let mut bench = bench();
    let places: Vec<_> = (0..8).map(|n| (bench.half(&n.to_string()), n.to_string())).collect();
    for ended in [0, 1, 4, 2, 6] {
        bench
            .end(places[ended].0, &places[ended].1, if ended % 2 == 0 { Verdict::Commit } else { Verdict::Rollback })
            .unwrap();
    }
    let early = bench.coordinator.progress();
    assert_eq!(early.half.0, 0, "not durable yet");
    bench.store.flush().unwrap();
    let progress = bench.coordinator.progress();
    assert_eq!((progress.half.0, progress.op.0), (3, 2));
    for progress in [early, progress] {
        assert_eq!(bench.apache_would_check(progress), [3, 5, 7]);
    }
    restart(&mut bench);
    assert_eq!(bench.coordinator.progress().half.0, 3);
    assert_eq!(bench.apache_would_check(bench.coordinator.progress()), [3, 5, 7]);
}

#[test]
fn limits_are_named_errors() {
    let options = TransactionOptions { max_pending: 5, max_siblings: 2, ..Bench::<MemoryBackend>::options() };
    let bench = Bench::new(MemoryBackend::new(), options);
    let first = bench.half("a");
    bench.half("a");
    let [a, e] = ["a", "e"].map(|id| half_of(bench.message(id, &[])).unwrap().1);
    assert_eq!(bench.coordinator.admit([&a, &e]), [Err(HalfError::TooManySiblings(2)), Ok(())]);
    ["b", "c", "d"].iter().for_each(|id| _ = bench.half(id));
    let refused = HalfError::TooManyPending(5);
    assert_eq!(refused.code(), 2);
    assert_eq!(bench.coordinator.admit([&e]), [Err(refused.clone())]);
    bench.end(first, "a", Verdict::Commit).unwrap();
    assert_eq!(bench.coordinator.admit([&e, &e]), [Ok(()), Ok(())], "an ended transaction makes room");
    bench.half("f");
    assert_eq!(bench.coordinator.admit([&e, &e]), [Ok(()), Err(refused)], "for as many as there were");
}

#[test]
fn of_racing_verdicts_one_is_first_and_all_answers_agree() {
    let bench = bench();
    for round in 0..40 {
        let id = format!("t{round}");
        let half = bench.half(&id);
        let start = std::sync::Barrier::new(6);
        let race = |verdict| {
            start.wait();
            bench.end(half, &id, verdict)
        };
        let answers: Vec<_> = std::thread::scope(|threads| {
            let verdicts = [Verdict::Commit, Verdict::Rollback].into_iter().cycle().take(6);
            let racers: Vec<_> = verdicts.map(|verdict| threads.spawn(move || race(verdict))).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        let first = bench.coordinator.outcome(half.half).unwrap();
        let firsts = answers.iter().filter(|answer| matches!(answer, Ok(ended) if ended.answer == Answer::Now(first)));
        assert_eq!(firsts.count(), 1);
        for answer in &answers {
            match answer {
                Ok(ended) => assert!([Answer::Now(first), Answer::Before(first)].contains(&ended.answer)),
                Err(EndError::Refused(Refusal::Contrary(outcome))) => assert_eq!(*outcome, first),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(bench.found().real.contains_key(&id), first == Outcome::Committed);
    }
}

#[test]
fn a_damaged_record_holds_up_nobody_else() {
    use mq_store::Backend;
    let mut bench = bench();
    let places: Vec<_> = (0..400).map(|n| bench.half(&format!("t{n:03}"))).collect();
    bench.end(places[200], "t200", Verdict::Commit).unwrap();
    bench.end(places[201], "t201", Verdict::Rollback).unwrap();
    bench.store.flush().unwrap();
    bench.store.settle().unwrap();
    let damaged = places[100];
    let log = bench.backend.open("commitlog/00000000000000000000").unwrap();
    log.write_at(damaged.log.0 + 90, &[0xFF; 20]).unwrap();
    restart(&mut bench);
    let expected = |n| match n {
        200 => Some(Outcome::Committed),
        201 => Some(Outcome::RolledBack),
        _ => None,
    };
    assert_eq!(bench.outcomes(), (0..400).map(expected).collect::<Vec<_>>());
    assert_eq!(bench.coordinator.stats().pending_halves, 397);
    assert!(bench.end(damaged, "t100", Verdict::Commit).is_err());
    assert_eq!(bench.end(places[399], "t399", Verdict::Commit).unwrap().answer, Answer::Now(Outcome::Committed));
}
