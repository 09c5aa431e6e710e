//! What an operator finds and may do: one claim each.

use mq_protocol::record::Message;
use mq_protocol::topic;
use mq_store::{Clock, MemoryBackend};
use txn_coordinator::{
    Answer, CheckResult, EndError, HalfOffset, OperatorError, Outcome, PendingQuery, Refusal, Verdict,
};

use crate::bench::{Bench, GROUP, TOPIC, end_request};

fn bench() -> Bench<MemoryBackend> {
    Bench::new(MemoryBackend::new(), Bench::<MemoryBackend>::options())
}

fn told(bench: &Bench<MemoryBackend>, half: HalfOffset) -> Vec<String> {
    let shown = bench.coordinator.show(half).unwrap().unwrap();
    shown.history.iter().map(|event| format!("{}: {}", event.by, event.what)).collect()
}

#[test]
fn pending_halves_are_listed_in_pages_with_what_is_known_of_them() {
    let bench = bench();
    let places: Vec<_> = (0..25).map(|n| bench.half(&format!("t{n:02}"))).collect();
    bench.end(places[3], "t03", Verdict::Commit).unwrap();
    let (mut ids, mut query) = (Vec::new(), PendingQuery { limit: 7, ..PendingQuery::default() });
    loop {
        let page = bench.coordinator.pending(&query);
        assert!(page.rows.len() <= 7);
        ids.extend(page.rows.into_iter().map(|row| row.subject.transaction_id));
        let Some(next) = page.next else { break };
        query.from = HalfOffset(next);
    }
    assert_eq!(ids, (0..25).filter(|n| *n != 3).map(|n| format!("t{n:02}")).collect::<Vec<_>>());
    let of = |group: &str, topic: &str| {
        let (group, topic) = (Some(group.to_owned()), Some(topic.to_owned()));
        bench.coordinator.pending(&PendingQuery { limit: 100, group, topic, ..PendingQuery::default() }).rows.len()
    };
    assert_eq!((of(GROUP, TOPIC), of("others", TOPIC), of(GROUP, "OTHERS")), (24, 0, 0));
    let row = bench.coordinator.pending(&PendingQuery { limit: 1, ..PendingQuery::default() }).rows.remove(0);
    let of = &row.subject;
    assert_eq!((&*of.group, &*of.topic, of.log_offset, row.max_checks), (GROUP, TOPIC, places[0].log, 3));
    let next_check = row.next_check_at.map(|at| at.since(of.stored_at).as_secs());
    assert_eq!((of.client.as_deref(), next_check), (Some("client-1"), Some(6)));
    assert_eq!(bench.coordinator.find(GROUP, "t07").to_vec(), [places[7].half]);
    assert!(bench.coordinator.find(GROUP, "t03").is_empty() && bench.coordinator.find("others", "t07").is_empty());
}

#[test]
fn every_question_and_answer_is_told_with_who_gave_it() {
    let bench = bench();
    let half = bench.half("a");
    let peer = "10.1.1.1:999".parse().unwrap();
    bench.advance(6);
    assert_eq!(bench.tick().len(), 1);
    bench.coordinator.check_results([(half.half, CheckResult::Delivered, Some("c1 (10.1.1.1:999)".into()))]);
    let say = |verdict| bench.coordinator.end_by(peer, &[end_request(half, "a", verdict)]).remove(0);
    say(Verdict::Unknown).unwrap();
    bench.advance(30);
    assert_eq!(bench.tick().len(), 1);
    bench.coordinator.check_results([(half.half, CheckResult::NobodyToAsk, None)]);
    say(Verdict::Commit).unwrap();
    say(Verdict::Commit).unwrap();
    say(Verdict::Rollback).unwrap_err();
    assert_eq!(
        told(&bench, half.half),
        [
            "c1 (10.1.1.1:999): was asked (check 1)",
            "10.1.1.1:999: said unknown",
            "the broker: nobody of the producer group is connected",
            "10.1.1.1:999: said commit",
            "10.1.1.1:999: said commit again",
            "10.1.1.1:999: said rollback, refused: the transaction is already committed; its first outcome stands",
        ]
    );
    let shown = bench.coordinator.show(half.half).unwrap().unwrap();
    assert_eq!((shown.outcome, shown.half.next_check_at, shown.members.len()), (Some(Outcome::Committed), None, 0));
    assert_eq!((shown.half.checks, shown.half.unasked, shown.half.subject.client), (Some(1), None, None));
    let unasked = bench.half("b");
    bench.end(unasked, "b", Verdict::Commit).unwrap();
    assert_eq!(bench.coordinator.show(unasked.half).unwrap().unwrap().half.checks, None, "nothing is remembered of it");
    assert_eq!(bench.coordinator.show(HalfOffset(99)).unwrap(), None);
}

#[test]
fn an_ordered_check_comes_at_the_next_tick_and_counts() {
    let bench = bench();
    let half = bench.half("a");
    assert!(bench.tick().is_empty());
    bench.coordinator.check_now(half.half, "eve").unwrap();
    for _ in 0..3 {
        let [check] = &bench.tick()[..] else { panic!("a check is due") };
        bench.coordinator.check_result(check.half, CheckResult::Delivered);
        if check.attempt < 3 {
            bench.coordinator.check_now(half.half, "eve").unwrap();
        }
    }
    let used_up = OperatorError::ChecksUsedUp { half: half.half, checks: 3 };
    assert_eq!(bench.coordinator.check_now(half.half, "eve"), Err(used_up));
    assert_eq!(bench.coordinator.check_now(HalfOffset(9), "eve"), Err(OperatorError::NotPending(HalfOffset(9))));
    assert_eq!(told(&bench, half.half)[0], "operator eve: a check was ordered");
}

#[test]
fn an_operators_verdict_is_one_like_any_other_and_the_first_one_wins() {
    let bench = bench();
    let (a, b) = (bench.half("a"), bench.half("b"));
    assert_eq!(
        bench.coordinator.resolve(a.half, Verdict::Commit, "eve").unwrap().answer,
        Answer::Now(Outcome::Committed)
    );
    bench.end(b, "b", Verdict::Rollback).unwrap();
    let refused = bench.coordinator.resolve(b.half, Verdict::Commit, "eve").unwrap_err();
    assert!(matches!(refused, EndError::Refused(Refusal::Contrary(Outcome::RolledBack))), "{refused}");
    assert_eq!(bench.end(a, "a", Verdict::Rollback).unwrap_err().code(), 604);
    assert!(bench.coordinator.resolve(HalfOffset(7), Verdict::Commit, "eve").is_err());
    assert_eq!(bench.found().real.keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(told(&bench, a.half)[0], "operator eve: said commit");
}

#[test]
fn bad_records_of_the_half_topic_are_named_and_block_nothing() {
    use mq_store::Backend;
    let mut bench = bench();
    let places: Vec<_> = (0..300).map(|n| bench.half(&format!("t{n}"))).collect();
    let bad = |properties: &str| Message {
        topic: topic::HALF.into(),
        queue_id: mq_protocol::ids::QueueId(0),
        sys_flag: 0,
        properties: properties.to_owned().into(),
        ..bench.message("bad", &[])
    };
    bench.append_raw(bad("UNIQ_KEY\u{1}k\u{2}REAL_TOPIC\u{1}T\u{2}REAL_QID\u{1}0\u{2}"));
    bench.append_raw(bad("PGROUP\u{1}g\u{2}REAL_TOPIC\u{1}T\u{2}REAL_QID\u{1}0\u{2}"));
    bench.append_raw(bad("PGROUP\u{1}g\u{2}UNIQ_KEY\u{1}k\u{2}REAL_TOPIC\u{1}T\u{2}REAL_QID\u{1}x\u{2}"));
    let last = bench.half("last");
    bench.store.settle().unwrap();
    let log = bench.backend.open("commitlog/00000000000000000000").unwrap();
    log.write_at(places[20].log.0 + 90, &[0xFF; 20]).unwrap();
    for saved in [false, true] {
        if saved {
            bench.coordinator.checkpoint().unwrap();
        }
        bench.restart_on(bench.backend.clone());
        bench.advance(40);
        let mut asked: Vec<_> = Vec::new();
        while bench.coordinator.next_due().is_some_and(|due| due <= bench.clock.now()) {
            asked.extend(bench.tick().into_iter().map(|check| check.half.0));
        }
        asked.sort_unstable();
        let bad = [20, 300, 301, 302];
        let others: Vec<_> = (0..304).filter(|half| !bad.contains(half)).collect();
        assert_eq!(asked, others, "the others are asked about (saved: {saved})");
        let named: Vec<_> = bench.coordinator.quarantined().into_iter().map(|bad| (bad.half.0, bad.reason)).collect();
        assert_eq!(named.iter().map(|(half, _)| *half).collect::<Vec<_>>(), bad, "saved: {saved}");
        assert!(named[1].1.contains("PGROUP") && named[2].1.contains("UNIQ_KEY") && named[3].1.contains("REAL_QID"));
        assert_eq!(bench.coordinator.stats().quarantined, 4);
    }
    assert_eq!(bench.end(last, "last", Verdict::Commit).unwrap().answer, Answer::Now(Outcome::Committed));
}
