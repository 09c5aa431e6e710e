//! A store is opened, used, closed, and opened again.

use std::sync::Arc;

use mq_protocol::ids::{LogOffset, QueueId, QueueOffset};
use mq_store::{Backend, FileBackend, MemoryBackend, OpenError, Store};

use crate::support::*;

fn survives_reopening(backend: &(impl Backend + Clone + 'static), end: impl Fn(&Store)) {
    let (store, report) = open(backend, small());
    assert_eq!(report.end, LogOffset(0));
    let expected: Vec<String> = (0..100).map(|n| format!("message {n}")).collect();
    for (n, body) in expected.iter().enumerate() {
        let appended = send(&store, vec![message("T", 1, body.clone()), message("U", n as u32 % 3, body.clone())]);
        assert_eq!(appended.records[0].1, QueueOffset(n as u64));
        assert_eq!(store.read(appended.start).unwrap().unwrap().message.body, body.as_bytes());
    }
    assert_eq!(bodies(&store, "T", 1), expected);
    let log_end = store.end();
    end(&store);
    drop(store);
    for _ in 0..2 {
        let (store, report) = open(backend, small());
        assert_eq!(report.end, log_end);
        assert_eq!(bodies(&store, "T", 1), expected);
        assert_eq!(store.queue_bounds("U", QueueId(0)).max, QueueOffset(34));
        assert_eq!(store.scan(LogOffset(0)).map(Result::unwrap).count(), 200);
        end(&store);
    }
    let (store, _) = open(backend, small());
    assert_eq!(send(&store, vec![message("T", 1, "x")]).records[0].1, QueueOffset(100));
}

#[test]
fn everything_is_there_after_a_clean_end_and_after_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    for (name, close) in [("closed", true), ("dropped", false)] {
        let end = |store: &Store| {
            if close {
                store.close().unwrap()
            }
        };
        survives_reopening(&FileBackend::new(directory.path().join(name)).unwrap(), end);
        survives_reopening(&MemoryBackend::new(), end);
    }
}

#[test]
fn a_second_opening_of_the_same_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let backend = FileBackend::new(directory.path()).unwrap();
    let (store, _) = open(&backend, small());
    let clock = Arc::new(mq_store::SystemClock);
    assert!(matches!(Store::open(Arc::new(backend.clone()), small(), clock), Err(OpenError::Locked { .. })));
    drop(store);
    open(&backend, small());
}

#[test]
fn a_directory_without_our_own_files_is_continued() {
    for clean in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let backend = FileBackend::new(directory.path()).unwrap();
        let (store, _) = open(&backend, small());
        let expected: Vec<String> = (0..60).map(|n| format!("{n:0200}")).collect();
        for body in &expected {
            send(&store, vec![message("T", 1, body.clone())]);
        }
        store.settle().unwrap();
        if clean {
            store.close().unwrap();
        }
        drop(store);
        std::fs::remove_dir_all(directory.path().join("checkback")).unwrap();
        let (store, report) = open(&backend, small());
        assert_eq!((report.clean, report.durable_mark), (clean, None));
        assert_eq!(bodies(&store, "T", 1), expected);
        assert_eq!(send(&store, vec![message("T", 1, "x")]).records[0].1, QueueOffset(60));
    }
}

#[test]
fn a_restart_reads_no_more_than_the_last_segments() {
    let backend = MemoryBackend::new();
    let (store, _) = open(&backend, manual());
    for n in 0..100 {
        append(&store, vec![message("T", 0, format!("{n:0500}"))]);
    }
    store.settle().unwrap();
    let settled = store.end();
    append(&store, vec![message("T", 0, "later")]);
    drop(store);
    let (store, report) = open(&backend, manual());
    assert_eq!(report.scanned_from, LogOffset(settled.0 / 4096 * 4096));
    assert!(report.scanned_records <= 8);
    assert_eq!(store.queue_bounds("T", QueueId(0)).max, QueueOffset(101));
}

#[test]
fn what_apache_can_write_and_we_cannot_continue_is_refused() {
    for (path, reason) in [("dledger-n0/data", "DLedger"), ("consumequeue/CURRENT", "RocksDB")] {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join(path)).unwrap();
        let backend = Arc::new(FileBackend::new(directory.path()).unwrap());
        let refused = Store::open(backend, small(), Arc::new(mq_store::SystemClock)).err().unwrap();
        assert!(refused.to_string().contains(reason), "{refused}");
    }
}
