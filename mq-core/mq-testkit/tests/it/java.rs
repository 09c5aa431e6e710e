//! The official Java client (Maven Central's `rocketmq-client`) against the real `mq` process: every scenario of
//! `clients/java`, with JSON and with binary headers.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use mq_testkit::process::{MqProcess, workspace};
use tempfile::TempDir;

fn programs() -> PathBuf {
    let jar = workspace().join("target/java-clients/java-clients.jar");
    assert!(
        jar.is_file(),
        "the Java client's programs are not there ({}): `make test` installs Java and Maven and builds them",
        jar.display()
    );
    jar
}

fn run_every_scenario(headers: &str) {
    let directory = TempDir::new().unwrap();
    let mut broker = MqProcess::new(directory.path(), super::SHORT_TIMES).unwrap();
    broker.start().unwrap();
    let output = Command::new("java")
        .arg(format!("-Drocketmq.serialize.type={headers}"))
        // The client writes its log under the home directory.
        .arg(format!("-Duser.home={}", directory.path().display()))
        .arg("-jar")
        .arg(programs())
        .arg(broker.name_server.to_string())
        .stdin(Stdio::null())
        .output()
        .expect("java does not start: `make test` installs it");
    let text = String::from_utf8_lossy(&output.stdout);
    let passed = text.lines().filter(|line| line.starts_with("PASS ")).count();
    assert!(
        output.status.success() && passed >= 20,
        "{passed} scenarios passed\n{text}\n{}\nthe broker said:\n{}",
        String::from_utf8_lossy(&output.stderr),
        broker.log()
    );
    println!("{text}");
    assert!(broker.stop().unwrap().success(), "a graceful end:\n{}", broker.log());
}

#[test]
fn the_official_java_client_works_with_json_headers() {
    run_every_scenario("JSON");
}

#[test]
fn the_official_java_client_works_with_binary_headers() {
    run_every_scenario("ROCKETMQ");
}
