//! What is acknowledged when, and what failing disks do to it.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mq_protocol::ids::{LogOffset, QueueId, QueueOffset};
use mq_protocol::record::{Message, StoredMessage};
use mq_store::backend::{CrashBackend, CrashMode, Fault};
use mq_store::{
    AppendError, Arrival, DiskError, FileBackend, FlushMode, Listener, MemoryBackend, OpenError, Options, Poisoned,
    RecordRules, Store, SystemClock, TruncateError, WaitError,
};
use parking_lot::Mutex;

use crate::support::*;

const SOON: Duration = Duration::from_secs(120);

/// Notes what it is told.
#[derive(Default)]
struct Notes {
    durable: AtomicU64,
    arrivals: Mutex<Vec<Arrival>>,
    failed: AtomicBool,
}

impl Listener for Notes {
    fn durable(&self, up_to: LogOffset) {
        assert!(self.durable.swap(up_to.0, Ordering::SeqCst) < up_to.0, "the mark only grows");
    }
    fn visible(&self, arrivals: &[Arrival]) {
        self.arrivals.lock().extend_from_slice(arrivals);
    }
    fn failed(&self, _: &Poisoned) {
        self.failed.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_message_is_invisible_until_it_is_durable() {
    let (store, _) = open(&MemoryBackend::new(), manual());
    let notes = Arc::new(Notes::default());
    store.subscribe(notes.clone());
    let appended = append(&store, vec![tagged("T", 3, "d", "x")]);
    assert_eq!((store.durable(), store.visible()), (LogOffset(0), LogOffset(0)));
    assert_eq!(store.read(appended.start).unwrap(), None);
    assert_eq!(store.scan(LogOffset(0)).count(), 0);
    store.flush().unwrap();
    assert_eq!((store.durable(), store.visible()), (appended.end, appended.end));
    assert_eq!(notes.durable.load(Ordering::SeqCst), appended.end.0);
    let arrival = Arrival {
        topic: "T".into(),
        queue_id: QueueId(3),
        next: QueueOffset(1),
        tags_code: 100,
        log_offset: appended.start,
        size: u32::try_from(appended.end.0 - appended.start.0).unwrap(),
        store_timestamp: NOW,
    };
    assert_eq!(*notes.arrivals.lock(), [arrival]);
}

#[test]
fn one_sync_covers_all_that_was_appended_before_it() {
    let backend = CrashBackend::new();
    let (store, _) = open(&backend, Options { segment_bytes: 1 << 20, ..manual() });
    send_manually(&store, 1);
    let before = backend.operations();
    for n in 0..50 {
        append(&store, vec![message("T", n % 4, "x")]);
    }
    store.flush().unwrap();
    // 50 writes, one sync, one durable mark.
    assert_eq!(backend.operations() - before, 52);
    let before = backend.operations();
    let groups: Vec<[Message; 1]> = (0..50).map(|n| [message("T", n % 4, "x")]).collect();
    store.append(&groups).unwrap();
    assert_eq!(backend.operations() - before, 1, "a batch of groups is one write");
}

fn send_manually(store: &Store, messages: usize) {
    (0..messages).for_each(|_| drop(append(store, vec![message("T", 0, "x")])));
    store.flush().unwrap();
}

#[test]
fn producers_on_many_threads_lose_nothing_and_share_syncs() {
    let directory = tempfile::tempdir().unwrap();
    let backend = FileBackend::new(directory.path()).unwrap();
    for flush in [FlushMode::Sync, FlushMode::Async { every: Duration::from_millis(5) }] {
        let (store, report) = open(&backend, Options { flush, segment_bytes: 1 << 16, ..small() });
        let before = store.queue_bounds("T", QueueId(0)).max.0;
        assert!(report.clean);
        let notes = Arc::new(Notes::default());
        store.subscribe(notes.clone());
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let store = &store;
                scope.spawn(move || {
                    for n in 0..50 {
                        let sent =
                            send(store, vec![message("T", 0, format!("{thread}:{n}")), message("U", thread, "x")]);
                        let read = store.read(sent.start).unwrap().unwrap();
                        assert_eq!(read.message.body, format!("{thread}:{n}"));
                    }
                });
            }
        });
        // Arrivals are told after the mark has moved; a flush takes its turn behind that.
        store.flush().unwrap();
        assert_eq!(notes.arrivals.lock().len(), 800);
        let read = drain(&store, "T", 0);
        assert_eq!(read.len() as u64, before + 400);
        for thread in 0..8 {
            let prefix = format!("{thread}:");
            let of_thread =
                read[before as usize..].iter().filter(|message| message.message.body.starts_with(prefix.as_bytes()));
            for (n, message) in of_thread.enumerate() {
                assert_eq!(message.message.body, format!("{thread}:{n}"), "the order of one producer holds");
            }
        }
        store.close().unwrap();
    }
}

/// Zeros are written ahead of the log's end meanwhile, and segments end where they may.
#[test]
fn what_a_syncing_store_acknowledged_outlives_a_power_cut_and_nothing_else_comes_up() {
    for (seed, mode) in (0..).zip(CrashMode::ALL) {
        let backend = CrashBackend::new();
        let options = Options { segment_bytes: 1 << 20, ..small() };
        let (store, _) = open(&backend, options.clone());
        let body = |n: usize| format!("{n}:").repeat([1, 40, 3, 20_000, 7, 90_000][n % 6]);
        let mut sent = 0;
        while sent < 60 {
            let together = sent..sent + sent % 4 + 1;
            sent = together.end;
            let end = together.map(|n| append(&store, vec![message("T", 0, body(n))]).end).max().unwrap();
            store.wait_durable(end, SOON).unwrap();
        }
        let after = backend.crash(mode, seed);
        let (again, report) = open(&after, Options { flush: FlushMode::Manual, ..options });
        assert!(!report.clean);
        let expected: Vec<String> = (0..sent).map(body).collect();
        assert!(bodies(&again, "T", 0) == expected, "{mode:?}");
        store.close().unwrap();
    }
}

#[test]
fn asynchronous_flushing_shows_messages_before_they_are_durable() {
    let options = Options { flush: FlushMode::Async { every: Duration::from_secs(3600) }, ..small() };
    let (store, _) = open(&MemoryBackend::new(), options);
    let appended = append(&store, vec![message("T", 0, "x")]);
    while store.visible() < appended.end {
        std::thread::yield_now();
    }
    assert_eq!(bodies(&store, "T", 0), ["x"]);
    assert_eq!(store.durable(), LogOffset(0));
    assert!(matches!(store.wait_durable(appended.end, Duration::from_millis(1)), Err(WaitError::TimedOut(_))));
}

#[test]
fn appending_threads_show_each_others_messages_and_leave_none_behind() {
    let options = Options { flush: FlushMode::Async { every: Duration::from_secs(3600) }, ..small() };
    let (store, _) = open(&MemoryBackend::new(), options);
    for round in 1..=50 {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..5).for_each(|_| drop(append(&store, vec![message("T", 0, "x")]))));
            }
        });
        assert_eq!((store.visible(), store.queue_bounds("T", QueueId(0)).max.0), (store.end(), round * 20));
    }
}

#[test]
fn the_first_failed_sync_fences_the_store_and_no_sync_follows() {
    let backend = CrashBackend::new();
    let options = Options { segment_bytes: 1 << 20, ..small() };
    let (store, _) = open(&backend, options.clone());
    let notes = Arc::new(Notes::default());
    store.subscribe(notes.clone());
    send(&store, vec![message("T", 0, "safe")]);
    // Behind a small sync the store writes zeros, which would be the operations that fail; behind a large one it does not.
    let safe = send(&store, vec![message("U", 0, vec![7; 100 << 10])]);
    // Operation 0 is the write, 1 the sync.
    backend.plan(backend.operations() + 1, Fault::Fails(ErrorKind::Other));
    let lost = append(&store, vec![message("T", 0, "lost")]);
    assert!(matches!(store.wait_durable(lost.end, SOON), Err(WaitError::Poisoned(_))));
    // The listener is told by the store's own thread, right after those who wait were woken.
    let told_by = Instant::now() + SOON;
    while !notes.failed.load(Ordering::SeqCst) {
        assert!(Instant::now() < told_by, "the listener was not told");
        std::thread::yield_now();
    }
    let operations = backend.operations();
    assert!(matches!(store.append(&[[message("T", 0, "x")]]), Err(AppendError::Poisoned(_))));
    assert!(store.flush().is_err());
    assert!(store.close().is_err());
    assert_eq!(backend.operations(), operations, "neither a write nor a sync after the failure");
    assert_eq!(store.durable(), safe.end);
    assert_eq!(bodies(&store, "T", 0), ["safe"]);
    drop(store);
    let (store, report) = open(&backend.crash(CrashMode::Drop, 0), options);
    assert_eq!((report.end, bodies(&store, "T", 0)), (safe.end, vec!["safe".to_owned()]));
}

#[test]
fn a_full_disk_is_named_and_writes_resume_when_there_is_room() {
    let backend = CrashBackend::new();
    backend.set_capacity(3 * 4096 + 4096 * 4);
    let (store, _) = open(&backend, small());
    let mut sent = Vec::new();
    let full = loop {
        let body = format!("{:01000}", sent.len());
        match store.append(&[[message("T", 0, body.clone())]]) {
            Ok(appended) => store.wait_durable(appended[0].end, SOON).unwrap(),
            Err(AppendError::Disk(DiskError::Full(full))) => break full,
            Err(other) => panic!("{other}"),
        }
        sent.push(body);
    };
    assert!(full.path.contains("commitlog/") && full.limit_bytes == 7 * 4096 && full.used_bytes > 0, "{full}");
    assert_eq!(bodies(&store, "T", 0), sent, "reads go on");
    for _ in 0..3 {
        assert!(store.append(&[[message("T", 0, "still full".repeat(100))]]).is_err());
    }
    backend.set_capacity(1 << 20);
    let resumed = send(&store, vec![message("T", 0, "room again")]);
    assert_eq!(resumed.records[0].1, QueueOffset(sent.len() as u64), "a refused message takes no offset");
    sent.push("room again".into());
    drop(store);
    let (store, _) = open(&backend.crash(CrashMode::Drop, 0), small());
    assert_eq!(bodies(&store, "T", 0), sent);
}

#[test]
fn damage_below_the_durable_mark_is_refused_and_not_cut() {
    for clean in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let backend = FileBackend::new(directory.path()).unwrap();
        let (store, _) = open(&backend, small());
        let sent: Vec<_> = (0..9).map(|n| send(&store, vec![message("T", 0, format!("message {n}"))])).collect();
        if clean {
            store.close().unwrap();
        }
        drop(store);
        let log = directory.path().join("commitlog/00000000000000000000");
        let whole = std::fs::read(&log).unwrap();
        let mut damaged = whole.clone();
        damaged[sent[4].start.0 as usize + 90] ^= 1;
        std::fs::write(&log, &damaged).unwrap();
        let opened = Store::open(Arc::new(backend.clone()), small(), Arc::new(SystemClock));
        let Err(OpenError::Damaged { path, at, durable, .. }) = opened else { panic!("clean {clean}: not refused") };
        assert_eq!((at, durable), (sent[4].start, sent[8].end));
        assert_eq!(path, log.display().to_string());
        assert_eq!(std::fs::read(&log).unwrap(), damaged, "the evidence is left alone");
        std::fs::write(&log, whole).unwrap();
        assert_eq!(bodies(&open(&backend, small()).0, "T", 0).len(), 9);
    }
}

#[test]
fn a_mark_is_not_believed_after_another_broker_ran() {
    let directory = tempfile::tempdir().unwrap();
    let backend = FileBackend::new(directory.path()).unwrap();
    let (store, _) = open(&backend, small());
    let first = send(&store, vec![message("T", 0, "first")]);
    send(&store, vec![message("T", 0, "second")]);
    store.close().unwrap();
    drop(store);
    // As Apache would: it cut the log to its first record, and left its process id behind.
    let log = directory.path().join("commitlog/00000000000000000000");
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[first.end.0 as usize..].fill(0);
    std::fs::write(&log, bytes).unwrap();
    std::fs::write(directory.path().join("abort"), "1").unwrap();
    let (store, report) = open(&backend, small());
    assert_eq!((report.durable_mark, report.end), (None, first.end));
    assert_eq!(bodies(&store, "T", 0), ["first"]);
}

/// Messages of the topic `PAIR` come in twos.
struct Pairs;

impl RecordRules for Pairs {
    fn followers(&self, record: &StoredMessage) -> usize {
        usize::from(record.message.topic == "PAIR")
    }
}

#[test]
fn a_group_that_is_not_whole_is_cut_at_its_first_byte() {
    let backend = MemoryBackend::new();
    // Written without the rules, so that a group can be torn on purpose.
    let (store, _) = open(&backend, manual());
    append(&store, vec![message("PAIR", 0, "whole"), message("T", 0, "whole")]);
    let torn = append(&store, vec![message("PAIR", 0, "torn")]);
    drop(store);
    let (store, report) = open(&backend, Options { rules: Arc::new(Pairs), ..manual() });
    assert_eq!((report.end, report.torn_group), (torn.start, Some(torn.start)));
    assert_eq!(bodies(&store, "PAIR", 0), ["whole"]);
    assert_eq!(bodies(&store, "T", 0), ["whole"]);
    assert_eq!(append(&store, vec![message("PAIR", 0, "again")]).records[0].1, QueueOffset(1));
}

#[test]
fn what_is_not_committed_is_invisible_and_can_be_taken_back() {
    let backend = CrashBackend::new();
    let (store, _) = open(&backend, manual());
    let kept = append(&store, vec![message("T", 0, "kept")]);
    store.set_committed(kept.end);
    let mut taken_back = Vec::new();
    for n in 0..40 {
        taken_back.push(append(&store, vec![message("T", 0, format!("{n:0400}")), message("U", 0, "x")]));
    }
    store.flush().unwrap();
    assert_eq!((store.durable(), store.visible()), (store.end(), kept.end));
    assert_eq!(bodies(&store, "T", 0), ["kept"]);
    let out_of_range = store.truncate_to(LogOffset(0));
    assert!(matches!(out_of_range, Err(TruncateError::OutOfRange { .. })), "visible records stay");
    store.truncate_to(taken_back[1].start).unwrap();
    assert_eq!((store.durable(), store.end()), (taken_back[1].start, taken_back[1].start));
    let again = append(&store, vec![message("T", 0, "another"), message("V", 0, "x")]);
    assert_eq!(again.records[0], (taken_back[1].start, QueueOffset(2)));
    store.flush().unwrap();
    store.set_committed(store.end());
    let expected = ["kept".to_owned(), format!("{:0400}", 0), "another".to_owned()];
    assert_eq!(bodies(&store, "T", 0), expected);
    for mode in CrashMode::ALL {
        let (store, report) = open(&backend.crash(mode, 7), manual());
        assert_eq!(report.end, again.end);
        assert_eq!(bodies(&store, "T", 0), expected);
    }
}

#[test]
fn a_truncation_that_is_cut_short_loses_nothing_that_was_committed() {
    let prepare = |backend: &CrashBackend| {
        let (store, _) = open(backend, manual());
        let kept = append(&store, vec![message("T", 0, "kept")]);
        store.set_committed(kept.end);
        (0..30).for_each(|n| drop(append(&store, vec![message("T", 0, format!("{n:0500}"))])));
        store.flush().unwrap();
        (store, kept)
    };
    let backend = CrashBackend::new();
    let (store, kept) = prepare(&backend);
    let first = backend.operations();
    store.truncate_to(kept.end).unwrap();
    for operation in first..backend.operations() {
        let backend = CrashBackend::new();
        backend.plan(operation, Fault::PowerCut);
        let (store, kept) = prepare(&backend);
        drop(store.truncate_to(kept.end));
        for mode in CrashMode::ALL {
            let (store, report) = open(&backend.crash(mode, operation), manual());
            assert!(report.end >= kept.end, "operation {operation}, {mode:?}");
            assert_eq!(bodies(&store, "T", 0)[0], "kept");
        }
    }
}

#[test]
fn appends_after_the_end_are_refused_by_name() {
    let (store, _) = open(&MemoryBackend::new(), small());
    store.close().unwrap();
    store.close().unwrap();
    assert!(matches!(store.append(&[[message("T", 0, "x")]]), Err(AppendError::Closed)));
}

#[test]
fn a_batch_with_one_bad_message_is_refused_whole() {
    let (store, _) = open(&MemoryBackend::new(), small());
    let good = || vec![message("T", 0, "good")];
    let long = |bytes: usize| vec![message("T", 0, "x".repeat(bytes))];
    let properties = vec![Message { properties: "x".repeat(32_768).into(), ..message("T", 0, "") }];
    let named = |topic: &str| vec![message(topic, 0, "x")];
    for (bad, expected) in [
        (long(4000), "group 1 takes 4092 bytes, a segment has room for 4088"),
        (properties, "record 0 of group 1: the properties take 32768 bytes, the limit is 32767"),
        (named(""), "group 1: \"\" cannot name a directory"),
        (named(".."), "group 1: \"..\" cannot name a directory"),
        (named("a/b"), "group 1: \"a/b\" cannot name a directory"),
    ] {
        let refused = store.append(&[good(), bad]).unwrap_err();
        assert_eq!(refused.to_string(), expected);
    }
    assert_eq!(store.end(), LogOffset(0));
    assert_eq!(send(&store, good()).records[0].1, QueueOffset(0));
}
