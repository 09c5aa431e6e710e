//! Every call that RocketMQ Dashboard makes, in the order of its pages, through Apache's own admin client against the
//! real `mq` process. The dashboard itself is in no package registry.

use std::process::{Command, Stdio};

use mq_testkit::process::{MqProcess, workspace};
use mq_testkit::report;
use tempfile::TempDir;

/// So many calls are listed in `clients/mqadmin/.../dashboard`.
const CALLS: usize = 51;

#[test]
fn every_page_of_the_dashboard_gets_what_it_shows() {
    let directory = TempDir::new().unwrap();
    let configuration = format!("{}brokerName=broker-a\ntraceTopicEnable=true\n", super::SHORT_TIMES);
    let mut mq = MqProcess::new(directory.path(), &configuration).unwrap();
    mq.start().unwrap();
    let jar = workspace().join("target/mqadmin/mqadmin.jar");
    assert!(jar.is_file(), "{} is not there: `make test` installs Java and Maven and builds it", jar.display());
    let output = Command::new("java")
        // The clients write their logs under the home directory.
        .arg(format!("-Duser.home={}", directory.path().display()))
        .args(["-XX:TieredStopAtLevel=1", "-Xmx256m", "-cp"])
        .arg(jar)
        .args(["checkback.dashboard.Dashboard", &mq.name_server.to_string()])
        .stdin(Stdio::null())
        .output()
        .expect("java does not start: `make test` installs it");
    let text = String::from_utf8_lossy(&output.stdout);
    let passed = text.lines().filter(|line| line.starts_with("PASS ")).count();
    assert!(
        output.status.success() && passed == CALLS,
        "{passed} of {CALLS} calls passed\n{}\nthe broker said:\n{}",
        String::from_utf8_lossy(&output.stderr),
        mq.log()
    );
    assert!(mq.stop().unwrap().success(), "a graceful end:\n{}", mq.log());
    let table: String = text.lines().map(|line| format!("dashboard: {line}\n")).collect();
    report::show("30 dashboard", &format!("{table}dashboard: {passed} of {CALLS} calls answered"));
}
