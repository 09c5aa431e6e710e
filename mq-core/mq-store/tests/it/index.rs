//! Messages are found by key: against a model, over restarts and power cuts, in Apache's layout.

use std::collections::BTreeMap;
use std::sync::Arc;

use mq_protocol::ids::{LogOffset, UnixMillis};
use mq_protocol::record::{Message, StoredMessage};
use mq_store::backend::{CrashBackend, CrashMode, Fault};
use mq_store::{
    Backend, FileBackend, IndexOptions, KeyKind, ManualClock, MemoryBackend, Options, Queried, Store, TimeWindow,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::*;

const EVER: TimeWindow = TimeWindow { from: UnixMillis(0), to: UnixMillis(i64::MAX) };

/// A few slots, so that keys meet in them, and a few entries, so that files end.
fn indexed() -> Options {
    Options { index: Some(IndexOptions { slots: 7, entries: 20 }), ..manual() }
}

fn keyed(topic: &str, unique: &str, keys: &str, body: String) -> Message {
    let mut properties = String::new();
    for (name, value) in [("UNIQ_KEY", unique), ("KEYS", keys)] {
        if !value.is_empty() {
            properties.push_str(&format!("{name}\u{1}{value}\u{2}"));
        }
    }
    Message { properties: properties.into(), ..message(topic, 0, body) }
}

fn bodies_of(found: &Queried) -> Vec<String> {
    let body = |record| {
        let stored = StoredMessage::decode(record).unwrap();
        String::from_utf8(stored.message.body.to_vec()).unwrap().trim_end_matches('x').to_owned()
    };
    found.records.iter().map(body).collect()
}

fn found(store: &Store, topic: &str, key: &str) -> Vec<String> {
    bodies_of(&store.query(topic, key, KeyKind::Any, EVER, usize::MAX).unwrap())
}

/// What should be found: the bodies of each topic and key, in order.
#[derive(Clone, Default)]
struct Model {
    by_key: BTreeMap<(String, String), Vec<String>>,
    sent: usize,
}

impl Model {
    /// Sends a message with some keys out of few; long ones cross segments and batches.
    fn send(&mut self, store: &Store, dice: &mut StdRng) {
        let topic = ["T", "U"][dice.random_range(0..2)];
        let unique = if dice.random_bool(0.8) { format!("unique{}", self.sent) } else { String::new() };
        let mut words: Vec<String> =
            (0..dice.random_range(0..4)).map(|_| format!("k{}", dice.random_range(0..9))).collect();
        let (body, padding) = (self.sent.to_string(), "x".repeat(dice.random_range(0..900)));
        append(store, vec![keyed(topic, &unique, &words.join(" "), format!("{body}{padding}"))]);
        self.sent += 1;
        words.push(unique);
        words.sort();
        words.dedup();
        for word in words.into_iter().filter(|word| !word.is_empty()) {
            self.by_key.entry((topic.to_owned(), word)).or_default().push(body.clone());
        }
    }

    fn check(&self, store: &Store, told: &str) {
        for ((topic, key), bodies) in &self.by_key {
            assert_eq!(&found(store, topic, key), bodies, "{topic}#{key}, {told}");
        }
        assert!(found(store, "T", "nobody's").is_empty());
    }
}

#[test]
fn every_key_finds_its_messages_over_restarts_whether_clean_or_not() {
    for seed in 0..20 {
        let (mut dice, mut model, backend) = (StdRng::seed_from_u64(seed), Model::default(), MemoryBackend::new());
        for _ in 0..6 {
            let (store, _) = open(&backend, indexed());
            model.check(&store, &format!("seed {seed}, opened"));
            for _ in 0..dice.random_range(1..40) {
                model.send(&store, &mut dice);
                match dice.random_range(0..8) {
                    0 => store.settle().unwrap(),
                    1 => store.flush().unwrap(),
                    _ => {}
                }
            }
            store.flush().unwrap();
            model.check(&store, &format!("seed {seed}"));
            if dice.random_bool(0.5) {
                store.close().unwrap();
            }
        }
    }
}

#[test]
fn a_power_cut_at_any_operation_leaves_every_durable_message_findable() {
    let seed = 3;
    let trace = |backend: CrashBackend, model: &mut Model| {
        let opened = Store::open(Arc::new(backend), indexed(), Arc::new(ManualClock::at(NOW)));
        let Ok((store, _)) = opened else { return };
        let mut dice = StdRng::seed_from_u64(seed);
        let mut tried = Model::default();
        for number in 0..45 {
            let before = store.end();
            let group = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| tried.send(&store, &mut dice)));
            if group.is_err() || store.flush().is_err() || store.end() == before {
                return;
            }
            *model = tried.clone();
            if number % 10 == 9 && store.settle().is_err() {
                return;
            }
        }
        let _ = store.close();
    };
    let whole = CrashBackend::new();
    trace(whole.clone(), &mut Model::default());
    // Failed appends panic in the helper; that is how this trace ends at the cut.
    std::panic::set_hook(Box::new(|_| {}));
    let mut images = Vec::new();
    for operation in 0..whole.operations() {
        let (backend, mut model) = (CrashBackend::new(), Model::default());
        backend.plan(operation, Fault::PowerCut);
        trace(backend.clone(), &mut model);
        images.push((operation, backend, model));
    }
    let _ = std::panic::take_hook();
    for (operation, backend, model) in images {
        for mode in CrashMode::ALL {
            let (store, _) = open(&backend.crash(mode, operation), indexed());
            for ((topic, key), bodies) in &model.by_key {
                let found = found(&store, topic, key);
                assert!(found.starts_with(bodies), "operation {operation}, {mode:?}: {topic}#{key} finds {found:?}");
            }
        }
    }
}

#[test]
fn a_lost_or_foreign_index_is_built_again() {
    let directory = tempfile::tempdir().unwrap();
    let backend = FileBackend::new(directory.path()).unwrap();
    let (mut dice, mut model) = (StdRng::seed_from_u64(1), Model::default());
    let (store, _) = open(&backend, indexed());
    (0..60).for_each(|_| model.send(&store, &mut dice));
    store.close().unwrap();
    std::fs::remove_dir_all(directory.path().join("index")).unwrap();
    let (store, _) = open(&backend, indexed());
    model.check(&store, "removed");
    store.close().unwrap();
    let other = Options { index: Some(IndexOptions { slots: 3, entries: 9 }), ..manual() };
    let (store, _) = open(&backend, other);
    model.check(&store, "of another size");
}

#[test]
fn queries_keep_to_their_limit_their_window_and_their_kind_of_key() {
    let backend = MemoryBackend::new();
    let clock = Arc::new(ManualClock::at(NOW));
    let (store, _) = Store::open(Arc::new(backend), indexed(), clock.clone()).unwrap();
    for second in 0..30 {
        clock.set(UnixMillis(NOW.0 + second * 1000));
        append(&store, vec![keyed("T", &format!("u{second}"), "same", second.to_string())]);
    }
    append(&store, vec![keyed("T", "same", "other", "unique".into())]);
    append(&store, vec![keyed("T", "twice", "twice twice", "once".into())]);
    store.flush().unwrap();
    let query = |key, kind, from: i64, to: i64, max| {
        let window = TimeWindow { from: UnixMillis(NOW.0 + from), to: UnixMillis(NOW.0 + to) };
        bodies_of(&store.query("T", key, kind, window, max).unwrap())
    };
    assert_eq!(query("same", KeyKind::Any, 0, 60_000, 3), ["28", "29", "unique"], "the newest, in order");
    assert_eq!(query("same", KeyKind::Unique, 0, 60_000, 3), ["unique"]);
    assert_eq!(query("same", KeyKind::Any, 4_500, 7_000, 9), ["5", "6", "7"]);
    assert_eq!(query("same", KeyKind::Any, 7_000, 7_000, 9), ["7"]);
    assert_eq!(query("u3", KeyKind::Any, 0, 60_000, 9), ["3"]);
    assert_eq!(query("twice", KeyKind::Any, 0, 60_000, 9), ["once"]);
    assert!(query("u3", KeyKind::Any, 4_000, 60_000, 9).is_empty());
    let all = store.query("T", "same", KeyKind::Any, EVER, 1).unwrap();
    assert_eq!(all.indexed_until, UnixMillis(NOW.0 + 29_000));
    assert!(all.indexed_to < store.visible());
    store.delete_topic("T").unwrap();
    assert!(query("same", KeyKind::Any, 0, 60_000, 9).is_empty(), "a deleted topic's messages are forgotten");
}

#[test]
fn what_is_not_visible_is_not_found() {
    let (store, _) = open(&MemoryBackend::new(), indexed());
    append(&store, vec![keyed("T", "u", "", "body".into())]);
    assert!(found(&store, "T", "u").is_empty());
    store.set_committed(LogOffset(0));
    store.flush().unwrap();
    assert!(found(&store, "T", "u").is_empty());
    store.set_committed(store.end());
    assert_eq!(found(&store, "T", "u"), ["body"]);
}

#[test]
fn files_are_laid_out_as_apaches() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { index: Some(IndexOptions::default()), ..manual() };
    let clock = Arc::new(ManualClock::at(NOW));
    let backend: Arc<dyn Backend> = Arc::new(FileBackend::new(directory.path()).unwrap());
    let (store, _) = Store::open(backend, options, clock.clone()).unwrap();
    append(&store, vec![keyed("orders", "k1", "", "a".into())]);
    clock.set(UnixMillis(NOW.0 + 2500));
    let second = append(&store, vec![keyed("orders", "", "k2 k1", "b".into())]).start;
    store.close().unwrap();
    let files: Vec<_> = std::fs::read_dir(directory.path().join("index")).unwrap().map(|file| file.unwrap()).collect();
    let name = files[0].file_name().into_string().unwrap();
    assert!(files.len() == 1 && name.len() == 17 && name.starts_with("2023111"), "{name}");
    assert_eq!(files[0].metadata().unwrap().len(), 420_000_040);
    let file = std::fs::File::open(files[0].path()).unwrap();
    let at = |at: u64, bytes: usize| {
        let mut read = vec![0; bytes];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut read, at).unwrap();
        read.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte))
    };
    let (begin, end) = (NOW.0 as u64, NOW.0 as u64 + 2500);
    assert_eq!([at(0, 8), at(8, 8), at(16, 8), at(24, 8), at(32, 4), at(36, 4)], [begin, end, 0, second.0, 2, 4]);
    // hashCode("orders#k1") is -390723708, of "orders#k2" one more.
    for (hash, newest) in [(390_723_708u64, 3), (390_723_707, 2)] {
        assert_eq!(at(40 + 4 * (hash % 5_000_000), 4), newest);
    }
    for (number, entry) in
        [(1, [390_723_708, 0, 0, 0]), (2, [390_723_707, second.0, 2, 0]), (3, [390_723_708, second.0, 2, 1])]
    {
        let entry_at = 20_000_040 + 20 * number;
        assert_eq!([at(entry_at, 4), at(entry_at + 4, 8), at(entry_at + 12, 4), at(entry_at + 16, 4)], entry);
    }
}
