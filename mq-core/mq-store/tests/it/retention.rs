//! The oldest part of the log goes, and everything that points into it follows: while it runs and over restarts.

use std::sync::Arc;

use mq_protocol::ids::{LogOffset, QueueId, QueueOffset, UnixMillis};
use mq_protocol::record::decode_all;
use mq_store::{
    FileBackend, FlushMode, IndexOptions, KeyKind, ManualClock, Options, PullLimits, PullStatus, Store, TimeWindow,
};

use crate::support::*;

const EVER: TimeWindow = TimeWindow { from: UnixMillis(0), to: UnixMillis(i64::MAX) };

fn files(root: &std::path::Path, directory: &str) -> Vec<u64> {
    let Ok(entries) = std::fs::read_dir(root.join(directory)) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn remove_oldest(store: &Store) -> bool {
    let Some(oldest) = store.oldest_segment().unwrap() else { return false };
    store.remove_segment(oldest).unwrap();
    true
}

#[test]
fn queues_index_and_files_follow_the_begin_of_the_log_and_numbers_go_on() {
    for clean in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let backend = FileBackend::new(root).unwrap();
        let clock = Arc::new(ManualClock::at(NOW));
        let index = Some(IndexOptions { slots: 7, entries: 20 });
        let options = Options { index, flush: FlushMode::Manual, ..small() };
        let (store, _) = Store::open(Arc::new(backend.clone()), options.clone(), clock.clone()).unwrap();
        append(&store, vec![message("early", 0, "only at first")]);
        let mut sent = Vec::new();
        for number in 0..60u64 {
            clock.set(UnixMillis(NOW.0 + number as i64));
            let mut message = message("T", 0, format!("{number:0300}"));
            message.properties = format!("UNIQ_KEY\u{1}u{number}\u{2}").into();
            sent.push(append(&store, vec![message]).start);
            if number % 7 == 0 {
                store.settle().unwrap();
            }
        }
        store.settle().unwrap();
        let oldest = store.oldest_segment().unwrap().unwrap();
        let first_behind = sent.iter().position(|at| *at >= oldest.end).unwrap();
        assert_eq!((oldest.base, oldest.end), (LogOffset(0), LogOffset(4096)));
        assert_eq!(oldest.closed_at, UnixMillis(NOW.0 + first_behind as i64));
        let held = store.pull("T", QueueId(0), QueueOffset(0), ALL, &|_| true).unwrap();

        (0..3).for_each(|_| assert!(remove_oldest(&store)));
        // Before the sweep a consumer may still ask for what is gone.
        let gone = store.pull("T", QueueId(0), QueueOffset(0), ALL, &|_| true).unwrap();
        assert!(gone.status == PullStatus::MessageWasRemoving || gone.next > QueueOffset(0), "{:?}", gone.status);
        store.sweep().unwrap();
        assert_eq!(decode_all(&held.slices[0]).unwrap()[0].message.body.len(), 300, "slices outlive their file");

        let left: Vec<u64> = (0..60).filter(|number| sent[*number as usize] >= store.min()).collect();
        assert_eq!(store.min(), LogOffset(3 * 4096));
        let check = |store: &Store, told: &str| {
            assert_eq!(store.queue_bounds("T", QueueId(0)).min, QueueOffset(left[0]), "{told}");
            let expected: Vec<String> = left.iter().map(|number| format!("{number:0300}")).collect();
            assert_eq!(bodies(store, "T", 0), expected, "{told}");
            let behind = store.pull("T", QueueId(0), QueueOffset(0), ALL, &|_| true).unwrap();
            assert_eq!((behind.status, behind.next), (PullStatus::OffsetTooSmall, QueueOffset(left[0])), "{told}");
            for number in 0..60 {
                let found = store.query("T", &format!("u{number}"), KeyKind::Unique, EVER, 9).unwrap();
                assert_eq!(found.records.len(), usize::from(left.contains(&number)), "{told}: u{number}");
            }
            let early = store.queue_bounds("early", QueueId(0));
            assert_eq!((early.min, early.max), (QueueOffset(1), QueueOffset(1)), "{told}: empty, and the next is 1");
        };
        check(&store, "removed");
        assert_eq!(files(root, "commitlog")[0], 3 * 4096);
        assert_eq!(files(root, "consumequeue/T/0")[0], left[0] / 10 * 200);
        assert_eq!(files(root, "consumequeue/early/0"), [0], "it tells the numbering");
        assert!(files(root, "checkback/checksums").iter().all(|base| *base >= 3 * 4096));
        if clean {
            store.close().unwrap();
        }
        drop(store);
        let (store, report) = Store::open(Arc::new(backend.clone()), options.clone(), clock.clone()).unwrap();
        assert_eq!(report.clean, clean);
        check(&store, "opened again");
        assert_eq!(append(&store, vec![message("early", 0, "again")]).records[0].1, QueueOffset(1));
        store.flush().unwrap();
        while remove_oldest(&store) {}
        store.sweep().unwrap();
        assert!(store.oldest_segment().unwrap().is_none());
        assert_eq!(files(root, "commitlog").len(), 1, "the last file stays");
        assert!(files(root, "index").len() < 3, "index files go too, but for the last one");
        let next = store.queue_bounds("T", QueueId(0)).max;
        drop(store);
        let (store, _) = Store::open(Arc::new(backend), options, clock).unwrap();
        assert_eq!(append(&store, vec![message("T", 0, "next")]).records[0].1, next, "no number comes twice");
    }
}

#[test]
fn files_go_while_messages_come() {
    let directory = tempfile::tempdir().unwrap();
    let backend = FileBackend::new(directory.path()).unwrap();
    let options = Options { index: Some(IndexOptions { slots: 50, entries: 200 }), ..small() };
    let (store, _) = open(&backend, options.clone());
    let sending = {
        let store = store.clone();
        std::thread::spawn(move || {
            (0..600).for_each(|n| drop(send(&store, vec![message("T", n % 3, format!("{n:0200}"))])))
        })
    };
    let mut removed = 0;
    while !sending.is_finished() {
        if remove_oldest(&store) {
            removed += 1;
            store.sweep().unwrap();
            store.settle().unwrap();
        } else {
            std::thread::yield_now();
        }
    }
    sending.join().unwrap();
    while remove_oldest(&store) {
        removed += 1;
    }
    store.sweep().unwrap();
    assert!(removed > 20, "{removed} files");
    let after: Vec<_> =
        (0..3).map(|queue| (bodies(&store, "T", queue), store.queue_bounds("T", QueueId(queue)).max)).collect();
    assert!(after.iter().all(|(_, max)| *max == QueueOffset(200)));
    store.close().unwrap();
    drop(store);
    let (store, report) = open(&backend, options);
    assert!(report.clean);
    for (queue, (bodies_before, max)) in after.into_iter().enumerate() {
        assert_eq!(bodies(&store, "T", queue as u32), bodies_before);
        assert_eq!(store.queue_bounds("T", QueueId(queue as u32)).max, max);
    }
}

#[test]
fn a_pull_beside_the_removal_of_what_it_reads_is_told_where_to_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(&FileBackend::new(directory.path()).unwrap(), manual());
    for n in 0..2000 {
        append(&store, vec![message("T", 0, format!("{n:0200}"))]);
    }
    store.settle().unwrap();
    let reading = {
        let store = store.clone();
        std::thread::spawn(move || {
            let (mut moved, mut from) = (0, QueueOffset(0));
            while from < QueueOffset(1900) {
                let limits = PullLimits { messages: 40, ..ALL };
                let pulled = store.pull("T", QueueId(0), from, limits, &|_| true).unwrap();
                let found: usize = pulled.slices.iter().map(|slice| decode_all(slice).unwrap().len()).sum();
                assert_eq!(found, pulled.messages);
                moved += u32::from(pulled.status == PullStatus::OffsetTooSmall);
                // Always where the removal is going on.
                from = store.queue_bounds("T", QueueId(0)).min.max(from);
            }
            moved
        })
    };
    while remove_oldest(&store) {
        store.sweep().unwrap();
    }
    println!("{} pulls came too late", reading.join().unwrap());
}

#[test]
fn a_queue_offset_that_no_queue_has_is_damage_and_no_overflow() {
    let directory = tempfile::tempdir().unwrap();
    let backend = FileBackend::new(directory.path()).unwrap();
    // Else the sums of the log name it.
    let options = Options { checksums: false, ..small() };
    let (store, _) = open(&backend, options.clone());
    let first = send(&store, vec![message("T", 0, "first")]);
    send(&store, vec![message("T", 0, "second")]);
    drop(store);
    let path = directory.path().join("commitlog/00000000000000000000");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[first.end.0 as usize + 20] = 0x70;
    std::fs::write(&path, bytes).unwrap();
    let refused = Store::open(Arc::new(backend), options, Arc::new(ManualClock::at(NOW))).err().unwrap().to_string();
    assert!(refused.contains("offset 8070450532247928833 of its queue"), "{refused}");
}
