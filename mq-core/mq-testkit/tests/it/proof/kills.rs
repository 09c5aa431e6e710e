//! The kills among the singles once more, with real processes: `mq`, a service and a consumer, which abort at the very
//! point, and PostgreSQL. Afterwards rows, messages and effects have to agree exactly.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mq_client::Message;
use mq_protocol::record::{MAGIC_BLANK, StoredMessage};
use mq_protocol::topic;
use mq_testkit::database::{DatabaseKind, DatabaseServer};
use mq_testkit::process::{MqProcess, workspace};
use mq_testkit::report;
use sqlx::postgres::{PgPool, PgPoolOptions};
use tempfile::TempDir;
use txn_sdk::{Consumer, Inbox, Msg, Outcome, TxnProducer, failpoints};

use super::points::{Actor, Point};
use Side::{After, Before};

const TOPIC: &str = "ORDER_PAID";
/// Orders that a service has to get an answer for before it is done.
const ORDERS: u32 = 6;
const PATIENCE: Duration = Duration::from_secs(120);
const CONFIGURATION: &str = "\
transactionTimeOut=400
transactionCheckInterval=400
transactionCheckMax=4
messageDelayLevel=1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s
mappedFileSizeCommitLog=4194304
";
const ROLE: &str = "PROOF_ROLE";
const DATABASE: &str = "PROOF_DATABASE";
const NAME_SERVER: &str = "PROOF_NAMESRV";
const LIFE: &str = "PROOF_LIFE";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Before,
    After,
}

/// One place in a process's way where it dies, by the failpoints of its lives, and the kills of the singles that this is.
struct Death {
    actor: Actor,
    lives: &'static [&'static str],
    kills: &'static [(Point, Side)],
}

const fn death(actor: Actor, lives: &'static [&'static str], kills: &'static [(Point, Side)]) -> Death {
    Death { actor, lives, kills }
}

/// "After" one step is "before" the next where a process does nothing in between. An order takes two appends and two
/// syncs of the log: half and verdict; the orphan that a service sends first takes one.
const DEATHS: &[Death] = {
    use Actor::{Broker, Consumer, Service};
    use Point::*;
    &[
        death(
            Service,
            &["txn-before-half=1*off->return"],
            &[(BeforeHalf, Before), (BeforeHalf, After), (HalfSent, Before)],
        ),
        death(Service, &["txn-half-sent=1*off->return"], &[(HalfSent, After)]),
        death(
            Service,
            &["txn-after-half=1*off->return"],
            &[(HalfAcked, Before), (HalfAcked, After), (TxBegun, Before)],
        ),
        death(Service, &["txn-begun=1*off->return"], &[(TxBegun, After), (MarkerWritten, Before)]),
        death(Service, &["txn-marked=1*off->return"], &[(MarkerWritten, After)]),
        death(Service, &["txn-after-rows=1*off->return"], &[(CommitSent, Before)]),
        death(Service, &["txn-commit-sent=return"], &[(CommitSent, After), (Committed, Before)]),
        death(Service, &["txn-between-commit-and-end=1*off->return"], &[(Committed, After), (EndSent, Before)]),
        death(Service, &["txn-end-sent=return"], &[(EndSent, After)]),
        death(Service, &["txn-after-end=1*off->return"], &[(EndAcked, Before), (EndAcked, After)]),
        death(Service, &["txn-between-commit-and-end=return", "check-received=return"], &[(CheckReceived, Before)]),
        death(
            Service,
            &["txn-between-commit-and-end=return", "check-decided=return"],
            &[(CheckReceived, After), (CheckAnswered, Before)],
        ),
        death(Service, &["txn-between-commit-and-end=return", "check-answered=return"], &[(CheckAnswered, After)]),
        death(
            Broker,
            &["half-parsed=2*off->return"],
            &[(HalfParsed, Before), (HalfParsed, After), (HalfAppended, Before)],
        ),
        death(Broker, &["store-after-append=3*off->return(kill)"], &[(HalfAppended, After), (HalfDurable, Before)]),
        death(Broker, &["store-after-flush=3*off->return(kill)"], &[(HalfDurable, After), (HalfReplied, Before)]),
        death(
            Broker,
            &["end-parsed=1*off->return"],
            &[(HalfReplied, After), (EndParsed, Before), (EndParsed, After), (DecisionAppended, Before)],
        ),
        death(
            Broker,
            &["store-after-append=4*off->return(power-cut)"],
            &[(DecisionAppended, After), (DecisionDurable, Before)],
        ),
        death(Broker, &["store-torn-group=return"], &[(DecisionAppended, After)]),
        death(Broker, &["store-after-flush=4*off->return(kill)"], &[(DecisionDurable, After), (Visible, Before)]),
        death(Broker, &["verdicts-before-save=return"], &[(Visible, After), (OpNoted, Before)]),
        death(Broker, &["verdicts-saved=return"], &[(OpNoted, After)]),
        death(Broker, &["check-due=return"], &[(CheckScanned, Before)]),
        death(Broker, &["check-scanned=return"], &[(CheckScanned, After), (CheckSent, Before)]),
        death(Broker, &["check-sent=return"], &[(CheckSent, After)]),
        death(Broker, &["check-due=4*off->return"], &[(ParkWritten, Before)]),
        death(Broker, &["half-parked=return"], &[(ParkWritten, After)]),
        death(
            Consumer,
            &["inbox-before-row=1*off->return"],
            &[(Received, Before), (Received, After), (InboxRow, Before)],
        ),
        death(Consumer, &["inbox-after-row=1*off->return"], &[(InboxRow, After), (EffectWritten, Before)]),
        death(Consumer, &["inbox-after-effect=1*off->return"], &[(EffectWritten, After), (EffectCommitted, Before)]),
        death(Consumer, &["inbox-commit-sent=return"], &[(EffectCommitted, Before)]),
        death(Consumer, &["inbox-before-ack=1*off->return"], &[(EffectCommitted, After), (BeforeAck, Before)]),
        death(Consumer, &["inbox-after-ack=1*off->return"], &[(BeforeAck, After), (AckLost, Before), (AckLost, After)]),
    ]
};

#[test]
fn every_kill_is_on_the_list() {
    let listed: BTreeSet<_> = DEATHS.iter().flat_map(|death| death.kills.iter().copied()).collect();
    let all: BTreeSet<_> = Point::ALL.into_iter().flat_map(|point| [(point, Before), (point, After)]).collect();
    assert_eq!(listed, all);
}

/// The child: a service or a consumer. Without its variables, an ordinary test, it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    failpoints::arm();
    let variable = |name| std::env::var(name).unwrap();
    let database = PgPoolOptions::new().max_connections(4).connect(&variable(DATABASE)).await.unwrap();
    let end_of_parent = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    let work = async {
        match &*role {
            "service" => serve(&variable(NAME_SERVER), database, variable(LIFE).parse().unwrap()).await,
            _ => consume(&variable(NAME_SERVER), database).await,
        }
    };
    tokio::select! {
        () = work => {}
        _ = end_of_parent => std::process::exit(0),
    }
}

async fn serve(name_servers: &str, database: PgPool, life: u32) {
    let txn = loop {
        let builder = TxnProducer::builder(name_servers).group("order-service").database(database.clone());
        let builder =
            builder.topics([TOPIC]).deadline(Duration::from_millis(500)).checks_every(Duration::from_millis(400));
        match builder.build().await {
            Ok(txn) => break txn,
            Err(error) => println!("not yet: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    if life == 0 {
        // Nobody knows what became of it: it is parked.
        while txn.producer().send_half(Message::new(TOPIC, "orphan")).await.is_err() {}
    }
    let (mut answered, mut number) = (0, 0);
    while answered < ORDERS {
        number += 1;
        let order = format!("order-{life}-{number}");
        let message = Message::new(TOPIC, format!("{order:?}")).key(order.as_str());
        let sent = txn.send(message, async |tx| {
            let insert = sqlx::query("INSERT INTO orders (name) VALUES ($1)").bind(order.clone());
            insert.execute(&mut *tx).await.map_err(|error| error.to_string())?;
            if number % 3 == 2 { Err("declined".to_owned()) } else { Ok(()) }
        });
        match sent.await {
            Ok(sent) if sent.outcome != Outcome::InDoubt => answered += 1,
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    std::future::pending().await
}

async fn consume(name_servers: &str, database: PgPool) {
    loop {
        let consumer = Consumer::builder(name_servers).group("red-packet").inbox(Inbox::new(database.clone()));
        let consumer = consumer.on(TOPIC, async |tx, order: Msg<String>| {
            let insert = sqlx::query("INSERT INTO packets (name) VALUES ($1)").bind(order.body.clone());
            insert.execute(&mut *tx).await.map(drop)
        });
        if let Err(error) = consumer.run_until(std::future::pending::<()>()).await {
            println!("not yet: {error}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Ended by the end of its standard input at the latest.
struct Running {
    role: &'static str,
    child: Child,
}

impl Running {
    fn start(role: &'static str, stage: &Stage, life: usize, failpoints: &str) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(stage.directory.path().join(role)).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "proof::kills::child", "--nocapture"])
            .envs([(ROLE, role), (DATABASE, &stage.database), (LIFE, &life.to_string()), ("FAILPOINTS", failpoints)])
            .env(NAME_SERVER, stage.broker.name_server.to_string())
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { role, child }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One case: a broker with a store of its own, a schema of its own.
struct Stage {
    broker: MqProcess,
    database: String,
    pool: PgPool,
    directory: TempDir,
}

impl Stage {
    async fn set(server: &DatabaseServer, number: usize) -> Self {
        let first = PgPoolOptions::new().max_connections(1).connect(&server.url(None)).await.unwrap();
        let schema = format!("case_{number}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE SCHEMA {schema}"))).execute(&first).await.unwrap();
        let database = format!("{}&options=-c%20search_path%3D{schema}", server.url(None));
        let pool = PgPoolOptions::new().max_connections(2).connect(&database).await.unwrap();
        let tables = "CREATE TABLE orders (name TEXT PRIMARY KEY); CREATE TABLE packets (name TEXT)";
        sqlx::raw_sql(tables).execute(&pool).await.unwrap();
        let directory = TempDir::new().unwrap();
        let broker = MqProcess::new(directory.path(), CONFIGURATION).unwrap().built_as(armed_mq());
        Self { broker, database, pool, directory }
    }

    async fn names(&self, query: &'static str) -> Vec<String> {
        sqlx::query_scalar(query).fetch_all(&self.pool).await.unwrap()
    }

    /// What does not agree yet; nothing once all is settled.
    async fn differences(&self) -> Option<String> {
        let log = Log::of(&self.broker.store());
        let orders = self.names("SELECT name FROM orders ORDER BY name").await;
        let packets = self.names("SELECT name FROM packets ORDER BY name").await;
        let visible: Vec<String> = log.visible.iter().flat_map(|(order, times)| vec![order.clone(); *times]).collect();
        let open: Vec<_> = log.halves.iter().filter(|half| !log.ended.contains(half)).collect();
        let agreed = orders == packets && orders == visible && open.is_empty() && log.parked >= 1;
        (!agreed).then(|| format!("orders {orders:?}\nvisible {visible:?}\npackets {packets:?}\nopen {open:?} {log:?}"))
    }

    /// As `differences`, once there is something to compare.
    async fn unsettled(&self) -> Option<String> {
        match self.names("SELECT name FROM orders").await.len() {
            0..4 => Some("few orders are paid".to_owned()),
            _ => self.differences().await,
        }
    }

    fn said(&self) -> String {
        let last = |role| std::fs::read_to_string(self.directory.path().join(role)).unwrap_or_default();
        format!("service: {}\nconsumer: {}\nbroker: {}", last("service"), last("consumer"), self.broker.log())
    }
}

/// What lies in the commit log, read from its bytes while the broker works on.
#[derive(Debug, Default)]
struct Log {
    halves: BTreeSet<u64>,
    ended: BTreeSet<u64>,
    visible: BTreeMap<String, usize>,
    parked: usize,
}

impl Log {
    fn of(store: &Path) -> Self {
        let mut log = Self::default();
        let mut segments: Vec<PathBuf> =
            std::fs::read_dir(store.join("commitlog")).unwrap().map(|entry| entry.unwrap().path()).collect();
        segments.sort();
        for segment in segments {
            let mut rest = Bytes::from(std::fs::read(segment).unwrap());
            while rest.get(4..8).is_some_and(|magic| magic != MAGIC_BLANK.to_be_bytes()) {
                let Ok(record) = StoredMessage::decode(&rest) else { break };
                rest = rest.slice(record.size as usize..);
                log.note(&record);
            }
        }
        log
    }

    fn note(&mut self, record: &StoredMessage) {
        match &*record.message.topic {
            topic::HALF => drop(self.halves.insert(record.queue_offset.0)),
            topic::OP_HALF => {
                let body = String::from_utf8_lossy(&record.message.body).into_owned();
                self.ended.extend(body.split_terminator(',').filter_map(|half| half.parse::<u64>().ok()));
            }
            topic::CHECK_MAX_TIME => self.parked += 1,
            TOPIC => {
                let order = record.message.property("KEYS").unwrap_or_default().to_owned();
                *self.visible.entry(order).or_default() += 1;
            }
            _ => {}
        }
    }
}

/// A broker that dies where it is told to, built once and out of the way of the ordinary one.
fn armed_mq() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        // As `mq_binary` does, so that no dependency is built twice.
        let output = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--workspace", "--bin", "mq", "--features", "mq-server/failpoints"])
            .current_dir(workspace())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let armed = workspace().join("target/proof/mq");
        std::fs::create_dir_all(armed.parent().unwrap()).unwrap();
        std::fs::copy(workspace().join("target/debug/mq"), &armed).unwrap();
        armed
    })
}

async fn until(what: impl Fn() -> String, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done().await {
        assert!(Instant::now() < deadline, "{}", what());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn dies_and_settles(server: &DatabaseServer, number: usize, death: &Death) {
    let mut stage = Stage::set(server, number).await;
    let armed =
        |actor, life: usize| if death.actor == actor { death.lives.get(life).copied().unwrap_or("") } else { "" };
    stage.broker.with_environment(&[("FAILPOINTS", armed(Actor::Broker, 0))]);
    stage.broker.start().unwrap();
    let mut service = Running::start("service", &stage, 0, armed(Actor::Service, 0));
    let mut consumer = Running::start("consumer", &stage, 0, armed(Actor::Consumer, 0));
    for life in 1..=death.lives.len() {
        let point = death.lives[life - 1];
        let dies = |stage: &Stage| format!("{point} was never reached\n{}", stage.said());
        match death.actor {
            Actor::Broker => {
                let deadline = Instant::now() + PATIENCE;
                while !stage.broker.has_ended().unwrap() {
                    assert!(Instant::now() < deadline, "{}", dies(&stage));
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                stage.broker.with_environment(&[]);
                stage.broker.start().unwrap();
            }
            Actor::Service | Actor::Consumer => {
                let running = if death.actor == Actor::Service { &mut service } else { &mut consumer };
                until(|| dies(&stage), async || running.child.try_wait().unwrap().is_some()).await;
                let role = running.role;
                *running = Running::start(role, &stage, life, armed(death.actor, life));
            }
        }
    }
    let deadline = Instant::now() + PATIENCE;
    while let Some(why) = stage.unsettled().await {
        assert!(Instant::now() < deadline, "{:?} is not settled: {why}\n{}", death.lives, stage.said());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop((service, consumer));
    assert_eq!(stage.differences().await, None, "{:?}", death.lives);
    assert!(stage.broker.stop().unwrap().success(), "a graceful end:\n{}", stage.broker.log());
}

#[test]
fn rows_messages_and_effects_agree_after_every_kill_of_real_processes() {
    let server = DatabaseServer::start(DatabaseKind::Postgres, &[]).unwrap();
    let (next, table) = (Mutex::new(0), Mutex::new(BTreeMap::new()));
    armed_mq();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                loop {
                    let number = {
                        let mut next = next.lock().unwrap();
                        *next += 1;
                        *next - 1
                    };
                    let Some(death) = DEATHS.get(number) else { return };
                    let began = Instant::now();
                    runtime.block_on(dies_and_settles(&server, number, death));
                    let kills: Vec<_> = death.kills.iter().map(|(point, side)| format!("{side:?} {point:?}")).collect();
                    let row = format!(
                        "{:<9} {:<66} {:>5} ms  {}",
                        format!("{:?}", death.actor),
                        death.lives.join(", "),
                        began.elapsed().as_millis(),
                        kills.join(", ")
                    );
                    println!("{row}");
                    table.lock().unwrap().insert(number, row);
                }
            });
        }
    });
    let rows: Vec<String> = table.into_inner().unwrap().into_values().collect();
    let kills = Point::ALL.len() * 2;
    report::show(
        "60 proof 4 kills",
        &format!(
            "{}\n{kills} kills of real processes at {} places: rows, messages and effects agree",
            rows.join("\n"),
            rows.len()
        ),
    );
}
