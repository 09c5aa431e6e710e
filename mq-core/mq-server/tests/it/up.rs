//! `mq up`: name server and broker in one process.

use std::time::Duration;

use crate::process::Mq;
use crate::wire::Client;

/// The promise is 0.3 s for the release build; a debug build on a busy machine gets more.
const FIRST_SEND: Duration = Duration::from_millis(if cfg!(debug_assertions) { 120_000 } else { 300 });
const ANONYMOUS_KIB: u64 = 100 * 1024;

#[test]
fn an_empty_directory_takes_its_first_send_at_once_and_little_memory() {
    let directory = tempfile::tempdir().expect("a directory");
    let mq = Mq::up(&directory.path().join("store"), &[]);
    let sent = Client::connect(mq.broker()).send("orders", "first");
    let took = mq.started.elapsed();
    assert_eq!(sent.queue_offset.0, 0);
    assert!(took <= FIRST_SEND, "{took:?}");
    let used = mq.anonymous_memory_kib();
    assert!(used < ANONYMOUS_KIB, "{used} KiB");
    assert!(mq.stop().success());
}

#[test]
fn messages_topics_groups_and_offsets_survive_an_orderly_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let mq = Mq::up(directory.path(), &[]);
    let mut client = Client::connect(mq.broker());
    for (text, offset) in [("one", 0), ("two", 1)] {
        assert_eq!(client.send("orders", text).queue_offset.0, offset);
    }
    client.subscribe("g", "orders");
    client.commit("g", "orders", 1);
    Client::connect(mq.address("name server ")).until_route_is("orders", 0);
    assert!(mq.stop().success());

    let mq = Mq::up(directory.path(), &[]);
    let mut client = Client::connect(mq.broker());
    assert_eq!(client.texts("orders"), ["one", "two"]);
    assert_eq!(client.committed("g", "orders"), 1);
    assert_eq!(client.send("orders", "three").queue_offset.0, 2);
    let mut name_server = Client::connect(mq.address("name server "));
    for topic in ["orders", "%RETRY%g", "TBW102"] {
        assert_eq!(name_server.route(topic), 0, "{topic} is registered before ready");
    }
    assert!(mq.stop().success());
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let directory = tempfile::tempdir().expect("a directory");
    for (round, text) in ["one", "two", "three"].into_iter().enumerate() {
        let mq = Mq::up(directory.path(), &[]);
        let mut client = Client::connect(mq.broker());
        assert_eq!(client.send("orders", text).queue_offset.0, round as u64);
        assert_eq!(client.texts("orders"), ["one", "two", "three"][..=round]);
        mq.kill();
    }
}

#[test]
fn the_start_says_how_messages_are_flushed_and_where_they_are() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = directory.path().join("store");
    let conf = directory.path().join("broker.conf");
    for (text, flush) in [
        ("brokerName=b\nbrokerClusterName=C", "SYNC_FLUSH: a send is answered once it is on disk"),
        ("flushDiskType=ASYNC_FLUSH", "ASYNC_FLUSH: SENDS ARE ANSWERED BEFORE THEY ARE ON DISK"),
    ] {
        std::fs::write(&conf, text).expect("written");
        let mq = Mq::up(&store, &["-c", conf.to_str().expect("a plain path")]);
        let said = mq.said.join("\n");
        assert!(said.contains(flush), "{said}");
        assert!(said.contains(&format!("store        {}", store.display())), "{said}");
        assert_eq!(said.contains("(b of C)"), text.contains("brokerName"), "{said}");
        assert!(mq.stop().success());
    }
    // What a tool changed stands over broker.conf, here, too.
    std::fs::write(&conf, "flushDiskType=SYNC_FLUSH").expect("written");
    std::fs::write(store.join("config/broker.properties"), "flushDiskType=ASYNC_FLUSH\n").expect("written");
    let mq = Mq::up(&store, &["-c", conf.to_str().expect("a plain path")]);
    assert!(mq.said.join("\n").contains("ASYNC_FLUSH: SENDS ARE ANSWERED BEFORE"), "{}", mq.said.join("\n"));
    assert!(mq.stop().success());
}
