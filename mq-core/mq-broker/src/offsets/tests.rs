use mq_store::FileBackend;

use super::*;

const NOW: UnixMillis = UnixMillis(1_000);
const Q0: QueueId = QueueId(0);

fn in_directory(directory: &tempfile::TempDir) -> OffsetTable {
    let config = BrokerConfig { store_root: directory.path().into(), ..BrokerConfig::default() };
    let backend = Arc::new(FileBackend::new(directory.path()).expect("a directory"));
    OffsetTable::open(&config, backend, NOW).expect("opens")
}

#[test]
fn a_commit_never_goes_back_and_a_reset_does() {
    let directory = tempfile::tempdir().expect("a directory");
    let offsets = in_directory(&directory);
    for (commit, end, held) in [(5, 9, 5), (3, 9, 5), (8, 9, 8), (8, 8, 8), (6, 8, 8), (6, 7, 6), (9, 7, 9), (7, 7, 7)]
    {
        offsets.commit("g", "t", Q0, QueueOffset(commit), QueueOffset(end));
        assert_eq!(offsets.get("g", "t", Q0), Some(QueueOffset(held)), "{commit} of {end}");
    }
    offsets.reset("g", "t", Q0, QueueOffset(2));
    assert_eq!(offsets.get("g", "t", Q0), Some(QueueOffset(2)));
    assert_eq!(offsets.get("g", "t", QueueId(1)), None);
    assert_eq!(offsets.get("other", "t", Q0), None);
}

#[test]
fn a_redirection_is_heard_once_and_until_then_no_commit_counts() {
    let directory = tempfile::tempdir().expect("a directory");
    let offsets = in_directory(&directory);
    let commit = |offset| offsets.commit("g", "t", Q0, QueueOffset(offset), QueueOffset(9));
    let held = || offsets.get("g", "t", Q0);
    commit(5);
    offsets.redirect("g", "t", Q0, QueueOffset(3));
    offsets.redirect("g", "t", Q0, QueueOffset(2));
    commit(7);
    assert_eq!(held(), Some(QueueOffset(2)));
    for (group, topic, queue) in [("h", "t", 0), ("g", "u", 0), ("g", "t", 1)] {
        assert_eq!(offsets.take_redirection(group, topic, QueueId(queue)), None);
    }
    offsets.reset("g", "t", Q0, QueueOffset(1));
    assert_eq!(offsets.take_redirection("g", "t", Q0), Some(QueueOffset(1)), "the newest wish");
    assert_eq!(offsets.take_redirection("g", "t", Q0), None);
    commit(4);
    assert_eq!(held(), Some(QueueOffset(4)));
    let forgets: [fn(&OffsetTable); 2] = [|offsets| offsets.forget_topic("t"), |offsets| offsets.forget_group("g")];
    for forget in forgets {
        offsets.redirect("g", "t", Q0, QueueOffset(1));
        forget(&offsets);
        assert_eq!(offsets.take_redirection("g", "t", Q0), None);
    }
}

#[test]
fn what_stands_behind_the_end_after_a_crash_is_taken_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let offsets = in_directory(&directory);
    for (topic, offset) in [("short", 7), ("long", 7), ("gone", 7)] {
        offsets.reset("g", topic, Q0, QueueOffset(offset));
    }
    let end_of = |topic: &str, _| {
        QueueOffset(match topic {
            "short" => 4,
            "long" => 9,
            _ => 0,
        })
    };
    assert_eq!((offsets.take_back(end_of), offsets.take_back(end_of)), (2, 0));
    for (topic, held) in [("short", 4), ("long", 7), ("gone", 0)] {
        assert_eq!(offsets.get("g", topic, Q0), Some(QueueOffset(held)), "{topic}");
    }
}

#[test]
fn saved_offsets_survive_a_restart_and_forgotten_ones_do_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let offsets = in_directory(&directory);
    for (group, topic) in [("g", "t"), ("g", "%RETRY%g"), ("h", "t")] {
        offsets.commit(group, topic, QueueId(3), QueueOffset(7), QueueOffset(7));
    }
    offsets.save(NOW).expect("saved");
    let again = in_directory(&directory);
    assert_eq!(again.snapshot(), offsets.snapshot());
    again.forget_topic("t");
    assert_eq!(again.topics_of("g"), ["%RETRY%g"]);
    again.forget_group("g");
    again.save(NOW).expect("saved");
    assert!(in_directory(&directory).snapshot().offset_table.is_empty());
}

#[test]
fn a_killed_process_takes_back_only_what_was_not_journalled() {
    let directory = tempfile::tempdir().expect("a directory");
    let table = directory.path().join("config/consumerOffset.json");
    let offsets = in_directory(&directory);
    let commit = |offsets: &OffsetTable, group, offset| {
        offsets.commit(group, "t", Q0, QueueOffset(offset), QueueOffset(offset));
        assert!(offsets.has_news());
    };
    commit(&offsets, "g", 1);
    commit(&offsets, "gone", 1);
    offsets.write_journal();
    let before = offsets.snapshot().offset_table;
    commit(&offsets, "g", 2);
    assert_eq!(in_directory(&directory).snapshot().offset_table, before, "without a table");
    offsets.save(NOW).expect("saved");
    for offset in 3..9 {
        commit(&offsets, "g", offset);
        offsets.write_journal();
    }
    offsets.reset("g", "t", Q0, QueueOffset(4));
    offsets.forget_group("gone");
    offsets.copy("g", "h", "t").expect("there is room");
    offsets.write_journal();
    let again = in_directory(&directory);
    assert_eq!(again.snapshot().offset_table, offsets.snapshot().offset_table, "with a table");
    assert_eq!((again.get("h", "t", Q0), again.get("gone", "t", Q0)), (Some(QueueOffset(4)), None));

    // A table that cannot be written: the journal goes on from the one before.
    let blocked = table.with_extension(format!("json.{}.tmp", std::process::id()));
    std::fs::create_dir(&blocked).expect("made");
    commit(&again, "g", 7);
    again.save(NOW).expect_err("the way is blocked");
    commit(&again, "g", 8);
    again.write_journal();
    std::fs::remove_dir(&blocked).expect("removed");
    assert_eq!(in_directory(&directory).get("g", "t", Q0), Some(QueueOffset(8)), "from the table before");

    std::fs::write(&table, r#"{"offsetTable":{"t@g":{0:3}}}"#).expect("Apache wrote it");
    assert_eq!(in_directory(&directory).get("g", "t", Q0), Some(QueueOffset(3)));
}

#[test]
fn a_journal_counts_only_with_the_table_that_it_names_last() {
    type Deed = fn(&std::path::Path, &[u8]);
    let copy_put_back: Deed = |table, older| std::fs::write(table, older).expect("written");
    let both_removed: Deed = |table, _| {
        std::fs::remove_file(table).expect("removed");
        std::fs::remove_file(table.with_extension("json.bak")).expect("removed");
    };
    let removed: Deed = |table, _| std::fs::remove_file(table).expect("removed");
    let damaged: Deed = |table, _| std::fs::write(table, "{").expect("written");
    for (what, deed, held) in [
        ("a copy was put back", copy_put_back, Some(1)),
        ("the table was removed with its .bak", both_removed, None),
        ("the table was removed, its .bak stands in", removed, Some(3)),
        ("the table was damaged, its .bak stands in", damaged, Some(3)),
    ] {
        let directory = tempfile::tempdir().expect("a directory");
        let table = directory.path().join("config/consumerOffset.json");
        let offsets = in_directory(&directory);
        let mut saved = Vec::new();
        for offset in 1..=2 {
            offsets.commit("g", "t", Q0, QueueOffset(offset), QueueOffset(offset));
            offsets.save(NOW).expect("saved");
            saved.push(std::fs::read(&table).expect("a table"));
        }
        offsets.commit("g", "t", Q0, QueueOffset(3), QueueOffset(3));
        offsets.write_journal();
        deed(&table, &saved[0]);
        let again = in_directory(&directory);
        assert_eq!(again.get("g", "t", Q0), held.map(QueueOffset), "{what}");
        again.commit("g", "t", Q0, QueueOffset(9), QueueOffset(9));
        again.write_journal();
        assert_eq!(in_directory(&directory).get("g", "t", Q0), Some(QueueOffset(9)), "{what}: it goes on");
    }
}

#[test]
fn a_journal_that_cannot_be_read_holds_up_no_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let journal = directory.path().join("checkback/offset-journal");
    let offsets = in_directory(&directory);
    offsets.commit("g", "t", Q0, QueueOffset(1), QueueOffset(1));
    offsets.save(NOW).expect("saved");
    std::fs::remove_file(&journal).expect("removed");
    std::fs::create_dir(&journal).expect("what no file can replace");
    let again = in_directory(&directory);
    assert_eq!(again.get("g", "t", Q0), Some(QueueOffset(1)), "from the table");
    again.commit("g", "t", Q0, QueueOffset(2), QueueOffset(2));
    assert!(!again.write_journal(), "there is none");
    std::fs::remove_dir(&journal).expect("removed");
    again.save(NOW).expect("saved, and the journal begun");
    again.commit("g", "t", Q0, QueueOffset(3), QueueOffset(3));
    again.write_journal();
    assert_eq!(in_directory(&directory).get("g", "t", Q0), Some(QueueOffset(3)));
}

#[test]
fn what_is_too_much_for_the_journal_is_saved_with_the_table() {
    let directory = tempfile::tempdir().expect("a directory");
    let offsets = in_directory(&directory);
    let group = "g".repeat(200);
    let commit = |offset| offsets.commit(&group, "t", Q0, QueueOffset(offset), QueueOffset(offset));
    commit(1);
    assert!(!offsets.write_journal());
    (2..30_000).for_each(commit);
    assert!(offsets.write_journal(), "more than 4 MiB waited: the table is wanted");
    assert_eq!(in_directory(&directory).get(&group, "t", Q0), Some(QueueOffset(1)), "nothing behind the gap");
    let blocked = directory.path().join(format!("config/consumerOffset.json.{}.tmp", std::process::id()));
    std::fs::create_dir_all(&blocked).expect("made");
    offsets.save(NOW).expect_err("the way is blocked");
    assert!(!offsets.write_journal() && offsets.has_news(), "it is tried again in its time");
    std::fs::remove_dir(&blocked).expect("removed");
    offsets.save(NOW).expect("saved");
    assert_eq!(in_directory(&directory).get(&group, "t", Q0), Some(QueueOffset(29_999)));
    commit(30_000);
    offsets.write_journal();
    assert_eq!(in_directory(&directory).get(&group, "t", Q0), Some(QueueOffset(30_000)), "the journal goes on");
}

#[test]
fn a_damaged_journal_counts_up_to_its_damage() {
    let directory = tempfile::tempdir().expect("a directory");
    let journal = directory.path().join("checkback/offset-journal");
    let offsets = in_directory(&directory);
    let mut ends = Vec::new();
    for offset in 1..6 {
        offsets.commit("g", "t", Q0, QueueOffset(offset), QueueOffset(offset));
        offsets.write_journal();
        ends.push(std::fs::metadata(&journal).expect("a journal").len());
    }
    let whole = std::fs::read(&journal).expect("a journal");
    for at in 0..whole.len() {
        for cut in [false, true] {
            let mut bytes = whole.clone();
            if cut {
                bytes.truncate(at)
            } else {
                bytes[at] ^= 0x10
            }
            std::fs::write(&journal, &bytes).expect("written");
            let held = ends.iter().take_while(|end| **end <= at as u64).count() as u64;
            let again = in_directory(&directory);
            let found = again.get("g", "t", Q0);
            assert_eq!(found, (held > 0).then_some(QueueOffset(held)), "byte {at}, cut {cut}");
            again.commit("g", "t", Q0, QueueOffset(9), QueueOffset(9));
            again.write_journal();
            assert_eq!(in_directory(&directory).get("g", "t", Q0), Some(QueueOffset(9)), "it goes on");
        }
    }
}

#[test]
fn a_journal_does_not_outgrow_its_limit() {
    let directory = tempfile::tempdir().expect("a directory");
    let journal = directory.path().join("checkback/offset-journal");
    let offsets = in_directory(&directory);
    let bytes = || std::fs::metadata(&journal).expect("a journal").len();
    let group = "g".repeat(200);
    let mut longest = Vec::new();
    for offset in 1..160_000 {
        offsets.commit(&group, "t", Q0, QueueOffset(offset), QueueOffset(offset));
        if offset % 1000 == 0 && offsets.write_journal() {
            longest.push(bytes());
            offsets.save(NOW).expect("saved");
            assert!(bytes() < 100, "begun anew");
        }
    }
    assert!(!longest.is_empty() && longest.iter().all(|bytes| *bytes < 17 << 20), "{longest:?}");
}

#[test]
fn files_of_apache_and_torn_files_are_tolerated() {
    let unquoted = r#"{"dataVersion":{"counter":3},"groupTopicMap":{"g":["t"]},"offsetTable":{"t@g":{0:250,1:-1}}}"#;
    let quoted = r#"{"offsetTable":{"t@g":{"0":250},"no separator":{"0":1}}}"#;
    for (main, bak, held) in [
        (Some(unquoted), None, Some(250)),
        (Some(quoted), None, Some(250)),
        (Some(&unquoted[..60]), Some(quoted), Some(250)),
        (Some(""), Some(quoted), Some(250)),
        (None, Some(quoted), Some(250)),
        (None, None, None),
    ] {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("config/consumerOffset.json");
        std::fs::create_dir_all(path.parent().expect("config")).expect("made");
        main.iter().for_each(|text| std::fs::write(&path, text).expect("written"));
        bak.iter().for_each(|text| std::fs::write(path.with_extension("json.bak"), text).expect("written"));
        let offsets = in_directory(&directory);
        assert_eq!(offsets.get("g", "t", Q0), held.map(QueueOffset), "{main:?} {bak:?}");
    }
}

#[test]
fn a_new_offset_beyond_the_limit_is_refused_by_name_and_those_that_are_held_move_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let offsets = OffsetTable { limit: 3, ..in_directory(&directory) };
    let commit = |group, topic, queue, offset| {
        let admitted = offsets.admit(group, topic, QueueId(queue));
        offsets.commit(group, topic, QueueId(queue), QueueOffset(offset), QueueOffset(99));
        admitted
    };
    for queue in 0..3 {
        commit("g", "T", queue, 1).expect("there is room");
    }
    let refused = commit("h", "T", 0, 1).expect_err("there is none");
    assert!(refused.to_string().contains("3 consumer offsets, its limit"), "{refused}");
    assert_eq!(offsets.get("h", "T", QueueId(0)), None);
    commit("g", "T", 0, 2).expect("it is there");
    assert_eq!(offsets.get("g", "T", QueueId(0)), Some(QueueOffset(2)));
    for gone in [|offsets: &OffsetTable| offsets.forget_group("g"), |offsets: &OffsetTable| offsets.forget_topic("T")] {
        gone(&offsets);
        for queue in 0..3 {
            commit("g", "T", queue, 1).expect("there is room again");
        }
        commit("g", "U", 0, 1).expect_err("for three");
    }
}
