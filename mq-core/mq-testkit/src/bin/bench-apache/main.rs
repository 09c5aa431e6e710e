//! `make bench-apache`: Apache RocketMQ's broker and ours, started one after the other on fresh files, driven by the same
//! generator (`mq bench`), and the table of goals with both columns.

mod measuring;
mod subject;
mod table;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use mq_testkit::page::replace_between;

use measuring::{measure, measure_growth, measure_idle, measure_start};
use subject::{Apache, Ours};
use table::table;

/// Of the disk, what nothing here may take.
const SPARE_GIB: u64 = 20;
const DIRECTORIES: &str = "bench-apache-";

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
    options.page.as_deref().map_or(Ok(()), |page| replace_between(page, "make bench-apache", &text))
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
