//! Official clients, as they come from their registries, against the real `mq` process: every scenario of `clients/java`
//! (5.3.3 with both kinds of headers, and 4.9.8) and of `clients/go`.

use std::path::Path;
use std::process::{Command, Stdio};

use mq_testkit::process::{MqProcess, workspace};
use mq_testkit::report;
use tempfile::TempDir;

fn built(program: &str) -> String {
    let path = workspace().join("target").join(program);
    let hint = "`make test` installs what it takes and builds it";
    assert!(path.is_file(), "{} is not there: {hint}", path.display());
    path.display().to_string()
}

fn java(jar: &str, headers: &str, home: &Path) -> Command {
    let mut java = Command::new("java");
    java.arg(format!("-Drocketmq.serialize.type={headers}"));
    // The client writes its log under the home directory.
    java.arg(format!("-Duser.home={}", home.display()));
    // It ends within a minute: code that runs a few times is not worth the compiler's best.
    java.args(["-XX:TieredStopAtLevel=1", "-Xmx256m", "-jar", &built(jar)]);
    java
}

/// What happened to its connections; nothing of a client that keeps no such log.
fn warnings_of_java(home: &Path) -> String {
    let log = std::fs::read_to_string(home.join("logs/rocketmqlogs/rocketmq_client.log")).unwrap_or_default();
    let tells =
        |line: &&str| [" WARN ", " ERROR ", "NETTY CLIENT PIPELINE: CLOSE"].iter().any(|word| line.contains(word));
    log.lines().filter(tells).map(|line| format!("{line}\n")).collect()
}

/// Runs `program` with the name server's address and prints what became of each scenario.
fn every_scenario_passes(client: &str, at_least: usize, program: impl FnOnce(&Path) -> Command) {
    let directory = TempDir::new().unwrap();
    let mut broker = MqProcess::new(directory.path(), super::SHORT_TIMES).unwrap();
    broker.start().unwrap();
    let output = program(directory.path()).arg(broker.name_server.to_string()).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{client} does not start: {error}; `make test` installs it"));
    let text = String::from_utf8_lossy(&output.stdout);
    let (mut passed, mut failed) = (0, Vec::new());
    for line in text.lines() {
        match line.split([' ', ':']).take(2).collect::<Vec<_>>()[..] {
            ["PASS", _] => passed += 1,
            ["FAIL", scenario] => failed.push(scenario.to_owned()),
            _ => {}
        }
    }
    assert!(
        failed.is_empty() && passed >= at_least,
        "{client}: {passed} scenarios passed, failed: {failed:?}\n{}\nits own log warns:\n{}\nthe broker said:\n{}",
        String::from_utf8_lossy(&output.stderr),
        warnings_of_java(directory.path()),
        broker.log()
    );
    let table: Vec<_> =
        text.lines().filter(|line| line.starts_with("PASS")).map(|line| format!("{client}: {line}")).collect();
    report::show(
        &format!("10 official client {client}"),
        &format!("{}\n{client}: {passed} scenarios passed", table.join("\n")),
    );
    assert!(broker.stop().unwrap().success(), "a graceful end:\n{}", broker.log());
}

#[test]
fn the_official_java_client_5_works_with_json_headers() {
    let program = |home: &Path| java("java-clients/java-clients.jar", "JSON", home);
    every_scenario_passes("Java 5.3.3, JSON headers", 30, program);
}

#[test]
fn the_official_java_client_5_works_with_binary_headers() {
    let program = |home: &Path| java("java-clients/java-clients.jar", "ROCKETMQ", home);
    every_scenario_passes("Java 5.3.3, binary headers", 30, program);
}

#[test]
fn the_official_java_client_4_works() {
    let program = |home: &Path| java("java-clients-4/java-clients.jar", "JSON", home);
    every_scenario_passes("Java 4.9.8", 27, program);
}

#[test]
fn the_official_go_client_works() {
    every_scenario_passes("Go 2.1.2", 16, |home| {
        let mut go = Command::new(built("go-clients/go-clients"));
        go.env("HOME", home);
        go
    });
}
