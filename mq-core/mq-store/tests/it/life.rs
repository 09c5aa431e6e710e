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
