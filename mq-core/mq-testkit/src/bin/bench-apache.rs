//! `make bench-apache`: Apache RocketMQ's broker and ours, started one after the other on fresh files, driven by the same
//! generator (`mq bench`), and the table of goals with both columns.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use mq_testkit::apache::{ApacheBroker, ApacheOptions};
use mq_testkit::process::{MqProcess, mq_binary};
use serde_json::Value;

/// Between these lines of a page the table is replaced.
const BEGIN: &str = "<!-- make bench-apache -->";
const END: &str = "<!-- end of make bench-apache -->";
/// Small writes with fdatasync that are timed beside each run.
const SYNCS: usize = 40;
/// Of the disk, what nothing here may take.
const SPARE_GIB: u64 = 20;
/// Times its capacity that the broker is offered.
const OVERLOAD: f64 = 10.0;
const DIRECTORIES: &str = "bench-apache-";
const START_PATIENCE: Duration = Duration::from_secs(180);

#[derive(Parser)]
struct Options {
    /// Runs of each scenario; the table has their medians.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Seconds that each run is measured.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Seconds of load before the first run: a JVM needs some.
    #[arg(long, default_value_t = 10.0)]
    warmup: f64,
    /// GiB in the log of the start after a clean stop.
    #[arg(long, default_value_t = 10)]
    clean_gib: u64,
    /// GiB in the log of the start after kill -9.
    #[arg(long, default_value_t = 1)]
    unclean_gib: u64,
    /// Where the brokers keep their files while they run.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Leaves Apache's column empty.
    #[arg(long)]
    ours_only: bool,
    /// A page whose table is replaced.
    #[arg(long)]
    page: Option<PathBuf>,
}

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

/// Figures by name, such as `send.cpu`.
type Figures = BTreeMap<String, Vec<f64>>;

fn main() -> Result<()> {
    let options = Options::parse();
    remove_leftovers(&options.dir)?;
    check_space(&options)?;
    let began = Instant::now();
    let mut columns: BTreeMap<_, Figures> = BTreeMap::new();
    let mut failures = Vec::new();
    // What fails leaves its own rows empty: the runs before it took half an hour.
    let mut note = |what: &str, outcome: Result<()>| {
        if let Err(error) = outcome {
            eprintln!("{what} failed: {error:#}");
            failures.push(format!("{what}: {error:#}"));
        }
    };
    for flush in ["ASYNC_FLUSH", "SYNC_FLUSH"] {
        if !options.ours_only {
            let who = format!("Apache, {flush}");
            let figures = columns.entry((flush, "apache")).or_default();
            note(&who, measure(&options, &who, &mut Apache::new(&options, flush)?, figures));
        }
        let who = format!("ours, {flush}");
        let figures = columns.entry((flush, "ours")).or_default();
        note(&who, measure(&options, &who, &mut Ours::new(&options, flush)?, figures));
    }
    let mut more = Figures::new();
    note("growth and overload", measure_growth(&options, &mut more));
    note("idle connections", measure_idle(&options, &mut more));
    note("start after a clean stop", measure_start(&options, "clean start", options.clean_gib, &mut more));
    note("start after kill -9", measure_start(&options, "unclean start", options.unclean_gib, &mut more));
    eprintln!("done in {:.0} minutes", began.elapsed().as_secs_f64() / 60.0);
    let text = table(&columns, &more, &options);
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    ensure!(failures.is_empty(), "no page is written, for these failed:\n{}", failures.join("\n"));
    if let Some(page) = &options.page {
        let old = std::fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
        let (before, rest) = old.split_once(BEGIN).with_context(|| format!("{} lacks {BEGIN}", page.display()))?;
        let (_, after) = rest.split_once(END).with_context(|| format!("{} lacks {END}", page.display()))?;
        std::fs::write(page, format!("{before}{BEGIN}\n{text}{END}{after}"))?;
    }
    Ok(())
}

/// A broker that can be measured.
trait Subject {
    fn start(&mut self) -> Result<()>;
    fn stop(&mut self) -> Result<()>;
    fn address(&self) -> SocketAddr;
    fn process_id(&self) -> Result<u32>;
}

struct Apache {
    directory: tempfile::TempDir,
    flush: &'static str,
    running: Option<ApacheBroker>,
}

impl Apache {
    fn new(options: &Options, flush: &'static str) -> Result<Self> {
        Ok(Self { directory: directory(options)?, flush, running: None })
    }
}

impl Subject for Apache {
    fn start(&mut self) -> Result<()> {
        let more = ApacheOptions::new(self.directory.path());
        let configuration = format!("flushDiskType={}\nautoCreateTopicEnable=true\n", self.flush);
        self.running = Some(ApacheBroker::start(ApacheOptions { heap: "4g", configuration, ..more })?);
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        self.running.take().context("not started")?.stop().map(drop)
    }

    fn address(&self) -> SocketAddr {
        self.running.as_ref().expect("started").broker
    }

    fn process_id(&self) -> Result<u32> {
        self.running.as_ref().and_then(ApacheBroker::process_id).context("Apache's broker does not run")
    }
}

struct Ours {
    process: MqProcess,
    _directory: tempfile::TempDir,
}

impl Ours {
    fn new(options: &Options, flush: &str) -> Result<Self> {
        let directory = directory(options)?;
        let process = MqProcess::new(directory.path(), &format!("flushDiskType={flush}\n"))?;
        Ok(Self { process, _directory: directory })
    }
}

impl Subject for Ours {
    fn start(&mut self) -> Result<()> {
        self.process.start()
    }

    fn stop(&mut self) -> Result<()> {
        let status = self.process.stop()?;
        ensure!(status.success(), "mq ended with {status}");
        Ok(())
    }

    fn address(&self) -> SocketAddr {
        self.process.broker
    }

    fn process_id(&self) -> Result<u32> {
        self.process.process_id().context("mq does not run")
    }
}

/// Named after this process, so that the next run knows whose it was.
fn directory(options: &Options) -> Result<tempfile::TempDir> {
    let prefix = format!("{DIRECTORIES}{}-", std::process::id());
    let made = tempfile::Builder::new().prefix(&prefix).tempdir_in(&options.dir);
    made.with_context(|| format!("cannot write in {}", options.dir.display()))
}

/// The files of runs that were killed.
fn remove_leftovers(directory: &Path) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(DIRECTORIES)?.split_once('-'));
        if owner.is_some_and(|(id, _)| !Path::new("/proc").join(id).exists()) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn check_space(options: &Options) -> Result<()> {
    let disk = rustix::fs::statvfs(&options.dir)?;
    let free_gib = (disk.f_bavail * disk.f_frsize) >> 30;
    let needed = options.clean_gib.max(options.unclean_gib) + SPARE_GIB;
    ensure!(
        free_gib >= needed,
        "{} has {free_gib} GiB free, {needed} are needed; see --dir and --clean-gib",
        options.dir.display()
    );
    Ok(())
}

/// Starts it and runs every scenario, turn by turn.
fn measure(options: &Options, who: &str, subject: &mut impl Subject, figures: &mut Figures) -> Result<()> {
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
            let most = figures.entry("memory".into()).or_insert_with(|| vec![0.0]);
            most[0] = most[0].max(anonymous_mib(pid)?);
        }
    }
    subject.stop()
}

/// What more topics, more connections and more load than it can take do to ours.
fn measure_growth(options: &Options, figures: &mut Figures) -> Result<()> {
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
        }
        eprintln!("overload, run {run} of {}", options.runs);
        let capacity = figures["1 topic, rate"].last().copied().unwrap_or_default();
        let rate = format!("{:.0}", capacity * OVERLOAD);
        let report = drive(&ours, &["flood", "--topic", "growth", "--rate", &rate], &["--seconds", &seconds])?;
        figures.entry("flood, rate".into()).or_default().push(number(&report, "/messages_per_second")?);
    }
    ours.stop()
}

fn measure_idle(options: &Options, figures: &mut Figures) -> Result<()> {
    eprintln!("idle connections");
    let mut ours = Ours::new(options, "ASYNC_FLUSH")?;
    ours.start()?;
    let idle = drive(&ours, &["idle"], &["--connections", "15000"])?;
    figures.insert("idle".into(), vec![number(&idle, "/kib_each")?]);
    ours.stop()
}

/// Fills a log, ends the broker as the name says, and times the next start.
fn measure_start(options: &Options, name: &str, gib: u64, figures: &mut Figures) -> Result<()> {
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

/// Runs one scenario of `mq bench` and reads its figures.
fn drive(subject: &impl Subject, words: &[&str], more: &[&str]) -> Result<Value> {
    let (address, pid) = (subject.address().to_string(), subject.process_id()?.to_string());
    let mut command = Command::new(mq_binary()?);
    command.arg("bench").args(words).args(more);
    command.args(["--addr", &address, "--pid", &pid, "--output", "json"]);
    let output = command.stderr(Stdio::inherit()).output().context("mq does not start")?;
    // Refused requests make it fail; they are in the report.
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("mq bench {} printed no report: {}", words.join(" "), output.status))
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

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// One line of the table; absent figures are not a number.
struct Row {
    name: String,
    apache: f64,
    ours: f64,
    decimals: usize,
    goal: Goal,
}

enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// Times Apache's.
    Times(f64),
    None,
}

impl Row {
    fn ratio(&self) -> f64 {
        match self.goal {
            Goal::AtMost(_) => self.apache / self.ours,
            Goal::AtLeast(_) | Goal::None => f64::NAN,
            Goal::Times(_) => self.ours / self.apache,
        }
    }

    fn print(&self, out: &mut String) {
        let figure = |value: f64| {
            if value.is_nan() { "–".to_owned() } else { format!("{value:.*}", self.decimals) }
        };
        let ratio = if self.ratio().is_nan() { "–".to_owned() } else { format!("{:.1}x", self.ratio()) };
        let (goal, met) = match self.goal {
            Goal::AtMost(limit) => (format!("at most {limit:.*}", self.decimals), Some(self.ours <= limit)),
            Goal::AtLeast(limit) => (format!("at least {limit:.*}", self.decimals), Some(self.ours >= limit)),
            Goal::Times(times) => {
                (format!("at least {times:.0}x"), (!self.ratio().is_nan()).then(|| self.ratio() >= times))
            }
            Goal::None => ("–".to_owned(), None),
        };
        let met = met.map_or("–", |met| if met { "met" } else { "**not met**" });
        let (name, apache, ours) = (&self.name, figure(self.apache), figure(self.ours));
        writeln!(out, "| {name} | {apache} | {ours} | {ratio} | {goal} | {met} |").expect("memory takes text");
    }
}

fn table(columns: &BTreeMap<(&str, &str), Figures>, more: &Figures, options: &Options) -> String {
    let mut syncs: Vec<f64> = columns.values().filter_map(|figures| figures.get("sync")).flatten().copied().collect();
    syncs.sort_by(f64::total_cmp);
    let figure = |flush, who, name: &str| {
        columns.get(&(flush, who)).and_then(|figures| figures.get(name)).map_or(f64::NAN, |values| median(values))
    };
    let sync_at =
        |part: f64| syncs.get((syncs.len().saturating_sub(1) as f64 * part) as usize).copied().unwrap_or(f64::NAN);
    let mut rows = Vec::new();
    let mut row = |name: String, flush, figure_name: &str, decimals, goal| {
        let (apache, ours) = (figure(flush, "apache", figure_name), figure(flush, "ours", figure_name));
        rows.push(Row { name, apache, ours, decimals, goal });
    };
    for (flush, send_cpu, txn_times) in [("ASYNC_FLUSH", 5.0, 5.0), ("SYNC_FLUSH", 7.0, 10.0)] {
        row(format!("{flush}: send, µs CPU"), flush, "send.cpu", 2, Goal::AtMost(send_cpu));
        row(format!("{flush}: send, messages/s"), flush, "send.rate", 0, Goal::Times(4.0));
        row(format!("{flush}: batches of 64, µs CPU a message"), flush, "batch.cpu", 2, Goal::AtMost(1.0));
        row(format!("{flush}: batches of 64, messages/s"), flush, "batch.rate", 0, Goal::Times(1.0));
        let is_async = flush == "ASYNC_FLUSH";
        let goal = if is_async { Goal::AtMost(12.0) } else { Goal::None };
        row(format!("{flush}: transaction, µs CPU"), flush, "txn.cpu", 2, goal);
        row(format!("{flush}: transactions/s"), flush, "txn.rate", 0, Goal::Times(txn_times));
        row(format!("{flush}: pull of 32, µs CPU a message"), flush, "pull.cpu", 2, Goal::AtMost(0.9));
        row(format!("{flush}: pull of 32, messages/s"), flush, "pull.rate", 0, Goal::Times(1.0));
        row(format!("{flush}: pop of 32 and its acknowledgement, µs CPU a message"), flush, "pop.cpu", 2, Goal::None);
        row(format!("{flush}: pop of 32 and its acknowledgement, messages/s"), flush, "pop.rate", 0, Goal::None);
        let syncs = if is_async { 0.0 } else { 2.0 };
        let (p50, p99) = (0.3 + syncs * sync_at(0.5), 1.0 + syncs * sync_at(0.99));
        row(format!("{flush}: send to receive at 1,000/s, p50 ms"), flush, "latency.p50", 3, Goal::AtMost(p50));
        row(format!("{flush}: send to receive at 1,000/s, p99 ms"), flush, "latency.p99", 3, Goal::AtMost(p99));
        row(format!("{flush}: anonymous MiB after start"), flush, "memory at start", 0, Goal::AtMost(64.0));
        row(format!("{flush}: anonymous MiB in these runs, most"), flush, "memory", 0, Goal::AtMost(256.0));
        row(format!("{flush}: requests refused as busy"), flush, "refused", 0, Goal::None);
        row(format!("{flush}: start to first acknowledgement, empty, s"), flush, "start", 2, Goal::AtMost(0.2));
    }
    let mut only_ours = |name: &str, value: f64, decimals, limit| {
        rows.push(Row { name: name.into(), apache: f64::NAN, ours: value, decimals, goal: Goal::AtMost(limit) });
    };
    let of = |name: &str| more.get(name).map_or(f64::NAN, |values| median(values));
    only_ours("15,000 idle connections, KiB each", of("idle"), 1, 20.0);
    let gib = options.clean_gib;
    only_ours(&format!("start with {gib} GiB after a clean stop, s"), of("clean start"), 2, 0.5);
    let gib = options.unclean_gib;
    only_ours(&format!("start with {gib} GiB after kill -9, s"), of("unclean start"), 2, 3.0 * gib as f64);
    only_ours("cost of 1,000 topics, times that of 1", of("1000 topics") / of("1 topic"), 2, 1.2);
    only_ours("cost of 100 connections, times that of 1", of("100 connections") / of("1 connection"), 2, 1.2);
    for (name, rate) in [
        ("overload: rate with 64,000 requests in flight, part of that with 256".to_owned(), "1000 connections, rate"),
        (format!("overload: rate when {OVERLOAD:.0} times it is offered, part of it"), "flood, rate"),
    ] {
        let ours = of(rate) / of("1 topic, rate");
        rows.push(Row { name, apache: f64::NAN, ours, decimals: 2, goal: Goal::AtLeast(0.8) });
    }
    let mut out = String::from("| | Apache 5.5 | ours | ratio | goal | |\n|---|---:|---:|---:|---|---|\n");
    rows.iter().for_each(|row| row.print(&mut out));
    let (p50, p99) = (sync_at(0.5), sync_at(0.99));
    writeln!(
        out,
        "\nA write of 1 KiB with its fdatasync took p50 {p50:.2} ms, p99 {p99:.2} ms on this disk, in the same run."
    )
    .expect("memory takes text");
    out
}
