//! The scrub: silent on a whole store in any state, and exact about damage.

use std::ops::Range;
use std::sync::Arc;

use mq_protocol::ids::{LogOffset, QueueId};
use mq_store::backend::{Backend, CrashBackend};
use mq_store::{FileBackend, MemoryBackend, OpenError, Options, Severity, Store, VerifyReport, rebuild_queues, verify};

use crate::support::*;

const LOG: &str = "commitlog/00000000000000000000";

fn scrub(backend: &(impl Backend + Clone + 'static), options: &Options) -> VerifyReport {
    verify(Arc::new(backend.clone()), options).unwrap()
}

fn assert_whole(backend: &(impl Backend + Clone + 'static), options: &Options, name: &str) -> VerifyReport {
    let report = scrub(backend, options);
    assert_eq!(report.findings, [], "{name}");
    report
}

fn change(backend: &dyn Backend, path: &str, at: u64, change: impl Fn(&mut [u8]), bytes: usize) {
    let file = backend.open(path).unwrap();
    let mut old = vec![0; bytes];
    file.read_at(at, &mut old).unwrap();
    change(&mut old);
    file.write_at(at, &old).unwrap();
}

fn flip(backend: &dyn Backend, path: &str, at: u64) {
    change(backend, path, at, |bytes| bytes[0] ^= 1, 1);
}

fn fill(store: &Store, messages: Range<u64>) {
    for n in messages {
        append(store, vec![tagged("T", 0, "tag", format!("{n:0300}")), message("U", n as u32 % 3, "x")]);
    }
}

type State = (&'static str, fn(&Store));

#[test]
fn a_whole_store_has_no_findings_in_any_state_that_it_can_be_left_in() {
    let backend = MemoryBackend::new();
    assert_whole(&backend, &manual(), "nothing");
    let states: [State; 9] = [
        ("just opened", |_| ()),
        ("appended", |store| fill(store, 0..30)),
        ("flushed", |store| store.flush().unwrap()),
        ("settled", |store| store.settle().unwrap()),
        ("deleted", |store| store.delete_topic("U").unwrap()),
        ("closed behind a deletion", |store| store.close().unwrap()),
        ("used after a deletion", |store| fill(store, 0..30)),
        ("closed", |store| store.close().unwrap()),
        ("closed twice", |store| store.close().unwrap()),
    ];
    for (name, act) in states {
        let (store, _) = open(&backend, manual());
        act(&store);
        drop(store);
        assert_whole(&backend, &manual(), name);
    }
    let report = assert_whole(&backend, &manual(), "in the end");
    assert_eq!((report.records, report.queues, report.unprotected_bytes), (120, 4, 0));
    assert_eq!(report.queue_entries, 120);
}

#[test]
fn it_writes_nothing_and_refuses_a_store_that_runs() {
    let backend = CrashBackend::new();
    let (store, _) = open(&backend, manual());
    fill(&store, 0..30);
    store.close().unwrap();
    drop(store);
    let before = backend.operations();
    assert_whole(&backend, &manual(), "closed");
    assert_eq!(backend.operations(), before);
    let directory = tempfile::tempdir().unwrap();
    let backend = FileBackend::new(directory.path()).unwrap();
    assert_whole(&backend, &manual(), "nothing");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "not even a lock");
    let (_store, _) = open(&backend, manual());
    let refused = verify(Arc::new(backend), &manual());
    assert!(matches!(refused, Err(OpenError::Locked { .. })));
}

/// Severity, path, bytes, affected messages.
type Found = (Severity, String, Option<Range<u64>>, String);

/// A closed store of five segments, and what is found of a damage.
fn damaged(damage: impl Fn(&MemoryBackend)) -> (MemoryBackend, Vec<Found>) {
    let backend = MemoryBackend::new();
    let (store, _) = open(&backend, manual());
    fill(&store, 0..40);
    store.close().unwrap();
    drop(store);
    damage(&backend);
    let found = scrub(&backend, &manual()).findings.into_iter().map(|finding| {
        let affects: Vec<_> = finding
            .affects
            .iter()
            .map(|run| format!("{}-{} {}..{}", run.topic, run.queue_id, run.offsets.start, run.offsets.end))
            .collect();
        (finding.severity, finding.path.replace("memory:", ""), finding.bytes, affects.join(", "))
    });
    let found = found.collect();
    (backend, found)
}

#[test]
fn damage_is_told_by_file_bytes_and_messages() {
    let record = 91 + 1 + 9 + 300;
    let pair = record + 93;
    let queue = |n: u64| format!("consumequeue/T/0/{:020}", n * 200);
    // A body, and with it its record: the next one stands behind it.
    let (_, found) = damaged(|backend| flip(backend, LOG, 2 * pair + 200));
    assert_eq!(found, [(Severity::Lost, LOG.into(), Some(2 * pair..2 * pair + record), "T-0 2..3".into())]);
    // A topic's letter is seen by the range's checksum only.
    let (_, found) = damaged(|backend| flip(backend, LOG, 2 * pair + record + 90));
    let affected = "T-0 0..8, U-0 0..3, U-1 0..3, U-2 0..2";
    assert_eq!(found, [(Severity::Lost, LOG.into(), Some(0..4096), affected.into())]);
    // Two records that are gone.
    let (_, found) = damaged(|backend| change(backend, LOG, 2 * pair, |bytes| bytes.fill(0), (record + 93) as usize));
    assert_eq!(found, [(Severity::Lost, LOG.into(), Some(2 * pair..3 * pair), "T-0 2..3, U-2 0..1".into())]);
    // One entry, and a whole file of them.
    let (_, found) = damaged(|backend| flip(backend, &queue(1), 45));
    assert_eq!(found, [(Severity::Derived, queue(1), Some(40..60), "T-0 12..13".into())]);
    let (_, found) = damaged(|backend| change(backend, &queue(0), 0, |bytes| bytes.fill(0), 200));
    assert_eq!(found, [(Severity::Derived, queue(0), Some(0..200), "T-0 0..10".into())]);
    let (_, found) = damaged(|backend| flip(backend, "checkpoint", 5));
    assert_eq!(found[0].0, Severity::Doubt);
    let (_, found) = damaged(|backend| flip(backend, "checkback/durable-mark", 20));
    assert_eq!(found[0], (Severity::Derived, "checkback/durable-mark".into(), Some(0..68), String::new()));
}

#[test]
fn queues_are_derived_again_where_a_start_sees_damage_or_is_told_to() {
    for (name, damage) in [
        (
            "entries",
            (|backend| change(backend, "consumequeue/T/0/00000000000000000000", 0, |b| b.fill(0), 200))
                as fn(&MemoryBackend),
        ),
        ("an entry", |backend| flip(backend, "consumequeue/T/0/00000000000000000200", 45)),
        ("strays", |backend| change(backend, "consumequeue/U/0/00000000000000000200", 190, |b| b.fill(7), 10)),
    ] {
        let (backend, found) = damaged(damage);
        assert!(!found.is_empty(), "{name}");
        rebuild_queues(Arc::new(backend.clone())).unwrap();
        let (store, report) = open(&backend, manual());
        assert_eq!(report.scanned_from, LogOffset(0), "{name}");
        assert_eq!(drain(&store, "T", 0).len(), 40, "{name}");
        assert_eq!(store.queue_bounds("U", QueueId(0)).max.0, 14, "{name}");
        store.close().unwrap();
        drop(store);
        assert_whole(&backend, &manual(), name);
    }
}
