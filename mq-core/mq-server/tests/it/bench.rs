//! `mq bench` against `mq up` and against its own floor: the figures add up.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::process::{Mq, outcome};

/// Runs one scenario to its end and reads its figures.
fn bench(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_mq"))
        .arg("bench")
        .args(arguments)
        .args(["--output", "json"])
        .stderr(Stdio::inherit())
        .output()
        .expect("mq starts");
    assert!(output.status.success(), "{arguments:?}");
    serde_json::from_slice(&output.stdout).expect("one JSON document")
}

fn number(report: &Value, pointer: &str) -> f64 {
    report.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {pointer} in {report}"))
}

#[test]
fn what_was_sent_is_what_is_read_and_every_figure_is_there() {
    let store = tempfile::tempdir().expect("a directory");
    let mq = Mq::up(store.path(), &[]);
    let (addr, namesrv, pid) = (mq.broker().to_string(), mq.address("name server ").to_string(), mq.id().to_string());
    for (topic, count, batch) in [("single", 500, "1"), ("batched", 1600, "16")] {
        let count_text = count.to_string();
        let sent = bench(&[
            "send",
            "--addr",
            &addr,
            "--topic",
            topic,
            "--count",
            &count_text,
            "--connections",
            "1",
            "--in-flight",
            "1",
            "--batch",
            batch,
            "--pid",
            &pid,
        ]);
        assert_eq!((number(&sent, "/messages") as u64, number(&sent, "/failed")), (count, 0.0));
        let (p50, p99, p999) =
            (number(&sent, "/latency_ms/p50"), number(&sent, "/latency_ms/p99"), number(&sent, "/latency_ms/p999"));
        assert!(0.0 < p50 && p50 <= p99 && p99 <= p999);
        let rate = number(&sent, "/messages") / number(&sent, "/seconds");
        assert!((number(&sent, "/messages_per_second") / rate - 1.0).abs() < 1e-6);
        assert!(number(&sent, "/server/anonymous_mib") > 0.0);
        let read = bench(&["pull", "--namesrv", &namesrv, "--topic", topic]);
        assert_eq!(number(&read, "/messages") as u64, count);
        let popped = bench(&["pop", "--namesrv", &namesrv, "--topic", topic]);
        assert_eq!(number(&popped, "/messages") as u64, count);
    }
}

#[test]
fn transactions_are_visible_as_far_as_they_were_committed() {
    let store = tempfile::tempdir().expect("a directory");
    let mq = Mq::up(store.path(), &[]);
    let addr = mq.broker().to_string();
    let ended = bench(&[
        "txn",
        "--addr",
        &addr,
        "--count",
        "200",
        "--warmup",
        "0",
        "--connections",
        "1",
        "--in-flight",
        "1",
        "--rollback",
        "0.25",
    ]);
    assert_eq!((number(&ended, "/messages"), number(&ended, "/failed")), (200.0, 0.0));
    assert_eq!(number(&bench(&["pull", "--addr", &addr]), "/messages"), 150.0);
}

#[test]
fn latency_counts_deliveries_at_the_asked_rate() {
    let store = tempfile::tempdir().expect("a directory");
    let mq = Mq::up(store.path(), &[]);
    let addr = mq.broker().to_string();
    let report = bench(&["latency", "--addr", &addr, "--rate", "200", "--seconds", "1", "--warmup", "0.2"]);
    // As many as the time it took asks for, however late a busy machine was.
    let asked = number(&report, "/seconds") * 200.0;
    assert!((1.0..=asked * 1.25 + 10.0).contains(&number(&report, "/messages")), "{report}");
    assert!(number(&report, "/latency_ms/p50") > 0.0);
}

#[test]
fn a_suite_starts_its_own_servers_measures_everything_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().expect("a directory");
    let suite = bench(&["suite", "--count", "100", "--dir", directory.path().to_str().expect("a plain path")]);
    let rows: Vec<String> = suite
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| {
            assert!(number(row, "/messages") > 0.0 && number(row, "/failed") == 0.0, "{row}");
            format!("{} {}", row["against"].as_str().expect("text"), row["scenario"].as_str().expect("text"))
        })
        .collect();
    let each = |flush: &str| ["send", "send", "txn", "pull", "latency"].map(|scenario| format!("{flush} {scenario}"));
    assert_eq!(rows, [vec!["floor send".to_owned()], each("SYNC_FLUSH").into(), each("ASYNC_FLUSH").into()].concat());
    assert_eq!(std::fs::read_dir(directory.path()).expect("readable").count(), 0);
}

#[test]
fn the_floor_answers_and_a_server_that_is_not_there_is_named() {
    let mut floor = Mq::start(&["bench", "floor", "--port", "0"]);
    let said = floor.line();
    let addr = said.split(" on ").nth(1).and_then(|rest| rest.split(',').next()).expect("an address").to_owned();
    let sent = bench(&["send", "--addr", &addr, "--count", "2000", "--warmup", "0"]);
    assert!(number(&sent, "/messages") >= 2000.0);
    drop(floor);
    let (succeeded, said) = outcome(&["bench", "send", "--addr", &addr]);
    assert!(!succeeded && said.contains(&format!("cannot connect to {addr}")), "{said}");
}

#[test]
fn timers_wait_through_a_restart_and_what_they_cost_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let dir = directory.path().to_str().expect("plain");
    let report = bench(&["timers", "--count", "500", "--rest", "0.1", "--dir", dir]);
    assert_eq!(number(&report, "/timers"), 500.0);
    for figure in ["/anonymous_mib_before", "/anonymous_mib", "/anonymous_mib_after_restart", "/restart_seconds"] {
        assert!(number(&report, figure) > 0.0, "{report}");
    }
    assert_eq!(directory.path().read_dir().expect("readable").count(), 0, "its files are gone");
}
