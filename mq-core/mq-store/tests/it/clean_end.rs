//! After a clean end nothing of the log is read again, unless somebody else was there.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use mq_protocol::ids::{LogOffset, QueueId, QueueOffset};
use mq_protocol::record::MAGIC_BLANK;
use mq_store::{FileBackend, Options};

use crate::support::*;

fn write_at(root: &Path, path: &str, at: u64, bytes: &[u8]) {
    let file = std::fs::File::options().write(true).open(root.join(path)).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

#[test]
fn a_clean_end_spares_the_reading_and_anything_strange_does_not() {
    type Change = fn(&Path, u64);
    let untouched: Change = |_, _| {};
    let mark_of_before: Change = |root, _| {
        std::fs::copy(root.join("mark.before"), root.join("checkback/durable-mark")).unwrap();
    };
    let other_checkpoint: Change = |root, _| write_at(root, "checkpoint", 0, &1i64.to_be_bytes());
    let other_last_byte: Change = |root, end| write_at(root, "commitlog/00000000000000000000", end - 1, b"!");
    let abort: Change = |root, _| std::fs::write(root.join("abort"), "77").unwrap();
    for (what, change, spares) in [
        ("untouched", untouched, true),
        ("the mark of an open store", mark_of_before, false),
        ("Apache's checkpoint", other_checkpoint, false),
        ("other last bytes", other_last_byte, false),
        ("a crash of somebody else's", abort, false),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let backend = FileBackend::new(root).unwrap();
        // Without sums, so that only the mark can notice.
        let options = Options { checksums: false, ..manual() };
        let (store, _) = open(&backend, options.clone());
        (0..9).for_each(|_| drop(append(&store, vec![tagged("T", 0, "x", "same")])));
        store.flush().unwrap();
        let end = store.end();
        std::fs::copy(root.join("checkback/durable-mark"), root.join("mark.before")).unwrap();
        store.close().unwrap();
        drop(store);
        change(root, end.0);
        let (store, report) = open(&backend, options.clone());
        let (from, records) = if spares { (end, 0) } else { (LogOffset(0), 9) };
        assert_eq!((report.scanned_from, report.scanned_records, report.end), (from, records, end), "{what}");
        assert_eq!(bodies(&store, "T", 0), ["same"; 9], "{what}");
        append(&store, vec![tagged("T", 0, "x", "one more")]);
        store.flush().unwrap();
        drop(store);
        let (store, report) = open(&backend, options);
        assert!(!report.clean && report.scanned_records == 10, "{what}: a crash after it is noticed");
        assert_eq!(drain(&store, "T", 0).len(), 10, "{what}");
    }
}

#[test]
fn queues_that_somebody_removed_after_a_clean_end_are_made_again_from_the_whole_log() {
    let directory = tempfile::tempdir().unwrap();
    let backend = FileBackend::new(directory.path()).unwrap();
    let (store, _) = open(&backend, manual());
    (0..90).for_each(|n| drop(append(&store, vec![message("T", n % 2, format!("{n:0200}"))])));
    let end = store.end();
    store.close().unwrap();
    let before = [0, 1].map(|queue| bodies(&store, "T", queue));
    drop(store);
    assert!(end.0 > 2 * manual().segment_bytes, "{end}");
    std::fs::remove_dir_all(directory.path().join("consumequeue")).unwrap();
    let (store, report) = open(&backend, manual());
    assert_eq!((report.scanned_from, report.scanned_records, report.end), (LogOffset(0), 90, end));
    assert_eq!([0, 1].map(|queue| bodies(&store, "T", queue)), before);
    assert_eq!(append(&store, vec![message("T", 0, "next")]).records[0].1, QueueOffset(45), "numbering goes on");
}

#[test]
fn one_queue_that_somebody_removed_is_noticed_and_made_again_and_none_is_renumbered() {
    type Removal = fn(&Path);
    let one: Removal = |root| std::fs::remove_dir_all(root.join("consumequeue/T/1")).unwrap();
    let its_files: Removal = |root| {
        let files = std::fs::read_dir(root.join("consumequeue/T/1")).unwrap();
        files.for_each(|file| std::fs::remove_file(file.unwrap().path()).unwrap());
    };
    let topics: Removal = |root| {
        ["T", "deleted", "old"].into_iter().for_each(|topic| {
            std::fs::remove_dir_all(root.join("consumequeue").join(topic)).unwrap();
        });
    };
    for (what, remove) in [("a queue", one), ("the files of a queue", its_files), ("whole topics", topics)] {
        for clean in [true, false] {
            let directory = tempfile::tempdir().unwrap();
            let backend = FileBackend::new(directory.path()).unwrap();
            let (store, _) = open(&backend, manual());
            append(&store, vec![message("old", 0, "x".repeat(3000))]);
            (0..90).for_each(|n| drop(append(&store, vec![message("T", n % 2, format!("{n:0200}"))])));
            (0..5).for_each(|_| drop(append(&store, vec![message("deleted", 0, "gone")])));
            store.delete_topic("deleted").unwrap();
            append(&store, vec![message("deleted", 0, "back")]);
            store.settle().unwrap();
            let oldest = store.oldest_segment().unwrap().unwrap();
            store.remove_segment(oldest).unwrap();
            store.sweep().unwrap();
            store.close().unwrap();
            drop(store);
            if !clean {
                // The next start knows what this one found.
                drop(open(&backend, manual()));
            }
            remove(directory.path());
            let (store, report) = open(&backend, manual());
            let content = |topic, queue| (bodies(&store, topic, queue), store.queue_bounds(topic, QueueId(queue)).max);
            assert_eq!((report.clean, content("T", 1).1), (clean, QueueOffset(45)), "{what}, clean {clean}");
            let last: Vec<_> = (0..90).filter(|n| n % 2 == 1).map(|n| format!("{n:0200}")).collect();
            let found = content("T", 1).0;
            assert!(found.len() > 30 && last.ends_with(&found), "{what}, clean {clean}: {}", found.len());
            assert_eq!(content("deleted", 0), (vec!["back".into()], QueueOffset(6)), "{what}, clean {clean}");
            assert_eq!(content("old", 0), (vec![], QueueOffset(1)), "{what}, clean {clean}");
            for (topic, queue, next) in [("T", 1, 45), ("deleted", 0, 6), ("old", 0, 1)] {
                let appended = append(&store, vec![message(topic, queue, "next")]);
                assert_eq!(appended.records[0].1, QueueOffset(next), "{what}, clean {clean}: {topic}");
            }
            store.close().unwrap();
            drop(store);
            assert_eq!(mq_store::verify(Arc::new(backend), &manual()).unwrap().findings, [], "{what}, clean {clean}");
        }
    }
}

#[test]
fn ten_gibibytes_that_were_closed_cleanly_open_at_once() {
    const SEGMENT: u64 = 1 << 30;
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("commitlog")).unwrap();
    for segment in 0..10 {
        // Nothing but a blank record: as long as any file, and as empty as the disk likes it.
        let path = format!("commitlog/{:020}", segment * SEGMENT);
        std::fs::File::create(directory.path().join(&path)).unwrap().set_len(SEGMENT).unwrap();
        let blank = [(SEGMENT as u32).to_be_bytes(), MAGIC_BLANK.to_be_bytes()].concat();
        write_at(directory.path(), &path, 0, &blank);
    }
    let options = Options { segment_bytes: SEGMENT, checksums: false, ..manual() };
    let backend = FileBackend::new(directory.path()).unwrap();
    let (store, _) = open(&backend, options.clone());
    let appended = append(&store, vec![message("T", 0, "the first")]);
    assert_eq!(appended.start, LogOffset(10 * SEGMENT));
    store.close().unwrap();
    drop(store);
    let begun = Instant::now();
    let (store, report) = open(&backend, options);
    let took = begun.elapsed();
    assert_eq!((report.scanned_from, report.end), (appended.end, appended.end));
    println!("11 segments of 1 GiB opened in {took:?}");
    assert_eq!(bodies(&store, "T", 0), ["the first"]);
}
