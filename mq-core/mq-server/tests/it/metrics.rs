//! The metrics port of a broker's process.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::process::{Mq, PATIENCE};
use crate::wire::Client;

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn metrics_are_served_when_they_are_switched_on_and_not_otherwise() {
    let directory = tempfile::tempdir().expect("a directory");
    let conf = directory.path().join("broker.conf");
    std::fs::write(&conf, "metricsExporterType=PROM\nmetricsPromExporterPort=0\n").expect("written");
    let store = directory.path().join("store");
    let mq = Mq::up(&store, &["-c", conf.to_str().expect("plain")]);
    Client::connect(mq.broker()).send("orders", "one");
    let told = mq.said.iter().find_map(|line| line.strip_prefix("metrics      http://")).expect("it says where");
    let address = told.trim_end_matches("/metrics").parse().expect("an address");
    let answer = get(address, "/metrics");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("openmetrics-text"), "{answer}");
    // Counted by the store's own thread, a moment after the send is answered.
    let deadline = Instant::now() + PATIENCE;
    while !get(address, "/metrics").contains("rocketmq_messages_in_total{cluster=\"DefaultCluster\"") {
        assert!(Instant::now() < deadline, "the message is not counted");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(get(address, "/else").starts_with("HTTP/1.1 404"));
    assert!(mq.stop().success());

    let mq = Mq::up(&store, &[]);
    assert!(!mq.said.iter().any(|line| line.starts_with("metrics")));
    assert!(mq.stop().success());
}
