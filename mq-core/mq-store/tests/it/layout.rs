//! The files are Apache's: names, lengths, blank records, entries.

use std::path::Path;

use mq_protocol::ids::{LogOffset, QueueId, QueueOffset};
use mq_protocol::record::{MAGIC_BLANK, Message};
use mq_store::{FileBackend, MemoryBackend, Options};

use crate::support::*;

fn file(root: &Path, path: &str) -> Vec<u8> {
    std::fs::read(root.join(path)).unwrap()
}

fn names(root: &Path, path: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root.join(path)).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

#[test]
fn a_group_that_does_not_fit_goes_whole_to_the_next_segment_behind_a_blank() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(&FileBackend::new(directory.path()).unwrap(), small());
    let record = |bytes: usize| message("T", 0, "x".repeat(bytes - 92));
    let first = send(&store, vec![record(2000)]);
    let second = send(&store, vec![record(1000), record(1089)]);
    assert_eq!((first.end, second.start), (LogOffset(2000), LogOffset(4096)));
    let log = file(directory.path(), "commitlog/00000000000000000000");
    assert_eq!(log.len(), 4096);
    assert_eq!((u32_at(&log, 2000), u32_at(&log, 2004)), (2096, MAGIC_BLANK));
    assert!(log[2008..].iter().all(|byte| *byte == 0));
    assert_eq!(names(directory.path(), "commitlog"), ["00000000000000000000", "00000000000000004096"]);
    // The blank needs its eight bytes: 1,999 are left, a record of 1,991 just fits.
    assert_eq!(send(&store, vec![record(1991 + 8)]).start.0 % 4096, 2089);
    assert_eq!(send(&store, vec![record(92)]).start, LogOffset(2 * 4096));
    assert_eq!(drain(&store, "T", 0).len(), 5);
    assert_eq!(store.scan(LogOffset(0)).count(), 5);
}

#[test]
fn one_batch_may_fill_several_segments() {
    let backend = MemoryBackend::new();
    let (store, _) = open(&backend, small());
    let groups: Vec<Vec<Message>> =
        (0..30).map(|n| vec![message("T", 0, format!("{n:0700}")), message("U", n % 2, format!("{n:0300}"))]).collect();
    let appended = store.append(&groups).unwrap();
    for (group, appended) in groups.iter().zip(&appended) {
        assert_eq!(appended.start, appended.records[0].0);
        assert_eq!(appended.start.0 / 4096, (appended.end.0 - 1) / 4096, "a group is in one segment");
        assert_eq!(group.len(), appended.records.len());
    }
    store.flush().unwrap();
    let expected: Vec<String> = (0..30).map(|n| format!("{n:0700}")).collect();
    assert_eq!(bodies(&store, "T", 0), expected);
    drop(store);
    assert_eq!(bodies(&open(&backend, small()).0, "T", 0), expected);
}

#[test]
fn queue_files_have_their_length_and_entries_stand_at_their_offset() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(&FileBackend::new(directory.path()).unwrap(), small());
    let sent: Vec<_> = (0..25).map(|_| send(&store, vec![tagged("T", 2, "d", "x")])).collect();
    store.close().unwrap();
    let path = "consumequeue/T/2";
    assert_eq!(names(directory.path(), path), ["00000000000000000000", "00000000000000000200", "00000000000000000400"]);
    for (index, sent) in sent.iter().enumerate() {
        let bytes = file(directory.path(), &format!("{path}/{:020}", index / 10 * 200));
        assert_eq!(bytes.len(), 200);
        let at = index % 10 * 20;
        let entry = (u64_at(&bytes, at), u64::from(u32_at(&bytes, at + 8)), u64_at(&bytes, at + 12));
        assert_eq!(entry, (sent.start.0, sent.end.0 - sent.start.0, 100));
    }
    assert!(file(directory.path(), &format!("{path}/00000000000000000400"))[100..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_clean_end_leaves_what_apache_expects() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(&FileBackend::new(directory.path()).unwrap(), small());
    assert_eq!(file(directory.path(), "abort"), std::process::id().to_string().as_bytes());
    send(&store, vec![message("T", 0, "x".repeat(3000))]);
    store.close().unwrap();
    assert!(!directory.path().join("abort").exists());
    assert_eq!(file(directory.path(), "lock"), b"lock");
    assert_eq!(names(directory.path(), "commitlog"), ["00000000000000000000"]);
    let checkpoint = file(directory.path(), "checkpoint");
    assert_eq!(checkpoint.len(), 4096);
    assert_eq!((u64_at(&checkpoint, 0), u64_at(&checkpoint, 8)), (NOW.0 as u64, NOW.0 as u64));
}

#[test]
fn files_of_another_configured_size_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let backend = FileBackend::new(directory.path()).unwrap();
    let (store, _) = open(&backend, small());
    send(&store, vec![message("T", 0, "x")]);
    store.close().unwrap();
    drop(store);
    for (options, expected) in [
        (Options { segment_bytes: 8192, ..small() }, "commitlog/00000000000000000000 has 4096 bytes, the configured"),
        (Options { queue_file_entries: 20, ..small() }, "consumequeue/T/0/00000000000000000000 has 200 bytes"),
    ] {
        let clock = std::sync::Arc::new(mq_store::SystemClock);
        let refused = mq_store::Store::open(std::sync::Arc::new(backend.clone()), options, clock);
        let error = refused.err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn more_queues_than_open_files_are_written_and_found_again() {
    let directory = tempfile::tempdir().unwrap();
    let backend = FileBackend::new(directory.path()).unwrap();
    let options = Options { segment_bytes: 4 << 20, queue_file_entries: 300_000, ..small() };
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    let (store, _) = open(&backend, options.clone());
    for topic in 0..300 {
        let messages = (0..8).map(|queue| message(&format!("topic-{topic}"), queue, "x")).collect();
        append(&store, messages);
    }
    store.flush().unwrap();
    store.close().unwrap();
    // 2,400 queues, at most 1,280 open files; other tests of this process open some as well.
    assert!(descriptors() < before + 1_900, "{} descriptors", descriptors());
    drop(store);
    let (store, _) = open(&backend, options);
    for topic in (0..300).step_by(7) {
        let bounds = store.queue_bounds(&format!("topic-{topic}"), QueueId(7));
        assert_eq!(bounds.max, QueueOffset(1));
    }
}
