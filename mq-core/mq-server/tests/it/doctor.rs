//! `mq doctor` on this very machine.

use std::net::TcpListener;

use crate::process::{Mq, printed};

#[test]
fn a_broker_that_runs_is_found_by_its_lock_and_its_ports() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = directory.path().join("store");
    let path = store.to_str().expect("a plain path");
    let running = Mq::up(&store, &[]);
    let [port, names] = [running.broker(), running.address("name server")].map(|address| address.port().to_string());
    let arguments = ["doctor", "--store", path, "--port", &port, "--namesrv-port", &names, "--output", "json"];
    let (_, said, _) = printed(&arguments);
    let findings: Vec<serde_json::Value> = serde_json::from_str(&said).expect("JSON");
    let verdict = |what: &str, text: &str| {
        let mut those = findings.iter().filter(|finding| finding["what"] == what);
        those
            .find(|finding| finding["found"].as_str().expect("text").contains(text))
            .map(|found| found["verdict"].clone())
    };
    assert_eq!(verdict("store", "is open in another process"), Some("WARN".into()), "{said}");
    assert_eq!(verdict("port", &format!("{port} for the broker is in use")), Some("WARN".into()), "{said}");
    assert_eq!(verdict("consumers", "no group of 0 is more than"), Some("OK".into()), "{said}");
    assert!(verdict("fdatasync", "4 KiB in").is_some(), "{said}");
    assert!(running.stop().success());
}

#[test]
fn a_port_that_cannot_be_had_fails_the_examination_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = directory.path().join("store");
    let conf = directory.path().join("broker.conf");
    // An address of nobody here.
    std::fs::write(&conf, "bindAddress=192.0.2.1").expect("written");
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port().to_string();
    let texts = [&conf, &store].map(|path| path.to_str().expect("a plain path"));
    let (success, said, error) = printed(&["doctor", "-c", texts[0], "--store", texts[1], "--port", &free]);
    assert!(!success);
    assert!(said.contains("FAIL") && said.contains("choose another address or port"), "{said}");
    assert!(error.contains("checks failed"), "{error}");
    assert!(!store.exists());
}
