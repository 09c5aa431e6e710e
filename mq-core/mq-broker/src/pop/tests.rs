//! Where a group goes on, as its pops are recorded, read back, saved and sent elsewhere.

use mq_store::{Backend, Clock, ManualClock, MemoryBackend};

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
        let record = CheckpointRecord {
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
        };
        self.pops.write_checkpoint(&place(), &record, QueueId(0), QueueOffset(next), NOW).expect("written");
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
