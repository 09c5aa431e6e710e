//! The engine's cases as text: what it learns and is asked, and what it says.
//!
//! `ck at start+diffs @popped ~invisible [< start@popped]` is a checkpoint (taken from another one), `apaches time ck …` one
//! whose acknowledgements may come until then, `ack start@popped offsets` an acknowledgement; `at` is `revive queue:offset`. `due now` lists what lapsed, `again start@popped until` puts it off,
//! `flying` counts, `first queue` names the first record that is needed.

use std::fmt::Write;

use mq_protocol::body::TakenFrom;

use super::*;

fn number<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().unwrap_or_else(|error| panic!("{text}: {error:?}"))
}

fn pair(text: &str, by: char) -> (&str, &str) {
    text.split_once(by).unwrap_or_else(|| panic!("{text} lacks {by}"))
}

fn checkpoint(words: &[&str]) -> (CheckpointRecord, RecordAt) {
    let (queue, offset) = pair(words[0], ':');
    let (start, diffs) = pair(words[1], '+');
    let diffs: Vec<u32> = diffs.split(',').map(number).collect();
    let from = words.get(5).map(|old| {
        let (start, popped) = pair(old, '@');
        TakenFrom { start_offset: number(start), pop_time: number(popped) }
    });
    let record = CheckpointRecord {
        start_offset: number(start),
        pop_time: number(words[2].trim_start_matches('@')),
        invisible_time: number(words[3].trim_start_matches('~')),
        bit_map: 0,
        num: diffs.len() as i8,
        queue_id: QueueId(0),
        topic: "T".into(),
        consumer_group: "g".into(),
        revive_offset: 0,
        diffs,
        broker_name: None,
        re_put_times: None,
        from,
    };
    (record, RecordAt { queue_id: number(queue), offset: number(offset) })
}

fn ack(words: &[&str]) -> AckRecord {
    let (start, popped) = pair(words[0], '@');
    AckRecord {
        ack_offset: -1,
        start_offset: number(start),
        consumer_group: "g".into(),
        topic: "T".into(),
        queue_id: QueueId(0),
        pop_time: number(popped),
        broker_name: None,
        ack_offsets: words[1].split(',').map(number).collect(),
    }
}

fn id(text: &str) -> CheckpointId {
    let (start, popped) = pair(text, '@');
    let place = Arc::new(Place { topic: "T".into(), group: "g".into(), queue_id: QueueId(0) });
    CheckpointId { place, start: number(start), pop_time: number(popped) }
}

enum Logged {
    Checkpoint(CheckpointRecord, RecordAt),
    Ack(AckRecord),
}

/// What a start makes of the records that are still needed.
fn read_again(engine: &Engine, log: &[Logged]) -> Engine {
    let mut again = Engine::default();
    for record in log {
        match record {
            Logged::Checkpoint(record, at)
                if engine.first_open(at.queue_id).is_some_and(|first| at.offset >= first) =>
            {
                again.checkpoint(record, *at, None);
            }
            Logged::Checkpoint(..) => {}
            Logged::Ack(record) => again.ack(record),
        }
    }
    again
}

fn open(engine: &Engine) -> BTreeMap<CheckpointId, Vec<QueueOffset>> {
    engine.checkpoints.iter().map(|(id, checkpoint)| (id.clone(), checkpoint.open.clone())).collect()
}

/// What the script's questions are answered with, one after the other.
fn run(script: &str) -> String {
    let mut engine = Engine::default();
    let mut said = String::new();
    let mut log = Vec::new();
    for line in script.split(';').map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[0] {
            "ck" => {
                let (record, at) = checkpoint(&words[1..]);
                engine.checkpoint(&record, at, None);
                log.push(Logged::Checkpoint(record, at));
            }
            "apaches" => {
                let (record, at) = checkpoint(&words[3..]);
                engine.checkpoint(&record, at, Some(number(words[1])));
                log.push(Logged::Checkpoint(record, at));
            }
            "ack" => {
                let record = ack(&words[1..]);
                engine.ack(&record);
                log.push(Logged::Ack(record));
            }
            "due" => {
                for Lapsed { id, open, by_consumer, .. } in engine.lapsed(number(words[1]), 100) {
                    let open: Vec<String> = open.iter().map(ToString::to_string).collect();
                    let asked = if by_consumer { "!" } else { "" };
                    write!(said, "{}@{}:{}{asked} ", id.start, id.pop_time, open.join(",")).expect("a string grows");
                }
                said.push_str("| ");
            }
            "again" => engine.postpone(&id(words[1]), number(words[2])),
            "flying" => {
                let place = &id("0@0").place;
                let counts = [engine.in_flight(place), engine.in_flight_of_group("g"), engine.in_flight_in_total()];
                assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?} after {script}");
                write!(said, "{} ", counts[0]).expect("a string grows");
            }
            "first" => write!(said, "{:?} ", engine.first_open(number(words[1])).map(|first| first.0)).expect("grows"),
            other => panic!("unknown word {other}"),
        }
        assert_eq!(open(&read_again(&engine, &log)), open(&engine), "a start knows the same: {script}");
    }
    assert_eq!(engine.needed.values().sum::<usize>(), engine.checkpoints.len(), "each needs one record: {script}");
    if engine.messages == 0 {
        assert!(engine.checkpoints.is_empty() && engine.due.is_empty(), "nothing is left: {script}");
        assert!(engine.groups.is_empty() && engine.places.values().all(|count| *count == 0), "{script}");
    }
    said.trim_end().to_owned()
}

#[test]
fn what_is_acknowledged_in_time_stays_away_and_what_is_not_comes_again() {
    for (name, script, said) in [
        ("not before its time", "ck 0:0 5+0,2 @100 ~50; due 149; due 150", "| 5@100:5,7 |"),
        ("once only", "ck 0:0 5+0 @100 ~50; due 150; due 999", "5@100:5 | |"),
        ("acknowledged", "ck 0:0 5+0,1 @100 ~50; ack 5@100 5,6; due 999; flying", "| 0"),
        ("in part", "ck 0:0 5+0,1,2 @100 ~50; ack 5@100 6; flying; due 150", "2 5@100:5,7 |"),
        ("twice is once", "ck 0:0 5+0,1 @100 ~50; ack 5@100 5; ack 5@100 5; flying", "1"),
        ("by another handle", "ck 0:0 5+0 @100 ~50; ack 5@99 5; ack 4@100 5; ack 5@100 6; flying", "1"),
        ("unknown", "ack 5@100 5; flying; due 999", "0 |"),
        ("late but before its copy", "ck 0:0 5+0 @100 ~50; due 150; ack 5@100 5; flying; due 999", "5@100:5 | 0 |"),
        ("two pops of a queue", "ck 0:0 5+0 @100 ~50; ck 1:0 6+0 @101 ~9; due 120; due 150", "6@101:6 | 5@100:5 |"),
        ("no time at all", "ck 0:0 5+0 @100 ~-7; due 100", "5@100:5 |"),
        ("Apache's", "apaches 153 ck 0:0 5+0,1 @100 ~50; due 152; ack 5@100 5; due 153", "| 5@100:6 |"),
        (
            "another broker let it be for ever",
            "ck 0:0 5+0 @100 ~9223372036854775807; due 43200099; due 43200100",
            "| 5@100:5 |",
        ),
        ("read again", "ck 0:0 5+0 @100 ~50; ck 0:0 5+0 @100 ~50; flying; ack 5@100 5; flying", "1 0"),
    ] {
        assert_eq!(run(script), said, "{name}");
    }
}

#[test]
fn a_changed_time_replaces_the_old_one_for_its_message_alone() {
    for (name, script, said) in [
        ("later", "ck 0:0 5+0,1 @100 ~50; ck 0:1 6+0 @120 ~99 < 5@100; due 150; due 219", "5@100:5 | 6@120:6! |"),
        ("the old handle is dead", "ck 0:0 5+0 @100 ~50; ck 0:1 5+0 @120 ~99 < 5@100; ack 5@100 5; flying", "1"),
        ("the new one lives", "ck 0:0 5+0 @100 ~50; ck 0:1 5+0 @120 ~99 < 5@100; ack 5@120 5; flying", "0"),
        ("after its end", "ck 0:0 5+0 @100 ~50; ack 5@100 5; ck 0:1 5+0 @120 ~9 < 5@100; flying; due 999", "0 |"),
        (
            "while it is revived",
            "ck 0:0 5+0 @100 ~50; due 150; ck 0:1 5+0 @151 ~9 < 5@100; ack 5@100 5; due 160",
            "5@100:5 | 5@151:5! |",
        ),
        ("Apache's own has no origin", "ck 0:0 5+0 @100 ~50; ck 0:1 5+0 @120 ~9; ack 5@100 5; due 129", "5@120:5 |"),
    ] {
        assert_eq!(run(script), said, "{name}");
    }
}

#[test]
fn what_could_not_be_revived_waits_and_the_first_needed_record_is_known() {
    for (name, script, said) in [
        ("put off", "ck 0:0 5+0 @100 ~50; due 150; again 5@100 300; due 299; due 300", "5@100:5 | | 5@100:5 |"),
        (
            "put off for the rest",
            "ck 0:0 5+0,1 @100 ~50; due 150; ack 5@100 5; again 5@100 200; due 200",
            "5@100:5,6 | 5@100:6 |",
        ),
        (
            "put off when it is gone",
            "ck 0:0 5+0 @100 ~50; due 150; ack 5@100 5; again 5@100 200; due 999",
            "5@100:5 | |",
        ),
        (
            "first of each queue",
            "ck 0:3 5+0 @1 ~9; ck 0:4 6+0 @1 ~9; ck 2:1 7+0 @1 ~9; first 0; first 1; first 2",
            "Some(3) None Some(1)",
        ),
        ("of what it was taken from", "ck 0:3 5+0,1 @1 ~9; ck 0:4 6+0 @2 ~9 < 5@1; ack 5@1 5; first 0", "Some(3)"),
        (
            "and that from another",
            "ck 0:3 5+0 @1 ~9; ck 0:4 5+0 @2 ~9 < 5@1; ck 0:6 5+0 @3 ~9 < 5@2; first 0; ack 5@3 5; first 0",
            "Some(3) None",
        ),
        ("moves on", "ck 0:3 5+0 @1 ~9; ck 0:4 6+0 @1 ~9; ack 5@1 5; first 0; ack 6@1 6; first 0", "Some(4) None"),
    ] {
        assert_eq!(run(script), said, "{name}");
    }
}
