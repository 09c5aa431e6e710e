//! Power cuts of a broker on the store's crash backend: what was not synced is dropped, kept, cut, torn or picked at
//! random. The same promises as under kill -9; and with the syncs taken out, the checker must see it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use mq_store::backend::{CrashBackend, CrashMode, Entry, Fault, File, LockGuard, Space, Usage};
use mq_store::{Backend, SystemClock};
use mq_testkit::cluster::{Cluster, ClusterOptions};
use mq_testkit::crash::log_scan::LogFacts;
use mq_testkit::crash::{CrashTest, Promise, Target};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const CONFIGURATION: &str = "\
mappedFileSizeCommitLog=4194304
maxMessageSize=65536
transactionTimeOut=300
transactionCheckInterval=300
transactionCheckMax=3
";

/// Nothing but what waits for the disk makes it flush.
const ASYNCHRONOUS: &str = "\
flushDiskType=ASYNC_FLUSH
flushIntervalCommitLog=3600000
";

struct PowerCuts {
    configuration: String,
    disk: CrashBackend,
    /// Whether the store's syncs reach the disk. Without them nothing it acknowledged is safe.
    syncs: bool,
    modes: &'static [CrashMode],
    random: SmallRng,
    directory: TempDir,
    running: Option<(Runtime, Cluster)>,
}

impl PowerCuts {
    fn new(seed: u64, syncs: bool, modes: &'static [CrashMode]) -> Self {
        Self {
            configuration: CONFIGURATION.into(),
            disk: CrashBackend::new(),
            syncs,
            modes,
            random: SmallRng::seed_from_u64(seed ^ 0xC07),
            directory: TempDir::new().unwrap(),
            running: None,
        }
    }
}

impl Target for PowerCuts {
    fn start(&mut self) -> Result<SocketAddr> {
        let disk = Arc::new(self.disk.clone());
        let options = ClusterOptions {
            configuration: self.configuration.clone(),
            store: Some(self.directory.path().into()),
            backend: Some(if self.syncs { disk } else { Arc::new(WithoutSync(disk)) }),
            clock: Arc::new(SystemClock),
        };
        let runtime = Runtime::new()?;
        let cluster = runtime.block_on(Cluster::start(options))?;
        let broker = cluster.broker;
        self.running = Some((runtime, cluster));
        Ok(broker)
    }

    fn crash(&mut self) -> Result<()> {
        let (runtime, cluster) = self.running.take().context("it does not run")?;
        self.disk.plan(self.disk.operations(), Fault::PowerCut);
        // The cut comes with the next write or sync; until then the broker works on.
        std::thread::sleep(Duration::from_millis(self.random.random_range(5..50)));
        let mode = self.modes[self.random.random_range(0..self.modes.len())];
        self.disk = self.disk.crash(mode, self.random.random());
        runtime.shutdown_background();
        drop(cluster);
        Ok(())
    }

    fn log(&mut self) -> Result<LogFacts> {
        let mut facts = LogFacts::default();
        for entry in self.disk.list("commitlog")? {
            let file = self.disk.open(&format!("commitlog/{}", entry.name))?;
            let mut segment = vec![0; file.bytes()? as usize];
            file.read_at(0, &mut segment)?;
            facts.read_segment(&segment.into());
        }
        Ok(facts)
    }
}

fn test(seed: u64, crashes: u32) -> CrashTest {
    CrashTest {
        seed,
        promise: Promise::Everything,
        crashes,
        producers: 3,
        load: (Duration::from_millis(100), Duration::from_millis(900)),
        settle_within: Duration::from_secs(180),
    }
}

#[test]
fn no_promise_is_broken_by_twenty_power_cuts_under_load() {
    let seed = super::seed();
    let replay = super::replay("power", seed);
    let mut target = PowerCuts::new(seed, true, &CrashMode::ALL);
    let report = test(seed, super::times(20)).run(&mut target).unwrap_or_else(|error| panic!("{error:#}\n{replay}"));
    println!("{report}");
    report.verify(300).unwrap_or_else(|broken| panic!("{broken}\n{replay}"));
}

#[test]
fn with_asynchronous_flushing_power_cuts_turn_no_transaction() {
    let seed = super::seed();
    let replay = super::replay("asynchronous", seed);
    let mut target = PowerCuts::new(seed, true, &CrashMode::ALL);
    target.configuration += ASYNCHRONOUS;
    let test = CrashTest { promise: Promise::Halves, ..test(seed, super::times(10)) };
    let report = test.run(&mut target).unwrap_or_else(|error| panic!("{error:#}\n{replay}"));
    println!("{report}");
    report.verify(0).unwrap_or_else(|broken| panic!("{broken}\n{replay}"));
}

#[test]
fn without_its_syncs_the_store_loses_what_it_acknowledged_and_the_checker_sees_it() {
    let seed = super::seed();
    let mut target = PowerCuts::new(seed, false, &[CrashMode::Drop]);
    // A run that cannot go on is no proof by itself: only messages that were acknowledged and are gone count.
    let found = match test(seed, 2).run(&mut target) {
        Ok(report) => report.evidence.violations(),
        Err(refused) => vec![format!("{refused:#}")],
    };
    let lost = found.iter().filter(|violation| violation.contains("was acknowledged at")).count();
    println!("{} broken promises, {lost} of them lost messages", found.len());
    assert!(
        lost > 0,
        "a store that never syncs was not found out: {found:?}\n{}",
        super::replay("without_its_syncs", seed)
    );
}

/// A backend whose syncs do nothing and say that all went well.
struct WithoutSync(Arc<CrashBackend>);

impl Backend for WithoutSync {
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(FileWithoutSync(self.0.open(path)?)))
    }
    fn create(&self, path: &str, bytes: u64, space: Space) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(FileWithoutSync(self.0.create(path, bytes, space)?)))
    }
    fn list(&self, directory: &str) -> io::Result<Vec<Entry>> {
        self.0.list(directory)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, path: &str) -> io::Result<()> {
        self.0.remove(path)
    }
    fn sync_directory(&self, directory: &str) -> io::Result<()> {
        self.0.sync_directory(directory)
    }
    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }
    fn lock(&self, path: &str) -> io::Result<LockGuard> {
        self.0.lock(path)
    }
    fn usage(&self) -> io::Result<Usage> {
        self.0.usage()
    }
    fn locate(&self, path: &str) -> String {
        self.0.locate(path)
    }
}

struct FileWithoutSync(Arc<dyn File>);

impl File for FileWithoutSync {
    fn bytes(&self) -> io::Result<u64> {
        self.0.bytes()
    }
    fn resize(&self, bytes: u64, space: Space) -> io::Result<()> {
        self.0.resize(bytes, space)
    }
    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read_at(at, into)
    }
    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(at, bytes)
    }
    fn zero(&self, at: u64, bytes: u64, space: Space) -> io::Result<()> {
        self.0.zero(at, bytes, space)
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn map(&self) -> io::Result<Option<Bytes>> {
        self.0.map()
    }
}
