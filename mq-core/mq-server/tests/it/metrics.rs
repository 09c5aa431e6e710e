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

/// A broker that tells its figures, and where.
fn scraped(directory: &std::path::Path) -> (Mq, SocketAddr) {
    let conf = directory.join("broker.conf");
    std::fs::write(&conf, "metricsExporterType=PROM\nmetricsPromExporterPort=0\n").expect("written");
    let mq = Mq::up(&directory.join("store"), &["-c", conf.to_str().expect("plain")]);
    let told = mq.said.iter().find_map(|line| line.strip_prefix("metrics      http://")).expect("it says where");
    let address = told.trim_end_matches("/metrics").parse().expect("an address");
    (mq, address)
}

/// Everything until the peer closes the connection, however it does that.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("it is not closed: {error}"),
        _ => bytes,
    }
}

#[test]
fn a_scraper_that_is_slow_or_talks_too_much_or_comes_too_often_is_cut_off() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mq, address) = scraped(directory.path());
    let mut slow = TcpStream::connect(address).expect("it listens");
    slow.write_all(b"GET /metrics HTTP/1.1\r\nHost: a").expect("sent");
    assert!(!rest(&mut slow).starts_with(b"HTTP/1.1 200"), "a head that never ends");
    let mut long = TcpStream::connect(address).expect("it listens");
    // It may be closed before all of it is sent.
    let _ = write!(long, "GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", "a".repeat(64 << 10));
    assert!(!rest(&mut long).starts_with(b"HTTP/1.1 200"), "a head beyond the limit");
    // One beyond the limit is closed at once, the others when their heads do not come.
    let mut idle: Vec<TcpStream> = (0..32).map(|_| TcpStream::connect(address).expect("it listens")).collect();
    idle.iter_mut().for_each(|stream| assert!(!rest(stream).starts_with(b"HTTP/1.1 200")));
    // Their places are free a moment after they are closed.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut stream = TcpStream::connect(address).expect("it listens");
        let _ = write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
        if rest(&mut stream).starts_with(b"HTTP/1.1 200") {
            break;
        }
        assert!(Instant::now() < deadline, "it serves no more");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(mq.stop().success());
}

#[test]
fn metrics_are_served_when_they_are_switched_on_and_not_otherwise() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mq, address) = scraped(directory.path());
    Client::connect(mq.broker()).send("orders", "one");
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

    let mq = Mq::up(&directory.path().join("store"), &[]);
    assert!(!mq.said.iter().any(|line| line.starts_with("metrics")));
    assert!(mq.stop().success());
}
