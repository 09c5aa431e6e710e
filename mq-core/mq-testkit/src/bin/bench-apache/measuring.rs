//! What is measured: scenarios of `mq bench`, starts, memory, and the disk beside them. Knows no goal.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mq_testkit::process::mq_binary;
use serde_json::Value;

use crate::subject::{Ours, Subject};
use crate::{Figures, Options};

/// Small writes with fdatasync that are timed beside each run.
const SYNCS: usize = 40;
/// Times its capacity that the broker is offered.
pub(crate) const OVERLOAD: f64 = 10.0;
const START_PATIENCE: Duration = Duration::from_secs(180);
const LOAD: [&str; 4] = ["--connections", "4", "--in-flight", "64"];
/// Bytes of a message of the generator in the log, about.
const RECORD_BYTES: u64 = 450;
const SCENARIOS: [(&str, &[&str]); 6] = [
    ("send", &["send", "--topic", "bench-send"]),
    ("batch", &["send", "--topic", "bench-batch", "--batch", "64"]),
    ("txn", &["txn", "--topic", "bench-txn"]),
    ("pull", &["pull", "--topic", "bench-send"]),
    ("pop", &["pop", "--topic", "bench-send"]),
    ("latency", &["latency", "--topic", "bench-latency"]),
];

/// Starts it and runs every scenario, turn by turn.
pub(crate) fn measure(options: &Options, who: &str, subject: &mut impl Subject, figures: &mut Figures) -> Result<()> {
    eprintln!("{who}: start and warm-up");
    figures.insert("start".into(), vec![time_to_first_answer(subject)?]);
    let pid = subject.process_id()?;
    figures.insert("memory at start".into(), vec![anonymous_mib(pid)?]);
    let (seconds, warmup) = (options.seconds.to_string(), options.warmup.to_string());
    for (_, words) in SCENARIOS.iter().filter(|(name, _)| !matches!(*name, "pull" | "pop")) {
        drive(subject, &loaded(words), &["--seconds", "1", "--warmup", &warmup])?;
    }
    for run in 1..=options.runs {
        figures.entry("sync".into()).or_default().extend(sync_times(&options.dir)?);
        for (name, words) in SCENARIOS {
            eprintln!("{who}: {name}, run {run} of {}", options.runs);
            let report = drive(subject, &loaded(words), &["--seconds", &seconds])?;
            for (figure, pointer) in [
                ("rate", "/messages_per_second"),
                ("cpu", "/server/cpu_us_per_message"),
                ("p50", "/latency_ms/p50"),
                ("p99", "/latency_ms/p99"),
            ] {
                figures.entry(format!("{name}.{figure}")).or_default().push(number(&report, pointer)?);
            }
            let refused = figures.entry("refused".into()).or_insert_with(|| vec![0.0]);
            refused[0] += number(&report, "/failed")?;
            keep_most(figures, "memory", &report)?;
        }
    }
    subject.stop()
}

/// What more topics, more connections and more load than it can take do to ours.
pub(crate) fn measure_growth(options: &Options, figures: &mut Figures) -> Result<()> {
    let mut ours = Ours::new(options, "ASYNC_FLUSH")?;
    ours.start()?;
    let seconds = options.seconds.to_string();
    // Topics are made by their first sends; each is on disk before its first message.
    let all = ["--topics", "1000", "--connections", "1", "--count", "2000", "--warmup", "0"];
    drive(&ours, &["send", "--topic", "growth"], &all)?;
    for run in 1..=options.runs {
        for (name, words) in [
            ("1 topic", ["--topics", "1", "--connections", "4"]),
            ("1000 topics", ["--topics", "1000", "--connections", "4"]),
            ("1 connection", ["--topics", "1", "--connections", "1"]),
            ("100 connections", ["--topics", "1", "--connections", "100"]),
            ("1000 connections", ["--topics", "1", "--connections", "1000"]),
        ] {
            eprintln!("growth: {name}, run {run} of {}", options.runs);
            let words = [&["send", "--topic", "growth", "--in-flight", "64"], &words[..]].concat();
            let report = drive(&ours, &words, &["--seconds", &seconds])?;
            figures.entry(name.into()).or_default().push(number(&report, "/server/cpu_us_per_message")?);
            figures.entry(format!("{name}, rate")).or_default().push(number(&report, "/messages_per_second")?);
            keep_most(figures, "memory", &report)?;
        }
        eprintln!("overload, run {run} of {}", options.runs);
        let capacity = figures["1 topic, rate"].last().copied().unwrap_or_default();
        let rate = format!("{:.0}", capacity * OVERLOAD);
        let report = drive(&ours, &["flood", "--topic", "growth", "--rate", &rate], &["--seconds", &seconds])?;
        figures.entry("flood, rate".into()).or_default().push(number(&report, "/messages_per_second")?);
        keep_most(figures, "flood memory", &report)?;
    }
    ours.stop()
}

pub(crate) fn measure_idle(options: &Options, figures: &mut Figures) -> Result<()> {
    eprintln!("idle connections");
    let mut ours = Ours::new(options, "ASYNC_FLUSH")?;
    ours.start()?;
    let idle = drive(&ours, &["idle"], &["--connections", "15000"])?;
    figures.insert("idle".into(), vec![number(&idle, "/kib_each")?]);
    ours.stop()
}

/// Fills a log, ends the broker as the name says, and times the next start.
pub(crate) fn measure_start(options: &Options, name: &str, gib: u64, figures: &mut Figures) -> Result<()> {
    eprintln!("{name} with {gib} GiB");
    let mut ours = Ours::new(options, "ASYNC_FLUSH")?;
    ours.start()?;
    let messages = ((gib << 30) / RECORD_BYTES).to_string();
    drive(&ours, &["send", "--topic", "fill", "--batch", "64"], &["--count", &messages, "--warmup", "0"])?;
    match name {
        "clean start" => ours.stop()?,
        _ => ours.process.kill()?,
    }
    figures.insert(name.into(), vec![time_to_first_answer(&mut ours)?]);
    ours.stop()
}

/// With the load of a closed loop, where there is one.
fn loaded<'w>(words: &[&'w str]) -> Vec<&'w str> {
    let is_loop = matches!(words[0], "send" | "txn");
    words.iter().copied().chain(LOAD.into_iter().filter(|_| is_loop)).collect()
}

/// Runs one scenario of `mq bench` and reads its figures; `/most_anonymous_mib` is added to them.
fn drive(subject: &impl Subject, words: &[&str], more: &[&str]) -> Result<Value> {
    let (address, pid) = (subject.address().to_string(), subject.process_id()?);
    let mut command = Command::new(mq_binary()?);
    command.arg("bench").args(words).args(more);
    command.args(["--addr", &address, "--pid", &pid.to_string(), "--output", "json"]);
    let (running, until) = mpsc::channel();
    let (output, most) = thread::scope(|scope| {
        let sampler = scope.spawn(move || most_anonymous_mib(pid, &until));
        let output = command.stderr(Stdio::inherit()).output();
        drop(running);
        (output, sampler.join().expect("it only reads"))
    });
    let output = output.context("mq does not start")?;
    // Refused requests make it fail; they are in the report.
    let mut report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("mq bench {} printed no report: {}", words.join(" "), output.status))?;
    report["most_anonymous_mib"] = most?.into();
    Ok(report)
}

fn keep_most(figures: &mut Figures, name: &str, report: &Value) -> Result<()> {
    let most = figures.entry(name.into()).or_insert_with(|| vec![0.0]);
    most[0] = most[0].max(number(report, "/most_anonymous_mib")?);
    Ok(())
}

/// The kernel keeps no maximum of it: it is looked at twenty times a second.
fn most_anonymous_mib(pid: u32, until: &Receiver<()>) -> Result<f64> {
    let mut most = anonymous_mib(pid)?;
    while until.recv_timeout(Duration::from_millis(50)) == Err(RecvTimeoutError::Timeout) {
        most = most.max(anonymous_mib(pid)?);
    }
    Ok(most)
}

fn number(report: &Value, pointer: &str) -> Result<f64> {
    report.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("the report has no {pointer}"))
}

/// Seconds from the start of the process to the first acknowledged message.
fn time_to_first_answer(subject: &mut impl Subject) -> Result<f64> {
    let began = Instant::now();
    subject.start()?;
    let one = ["--count", "1", "--warmup", "0", "--connections", "1", "--in-flight", "1"];
    while began.elapsed() < START_PATIENCE {
        // A broker that listens may not take messages yet.
        let sent = drive(subject, &["send", "--topic", "bench-first"], &one);
        if sent.is_ok_and(|report| number(&report, "/messages").is_ok_and(|messages| messages > 0.0)) {
            return Ok(began.elapsed().as_secs_f64());
        }
    }
    anyhow::bail!("no message was acknowledged within {START_PATIENCE:?}")
}

/// Memory of a process that belongs to no file.
fn anonymous_mib(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = kib.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.context("the kernel counts no RssAnon")? / 1024.0)
}

/// Milliseconds of small appends with fdatasync on this disk.
fn sync_times(directory: &Path) -> Result<Vec<f64>> {
    let mut file = tempfile::tempfile_in(directory)?;
    (0..SYNCS).map(|_| sync_once(&mut file)).collect()
}

fn sync_once(file: &mut File) -> Result<f64> {
    file.write_all(&[7; 1024])?;
    let began = Instant::now();
    file.sync_data()?;
    Ok(began.elapsed().as_secs_f64() * 1000.0)
}
