//! Databases, brokers and services of each way, and what is measured of them. The reader is here: a message counts as
//! published when a consumer has it in hand.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use mq_client::{Action, ConsumeFrom, Filter, Message, Producer, PushConsumer, ReceivedMessage};
use mq_testkit::apache::{ApacheBroker, ApacheOptions};
use mq_testkit::database::{DatabaseKind, DatabaseServer};
use mq_testkit::process::{MqProcess, free_ports, mq_binary, workspace};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::{Extent, TOPIC};

/// Transactions of one run, at most: orders have numbers of their own in each.
const ORDERS_OF_A_RUN: u64 = 1 << 32;
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Of a processor's time in `/proc`.
const TICK_MICROS: u64 = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Store {
    Postgres,
    Sqlite,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    Sdk,
    Outbox,
    Java,
}

/// What one run came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) rate: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Microseconds of CPU for each transaction.
    pub(crate) service_us: f64,
    pub(crate) broker_us: f64,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rate, p50_ms, p99_ms, service_us, broker_us } = self;
        write!(
            f,
            "{rate:.0}/s, p50 {p50_ms:.1} ms, p99 {p99_ms:.1} ms, service {service_us:.0} µs, broker {broker_us:.1} µs"
        )
    }
}

/// Runs at full load, and by the clock.
#[derive(Default)]
pub(crate) struct Runs {
    pub(crate) full: Vec<Run>,
    pub(crate) paced: Vec<Run>,
}

pub(crate) type Figures = BTreeMap<(Store, Way), Runs>;

/// The ways take turns, in the next run in the other order: what the machine does beside them meets all, and what one leaves
/// behind (a vacuum, a write-back) not always the same one.
pub(crate) async fn measure_all(extent: &Extent) -> Result<Figures> {
    let mut figures = Figures::new();
    for store in [Store::Postgres, Store::Sqlite] {
        let ways: &[Way] = match store {
            Store::Postgres if !extent.ours_only => &[Way::Sdk, Way::Outbox, Way::Java],
            _ => &[Way::Sdk, Way::Outbox],
        };
        let mut sites = Vec::new();
        for way in ways {
            sites.push(Site::open(extent, store, *way).await.with_context(|| format!("{store:?}, {way:?}"))?);
        }
        for run in 1..=extent.runs {
            sites.reverse();
            for rate in [0, extent.rate] {
                for site in &sites {
                    let pace = if rate == 0 { "full load".to_owned() } else { format!("{rate} a second") };
                    let measured = site.measure(extent, rate).await;
                    let measured = measured.with_context(|| format!("{store:?}, {:?}", site.way))?;
                    eprintln!("{store:?}, {:?}, {pace}, run {run} of {}: {measured}", site.way, extent.runs);
                    let runs: &mut Runs = figures.entry((store, site.way)).or_default();
                    (if rate == 0 { &mut runs.full } else { &mut runs.paced }).push(measured);
                }
            }
        }
    }
    Ok(figures)
}

/// Each way has a database and a broker of its own.
struct Site {
    way: Way,
    reader: Reader,
    broker: Broker,
    database: Database,
    _directory: TempDir,
}

impl Site {
    async fn open(extent: &Extent, store: Store, way: Way) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("bench-txn-").tempdir_in(&extent.dir)?;
        let database = Database::start(store, directory.path())?;
        let broker = Broker::start(way, directory.path())?;
        let reader = Reader::start(&broker.name_servers).await?;
        Ok(Self { way, reader, broker, database, _directory: directory })
    }

    async fn measure(&self, extent: &Extent, rate: u64) -> Result<Run> {
        let Self { way, reader, broker, database, .. } = self;
        let words = [
            ("database", database.url.clone()),
            ("name-servers", broker.name_servers.clone()),
            ("first-id", reader.new_orders().to_string()),
            ("workers", extent.workers.to_string()),
            ("rate", rate.to_string()),
            ("warmup", extent.warmup.to_string()),
            ("seconds", extent.seconds.to_string()),
        ];
        let mut command = service(*way)?;
        command.args(words.into_iter().flat_map(|(name, value)| [format!("--{name}"), value]));
        let mut child = tokio::process::Command::from(command).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let pid = child.id().context("it has ended")?;
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let (mut begin, mut end, mut committed) = (None, None, Vec::new());
        while let Some(line) = lines.next_line().await? {
            let Some((word, micros)) = line.split_once(' ') else { continue };
            let Ok(micros) = micros.parse::<u64>() else { continue };
            let now = || Ok::<_, anyhow::Error>((micros, cpu_micros(pid)?, cpu_micros(broker.process_id()?)?));
            match word {
                "begin" => begin = Some(now()?),
                "end" => end = Some(now()?),
                order => committed.extend(order.parse::<u64>().ok().map(|order| (order, micros))),
            }
        }
        let status = child.wait().await?;
        ensure!(status.success(), "the service ended with {status}");
        let (begin, end) = begin.zip(end).context("the service was not measured")?;
        committed.retain(|(_, at)| (begin.0..end.0).contains(at));
        ensure!(!committed.is_empty(), "nothing was committed");
        let mut waited = reader.arrivals_of(&committed).await?;
        waited.sort_by(f64::total_cmp);
        let at = |part: f64| waited[((waited.len() - 1) as f64 * part) as usize];
        let transactions = committed.len() as f64;
        Ok(Run {
            rate: transactions / ((end.0 - begin.0) as f64 / 1e6),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            service_us: (end.1 - begin.1) as f64 / transactions,
            broker_us: (end.2 - begin.2) as f64 / transactions,
        })
    }
}

fn service(way: Way) -> Result<Command> {
    let itself = |name: &str| {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["load", "--way", name]);
        Ok(command)
    };
    match way {
        Way::Sdk => itself("sdk"),
        Way::Outbox => itself("outbox"),
        Way::Java => {
            let jar = workspace().join("target/bench-txn/bench-txn.jar");
            ensure!(jar.exists(), "{} is not there: `make bench-txn` builds it", jar.display());
            let mut command = Command::new("java");
            command.arg("-jar").arg(jar);
            Ok(command)
        }
    }
}

struct Database {
    url: String,
    _server: Option<DatabaseServer>,
}

impl Database {
    /// Durable, as it comes. PostgreSQL on a port, because JDBC knows no Unix socket.
    fn start(store: Store, directory: &Path) -> Result<Self> {
        match store {
            Store::Sqlite => {
                Ok(Self { url: format!("sqlite://{}", directory.join("shop.db").display()), _server: None })
            }
            Store::Postgres => {
                let [port] = free_ports()?;
                let settings = [("listen_addresses", "127.0.0.1"), ("port", &port.to_string())];
                let server = DatabaseServer::start(DatabaseKind::Postgres, &settings)?;
                Ok(Self { url: format!("postgres://root@127.0.0.1:{port}/postgres"), _server: Some(server) })
            }
        }
    }
}

struct Broker {
    name_servers: String,
    process: Process,
    _directory: TempDir,
}

enum Process {
    Ours(MqProcess),
    Apache { broker: ApacheBroker, names: Child },
}

impl Broker {
    /// SYNC_FLUSH, like ours by default.
    fn start(way: Way, directory: &Path) -> Result<Self> {
        let directory = TempDir::new_in(directory)?;
        if way != Way::Java {
            let mut process = MqProcess::new(directory.path(), "")?;
            process.start()?;
            let name_servers = process.name_server.to_string();
            return Ok(Self { name_servers, process: Process::Ours(process), _directory: directory });
        }
        let [port] = free_ports()?;
        let mut names = Command::new(mq_binary()?);
        let names = names.args(["namesrv", "--port", &port.to_string()]).stdout(Stdio::null()).spawn()?;
        let options = ApacheOptions::new(directory.path());
        let configuration = "flushDiskType=SYNC_FLUSH\nautoCreateTopicEnable=true\n".to_owned();
        let name_server = Some(([127, 0, 0, 1], port).into());
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(Instant::now() < deadline, "the name server does not start");
            std::thread::sleep(LOOK_AGAIN);
        }
        let broker = ApacheBroker::start(ApacheOptions { heap: "4g", configuration, name_server, ..options })?;
        let name_servers = format!("127.0.0.1:{port}");
        Ok(Self { name_servers, process: Process::Apache { broker, names }, _directory: directory })
    }

    fn process_id(&self) -> Result<u32> {
        let id = match &self.process {
            Process::Ours(process) => process.process_id(),
            Process::Apache { broker, .. } => broker.process_id(),
        };
        id.context("the broker does not run")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Self::Apache { names, .. } = self {
            let _ = names.kill();
            let _ = names.wait();
        }
    }
}

/// Consumes everything, and remembers when each order came.
struct Reader {
    came: Arc<Mutex<HashMap<u64, u64>>>,
    next_run: Mutex<u64>,
    _consumer: PushConsumer,
}

impl Reader {
    /// Returns when a first message has come: the topic is there, and its queues are read.
    async fn start(name_servers: &str) -> Result<Self> {
        let came: Arc<Mutex<HashMap<u64, u64>>> = Arc::default();
        let producer = Producer::builder(name_servers).group("bench-first").build().await?;
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = producer.send(Message::new(TOPIC, "0")).await {
            ensure!(Instant::now() < deadline, "the broker takes no message: {error}");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let seen = came.clone();
        let consumer = PushConsumer::builder(name_servers)
            .group("bench-reader")
            .subscribe(TOPIC, Filter::all())
            .consume_from(ConsumeFrom::First)
            .options(|options| options.batch = 32)
            .concurrent(move |batch: Vec<ReceivedMessage>| {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
                let orders = batch.iter().filter_map(|message| std::str::from_utf8(&message.body).ok()?.parse().ok());
                let mut seen = seen.lock();
                for order in orders {
                    seen.entry(order).or_insert(now);
                }
                std::future::ready(Action::Ack)
            })
            .start()
            .await?;
        while !came.lock().contains_key(&0) {
            ensure!(Instant::now() < deadline, "the reader gets nothing");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(Self { came, next_run: Mutex::new(1), _consumer: consumer })
    }

    fn new_orders(&self) -> u64 {
        let mut next = self.next_run.lock();
        *next += 1;
        (*next - 1) * ORDERS_OF_A_RUN
    }

    /// Milliseconds from each commit to the reader, once all have come.
    async fn arrivals_of(&self, committed: &[(u64, u64)]) -> Result<Vec<f64>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            {
                let mut came = self.came.lock();
                if committed.iter().all(|(order, _)| came.contains_key(order)) {
                    let waited = committed.iter().map(|(order, at)| came[order].saturating_sub(*at) as f64 / 1000.0);
                    let waited = waited.collect();
                    came.clear();
                    return Ok(waited);
                }
                if Instant::now() > deadline {
                    let missing = committed.iter().filter(|(order, _)| !came.contains_key(order)).count();
                    bail!("{missing} of {} committed orders were not published within {PATIENCE:?}", committed.len());
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// User and system time of a process.
fn cpu_micros(pid: u32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Behind the name, which may have blanks, come the state and ten more fields.
    let fields = stat.rsplit_once(") ").context("no process status")?.1;
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u64>);
    Ok(ticks.sum::<Result<u64, _>>()? * TICK_MICROS)
}
