//! What a pull answers: statuses, limits, filters, bounds, and times.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mq_protocol::ids::{QueueId, QueueOffset, UnixMillis};
use mq_protocol::record::{Message, StoredMessage, decode_all};
use mq_protocol::{java, sys_flag};
use mq_store::{
    Boundary, Bounds, Clock, FlushMode, ManualClock, MemoryBackend, Options, PullLimits, PullStatus, Pulled,
    RecordRules, Store,
};

use crate::support::*;

const Q: QueueId = QueueId(0);

fn pull(store: &Store, from: u64, limits: PullLimits) -> Pulled {
    store.pull("T", Q, QueueOffset(from), limits, &|_| true).unwrap()
}

fn filled(messages: u64) -> Store {
    let (store, _) = open(&MemoryBackend::new(), small());
    for n in 0..messages {
        append(&store, vec![tagged("T", 0, ["a", "b"][(n % 2) as usize], format!("{n}"))]);
    }
    store.wait_durable(store.end(), Duration::from_secs(120)).unwrap();
    store
}

#[test]
fn each_position_has_its_status_and_next_offset() {
    let store = filled(25);
    for (from, status, next) in [
        (0, PullStatus::Found, 25),
        (24, PullStatus::Found, 25),
        (25, PullStatus::OffsetOverflowOne, 25),
        (26, PullStatus::OffsetOverflowBadly, 25),
    ] {
        let pulled = pull(&store, from, ALL);
        assert_eq!((pulled.status, pulled.next.0, pulled.max.0), (status, next, 25), "from {from}");
    }
    let unknown = store.pull("T", QueueId(9), QueueOffset(3), ALL, &|_| true).unwrap();
    assert_eq!((unknown.status, unknown.next), (PullStatus::NoMatchedLogicQueue, QueueOffset(0)));
}

#[test]
fn a_queue_with_nothing_visible_is_empty() {
    let (store, _) = open(&MemoryBackend::new(), manual());
    append(&store, vec![message("T", 0, "not durable")]);
    let pulled = pull(&store, 0, ALL);
    assert_eq!((pulled.status, pulled.max), (PullStatus::NoMessageInQueue, QueueOffset(0)));
    assert_eq!(store.entry("T", Q, QueueOffset(0)).unwrap(), None);
    store.flush().unwrap();
    assert_eq!(pull(&store, 0, ALL).status, PullStatus::Found);
}

#[test]
fn what_a_queue_shows_can_be_read_at_that_moment() {
    const MESSAGES: u64 = 50_000;
    let flush = FlushMode::Async { every: Duration::from_millis(1) };
    let (store, _) = open(&MemoryBackend::new(), Options { flush, ..Options::default() });
    let writer = {
        let store = store.clone();
        std::thread::spawn(move || {
            for _ in 0..MESSAGES / 1_000 {
                append(&store, (0..1_000).map(|n| message("T", 0, format!("{n}"))).collect());
            }
        })
    };
    let (mut next, started) = (0, Instant::now());
    while next < MESSAGES {
        let Some(entry) = store.entry("T", Q, QueueOffset(next)).unwrap() else {
            assert!(started.elapsed() < Duration::from_secs(120), "message {next} was never shown");
            std::thread::yield_now();
            continue;
        };
        assert!(store.read(entry.log_offset).unwrap().is_some(), "message {next} at {}", entry.log_offset);
        next += 1;
    }
    writer.join().unwrap();
}

#[test]
fn limits_are_kept_and_the_first_message_always_comes() {
    let store = filled(25);
    let size = store.entry("T", Q, QueueOffset(0)).unwrap().unwrap().size as usize;
    for (messages, bytes, expected) in
        [(3, usize::MAX, 3), (usize::MAX, 3 * size, 3), (usize::MAX, 3 * size - 1, 2), (usize::MAX, 1, 1), (1, 0, 1)]
    {
        let pulled = pull(&store, 0, PullLimits { messages, bytes });
        assert_eq!((pulled.messages, pulled.next.0), (expected, expected as u64), "{messages} {bytes}");
        assert_eq!(pulled.bytes, pulled.slices.iter().map(|slice| slice.len()).sum::<usize>());
    }
}

#[test]
fn a_filter_skips_and_moves_on_even_when_nothing_matches() {
    let store = filled(2000);
    let b = java::tags_code(Some("b"));
    let pulled = store.pull("T", Q, QueueOffset(0), PullLimits { messages: 4, ..ALL }, &|code| code == b).unwrap();
    let read: Vec<StoredMessage> = pulled.slices.iter().flat_map(|slice| decode_all(slice).unwrap()).collect();
    assert_eq!(read.iter().map(|message| message.queue_offset.0).collect::<Vec<_>>(), [1, 3, 5, 7]);
    assert_eq!(pulled.next, QueueOffset(9), "goes on behind what the filter refused");
    let none = store.pull("T", Q, QueueOffset(0), PullLimits { messages: 4, ..ALL }, &|_| false).unwrap();
    assert_eq!((none.status, none.next), (PullStatus::NoMatchedMessage, QueueOffset(800)));
}

#[test]
fn neighbours_in_the_log_share_a_slice() {
    let (store, _) = open(&MemoryBackend::new(), Options { segment_bytes: 1 << 20, ..small() });
    for topics in [["T", "T"], ["T", "U"], ["T", "T"]] {
        send(&store, topics.map(|topic| message(topic, 0, "body")).to_vec());
    }
    let pulled = pull(&store, 0, ALL);
    assert_eq!((pulled.messages, pulled.slices.len()), (5, 2));
}

#[test]
fn prepared_and_rolled_back_records_take_no_place_in_the_queue() {
    let (store, _) = open(&MemoryBackend::new(), small());
    let flagged = |bits| Message { sys_flag: bits, ..message("T", 0, "x") };
    let bits = [
        sys_flag::TRANSACTION_PREPARED,
        sys_flag::TRANSACTION_COMMIT,
        sys_flag::TRANSACTION_ROLLBACK,
        sys_flag::TRANSACTION_NONE,
    ];
    let appended = send(&store, bits.map(flagged).to_vec());
    assert_eq!(appended.records.iter().map(|record| record.1.0).collect::<Vec<_>>(), [0, 0, 0, 1]);
    assert_eq!(store.queue_bounds("T", Q), Bounds { min: QueueOffset(0), max: QueueOffset(2) });
    assert_eq!(store.scan(appended.start).count(), 4);
}

#[test]
fn offsets_are_found_by_store_time() {
    let clock = Arc::new(ManualClock::at(UnixMillis(1000)));
    let options = Options { flush: FlushMode::Manual, ..small() };
    let (store, _) = Store::open(Arc::new(MemoryBackend::new()), options, clock.clone()).unwrap();
    // Store times 1000, 1010, 1010, 1020; the clock goes back once, store times do not.
    for step in [0, 10, 0, 10, -500] {
        clock.set(UnixMillis(clock.now().0 + step));
        append(&store, vec![message("T", 0, "x")]);
    }
    store.flush().unwrap();
    for (time, lower, upper) in
        [(0, 0, 0), (1000, 0, 0), (1005, 1, 0), (1010, 1, 2), (1015, 3, 2), (1020, 3, 4), (9999, 5, 4)]
    {
        let at = |boundary| store.offset_by_time("T", Q, UnixMillis(time), boundary).unwrap().0;
        assert_eq!((at(Boundary::Lower), at(Boundary::Upper)), (lower, upper), "at {time}");
    }
}

#[test]
fn the_rules_choose_the_tags_code_and_recovery_asks_them_again() {
    struct Delay;
    impl RecordRules for Delay {
        fn tags_code(&self, message: &Message, store_timestamp: UnixMillis) -> i64 {
            if message.topic == "DELAYED" { store_timestamp.0 + 5000 } else { message.tags_code() }
        }
    }
    let backend = MemoryBackend::new();
    let options = Options { rules: Arc::new(Delay), ..small() };
    for _ in 0..2 {
        let (store, _) = open(&backend, options.clone());
        send(&store, vec![tagged("DELAYED", 0, "a", "x"), tagged("T", 0, "d", "x")]);
        for offset in 0..store.queue_bounds("T", Q).max.0 {
            let code = |topic| store.entry(topic, Q, QueueOffset(offset)).unwrap().unwrap().tags_code;
            assert_eq!((code("DELAYED"), code("T")), (NOW.0 + 5000, 100));
        }
    }
}

#[test]
fn a_deleted_topic_is_empty_and_its_numbering_goes_on() {
    for messages in [0, 1, 7, 10, 25] {
        let backend = MemoryBackend::new();
        let (store, _) = open(&backend, small());
        for n in 0..messages {
            send(&store, vec![message("T", 0, "old"), message("KEPT", 0, format!("{n}"))]);
        }
        store.settle().unwrap();
        store.delete_topic("T").unwrap();
        let empty = Bounds { min: QueueOffset(messages), max: QueueOffset(messages) };
        assert_eq!(store.queue_bounds("T", Q), empty);
        drop(store);
        let (store, _) = open(&backend, small());
        assert_eq!(store.queue_bounds("T", Q), empty, "after a restart");
        assert_eq!(send(&store, vec![message("T", 0, "new")]).records[0].1, QueueOffset(messages));
        assert_eq!(bodies(&store, "T", 0), ["new"]);
        assert_eq!(bodies(&store, "KEPT", 0).len() as u64, messages);
    }
}
