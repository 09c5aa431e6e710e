//! What a restart finds: counts of checks, verdicts, and halves that are read while the broker serves.

use std::sync::Arc;
use std::time::Duration;

use mq_protocol::ids::{LogOffset, UnixMillis};
use mq_protocol::topic;
use mq_store::{Backend, Clock, MemoryBackend};
use txn_coordinator::{Answer, CheckResult, Coordinator, HalfOffset, Outcome, TransactionOptions, Verdict};

use crate::bench::{Bench, Place};

fn bench() -> Bench<MemoryBackend> {
    Bench::new(MemoryBackend::new(), Bench::<MemoryBackend>::options())
}

fn ask_all(bench: &Bench<MemoryBackend>) -> Vec<u32> {
    let checks = bench.tick();
    let results = checks.iter().map(|check| (check.half, CheckResult::Delivered, None));
    bench.coordinator.check_results(results.collect::<Vec<_>>());
    checks.into_iter().map(|check| check.attempt).collect()
}

#[test]
fn a_half_is_asked_about_three_times_in_all_however_often_the_broker_restarts() {
    for checkpoint in [false, true] {
        let mut bench = bench();
        bench.half("a");
        bench.half("b");
        for attempt in 1..=3 {
            bench.advance(36);
            assert_eq!(ask_all(&bench), [attempt, attempt]);
            if checkpoint {
                bench.coordinator.checkpoint().unwrap();
            }
            bench.restart_on(bench.backend.clone());
        }
        bench.advance(29);
        assert!(ask_all(&bench).is_empty(), "the last answer may still come");
        bench.advance(1);
        assert!(ask_all(&bench).is_empty());
        assert_eq!(bench.outcomes(), [Some(Outcome::Parked); 2]);
    }
}

/// Fifteen checks of each of a hundred halves: the log grows by nothing, the journal by a few bytes that go again.
#[test]
fn checking_costs_no_disk_that_stays() {
    let mut options = Bench::<MemoryBackend>::options();
    (options.rules.check_max, options.rules.due_batch) = (15, 1_000);
    let bench = Bench::new(MemoryBackend::new(), options);
    let places: Vec<_> = (0..100).map(|n| bench.half(&format!("t{n}"))).collect();
    let end = bench.store.end();
    bench.advance(6);
    for attempt in 1..=15 {
        assert_eq!(ask_all(&bench), vec![attempt; 100]);
        bench.advance(30);
        bench.coordinator.checkpoint().unwrap();
    }
    assert_eq!(bench.store.end(), end, "no message is written anew");
    let bytes = bench.backend.open("checkback/checks").unwrap().bytes().unwrap();
    assert!(bytes <= 64 << 10, "{bytes} bytes of counts");
    for (n, place) in places.iter().enumerate() {
        bench.end(*place, &format!("t{n}"), Verdict::Commit).unwrap();
    }
}

#[test]
fn a_damaged_journal_of_checks_counts_nothing_and_stops_nobody() {
    let mut bench = bench();
    bench.half("a");
    bench.advance(6);
    assert_eq!(ask_all(&bench), [1]);
    bench.backend.open("checkback/checks").unwrap().write_at(17, &[0xFF]).unwrap();
    bench.restart_on(bench.backend.clone());
    assert_eq!(ask_all(&bench), [1]);
    bench.restart_on(bench.backend.clone());
    bench.advance(36);
    assert_eq!(ask_all(&bench), [2], "a new journal stands in its place");
}

#[test]
fn the_verdicts_kept_are_those_of_halves_on_disk() {
    let mut bench = bench();
    for round in 0..6 {
        for n in 0..5_000 {
            let id = format!("r{round}n{n}");
            let (place, stored) = bench.append_half(&id);
            bench.store.flush().unwrap();
            bench.coordinator.stored([stored]);
            bench.end(place, &id, Verdict::Commit).unwrap();
        }
        bench.store.flush().unwrap();
        bench.store.settle().unwrap();
        while let Some(oldest) = bench.store.oldest_segment().unwrap() {
            bench.store.remove_segment(oldest).unwrap();
        }
        bench.store.sweep().unwrap();
        bench.coordinator.checkpoint().unwrap();
    }
    let halves = bench.store.queue_bounds(topic::HALF, mq_protocol::ids::QueueId(0));
    assert!(halves.min.0 > 20_000, "most of the halves are gone: {halves:?}");
    let kept = (0..halves.max.0).filter(|half| bench.coordinator.outcome(HalfOffset(*half)).is_some()).count() as u64;
    assert!(kept <= halves.max.0 - halves.min.0 + 16_368, "{kept} verdicts for {halves:?}");
    bench.restart_on(bench.backend.clone());
    assert_eq!(bench.coordinator.outcome(HalfOffset(halves.max.0 - 1)), Some(Outcome::Committed));
}

/// A coordinator that has just started on what `bench` left, and has read none of its pending halves.
fn at_once(bench: &Bench<MemoryBackend>) -> Coordinator {
    let options: TransactionOptions = Bench::<MemoryBackend>::options();
    let backend = Arc::new(bench.backend.clone());
    Coordinator::open_at_once(bench.store.clone(), backend, options, bench.clock.clone()).unwrap()
}

fn end(coordinator: &Coordinator, place: Place, id: &str, verdict: Verdict) -> Result<Answer, i32> {
    let ended = coordinator.end(&[crate::bench::end_request(place, id, verdict)]).remove(0);
    ended.map(|ended| ended.answer).map_err(|error| error.code())
}

#[test]
fn a_start_serves_before_it_has_read_what_is_pending() {
    let bench = bench();
    let places: Vec<_> = (0..2_000).map(|n| bench.half(&format!("t{n}"))).collect();
    let sibling = bench.half("t7");
    bench.end(places[3], "t3", Verdict::Rollback).unwrap();
    bench.store.flush().unwrap();
    bench.coordinator.checkpoint().unwrap();
    bench.end(places[4], "t4", Verdict::Commit).unwrap();
    bench.store.flush().unwrap();
    let coordinator = at_once(&bench);
    assert_eq!(coordinator.stats().pending_halves, 1_999);
    assert!(coordinator.stats().unread > 1_900);
    assert_eq!(coordinator.first_pending().map(|half| half.0), Some(0), "nothing is removed that was not read");
    let (committed, rolled_back) = (Answer::Now(Outcome::Committed), Answer::Before(Outcome::RolledBack));
    assert_eq!(end(&coordinator, places[5], "t5", Verdict::Commit), Ok(committed));
    assert_eq!(end(&coordinator, places[3], "t3", Verdict::Rollback), Ok(rolled_back));
    assert_eq!(end(&coordinator, places[4], "t4", Verdict::Rollback), Err(604));
    // Its older half is not read yet: it is closed when it is.
    assert_eq!(end(&coordinator, sibling, "t7", Verdict::Commit), Ok(committed));
    bench.store.flush().unwrap();
    coordinator.checkpoint().unwrap();
    while coordinator.load_some().unwrap() {}
    while coordinator.next_due().is_some_and(|due| due <= bench.clock.now()) {
        assert!(coordinator.tick(bench.clock.now()).is_empty());
    }
    assert_eq!(coordinator.outcome(places[7].half), Some(Outcome::Committed));
    assert_eq!((coordinator.stats().pending_halves, coordinator.stats().unread), (1_996, 0));
    assert_eq!(bench.found().real["t7"].len(), 1);
    assert_eq!(coordinator.outcome(HalfOffset(0)), None);
    assert!(bench.store.durable() > LogOffset::ZERO);
}

/// Back, forward, and to and fro: neither is a half asked about before its time, nor later, nor is a verdict forgotten.
#[test]
fn a_clock_that_is_set_drops_nothing_and_rushes_nothing() {
    const HOURS: i64 = 3_600_000;
    for jumps in [&[73 * HOURS][..], &[-73 * HOURS], &[73 * HOURS, -73 * HOURS], &[-5, 73 * HOURS, 5]] {
        let mut bench = bench();
        let ended = bench.half("ended");
        bench.end(ended, "ended", Verdict::Rollback).unwrap();
        bench.half_with("slow", &[("CHECK_IMMUNITY_TIME_IN_SECONDS", "600")]);
        let jump = |bench: &Bench<MemoryBackend>| {
            for by in jumps {
                bench.clock.set(UnixMillis(bench.clock.now().0 + by));
                assert!(bench.tick().is_empty(), "{jumps:?}");
                let wait = bench.coordinator.next_due().unwrap().since(bench.clock.now());
                assert!(wait > Duration::from_secs(20), "{jumps:?}: {wait:?}");
            }
        };
        jump(&bench);
        bench.advance(599);
        assert!(bench.tick().is_empty(), "{jumps:?}");
        bench.advance(1);
        let asked = |bench: &Bench<MemoryBackend>, result| {
            let checks = bench.tick();
            checks.iter().for_each(|check| bench.coordinator.check_result(check.half, result));
            checks.len()
        };
        assert_eq!(asked(&bench, CheckResult::NobodyToAsk), 1, "{jumps:?}");
        jump(&bench);
        bench.advance(30);
        assert_eq!(
            asked(&bench, CheckResult::Delivered),
            1,
            "{jumps:?}: one check an interval, whatever the clock says"
        );
        bench.coordinator.checkpoint().unwrap();
        bench.restart_on(bench.backend.clone());
        assert_eq!(bench.end(ended, "ended", Verdict::Commit).unwrap_err().code(), 604);
        bench.advance(600);
        assert_eq!(asked(&bench, CheckResult::Delivered), 1, "{jumps:?}");
        assert_eq!(bench.outcomes(), [Some(Outcome::RolledBack), None]);
    }
}

#[test]
fn a_half_that_nobody_can_be_asked_about_is_parked_however_often_the_broker_starts() {
    let mut bench = bench();
    bench.half("a");
    bench.advance(6);
    for attempt in 1..=4 {
        let [check] = &bench.tick()[..] else { panic!("attempt {attempt}") };
        bench.coordinator.check_result(check.half, CheckResult::NobodyToAsk);
        bench.restart_on(bench.backend.clone());
        bench.advance(30);
    }
    assert!(bench.tick().is_empty());
    assert_eq!(bench.outcomes(), [Some(Outcome::Parked)]);
    assert_eq!(bench.found().parked["a"][0].message.property("CHECKBACK_PARKED"), Some("nobody to ask"));
}
