//! R4: bits flip, files are cut, blocks are zeroed and change places, in every kind of file. Each case is found by the
//! scrub or by the start, or the store holds exactly what it held.

use std::collections::BTreeMap;
use std::sync::Arc;

use mq_protocol::ids::{LogOffset, QueueId, QueueOffset, UnixMillis};
use mq_protocol::record::{Message, StoredMessage};
use mq_store::backend::{Backend, CrashBackend, CrashMode, Space};
use mq_store::timer::{SlotCount, TimerEntry, TimerError, TimerIndex, TimerOptions, TimerProgress, TimerStart};
use mq_store::{
    IndexOptions, KeyKind, ManualClock, Options, Store, TimeWindow, VerifyReport, rebuild, verify, verify_timers,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::history::records;
use crate::support::*;

fn options() -> Options {
    let index = Some(IndexOptions { slots: 23, entries: 80 });
    Options { segment_bytes: 16 << 10, queue_file_entries: 40, index, ..manual() }
}

fn open_at(backend: &CrashBackend) -> Result<Store, String> {
    let clock = Arc::new(ManualClock::at(NOW));
    Store::open(Arc::new(backend.clone()), options(), clock).map(|(store, _)| store).map_err(|error| error.to_string())
}

/// Everything that a user of the store can see.
type Content =
    (Vec<StoredMessage>, BTreeMap<(String, u32), (u64, u64, Vec<StoredMessage>)>, BTreeMap<String, Vec<Vec<u8>>>);

fn content(store: &Store) -> Result<Content, String> {
    let mut queues = BTreeMap::new();
    for topic in ["T", "U", "gone"] {
        for queue in 0..3 {
            let bounds = store.queue_bounds(topic, QueueId(queue));
            queues.insert((topic.to_owned(), queue), (bounds.min.0, bounds.max.0, drain(store, topic, queue)));
        }
    }
    let window = TimeWindow { from: NOW, to: UnixMillis(NOW.0 + 999) };
    let mut by_key = BTreeMap::new();
    for key in (0..150).map(|n| format!("u{n}")).chain((0..7).map(|n| format!("k{n}"))) {
        let found = store.query("T", &key, KeyKind::Any, window, usize::MAX).map_err(|error| error.to_string())?;
        by_key.insert(key, found.records.iter().map(|record| record.to_vec()).collect());
    }
    Ok((records(store)?, queues, by_key))
}

/// A message that is found by a key of its own and one that it shares.
fn keyed(n: u32, body: String) -> Message {
    let properties = format!("TAGS\u{1}tag\u{2}UNIQ_KEY\u{1}u{n}\u{2}KEYS\u{1}k{}\u{2}", n % 7);
    Message { properties: properties.into(), ..message("T", n % 2, body) }
}

/// Several segments and queue files, a topic that was deleted, and small files of all kinds.
fn prepare(closed: bool) -> CrashBackend {
    let backend = CrashBackend::new();
    let store = open_at(&backend).unwrap();
    for n in 0..150u32 {
        let body = "x".repeat((n as usize * 37) % 500);
        append(&store, vec![keyed(n, format!("{n}:{body}")), message("U", n % 3, format!("{n}"))]);
        append(&store, vec![tagged("gone", 0, "tag", "deleted")]);
        if n == 60 {
            store.delete_topic("gone").unwrap();
        }
        if n % 50 == 49 {
            store.settle().unwrap();
        }
    }
    store.flush().unwrap();
    if closed {
        store.close().unwrap();
    }
    drop(store);
    backend.crash(CrashMode::Keep, 0)
}

fn files(backend: &CrashBackend, directory: &str, found: &mut Vec<String>) {
    for entry in backend.list(directory).unwrap() {
        let path = if directory.is_empty() { entry.name } else { format!("{directory}/{}", entry.name) };
        if entry.is_directory { files(backend, &path, found) } else { found.push(path) }
    }
}

#[derive(Debug)]
enum Damage {
    Flip { at: u64, bit: u8 },
    Cut { at: u64 },
    Zero { at: u64, bytes: u64 },
    Swap { at: u64, with: u64, bytes: u64 },
}

impl Damage {
    fn roll(dice: &mut StdRng, len: u64) -> Self {
        let block = |dice: &mut StdRng| {
            let bytes: u64 = [20, 512, 4096][dice.random_range(0..3)];
            let bytes = bytes.min(len);
            (dice.random_range(0..=(len - bytes) / bytes) * bytes, bytes)
        };
        match dice.random_range(0..8) {
            0..4 => Self::Flip { at: dice.random_range(0..len), bit: dice.random_range(0..8) },
            4 => Self::Cut { at: dice.random_range(0..len) },
            5 | 6 => {
                let (at, bytes) = block(dice);
                Self::Zero { at, bytes }
            }
            _ => {
                let (at, bytes) = block(dice);
                Self::Swap { at, with: dice.random_range(0..=(len - bytes) / bytes) * bytes, bytes }
            }
        }
    }

    /// False if the file's bytes are what they were.
    fn apply(&self, backend: &CrashBackend, path: &str) -> bool {
        let file = backend.open(path).unwrap();
        let mut before = vec![0; file.bytes().unwrap() as usize];
        file.read_at(0, &mut before).unwrap();
        let mut bytes = before.clone();
        let block = |at: u64, len: u64| at as usize..(at + len) as usize;
        match *self {
            Self::Flip { at, bit } => bytes[at as usize] ^= 1 << bit,
            Self::Cut { at } => bytes.truncate(at as usize),
            Self::Zero { at, bytes: len } => bytes[block(at, len)].fill(0),
            Self::Swap { at, with, bytes: len } => {
                bytes[block(at, len)].copy_from_slice(&before[block(with, len)]);
                bytes[block(with, len)].copy_from_slice(&before[block(at, len)]);
            }
        }
        file.resize(bytes.len() as u64, Space::Sparse).unwrap();
        file.write_at(0, &bytes).unwrap();
        bytes != before
    }
}

#[derive(Default, Debug)]
struct Tally {
    cases: u32,
    found_by_start: u32,
    found_by_scrub: u32,
    harmless: u32,
}

/// The kind of file, which all are to be hit alike.
fn kind(path: &str) -> &str {
    let kinds = [
        "commitlog",
        "consumequeue",
        "checkback/checksums",
        "checkback/durable-mark",
        "checkback/queues",
        "checkpoint",
        "index",
    ];
    kinds.into_iter().find(|kind| path.starts_with(kind)).unwrap_or("other")
}

#[test]
fn no_damage_goes_unnoticed_and_changes_what_is_read() {
    // DAMAGE_CASES=20000 looks further.
    let cases: u64 = std::env::var("DAMAGE_CASES").map_or(250, |cases| cases.parse().unwrap());
    let mut tallies: BTreeMap<(String, bool), Tally> = BTreeMap::new();
    let mut silent = Vec::new();
    for closed in [true, false] {
        let whole = prepare(closed);
        let report = verify(Arc::new(whole.clone()), &options()).unwrap();
        assert_eq!(report.findings, [], "closed {closed}");
        let expected = content(&open_at(&whole.crash(CrashMode::Keep, 0)).unwrap()).unwrap();
        let mut paths = Vec::new();
        files(&whole, "", &mut paths);
        let mut by_kind: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
        paths
            .iter()
            .filter(|path| kind(path) != "other")
            .for_each(|path| by_kind.entry(kind(path)).or_default().push(path));
        for (kind, paths) in by_kind {
            for seed in 0..cases {
                let mut dice = StdRng::seed_from_u64(seed);
                let path = paths[dice.random_range(0..paths.len())];
                let len = whole.open(path).unwrap().bytes().unwrap();
                let damage = Damage::roll(&mut dice, len);
                let damaged = whole.crash(CrashMode::Keep, 0);
                if !damage.apply(&damaged, path) {
                    continue;
                }
                let tally = tallies.entry((kind.to_owned(), closed)).or_default();
                tally.cases += 1;
                let findings = verify(Arc::new(damaged.clone()), &options()).map_or(1, |report| report.findings.len());
                match open_at(&damaged) {
                    Err(_) => tally.found_by_start += 1,
                    Ok(_) if findings > 0 => tally.found_by_scrub += 1,
                    Ok(store) if content(&store).as_ref() == Ok(&expected) => tally.harmless += 1,
                    Ok(_) => silent.push(format!("closed {closed}, seed {seed}: {damage:?} of {path}")),
                }
            }
        }
    }
    let cases: u32 = tallies.values().map(|tally| tally.cases).sum();
    println!("{cases} cases");
    tallies.iter().for_each(|(class, tally)| println!("{class:?}: {tally:?}"));
    assert!(silent.is_empty(), "{} cases went unnoticed:\n{}", silent.len(), silent.join("\n"));
}

const TIMERS: TimerOptions = TimerOptions { precision_ms: 1000, slots: 70, log_file_bytes: 20 * 52 + 20 };

/// What the test's messages say of how they wait.
fn waits(entry: &TimerEntry, stored: &StoredMessage) -> bool {
    let told = format!("{} {} {}", entry.slot.0, entry.rolls, entry.deletes);
    &*stored.message.topic == "timers" && stored.message.body == told.as_bytes()
}

/// Messages that wait, of which some are fired, and their wheel, saved and closed.
fn prepare_timers() -> CrashBackend {
    let backend = CrashBackend::new();
    let store = open_at(&backend).unwrap();
    let (mut index, _, _) = TimerIndex::open(Arc::new(backend.clone()), TIMERS, NOW).unwrap();
    for n in 0..130u64 {
        let (slot, rolls, deletes) = (UnixMillis(NOW.0 + n as i64 % 40 * 1000), n % 7 == 0, n % 11 == 0);
        let body = format!("{} {rolls} {deletes}", slot.0);
        let appended = append(&store, vec![message("timers", 0, body)]);
        let size = (appended.end.0 - appended.start.0) as u32;
        let log_offset = appended.start;
        let entry = TimerEntry { slot, written_at: NOW, log_offset, size, rolls, deletes, topic_hash: 5 };
        assert_eq!(index.link(&[entry]).unwrap(), 1);
    }
    (0..9).for_each(|n| index.clear(UnixMillis(NOW.0 + n * 1000)));
    store.flush().unwrap();
    let (read_time, queue_offset) = (UnixMillis(NOW.0 + 9000), QueueOffset(130));
    let log_offset = Some(LogOffset(0));
    let progress = TimerProgress { read_time, queue_offset, seen: queue_offset, fired: 0, log_offset };
    assert!(index.save(progress, NOW).unwrap());
    store.close().unwrap();
    backend.crash(CrashMode::Keep, 0)
}

type Waiting = (TimerProgress, Vec<(SlotCount, Vec<TimerEntry>)>);

/// What waits, slot by slot, and how far the timers are; an error where a start makes it anew.
fn waiting(backend: &CrashBackend) -> Result<Waiting, TimerError> {
    let (index, progress, start) = TimerIndex::open(Arc::new(backend.clone()), TIMERS, NOW)?;
    if start == TimerStart::Lost {
        return Err(TimerError::Damaged { path: "made anew".into(), at: 0 });
    }
    let mut slots = Vec::new();
    index.counts(|count| slots.push(count))?;
    let entries = |count: SlotCount| {
        let mut entries = Vec::new();
        // Nothing but the time of writing and the hash, which figures are made of, may differ.
        index.walk(count.slot, |entry| {
            entries.push(TimerEntry { topic_hash: 0, written_at: UnixMillis(0), ..*entry });
        })?;
        Ok((count, entries))
    };
    Ok((progress, slots.into_iter().map(entries).collect::<Result<_, TimerError>>()?))
}

#[test]
fn no_damage_to_the_timers_goes_unnoticed_and_changes_what_waits() {
    let cases: u64 = std::env::var("DAMAGE_CASES").map_or(250, |cases| cases.parse().unwrap());
    let whole = prepare_timers();
    let scrub = |backend: &CrashBackend| {
        let mut report = VerifyReport::default();
        verify_timers(Arc::new(backend.clone()), &options(), &TIMERS, waits, &mut report).unwrap();
        report.findings
    };
    assert_eq!(scrub(&whole), []);
    let expected = waiting(&whole.crash(CrashMode::Keep, 0)).unwrap();
    assert_eq!(expected.1.len(), 31);
    let mut silent = Vec::new();
    for directory in ["timerwheel", "timerlog/", "config/timercheck"] {
        let (mut paths, mut tally) = (Vec::new(), Tally::default());
        files(&whole, "", &mut paths);
        paths.retain(|path| path.starts_with(directory));
        for seed in 0..cases {
            let mut dice = StdRng::seed_from_u64(seed);
            let path = &paths[dice.random_range(0..paths.len())];
            let damage = Damage::roll(&mut dice, whole.open(path).unwrap().bytes().unwrap());
            let damaged = whole.crash(CrashMode::Keep, 0);
            if !damage.apply(&damaged, path) {
                continue;
            }
            tally.cases += 1;
            let findings = scrub(&damaged);
            match waiting(&damaged) {
                Err(_) => tally.found_by_start += 1,
                Ok(_) if !findings.is_empty() => tally.found_by_scrub += 1,
                Ok(found) if found == expected => tally.harmless += 1,
                Ok(_) => silent.push(format!("seed {seed}: {damage:?} of {path}")),
            }
        }
        println!("{directory}: {tally:?}");
    }
    assert!(silent.is_empty(), "{} cases went unnoticed:\n{}", silent.len(), silent.join("\n"));
    rebuild(Arc::new(whole.clone())).unwrap();
    let (_, progress, start) = TimerIndex::open(Arc::new(whole), TIMERS, NOW).unwrap();
    assert_eq!((start, progress.queue_offset, progress.seen), (TimerStart::Lost, QueueOffset(0), QueueOffset(130)));
}
