//! The scrub: silent on a whole store in any state, and exact about damage.

use std::ops::Range;
use std::sync::Arc;

use mq_protocol::ids::{LogOffset, QueueId, UnixMillis};
use mq_protocol::record::Message;
use mq_store::backend::{Backend, CrashBackend, Space};
use mq_store::{
    FileBackend, Finding, IndexOptions, KeyKind, MemoryBackend, OpenError, Options, Severity, Store, TimeWindow,
    VerifyReport, rebuild, verify,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

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
        rebuild(Arc::new(backend.clone())).unwrap();
        let (store, report) = open(&backend, manual());
        assert_eq!(report.scanned_from, LogOffset(0), "{name}");
        assert_eq!(drain(&store, "T", 0).len(), 40, "{name}");
        assert_eq!(store.queue_bounds("U", QueueId(0)).max.0, 14, "{name}");
        store.close().unwrap();
        drop(store);
        assert_whole(&backend, &manual(), name);
    }
}

/// Small index files, of which a record's keys can cross the end.
fn indexed() -> Options {
    Options { index: Some(IndexOptions { slots: 7, entries: 20 }), ..manual() }
}

fn fill_keyed(store: &Store, messages: Range<u64>) {
    for n in messages {
        let properties = format!("UNIQ_KEY\u{1}u{n}\u{2}KEYS\u{1}k{} same\u{2}", n % 5);
        append(store, vec![Message { properties: properties.into(), ..message("T", n as u32 % 3, "x") }]);
    }
}

fn found_by(store: &Store, key: &str) -> usize {
    let ever = TimeWindow { from: UnixMillis(0), to: UnixMillis(i64::MAX) };
    store.query("T", key, KeyKind::Any, ever, usize::MAX).unwrap().records.len()
}

fn index_files(backend: &dyn Backend) -> Vec<String> {
    backend.list("index").unwrap().into_iter().map(|entry| format!("index/{}", entry.name)).collect()
}

#[test]
fn an_index_is_whole_in_any_state_that_it_can_be_left_in() {
    let (backend, mut dice) = (MemoryBackend::new(), StdRng::seed_from_u64(7));
    for round in 0..40u64 {
        let (store, _) = open(&backend, indexed());
        for _ in 0..dice.random_range(0..4) {
            let from = round * 100;
            fill_keyed(&store, from..from + dice.random_range(0..14));
            match dice.random_range(0..4) {
                0 => store.settle().unwrap(),
                1 => store.flush().unwrap(),
                2 => assert_eq!(found_by(&store, "nobody's"), 0),
                _ => {}
            }
        }
        let closed = dice.random_bool(0.5);
        if closed {
            store.close().unwrap();
        }
        drop(store);
        let report = assert_whole(&backend, &indexed(), &format!("round {round}, closed {closed}"));
        assert!(!closed || report.index_entries >= 3 * report.records, "round {round}");
    }
}

#[test]
fn damage_of_the_index_is_told_by_entry_and_built_again() {
    let entry = |number: u64| 40 + 4 * 7 + 20 * number;
    let remove = |backend: &MemoryBackend, file: &str| backend.remove(file).unwrap();
    type Damage<'d> = &'d dyn Fn(&MemoryBackend, &str);
    let cases: [(&str, Damage, Option<Range<u64>>, &str); 10] = [
        ("a hash", &|b, f| flip(b, f, entry(4) + 3), Some(entry(4)..entry(5)), "not that of a key"),
        ("an offset", &|b, f| flip(b, f, entry(4) + 11), Some(entry(4)..entry(5)), "points to no record"),
        ("a high offset", &|b, f| flip(b, f, entry(4) + 4), Some(entry(4)..entry(5)), "points to no record"),
        ("a time", &|b, f| flip(b, f, entry(4) + 15), Some(entry(4)..entry(5)), "not that of a key"),
        ("a link", &|b, f| flip(b, f, entry(4) + 19), Some(entry(4)..entry(5)), "does not lead"),
        ("a slot", &|b, f| change(b, f, 40, |slots| slots.fill(0), 28), Some(40..44), "its newest is"),
        ("the header", &|b, f| flip(b, f, 15), Some(0..40), "the header is not"),
        ("the count", &|b, f| change(b, f, 39, |count| count[0] -= 4, 1), Some(0..40), "the header is not"),
        ("the length", &|b, f| b.open(f).unwrap().resize(99, Space::Sparse).unwrap(), None, "its length"),
        ("the file", &remove, None, "the keys of the messages at log offsets"),
    ];
    for (name, damage, bytes, what) in cases {
        let backend = MemoryBackend::new();
        let (store, _) = open(&backend, indexed());
        fill_keyed(&store, 0..40);
        store.close().unwrap();
        drop(store);
        let file = index_files(&backend).remove(1);
        damage(&backend, &file);
        let findings = scrub(&backend, &indexed()).findings;
        let told = |finding: &Finding| {
            finding.severity == Severity::Derived && finding.bytes == bytes && finding.what.contains(what)
        };
        assert!(findings.iter().any(told), "{name}: {findings:#?}");
        rebuild(Arc::new(backend.clone())).unwrap();
        let (store, _) = open(&backend, indexed());
        assert_eq!((found_by(&store, "same"), found_by(&store, "u10")), (40, 1), "{name}");
        store.close().unwrap();
        drop(store);
        assert_whole(&backend, &indexed(), name);
    }
}

#[test]
fn a_start_builds_again_what_stands_behind_an_index_file_that_it_cannot_use() {
    let backend = MemoryBackend::new();
    let (store, _) = open(&backend, indexed());
    fill_keyed(&store, 0..40);
    store.close().unwrap();
    drop(store);
    let file = index_files(&backend).remove(1);
    backend.open(&file).unwrap().resize(99, Space::Sparse).unwrap();
    let (store, _) = open(&backend, indexed());
    assert_eq!(found_by(&store, "same"), 40);
    store.close().unwrap();
    drop(store);
    assert_whole(&backend, &indexed(), "built again");
}
