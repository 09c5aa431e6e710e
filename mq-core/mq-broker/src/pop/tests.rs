//! Where a group goes on, as its pops are recorded, read back, saved and sent elsewhere.

use std::time::Duration;

use mq_protocol::body::TakenFrom;
use mq_store::{Backend, Clock, FlushMode, ManualClock, MemoryBackend, Options};

use super::*;
use crate::settings::store_options;

const NOW: UnixMillis = UnixMillis(1_000);
const HOST: ([u8; 4], u16) = ([127, 0, 0, 1], 10911);

/// A broker's disk.
struct World {
    directory: tempfile::TempDir,
    backend: Arc<dyn Backend>,
    store: Store,
}

struct Group {
    pops: Pops,
    offsets: OffsetTable,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(NOW));
        let options = store_options(&BrokerConfig::default(), &"1s".parse().expect("a delay"));
        // Nothing becomes visible before `settle`.
        let options = Options { flush: FlushMode::Manual, ..options };
        let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::default());
        let (store, _) = Store::open(backend.clone(), options, clock).expect("opens");
        Self { directory, backend, store }
    }

    /// As a start finds it.
    fn group(&self) -> Group {
        let config = BrokerConfig { store_root: self.directory.path().into(), ..BrokerConfig::default() };
        let offsets = OffsetTable::open(&config, self.backend.clone(), NOW).expect("opens");
        let pops = Pops::open(&config, self.store.clone(), HOST.into(), 1, &offsets, NOW).expect("opens");
        Group { pops, offsets }
    }

    /// What is written becomes visible.
    fn settle(&self) {
        self.store.flush().expect("on disk");
    }
}

fn place() -> Place {
    Place { topic: "T".into(), group: "g".into(), queue_id: QueueId(0) }
}

impl Group {
    /// Gives out the messages from `start` up to `next`.
    fn pop(&self, start: u64, next: u64) {
        let record = self.record(start, next);
        self.pops.write_checkpoint(&place(), &record, QueueId(0), QueueOffset(next), NOW).expect("written");
    }

    /// Asks for the message at `start` at another time; says whether that is not too late.
    fn change(&self, start: u64, now: UnixMillis) -> bool {
        let from = TakenFrom { start_offset: QueueOffset(start), pop_time: NOW };
        let record = CheckpointRecord { pop_time: now, from: Some(from), ..self.record(start, start + 1) };
        let old = AckRecord {
            ack_offset: start as i64,
            start_offset: QueueOffset(start),
            consumer_group: "g".into(),
            topic: "T".into(),
            queue_id: QueueId(0),
            pop_time: NOW,
            broker_name: None,
            ack_offsets: Vec::new(),
        };
        self.pops.write_change(&record, &old, QueueId(0), now).expect("written").is_some()
    }

    /// The first messages of what comes again at `now`.
    fn lapsed(&self, now: UnixMillis) -> Option<Vec<u64>> {
        let lapsed = self.pops.lapsed(now, 100, &self.offsets).expect("read")?;
        Some(lapsed.iter().map(|lapsed| lapsed.id.start.0).collect())
    }

    fn record(&self, start: u64, next: u64) -> CheckpointRecord {
        CheckpointRecord {
            start_offset: QueueOffset(start),
            pop_time: NOW,
            invisible_time: 60_000,
            bit_map: 0,
            num: (next - start) as i8,
            queue_id: QueueId(0),
            topic: "T".into(),
            consumer_group: "g".into(),
            revive_offset: 0,
            diffs: (0..(next - start) as u32).collect(),
            broker_name: None,
            re_put_times: None,
            from: None,
        }
    }

    fn read(&self) {
        self.pops.catch_up(&self.offsets).expect("read");
    }

    fn reset(&self, to: u64) {
        self.pops.reset(&place(), QueueOffset(to), &self.offsets);
    }

    /// Where its next pop starts, and what a tool sees.
    fn at(&self) -> [Option<u64>; 2] {
        let position = self.pops.position(&place(), &self.offsets);
        [position, self.offsets.get("g", "T", QueueId(0))].map(|offset| offset.map(|offset| offset.0))
    }
}

#[test]
fn a_group_is_where_it_was_moved_to_once_its_records_are_read() {
    type Move = fn(&Group);
    for (what, moves, next) in [
        ("nothing", (|_| ()) as Move, 3),
        (
            "passed over messages that it does not want",
            |group| group.pops.skip_to(&place(), QueueOffset(9), &group.offsets),
            9,
        ),
        ("sent back", |group| group.reset(1), 1),
        (
            "sent back, and passed over messages",
            |group| {
                group.reset(0);
                group.pops.skip_to(&place(), QueueOffset(2), &group.offsets);
            },
            2,
        ),
        ("sent ahead", |group| group.reset(7), 7),
    ] {
        let world = World::new();
        let group = world.group();
        group.pop(0, 3);
        moves(&group);
        assert_eq!(group.at()[0], Some(next), "{what}");
        world.settle();
        group.read();
        assert_eq!(group.at(), [Some(next); 2], "{what}");
    }
}

#[test]
fn a_reset_that_is_saved_is_not_undone_by_the_records_before_it() {
    let world = World::new();
    let group = world.group();
    group.pop(0, 3);
    world.settle();
    group.pops.note_progress(&group.offsets);
    // What comes between the note and the save, a save must not tear apart.
    group.pop(3, 5);
    world.settle();
    group.read();
    assert_eq!(group.at(), [Some(5); 2]);
    group.reset(1);
    group.offsets.save(NOW).expect("saved");
    assert_eq!(world.group().at(), [Some(1); 2], "after a crash");
}

#[test]
fn what_nobody_acknowledged_comes_again_while_others_never_cease_to_write() {
    let world = World::new();
    let group = world.group();
    (0..3).for_each(|n| group.pop(n, n + 1));
    world.settle();
    group.read();
    let (soon, due) = (NOW.plus(Duration::from_secs(1)), NOW.plus(Duration::from_secs(60)));
    assert!(group.change(0, soon), "in time");
    assert_eq!(group.lapsed(due), None, "what was said before is not all read");
    assert!(!group.change(1, due), "it is about to come again");
    // Each sync that ends finds the next append under way.
    world.settle();
    group.pop(3, 4);
    assert_eq!(group.lapsed(due), Some(vec![1, 2]), "and not the one whose time was changed");
    world.settle();
    group.read();
    assert_eq!(group.lapsed(soon.plus(Duration::from_secs(60))), Some(vec![3, 0]), "changed, and popped meanwhile");
}

#[test]
fn a_damaged_record_takes_none_of_its_neighbours_along() {
    let world = World::new();
    let group = world.group();
    (0..5).for_each(|n| group.pop(n, n + 1));
    world.settle();
    let log = world.backend.open("commitlog/00000000000000000000").expect("the log");
    let mut bytes = vec![0; 64 << 10];
    log.read_at(0, &mut bytes).expect("read");
    let body = br#""so":2"#;
    let at = bytes.windows(body.len()).position(|window| window == body).expect("the third record");
    log.write_at(at as u64, b"x").expect("written");
    group.read();
    assert_eq!(group.pops.in_flight(&place()), 4);
    assert_eq!(world.group().pops.in_flight(&place()), 4, "after a crash");
}
