//! The timer wheel against a map, with power cuts at every call and with files as Apache leaves them.

use std::collections::BTreeMap;
use std::sync::Arc;

use mq_protocol::ids::{LogOffset, QueueOffset, UnixMillis};
use mq_store::backend::{CrashBackend, CrashMode, Fault, Space};
use mq_store::timer::{TimerEntry, TimerError, TimerIndex, TimerOptions, TimerProgress, TimerStart};
use mq_store::{Backend, MemoryBackend, VerifyReport, verify_timers};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::{NOW, manual};

/// Files of five entries, so that chains cross them, and a wheel that turns round often.
const OPTIONS: TimerOptions = TimerOptions { precision_ms: 1000, slots: 70, log_file_bytes: 5 * 52 + 20 };
const ROUND: i64 = OPTIONS.slots as i64 * SECOND;
const SECOND: i64 = 1000;

fn open(backend: &(impl Backend + Clone + 'static)) -> Result<(TimerIndex, TimerProgress, TimerStart), TimerError> {
    TimerIndex::open(Arc::new(backend.clone()), OPTIONS, NOW)
}

fn entry(slot: i64, message: u64) -> TimerEntry {
    TimerEntry {
        slot: UnixMillis(slot),
        written_at: NOW,
        log_offset: LogOffset(message),
        size: 300,
        rolls: message.is_multiple_of(7),
        deletes: message.is_multiple_of(11),
        topic_hash: 5,
    }
}

fn progress(read_time: i64, queue_offset: u64) -> TimerProgress {
    TimerProgress {
        read_time: UnixMillis(read_time),
        queue_offset: QueueOffset(queue_offset),
        seen: QueueOffset(queue_offset),
        fired: queue_offset % 3,
        log_offset: Some(LogOffset(queue_offset)),
    }
}

fn link(index: &mut TimerIndex, mut entries: &[TimerEntry]) -> Result<(), TimerError> {
    while !entries.is_empty() {
        entries = &entries[index.link(entries)?..];
    }
    Ok(())
}

fn messages(index: &TimerIndex, slot: UnixMillis) -> Vec<TimerEntry> {
    let mut newest_first = Vec::new();
    let Some(chain) = index.walk(slot, |entry| newest_first.push(*entry)).unwrap() else { return Vec::new() };
    let oldest_first: Vec<_> = (0..chain.pieces()).flat_map(|piece| index.piece(&chain, piece).unwrap()).collect();
    newest_first.reverse();
    assert_eq!(oldest_first, newest_first, "both ways of reading a slot agree");
    oldest_first
}

/// What the wheel has to hold.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    slots: BTreeMap<UnixMillis, Vec<TimerEntry>>,
    progress: TimerProgress,
}

impl Model {
    fn of(index: &TimerIndex, progress: TimerProgress) -> Self {
        let mut slots = BTreeMap::new();
        let mut from = progress.read_time;
        let until = UnixMillis(from.0 + ROUND);
        while let Some(slot) = index.next_slot(from).filter(|slot| *slot < until) {
            slots.insert(slot, messages(index, slot));
            from = UnixMillis(slot.0 + SECOND);
        }
        let mut counted = BTreeMap::new();
        index.counts(|count| assert_eq!(counted.insert(count.slot, count.messages), None)).unwrap();
        let expected = |entries: &Vec<TimerEntry>| {
            let deletes = entries.iter().filter(|entry| entry.deletes).count();
            entries.len().saturating_sub(2 * deletes) as u64
        };
        assert_eq!(counted, slots.iter().map(|(slot, entries)| (*slot, expected(entries))).collect());
        Self { slots, progress }
    }
}

/// Random calls on the wheel and on the map; what was saved, and what the call under way would have saved.
struct Run {
    live: Model,
    saved: Model,
    saving: Option<Model>,
    next_message: u64,
}

impl Run {
    fn copy(&self) -> Self {
        let (live, saved) = (self.live.clone(), self.saved.clone());
        Self { live, saved, saving: self.saving.clone(), next_message: self.next_message }
    }

    fn new() -> Self {
        let model = Model::default();
        Self { live: model.clone(), saved: model, saving: None, next_message: 0 }
    }

    fn step(&mut self, index: &mut TimerIndex, dice: &mut StdRng) -> Result<(), TimerError> {
        let read_time = self.live.progress.read_time.0.max(NOW.0);
        match dice.random_range(0..10) {
            0..5 => {
                let entries: Vec<_> = (0..dice.random_range(1..8))
                    .map(|n| {
                        entry(
                            read_time + dice.random_range(0..6).max(dice.random_range(0..70) - 50) * SECOND,
                            self.next_message + n,
                        )
                    })
                    .collect();
                self.next_message += entries.len() as u64;
                assert!(entries.iter().all(|entry| index.fits(entry.slot, UnixMillis(read_time))));
                link(index, &entries)?;
                for entry in entries {
                    self.live.slots.entry(entry.slot).or_default().push(entry);
                }
            }
            5..8 => {
                let due = index.next_slot(UnixMillis(read_time));
                assert_eq!(due, self.live.slots.keys().next().copied());
                if let Some(slot) = due {
                    assert_eq!(messages(index, slot), self.live.slots.remove(&slot).unwrap());
                    index.clear(slot);
                    self.live.progress.read_time = UnixMillis(slot.0 + SECOND);
                }
            }
            _ => {
                self.live.progress = progress(read_time, self.next_message);
                self.saving = Some(self.live.clone());
                index.save(self.live.progress, NOW)?;
                self.saved = self.live.clone();
                self.saving = None;
            }
        }
        Ok(())
    }

    fn run(&mut self, index: &mut TimerIndex, dice: &mut StdRng, steps: usize) -> Result<(), TimerError> {
        (0..steps).try_for_each(|_| self.step(index, dice))
    }

    /// What was saved last, or what was being saved. In between, slots that the new state has fired may be empty
    /// already: what they held is durable elsewhere by then.
    fn allows(&self, found: &Model) -> bool {
        let fired_until = self.saving.as_ref().map_or(UnixMillis(0), |saving| saving.progress.read_time);
        let left_out = |slot: &UnixMillis| *slot < fired_until && !found.slots.contains_key(slot);
        let mut emptied = self.saved.clone();
        emptied.slots.retain(|slot, _| !left_out(slot));
        [Some(&emptied), self.saving.as_ref()].into_iter().flatten().any(|model| {
            let begun = model.slots.contains_key(&model.progress.read_time);
            let fired = if begun { model.progress.fired } else { 0 };
            *found == Model { progress: TimerProgress { fired, ..model.progress }, ..model.clone() }
        })
    }

    /// What a start finds has to be what was saved.
    fn check(&mut self, backend: &CrashBackend) -> Result<TimerIndex, String> {
        let (index, progress, start) = open(backend).map_err(|error| format!("a start failed: {error}"))?;
        let found = Model::of(&index, progress);
        if start != TimerStart::Kept || !self.allows(&found) {
            return Err(format!("{start:?}: found {found:#?}, saved was {:#?}", self.saved));
        }
        (self.live, self.saved, self.saving) = (found.clone(), found, None);
        Ok(index)
    }
}

#[test]
fn the_wheel_holds_what_a_map_holds() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut dice = StdRng::seed_from_u64(seed);
    let backend = MemoryBackend::new();
    let (mut index, ..) = open(&backend).unwrap();
    let mut run = Run::new();
    for _ in 0..20 {
        run.run(&mut index, &mut dice, 50).unwrap();
        assert!(index.save(run.live.progress, NOW).unwrap());
        assert_whole(&backend, true, "saved");
        let (again, progress, start) = open(&backend).unwrap();
        assert_eq!((Model::of(&again, progress).slots, start), (run.live.slots.clone(), TimerStart::Kept));
        assert_eq!(progress.read_time, run.live.progress.read_time);
        index = again;
    }
}

/// The scrub finds nothing; the messages themselves are taken for removed from the log.
fn assert_whole(backend: &(impl Backend + Clone + 'static), closed: bool, told: &str) {
    let marks =
        if closed { &["commitlog/00000000000000004096"][..] } else { &["commitlog/00000000000000004096", "abort"] };
    for path in marks {
        let file = backend.create(path, 4096, Space::Sparse).unwrap();
        file.write_at(0, b"1234").unwrap();
    }
    let mut report = VerifyReport::default();
    verify_timers(Arc::new(backend.clone()), &manual(), &OPTIONS, |_, _| false, &mut report).unwrap();
    assert_eq!(report.findings, [], "{told}");
    marks.iter().for_each(|path| backend.remove(path).unwrap());
}

fn operations(seed: u64) -> u64 {
    let backend = CrashBackend::new();
    let (mut index, ..) = open(&backend).unwrap();
    Run::new().run(&mut index, &mut StdRng::seed_from_u64(seed), 25).unwrap();
    backend.operations()
}

#[test]
fn after_a_power_cut_at_any_call_the_wheel_is_as_it_was_saved_last() {
    let mut images = 0;
    for seed in 0..4 {
        for operation in 0..operations(seed) {
            let backend = CrashBackend::new();
            backend.plan(operation, Fault::PowerCut);
            let (mut index, ..) = open(&backend).unwrap();
            let mut run = Run::new();
            let cut = run.run(&mut index, &mut StdRng::seed_from_u64(seed), 25);
            assert!(cut.is_err(), "seed {seed}, operation {operation} is made");
            for mode in CrashMode::ALL {
                let mut found = backend.crash(mode, operation);
                let mut again = run.copy();
                let told = format!("seed {seed}, operation {operation}, {mode:?}");
                assert_whole(&found.crash(CrashMode::Keep, 0), false, &told);
                for crash in 0..3 {
                    let told = |error| panic!("seed {seed}, operation {operation}, {mode:?}, crash {crash}: {error}");
                    let mut index = again.check(&found).unwrap_or_else(told);
                    let mut dice = StdRng::seed_from_u64(operation + crash);
                    found.plan(found.operations() + dice.random_range(0..12), Fault::PowerCut);
                    drop(again.run(&mut index, &mut dice, 8));
                    found = found.crash(mode, operation + crash);
                    images += 1;
                }
            }
        }
    }
    println!("{images} images");
}

#[test]
fn an_error_at_any_call_leaves_what_was_saved() {
    for operation in 0..operations(1) {
        for kind in [std::io::ErrorKind::Other, std::io::ErrorKind::StorageFull] {
            let backend = CrashBackend::new();
            backend.plan(operation, Fault::Fails(kind));
            let (mut index, ..) = open(&backend).unwrap();
            let (mut run, mut dice) = (Run::new(), StdRng::seed_from_u64(1));
            let failed = run.run(&mut index, &mut dice, 25);
            assert!(failed.is_err(), "operation {operation} is made");
            for mode in CrashMode::ALL {
                let mut again = run.copy();
                if let Err(error) = again.check(&backend.crash(mode, operation)) {
                    panic!("{kind:?} at operation {operation}, then {mode:?}: {error}");
                }
            }
        }
    }
}

#[test]
fn a_slot_of_many_messages_is_read_in_order_and_in_pieces() {
    let options = TimerOptions { log_file_bytes: 100 * 52, ..OPTIONS };
    let (mut index, ..) = TimerIndex::open(Arc::new(MemoryBackend::new()), options, NOW).unwrap();
    let entries: Vec<_> = (0..5000).map(|n| entry(NOW.0 + if n % 2 == 0 { 0 } else { SECOND }, n)).collect();
    link(&mut index, &entries).unwrap();
    let chain = index.walk(NOW, |_| ()).unwrap().unwrap();
    assert_eq!(chain.pieces(), 3);
    let expected: Vec<_> = entries.iter().filter(|entry| entry.slot == NOW).copied().collect();
    assert_eq!(messages(&index, NOW), expected);
}

#[test]
fn slots_a_round_apart_are_never_mistaken_for_each_other() {
    let (mut index, ..) = open(&MemoryBackend::new()).unwrap();
    link(&mut index, &[entry(NOW.0 + SECOND, 1)]).unwrap();
    for (slot, from, fits) in [
        (NOW.0, NOW.0, true),
        (NOW.0 - SECOND, NOW.0, false),
        (NOW.0 + ROUND - SECOND, NOW.0, true),
        (NOW.0 + ROUND, NOW.0, false),
        (NOW.0 + ROUND, NOW.0 + SECOND, true),
        // What is linked would be mistaken, if the time went back that far.
        (NOW.0 - ROUND, NOW.0 - ROUND, false),
    ] {
        assert_eq!(index.fits(UnixMillis(slot), UnixMillis(from)), fits, "{slot} from {from}");
    }
    assert_eq!(index.next_slot(UnixMillis(NOW.0 + 2 * SECOND)), Some(UnixMillis(NOW.0 + SECOND + ROUND)));
    assert!(messages(&index, UnixMillis(NOW.0 + SECOND + ROUND)).is_empty());
}

fn saved(backend: &MemoryBackend) -> Model {
    let (mut index, ..) = open(backend).unwrap();
    link(&mut index, &(0..17).map(|n| entry(NOW.0 + (n % 3) as i64 * SECOND, n)).collect::<Vec<_>>()).unwrap();
    index.save(progress(NOW.0, 17), NOW).unwrap();
    Model::of(&index, progress(NOW.0, 17))
}

#[test]
fn files_that_do_not_belong_together_are_made_anew_from_the_topic() {
    type Damage = fn(&MemoryBackend);
    let damages: [(&str, Damage); 5] = [
        ("no wheel", |backend| backend.remove("timerwheel").unwrap()),
        ("a wheel of another length", |backend| {
            backend.remove("timerwheel").unwrap();
            backend.create("timerwheel", 32, Space::Sparse).unwrap();
        }),
        ("no log", |backend| {
            for entry in backend.list("timerlog").unwrap() {
                backend.remove(&format!("timerlog/{}", entry.name)).unwrap();
            }
        }),
        ("a hole in the log", |backend| backend.remove(&format!("timerlog/{:020}", OPTIONS.log_file_bytes)).unwrap()),
        ("no checkpoint", |backend| backend.remove("config/timercheck").unwrap()),
    ];
    for (what, damage) in damages {
        let backend = MemoryBackend::new();
        saved(&backend);
        damage(&backend);
        let (mut index, found, start) = open(&backend).unwrap();
        assert_eq!((found.queue_offset, index.next_slot(NOW)), (QueueOffset(0), None), "{what}");
        if what == "no checkpoint" {
            assert_eq!((start, found), (TimerStart::Kept, TimerProgress::default()), "{what}");
        } else {
            assert_eq!((start, found.read_time, found.seen), (TimerStart::Lost, NOW, QueueOffset(17)), "{what}");
        }
        link(&mut index, &[entry(NOW.0, 3)]).unwrap();
        index.save(progress(NOW.0, 1), NOW).unwrap();
        let (index, found, start) = open(&backend).unwrap();
        assert_eq!(start, TimerStart::Kept, "{what}");
        assert_eq!(Model::of(&index, found).slots.len(), 1, "{what}");
    }
    let backend = MemoryBackend::new();
    saved(&backend);
    let finer = TimerOptions { precision_ms: 100, ..OPTIONS };
    let (_, _, start) = TimerIndex::open(Arc::new(backend), finer, NOW).unwrap();
    assert_eq!(start, TimerStart::Lost, "another precision");
}

/// Apache rewrites its seven numbers and leaves the rest.
fn as_apache(backend: &MemoryBackend, read_time: i64, log_end: u64, queue_offset: u64) {
    let numbers = [read_time, log_end as i64, queue_offset as i64, queue_offset as i64, 0, NOW.0, 9];
    let bytes: Vec<u8> = numbers.into_iter().flat_map(i64::to_be_bytes).collect();
    backend.open("config/timercheck").unwrap().write_at(0, &bytes).unwrap();
}

#[test]
fn entries_that_apache_did_not_bring_to_its_wheel_are_linked_in() {
    let backend = MemoryBackend::new();
    saved(&backend);
    // Two more in the log, none of them in the wheel, the checkpoint older than both.
    let (mut index, ..) = open(&backend).unwrap();
    let late = [entry(NOW.0 + SECOND, 100), entry(NOW.0 + 9 * SECOND, 101)];
    link(&mut index, &late).unwrap();
    let expected = Model::of(&index, progress(NOW.0, 17)).slots;
    drop(index);
    let end = index_end(17);
    as_apache(&backend, NOW.0, end, 18);
    let (index, found, start) = open(&backend).unwrap();
    assert_eq!((found.queue_offset, found.log_offset), (QueueOffset(18), None));
    assert_eq!(start, TimerStart::Apaches { linked: late.iter().map(|entry| entry.log_offset).collect() });
    assert_eq!(Model::of(&index, found).slots, expected);
}

/// The end of a log of so many entries.
fn index_end(entries: u64) -> u64 {
    entries / 5 * OPTIONS.log_file_bytes + entries % 5 * 52
}

#[test]
fn the_files_have_the_lengths_and_numbers_that_apache_expects() {
    let backend = MemoryBackend::new();
    let options = TimerOptions { log_file_bytes: OPTIONS.log_file_bytes, ..TimerOptions::default() };
    let (mut index, ..) = TimerIndex::open(Arc::new(backend.clone()), options, NOW).unwrap();
    link(&mut index, &(0..17).map(|n| entry(NOW.0 + (n % 3) as i64 * SECOND, n)).collect::<Vec<_>>()).unwrap();
    index.save(progress(NOW.0, 17), NOW).unwrap();
    assert_eq!(backend.open("timerwheel").unwrap().bytes().unwrap(), 38_707_200);
    assert_eq!(backend.open("config/timercheck").unwrap().bytes().unwrap(), 4096);
    let mut slot = [0; 32];
    let at = (NOW.0 as u64 / 1000) % 1_209_600 * 32;
    backend.open("timerwheel").unwrap().read_at(at, &mut slot).unwrap();
    let mut expected = Vec::new();
    expected.extend((NOW.0 / 1000).to_be_bytes());
    expected.extend(0_u64.to_be_bytes());
    expected.extend(index_end(15).to_be_bytes());
    expected.extend(4_i32.to_be_bytes());
    expected.extend(0_u32.to_be_bytes());
    assert_eq!(slot[..], expected, "messages 0 3 6 9 12 15, of which 0 takes one back");
    let mut blank = [0; 20];
    backend.open("timerlog/00000000000000000000").unwrap().read_at(260, &mut blank).unwrap();
    assert_eq!(blank[..16], [0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0xCB, 0xD4, 0x31, 0x94]);
}

#[test]
fn files_of_the_log_go_with_the_messages_that_they_point_to() {
    let backend = MemoryBackend::new();
    saved(&backend);
    let (mut index, ..) = open(&backend).unwrap();
    assert_eq!(index.oldest().unwrap(), Some(LogOffset(0)));
    index.clear(NOW);
    assert_eq!(index.oldest().unwrap(), Some(LogOffset(1)));
    index.remove_below(LogOffset(9)).unwrap();
    assert_eq!(backend.list("timerlog").unwrap()[0].name, format!("{:020}", OPTIONS.log_file_bytes));
    index.remove_below(LogOffset(1000)).unwrap();
    assert_eq!(backend.list("timerlog").unwrap().len(), 1, "the last file stays");
    index.save(progress(NOW.0 + 60 * SECOND, 17), NOW).unwrap();
    assert_eq!(open(&backend).unwrap().2, TimerStart::Kept);
}
