//! Creation, update, deletion and persistence of topics on a real directory.

use super::*;

const NOW: UnixMillis = UnixMillis(1_000);

fn config(directory: &tempfile::TempDir) -> BrokerConfig {
    BrokerConfig {
        store_root: directory.path().into(),
        cluster_name: "C".into(),
        broker_name: "b".into(),
        ..BrokerConfig::default()
    }
}

fn open(config: &BrokerConfig) -> TopicTable {
    TopicTable::open(config, NOW).expect("opens")
}

fn request(topic: &str) -> TopicRequest<'_> {
    TopicRequest {
        topic,
        read_queues: 4,
        write_queues: 4,
        perm: 6,
        filter_type: None,
        sys_flag: 0,
        order: false,
        attributes: "",
    }
}

#[test]
fn a_send_creates_its_topic_from_the_seed_topic() {
    for (auto_create, seed, asked, queues) in [
        (true, "TBW102", 4, Some(4)),
        (true, "TBW102", 100, Some(8)),
        (true, "TBW102", 0, Some(1)),
        (true, "C", 4, Some(4)),
        (true, "SELF_TEST_TOPIC", 4, None),
        (true, "missing", 4, None),
        (false, "TBW102", 4, None),
    ] {
        let directory = tempfile::tempdir().expect("a directory");
        let topics = open(&BrokerConfig { auto_create_topic: auto_create, ..config(&directory) });
        let made = topics.for_send("orders", seed, asked, NOW);
        match queues {
            Some(queues) => {
                let made = made.expect("created");
                assert_eq!((made.read_queue_nums, made.write_queue_nums, made.perm), (queues, queues, 6));
            }
            None => {
                let error = made.expect_err("refused").to_string();
                assert_eq!(error, "topic orders does not exist, and it is not to be created by a send");
            }
        }
    }
}

#[test]
fn topics_survive_a_restart_and_every_change_moves_the_version() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = config(&directory);
    let topics = open(&config);
    let mut changes = topics.changes();
    assert!(!directory.path().join("config/topics.json").exists(), "defaults need no file");
    topics.for_send("orders", "TBW102", 4, NOW).expect("created");
    topics.retry("g", 1, NOW).expect("created");
    topics.dead_letter("g", NOW).expect("created");
    topics.put(&[TopicRequest { attributes: "+message.type=FIFO", ..request("orders") }], NOW).expect("updated");
    topics.put(&[TopicRequest { attributes: "+message.type=FIFO", ..request("orders") }], NOW).expect("the same again");
    assert!(changes.has_changed().expect("open"));
    assert_eq!(*changes.borrow_and_update(), 4);
    assert_eq!(topics.snapshot().data_version, DataVersion { counter: 4, state_version: 0, timestamp: 1_000 });

    let again = open(&config);
    assert_eq!(again.snapshot(), topics.snapshot());
    assert_eq!(again.get("orders").expect("kept").attributes["message.type"], "FIFO");
    let delete = |topic| again.delete(topic, NOW, || Ok::<_, TopicError>(()));
    delete("orders").expect("deleted");
    delete("orders").expect("already gone");
    assert!(open(&config).get("orders").is_none());
}

#[test]
fn what_a_tool_asks_wrongly_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let topics = open(&config(&directory));
    for (request, error) in [
        (request(""), "the topic name is empty"),
        (request("a b"), "the topic name \"a b\" may only have letters, digits and % | _ -"),
        (request("TBW102"), "the topic TBW102 belongs to the system"),
        (request("rmq_sys_mine"), "the topic rmq_sys_mine belongs to the system"),
        (TopicRequest { read_queues: 0, ..request("t") }, "topic t: readQueueNums=0 is not within 1 to 16384"),
        (
            TopicRequest { write_queues: 99_999, ..request("t") },
            "topic t: writeQueueNums=99999 is not within 1 to 16384",
        ),
        (TopicRequest { perm: -1, ..request("t") }, "topic t: -1 is not a permission"),
        (TopicRequest { perm: 16, ..request("t") }, "topic t: 16 is not a permission"),
    ] {
        assert_eq!(topics.put(&[request], NOW).expect_err(error).to_string(), error);
    }
    for bad in ["message.type=FIFO", "+message.type", "+colour=red", "-colour", "+message.type=A B", "+message.type="] {
        let outcome = topics.put(&[TopicRequest { attributes: bad, ..request("t") }], NOW);
        assert!(matches!(outcome, Err(TopicError::Attribute { .. })), "{bad}");
    }
    for (not_offered, offered) in [
        ("+queue.type=BatchCQ", "only queue.type=SimpleCQ"),
        ("+queue.type=RocksDBCQ", "only queue.type=SimpleCQ"),
        ("+cleanup.policy=COMPACTION", "only cleanup.policy=DELETE"),
    ] {
        let refused =
            topics.put(&[TopicRequest { attributes: not_offered, ..request("t") }], NOW).expect_err("refused");
        assert!(refused.to_string().contains(offered), "{refused}");
    }
    assert!(topics.get("t").is_none());
    for bad in ["TBW102", "", "../orders"] {
        let outcome =
            topics.delete(bad, NOW, || -> Result<(), TopicError> { panic!("nothing goes along with {bad:?}") });
        assert!(outcome.is_err(), "{bad}");
    }
}

#[test]
fn attributes_are_set_and_removed_one_by_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let topics = open(&config(&directory));
    for (attributes, expected) in [
        ("+message.type=FIFO,+cleanup.policy=DELETE", &[("cleanup.policy", "DELETE"), ("message.type", "FIFO")][..]),
        ("", &[("cleanup.policy", "DELETE"), ("message.type", "FIFO")]),
        ("-cleanup.policy,+message.type=NORMAL", &[("message.type", "NORMAL")]),
    ] {
        topics.put(&[TopicRequest { attributes, ..request("t") }], NOW).expect("updated");
        let held = topics.get("t").expect("there");
        assert_eq!(held.attributes.iter().map(|(key, value)| (&**key, &**value)).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn system_topics_are_there_and_a_read_only_broker_registers_no_writable_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let topics = open(&BrokerConfig { permission: perm::READ, ..config(&directory) });
    for (name, queues, perm) in [
        ("TBW102", 8, 7),
        ("C", 16, 7),
        ("b", 1, 7),
        ("SCHEDULE_TOPIC_XXXX", 18, 6),
        ("RMQ_SYS_TRANS_HALF_TOPIC", 1, 6),
        ("TRANS_CHECK_MAX_TIME_TOPIC", 1, 6),
        ("rmq_sys_REVIVE_LOG_C", 8, 6),
        ("rmq_sys_SYNC_BROKER_MEMBER_b", 1, 1),
    ] {
        let topic = topics.get(name).expect(name);
        assert_eq!((topic.write_queue_nums, topic.perm), (queues, perm), "{name}");
        assert_eq!(topics.registration().topic_config_table[name].perm, perm & !2, "{name}");
    }
}

#[test]
fn a_topic_that_cannot_be_written_to_disk_is_not_there() {
    let directory = tempfile::tempdir().expect("a directory");
    let topics = open(&config(&directory));
    std::fs::write(directory.path().join("config"), "a file where the directory should be").expect("written");
    let outcome = topics.for_send("orders", "TBW102", 4, NOW);
    assert!(matches!(outcome, Err(TopicError::Save(_))));
    assert!(topics.get("orders").is_none());
    assert_eq!(topics.snapshot().data_version.counter, 0);
}

#[test]
fn a_table_that_no_registration_could_carry_is_refused_and_can_shrink() {
    let directory = tempfile::tempdir().expect("a directory");
    let topics = open(&config(&directory));
    let half = "x".repeat(MAX_TABLE_BYTES / 2);
    let large = |topic| TopicRequest { filter_type: Some(&half), ..request(topic) };
    topics.put(&[large("first")], NOW).expect("fits");
    let error = topics.put(&[large("second")], NOW).expect_err("too much");
    assert!(matches!(error, TopicError::TableTooLarge { .. }), "{error}");
    assert!(topics.get("second").is_none());
    assert!(body::to_json(&topics.registration()).len() < MAX_FRAME_BYTES);
    topics.delete("first", NOW, || Ok::<_, TopicError>(())).expect("deleted");
    topics.put(&[large("second")], NOW).expect("fits now");
}
