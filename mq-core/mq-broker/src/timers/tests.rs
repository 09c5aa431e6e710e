//! The driver on a store without threads: every step is a call of the test.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mq_protocol::ids::{LogOffset, QueueId, QueueOffset, UnixMillis};
use mq_protocol::properties::{Properties, name};
use mq_protocol::recall::RecallHandle;
use mq_protocol::record::{Message, StoredMessage};
use mq_protocol::topic;
use mq_store::backend::{CrashBackend, CrashMode, Fault};
use mq_store::timer::{TimerError, TimerOptions};
use mq_store::{Backend, Clock, FlushMode, ManualClock, MemoryBackend, OpenError, Options, Store};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::driver::TimersError;
use super::{Driver, TimerSettings, Timers, UNLIMITED, message};
use crate::bell::Bell;
use crate::stats::Stats;

const START: UnixMillis = UnixMillis(1_700_000_000_000);
const SLOTS: u64 = 70;
const WINDOW: Duration = Duration::from_secs(40);
const SETTINGS: TimerSettings = TimerSettings { window: WINDOW, congestion: UNLIMITED };

#[derive(Debug)]
#[expect(dead_code, reason = "printed when a test fails")]
enum Failed {
    Open(OpenError),
    Index(TimerError),
    Driver(TimersError),
}

struct World {
    store: Store,
    timers: Arc<Timers>,
    driver: Driver,
    clock: Arc<ManualClock>,
}

impl World {
    fn open(backend: Arc<dyn Backend>, clock: &Arc<ManualClock>, config: &std::path::Path) -> Result<Self, Failed> {
        let options = Options { segment_bytes: 64 << 10, flush: FlushMode::Manual, ..Options::default() };
        let (store, _) = Store::open(backend.clone(), options, clock.clone()).map_err(Failed::Open)?;
        let options = TimerOptions { slots: SLOTS, log_file_bytes: 7 * 52 + 20, ..TimerOptions::default() };
        let stats = Arc::new(Stats::new("c", clock.now()));
        let (timers, progress, start) =
            Timers::open(backend, options, config, SETTINGS, stats, clock.now()).map_err(Failed::Index)?;
        let bell = Arc::new(Bell::default());
        let mut driver = Driver::new(store.clone(), clock.clone(), timers.clone(), bell, (progress, start));
        driver.begin().map_err(Failed::Driver)?;
        store.flush().map_err(|error| Failed::Driver(error.into()))?;
        Ok(Self { store, timers, driver, clock: clock.clone() })
    }

    fn send(&self, text: &str, seconds: i64) -> Result<(), Failed> {
        self.put(message::waiting(plain(text), UnixMillis(self.clock.now().0 + seconds * 1000)))
    }

    fn recall(&self, text: &str, slot: UnixMillis) -> Result<(), Failed> {
        let handle = RecallHandle {
            topic: "T".into(),
            broker_name: "b".into(),
            deliver_ms: slot.0 + 1,
            unique_key: text.into(),
        };
        self.put(message::recall(&handle, None, slot, plain("")))
    }

    /// Acknowledged once it returns.
    fn put(&self, message: Message) -> Result<(), Failed> {
        self.store.append(&[[message]]).map_err(|error| Failed::Driver(error.into()))?;
        self.store.flush().map_err(|error| Failed::Driver(error.into()))
    }

    fn turn(&mut self) -> Result<Option<UnixMillis>, Failed> {
        let next = self.driver.turn().map_err(Failed::Driver)?;
        self.store.flush().map_err(|error| Failed::Driver(error.into()))?;
        Ok(next)
    }

    fn save(&mut self) -> Result<(), Failed> {
        self.driver.save().map_err(Failed::Driver)
    }

    fn delivered(&self) -> Vec<StoredMessage> {
        let entry = |offset| self.store.entry("T", QueueId(3), QueueOffset(offset)).ok()?;
        (0..).map_while(|offset| self.store.read(entry(offset)?.log_offset).ok()?).collect()
    }

    fn bodies(&self) -> Vec<String> {
        let text = |stored: StoredMessage| String::from_utf8(stored.message.body.to_vec()).unwrap();
        self.delivered().into_iter().map(text).collect()
    }
}

fn plain(text: &str) -> Message {
    let mut properties = Properties::default();
    properties.set(name::UNIQ_KEY, text.to_owned());
    Message {
        topic: "T".into(),
        queue_id: QueueId(3),
        flag: 0,
        sys_flag: 0,
        born_timestamp: START,
        born_host: "127.0.0.1:4000".parse().unwrap(),
        store_host: "127.0.0.1:10911".parse().unwrap(),
        reconsume_times: 0,
        prepared_transaction_offset: LogOffset(0),
        properties: properties.encode(),
        body: text.to_owned().into(),
    }
}

fn memory() -> (Arc<MemoryBackend>, Arc<ManualClock>, tempfile::TempDir) {
    (Arc::new(MemoryBackend::new()), Arc::new(ManualClock::at(START)), tempfile::tempdir().unwrap())
}

#[test]
fn a_message_is_delivered_when_its_slot_is_over_and_says_how_it_waited() {
    let (backend, clock, config) = memory();
    let mut world = World::open(backend, &clock, config.path()).unwrap();
    world.send("late", 5).unwrap();
    world.send("soon", 2).unwrap();
    for (advance, expected, next) in [
        (0, &[][..], Some(START.0 + 3000)),
        (2999, &[][..], Some(START.0 + 3000)),
        (1, &["soon"][..], Some(START.0 + 6000)),
        (2999, &["soon"][..], Some(START.0 + 6000)),
        (1, &["soon", "late"][..], None),
    ] {
        clock.advance(Duration::from_millis(advance));
        assert_eq!(world.turn().unwrap(), next.map(UnixMillis));
        assert_eq!(world.bodies(), expected);
    }
    let soon = &world.delivered()[0].message;
    for (key, value) in [
        (name::TIMER_OUT_MS, "1700000002000"),
        (name::TIMER_ENQUEUE_MS, "1700000000000"),
        (name::TIMER_DEQUEUE_MS, "1700000003000"),
        (name::REAL_TOPIC, "T"),
        (name::REAL_QUEUE_ID, "3"),
    ] {
        assert_eq!(soon.property(key), Some(value));
    }
}

#[test]
fn a_message_beyond_the_window_is_stored_anew_until_its_time() {
    let (backend, clock, config) = memory();
    let mut world = World::open(backend, &clock, config.path()).unwrap();
    world.send("far", 130).unwrap();
    for second in 0..131 {
        world.turn().unwrap();
        assert!(world.bodies().is_empty(), "second {second}");
        clock.advance(Duration::from_secs(1));
    }
    world.turn().unwrap();
    assert_eq!(world.bodies(), ["far"]);
    assert_eq!(world.delivered()[0].message.property(name::TIMER_ROLL_TIMES), Some("3"));
    assert!(world.driver.timers.metrics().timing_count.is_empty());
}

#[test]
fn what_is_taken_back_is_not_delivered_and_nothing_else_is() {
    for rolls in [false, true] {
        let (backend, clock, config) = memory();
        let mut world = World::open(backend, &clock, config.path()).unwrap();
        let seconds = if rolls { 90 } else { 5 };
        for text in ["a", "b", "c"] {
            world.send(text, seconds).unwrap();
        }
        world.turn().unwrap();
        let slot = UnixMillis(START.0 + seconds * 1000);
        world.recall("b", slot).unwrap();
        // For another second: it takes nothing back.
        world.recall("c", UnixMillis(slot.0 + 1000)).unwrap();
        assert_eq!(world.driver.timers.metrics().timing_count["T"].count, 3);
        world.turn().unwrap();
        assert_eq!(world.driver.timers.metrics().timing_count["T"].count, 1);
        for _ in 0..seconds + 2 {
            clock.advance(Duration::from_secs(1));
            world.turn().unwrap();
        }
        assert_eq!(world.bodies(), ["a", "c"], "rolls: {rolls}");
        assert!(world.driver.timers.metrics().timing_count.is_empty());
    }
}

#[test]
fn apaches_older_delete_key_takes_back_too() {
    let (backend, clock, config) = memory();
    let mut world = World::open(backend, &clock, config.path()).unwrap();
    world.send("a", 5).unwrap();
    world.recall("T+a", UnixMillis(START.0 + 5000)).unwrap();
    clock.advance(Duration::from_secs(9));
    world.turn().unwrap();
    assert!(world.bodies().is_empty());
}

#[test]
fn what_fell_due_while_the_broker_was_down_is_delivered_at_once_recalls_included() {
    for days in [0, 3, 40] {
        let (backend, clock, config) = memory();
        let mut world = World::open(backend.clone(), &clock, config.path()).unwrap();
        world.send("kept", 5).unwrap();
        world.send("taken back", 5).unwrap();
        world.turn().unwrap();
        world.save().unwrap();
        // Stored, but nobody was there any more to link it.
        world.recall("taken back", UnixMillis(START.0 + 5000)).unwrap();
        world.send("unlinked", 7).unwrap();
        drop(world);
        clock.advance(Duration::from_secs(days * 86_400 + 60));
        let mut world = World::open(backend, &clock, config.path()).unwrap();
        assert_eq!(world.turn().unwrap(), None);
        assert_eq!(world.bodies(), ["kept", "unlinked"], "{days} days");
    }
}

#[test]
fn a_clock_that_jumps_drops_nothing_and_makes_nothing_early_by_the_clock_that_was_told() {
    let (backend, clock, config) = memory();
    let mut world = World::open(backend, &clock, config.path()).unwrap();
    world.send("before", 5).unwrap();
    world.turn().unwrap();
    clock.advance(Duration::from_secs(30));
    world.turn().unwrap();
    assert_eq!(world.bodies(), ["before"]);
    clock.set(START);
    world.send("after", 5).unwrap();
    assert_eq!(world.turn().unwrap(), Some(UnixMillis(START.0 + 6000)));
    assert_eq!(world.bodies(), ["before"]);
    clock.advance(Duration::from_secs(6));
    world.turn().unwrap();
    assert_eq!(world.bodies(), ["before", "after"]);
}

#[test]
fn a_wheel_that_is_lost_or_damaged_is_made_anew_and_nothing_is_delivered_twice() {
    type Damage = fn(&MemoryBackend);
    let damages: [(&str, Damage); 4] = [
        ("no wheel", |backend| backend.remove("timerwheel").unwrap()),
        ("no checkpoint", |backend| backend.remove("config/timercheck").unwrap()),
        ("a damaged log", |backend| {
            backend.open("timerlog/00000000000000000000").unwrap().write_at(0, &[0; 300]).unwrap();
        }),
        ("nothing at all", |backend| {
            backend.remove("timerwheel").unwrap();
            backend.remove("config/timercheck").unwrap();
            backend.remove("timerlog/00000000000000000000").unwrap();
        }),
    ];
    for (what, damage) in damages {
        let (backend, clock, config) = memory();
        let mut world = World::open(backend.clone(), &clock, config.path()).unwrap();
        for (text, seconds) in [("a", 1), ("b", 9), ("c", 2), ("d", 9)] {
            world.send(text, seconds).unwrap();
        }
        clock.advance(Duration::from_secs(4));
        world.turn().unwrap();
        world.save().unwrap();
        assert_eq!(world.bodies(), ["a", "c"]);
        drop(world);
        damage(&backend);
        let mut world = World::open(backend, &clock, config.path()).unwrap();
        let waits = world.store.entry(topic::TIMER, message::QUEUE, QueueOffset(1)).unwrap().unwrap().log_offset;
        let needed = world.timers.needed_from(&world.store).unwrap();
        assert!(needed.is_some_and(|from| from <= waits), "{what}: {needed:?}, b is at {waits}");
        world.turn().unwrap();
        clock.advance(Duration::from_secs(10));
        world.turn().unwrap();
        assert_eq!(world.bodies(), ["a", "c", "b", "d"], "{what}");
    }
}

/// What a producer was told, by the message's text: when it is due, or that it is taken back.
#[derive(Clone, Default)]
struct Promises {
    due: BTreeMap<String, UnixMillis>,
    /// The request was on its way when the power failed.
    unsure: Vec<String>,
    sent: u32,
}

/// Sends, recalls, lets time pass, delivers and saves, as the dice say, until something fails.
fn history(world: &mut World, dice: &mut StdRng, promises: &mut Promises, steps: usize) -> Result<(), Failed> {
    for _ in 0..steps {
        match dice.random_range(0..12) {
            0..5 => {
                let (text, seconds) = (format!("m{}", promises.sent), dice.random_range(0..60));
                promises.sent += 1;
                promises.unsure.push(text.clone());
                let slot = UnixMillis(world.clock.now().0 / 1000 * 1000 + seconds * 1000);
                world.put(message::waiting(plain(&text), slot))?;
                promises.unsure.pop();
                promises.due.insert(text, UnixMillis(slot.0 + 1000));
            }
            5 => {
                let later = UnixMillis(world.clock.now().0 + 1000);
                let Some((text, due)) = promises.due.iter().find(|(_, due)| **due > later) else { continue };
                let (text, slot) = (text.clone(), UnixMillis(due.0 - 1000));
                promises.due.remove(&text);
                promises.unsure.push(text.clone());
                world.recall(&text, slot)?;
                promises.unsure.pop();
            }
            6..9 => world.clock.advance(Duration::from_millis(dice.random_range(0..7000))),
            9..11 => drop(world.turn()?),
            _ => {
                world.turn()?;
                world.save()?;
            }
        }
        let now = world.clock.now();
        for text in world.bodies() {
            let early = promises.due.get(&text).is_some_and(|due| *due > now);
            assert!(!early, "{text} was delivered early");
        }
    }
    Ok(())
}

/// All that was promised is delivered once and nothing that was taken back; of what was unsure anything, but once.
fn check(mut world: World, promises: &Promises) -> Result<(), String> {
    world.turn().map_err(|error| format!("{error:?}"))?;
    for _ in 0..4 {
        world.clock.advance(Duration::from_secs(35));
        world.turn().map_err(|error| format!("{error:?}"))?;
    }
    let mut delivered = world.bodies();
    delivered.sort();
    if delivered.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(format!("delivered twice: {delivered:?}"));
    }
    delivered.retain(|text| !promises.unsure.contains(text));
    let mut expected: Vec<&String> = promises.due.keys().collect();
    expected.sort();
    if delivered.iter().collect::<Vec<_>>() != expected {
        return Err(format!("delivered {delivered:?}, promised {expected:?}"));
    }
    Ok(())
}

fn operations(seed: u64) -> u64 {
    let (clock, config) = (Arc::new(ManualClock::at(START)), tempfile::tempdir().unwrap());
    let backend = CrashBackend::new();
    let mut world = World::open(Arc::new(backend.clone()), &clock, config.path()).unwrap();
    history(&mut world, &mut StdRng::seed_from_u64(seed), &mut Promises::default(), 40).unwrap();
    backend.operations()
}

#[test]
fn a_power_cut_at_any_call_loses_nothing_delivers_nothing_early_and_nothing_twice() {
    // TIMER_SEEDS=100..200 looks further; a failure names its seed, operation and mode.
    let seeds = std::env::var("TIMER_SEEDS").unwrap_or_else(|_| "0..3".into());
    let (from, to) = seeds.split_once("..").expect("TIMER_SEEDS is a range");
    let config = tempfile::tempdir().unwrap();
    let mut images = 0;
    for seed in from.parse().unwrap()..to.parse().unwrap() {
        for operation in 0..operations(seed) {
            let clock = Arc::new(ManualClock::at(START));
            let (backend, mut promises) = (CrashBackend::new(), Promises::default());
            backend.plan(operation, Fault::PowerCut);
            if let Ok(mut world) = World::open(Arc::new(backend.clone()), &clock, config.path()) {
                drop(history(&mut world, &mut StdRng::seed_from_u64(seed), &mut promises, 40));
            }
            for mode in CrashMode::ALL {
                let told = |error: String| {
                    panic!("TIMER_SEEDS={seed}..{}, operation {operation}, {mode:?}: {error}", seed + 1)
                };
                let clock = Arc::new(ManualClock::at(clock.now()));
                let (found, mut promises) = (backend.crash(mode, operation), promises.clone());
                // Once more on the way, then for good.
                let mut dice = StdRng::seed_from_u64(operation);
                found.plan(found.operations() + dice.random_range(5..40), Fault::PowerCut);
                if let Ok(mut world) = World::open(Arc::new(found.clone()), &clock, config.path()) {
                    drop(history(&mut world, &mut dice, &mut promises, 10));
                }
                let found = found.crash(mode, operation);
                match World::open(Arc::new(found), &clock, config.path()) {
                    Ok(world) => check(world, &promises).unwrap_or_else(told),
                    Err(error) => told(format!("{error:?}")),
                }
                images += 1;
            }
        }
    }
    println!("{images} images");
}

#[test]
fn an_error_at_any_call_is_overcome_without_loss_or_a_second_delivery() {
    let config = tempfile::tempdir().unwrap();
    for operation in 0..operations(1) {
        let clock = Arc::new(ManualClock::at(START));
        let (backend, mut promises) = (CrashBackend::new(), Promises::default());
        let Ok(mut world) = World::open(Arc::new(backend.clone()), &clock, config.path()) else { continue };
        backend.plan(operation.max(backend.operations()), Fault::Fails(std::io::ErrorKind::StorageFull));
        let mut dice = StdRng::seed_from_u64(1);
        if history(&mut world, &mut dice, &mut promises, 40).is_err() {
            // A full disk is not the end: the same driver goes on. A failed sync of the log is, and a start follows.
            drop(history(&mut world, &mut dice, &mut promises, 20));
        }
        let poisoned = world.store.poisoned().is_some();
        if poisoned {
            drop(world);
            let found = Arc::new(backend.crash(CrashMode::Keep, operation));
            world = World::open(found, &clock, config.path()).unwrap();
        }
        check(world, &promises).unwrap_or_else(|error| panic!("operation {operation}: {error}"));
    }
}
