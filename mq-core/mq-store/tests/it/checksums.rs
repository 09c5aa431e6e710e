//! Checksums of the log: what they cover, when they are believed, and that reads of the disk heed them.

use std::sync::Arc;

use mq_protocol::ids::{LogOffset, QueueId, QueueOffset};
use mq_store::backend::{Backend, CrashBackend, CrashMode};
use mq_store::{FileBackend, MemoryBackend, OpenError, Options, PullLimits, ReadError, Store, SystemClock};

use crate::support::*;

const LOG: &str = "commitlog/00000000000000000000";
const SUMS: &str = "checkback/checksums/00000000000000000000";
const HEADER: usize = 512;

fn wide() -> Options {
    Options { segment_bytes: 64 << 10, ..manual() }
}

fn read(backend: &dyn Backend, path: &str) -> Vec<u8> {
    let file = backend.open(path).unwrap();
    let mut bytes = vec![0; file.bytes().unwrap() as usize];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

fn flip(backend: &dyn Backend, path: &str, at: u64) {
    let file = backend.open(path).unwrap();
    let mut byte = [0];
    file.read_at(at, &mut byte).unwrap();
    file.write_at(at, &[byte[0] ^ 4]).unwrap();
}

/// Bytes of the first segment that have a checksum.
fn covered(backend: &dyn Backend) -> u64 {
    let entries = read(backend, SUMS)[HEADER..].to_vec();
    entries.chunks_exact(16).map(|entry| u64::from(u32::from_be_bytes(entry[..4].try_into().unwrap()))).sum()
}

fn fill(store: &Store, messages: usize) {
    (0..messages).for_each(|n| drop(append(store, vec![tagged("T", 0, "tag", format!("{n:0400}"))])));
}

#[test]
fn sums_cover_what_is_durable_and_visible_and_nothing_more() {
    let backend = MemoryBackend::new();
    let (store, _) = open(&backend, wide());
    let steps = [1, 30, 5, 60];
    for messages in steps {
        fill(&store, messages);
        let durable = store.durable();
        store.settle().unwrap();
        assert_eq!(covered(&backend), store.durable().0, "a settle flushes and seals");
        assert!(store.durable() > durable);
    }
    let committed = store.end();
    store.set_committed(committed);
    fill(&store, 5);
    store.settle().unwrap();
    assert_eq!(covered(&backend), committed.0, "what may be taken back has no sum yet");
    store.truncate_to(committed).unwrap();
    fill(&store, 9);
    store.flush().unwrap();
    store.set_committed(store.end());
    let end = store.end();
    store.close().unwrap();
    assert_eq!(covered(&backend), end.0);
    drop(store);
    let (store, report) = open(&backend, wide());
    assert_eq!(report.end, end);
    assert_eq!(drain(&store, "T", 0).len(), steps.iter().sum::<usize>() + 9);
}

#[test]
fn a_flipped_bit_anywhere_in_what_is_scanned_refuses_the_start_by_name() {
    let backend = MemoryBackend::new();
    let (store, _) = open(&backend, wide());
    fill(&store, 20);
    let end = store.end().0;
    store.close().unwrap();
    drop(store);
    for at in (0..end).step_by(7) {
        flip(&backend, LOG, at);
        let Err(OpenError::Damaged { path, at: told, durable, .. }) =
            Store::open(Arc::new(backend.clone()), wide(), Arc::new(SystemClock))
        else {
            panic!("byte {at} is not missed")
        };
        assert_eq!((&*path, durable), (&*format!("memory:{LOG}"), LogOffset(end)));
        assert!(told.0 / 4096 <= at / 4096 && at < told.0 + 4096 + 600, "byte {at} is told as {told}");
        flip(&backend, LOG, at);
    }
    assert_eq!(drain(&open(&backend, wide()).0, "T", 0).len(), 20);
}

#[test]
fn sums_know_what_was_durable_when_the_mark_was_lost_to_the_power_cut() {
    let backend = CrashBackend::new();
    let (store, _) = open(&backend, wide());
    fill(&store, 3);
    store.settle().unwrap();
    let (settled, at) = (store.end(), store.end().0 + 30);
    fill(&store, 30);
    store.flush().unwrap();
    let mark = read(&backend, "checkback/durable-mark");
    store.settle().unwrap();
    let durable = store.durable();
    let found = backend.crash(CrashMode::Keep, 0);
    // The mark and the checkpoint as they were before the last settling.
    found.open("checkback/durable-mark").unwrap().write_at(0, &mark).unwrap();
    flip(&found, LOG, at);
    let refused = Store::open(Arc::new(found), wide(), Arc::new(SystemClock)).err().unwrap();
    assert!(matches!(refused, OpenError::Damaged { durable: told, .. } if told == durable), "{refused} {settled}");
}

#[test]
fn sums_of_a_log_that_another_broker_wrote_are_made_again() {
    let backend = MemoryBackend::new();
    let (store, _) = open(&backend, wide());
    fill(&store, 20);
    store.close().unwrap();
    drop(store);
    // As Apache would: it left its process id behind, and what it did to the log is its own business.
    let other = backend.create("abort", 1, mq_store::backend::Space::Sparse).unwrap();
    other.write_at(0, b"1").unwrap();
    flip(&backend, LOG, 40);
    let (store, report) = open(&backend, wide());
    assert_eq!(report.durable_mark, None);
    assert!(backend.open(SUMS).is_err());
    store.settle().unwrap();
    assert_eq!(covered(&backend), store.end().0);
    store.close().unwrap();
    drop(store);
    open(&backend, wide());
}

#[test]
fn a_store_without_sums_gets_them_and_one_that_wants_none_writes_none() {
    let backend = MemoryBackend::new();
    let (store, _) = open(&backend, Options { checksums: false, ..wide() });
    fill(&store, 20);
    store.settle().unwrap();
    store.close().unwrap();
    drop(store);
    assert!(backend.list("checkback/checksums").unwrap().is_empty());
    let (store, _) = open(&backend, wide());
    store.settle().unwrap();
    assert_eq!(covered(&backend), store.end().0);
}

#[test]
fn the_stores_own_thread_keeps_up_and_damaged_or_lost_sums_are_written_again() {
    let backend = MemoryBackend::new();
    for damage in ["none", "gone", "header"] {
        match damage {
            "gone" => backend.remove(SUMS).unwrap(),
            "header" => flip(&backend, SUMS, 9),
            _ => {}
        }
        let (store, _) = open(&backend, Options { segment_bytes: 64 << 10, ..small() });
        fill(&store, 10);
        store.flush().unwrap();
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(120);
        while backend.open(SUMS).is_err() || covered(&backend) != store.durable().0 {
            assert!(std::time::Instant::now() < patience, "{damage}: {} of {}", covered(&backend), store.durable());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

#[test]
fn what_is_read_from_the_disk_is_compared_with_its_sum() {
    let directory = tempfile::tempdir().unwrap();
    compares_what_it_reads(&MemoryBackend::new());
    compares_what_it_reads(&FileBackend::new(directory.path()).unwrap());
}

fn compares_what_it_reads<B: Backend + Clone + 'static>(backend: &B) {
    let (store, _) = open(backend, wide());
    fill(&store, 60);
    store.settle().unwrap();
    let pull = |from: u64| {
        store.pull("T", QueueId(0), QueueOffset(from), PullLimits { messages: 4, ..ALL }, &|_| true).unwrap()
    };
    let damaged = pull(30);
    assert!(store.is_at_hand(&damaged), "it was written just now");
    // A byte of a record's topic: no checksum of Apache's covers it.
    let topic = damaged.starts[0].0 + 89 + 400;
    flip(backend, LOG, topic);
    let before = damaged.starts[0].0 / 4096 * 4096;
    let refused = store.check(&damaged).unwrap_err();
    assert!(matches!(&refused, ReadError::Mismatch(mismatch) if mismatch.at.0 == before), "{refused}");
    let expected = format!(
        "bytes {before}..{} of {}, at log offset {before}, do not match their checksum",
        before + 4096,
        backend.locate(LOG)
    );
    assert_eq!(refused.to_string(), expected);
    assert!(!store.is_at_hand(&damaged), "it has to be told");
    for from in [0, 10, 50] {
        store.check(&pull(from)).unwrap();
        assert!(store.is_at_hand(&pull(from)));
    }
}
