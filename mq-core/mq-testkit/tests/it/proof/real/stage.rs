//! What a case is played on: a broker with a store of its own, a schema of its own, the processes; and what they left in
//! database and log.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use bytes::Bytes;
use mq_protocol::record::{MAGIC_BLANK, StoredMessage};
use mq_protocol::topic;
use mq_testkit::database::DatabaseServer;
use mq_testkit::process::{MqProcess, workspace};
use sqlx::postgres::{PgPool, PgPoolOptions};
use tempfile::TempDir;

use super::TOPIC;
use super::child::{ALL_ANSWERED, DATABASE, LIFE, NAME_SERVER, ROLE};
use super::proxy::{Proxy, Rule, Target, Through};

const CONFIGURATION: &str = "\
transactionTimeOut=400
transactionCheckInterval=400
transactionCheckMax=8
messageDelayLevel=1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s
mappedFileSizeCommitLog=4194304
";

/// How a process gets to its broker and its database.
pub(super) struct Ways {
    name_server: String,
    database: String,
    /// Between the process and what its network cuts it off from, and before the name server that says so.
    proxies: Vec<Proxy>,
}

impl Ways {
    /// Straight ahead.
    pub(super) fn straight(stage: &Stage) -> Self {
        let name_server = stage.broker.name_server.to_string();
        Self { name_server, database: stage.database.clone(), proxies: Vec::new() }
    }

    pub(super) async fn through(stage: &Stage, network: Option<(Through, Rule)>) -> Self {
        let mut ways = Self::straight(stage);
        match network {
            None => {}
            Some((Through::Broker, rule)) => {
                let broker = Proxy::start(Target::Frames(stage.broker.broker, None), Some(rule)).await;
                let renamed = (stage.broker.broker.port(), broker.port);
                let names = Proxy::start(Target::Frames(stage.broker.name_server, Some(renamed)), None).await;
                ways.name_server = format!("127.0.0.1:{}", names.port);
                ways.proxies = vec![broker, names];
            }
            Some((Through::Database, rule)) => {
                let proxy = Proxy::start(Target::Postgres(stage.socket.clone()), Some(rule)).await;
                let (place, _) = ways.database.split_once("host=").unwrap();
                let (_, options) = ways.database.split_once('&').unwrap();
                ways.database = format!("{place}{options}").replace("localhost", &format!("127.0.0.1:{}", proxy.port));
                ways.proxies = vec![proxy];
            }
        }
        ways
    }

    pub(super) fn have_failed(&self) -> bool {
        self.proxies.first().is_none_or(Proxy::has_failed)
    }
}

/// Ended by the end of its standard input at the latest.
pub(super) struct Running {
    pub(super) role: &'static str,
    pub(super) child: Child,
}

impl Running {
    pub(super) fn start(role: &'static str, stage: &Stage, ways: &Ways, life: usize, failpoints: &str) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(stage.directory.path().join(role)).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "proof::real::child::child", "--nocapture"])
            .envs([(ROLE, role), (DATABASE, &ways.database), (LIFE, &life.to_string()), ("FAILPOINTS", failpoints)])
            .env(NAME_SERVER, &ways.name_server)
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
pub(super) struct Stage {
    pub(super) broker: MqProcess,
    database: String,
    socket: PathBuf,
    pool: PgPool,
    directory: TempDir,
}

impl Stage {
    pub(super) async fn set(server: &DatabaseServer, number: usize) -> Self {
        let first = PgPoolOptions::new().max_connections(1).connect(&server.url(None)).await.unwrap();
        let schema = format!("case_{number}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE SCHEMA {schema}"))).execute(&first).await.unwrap();
        let database = format!("{}&options=-c%20search_path%3D{schema}", server.url(None));
        let (_, directory) = server.url(None).split_once("host=").map(|(_, host)| ((), host.to_owned())).unwrap();
        let socket = PathBuf::from(directory).join(".s.PGSQL.5432");
        let pool = PgPoolOptions::new().max_connections(2).connect(&database).await.unwrap();
        let tables = "CREATE TABLE orders (name TEXT PRIMARY KEY); CREATE TABLE packets (name TEXT)";
        sqlx::raw_sql(tables).execute(&pool).await.unwrap();
        let directory = TempDir::new().unwrap();
        let broker = MqProcess::new(directory.path(), CONFIGURATION).unwrap().built_as(armed_mq());
        Self { broker, database, socket, pool, directory }
    }

    async fn names(&self, query: &'static str) -> Vec<String> {
        sqlx::query_scalar(query).fetch_all(&self.pool).await.unwrap()
    }

    /// What does not agree yet; nothing once all is settled. Who says that a transaction may outlast its checks takes a
    /// parked message for a visible one that was not delivered.
    pub(super) async fn differences(&self, outlasts_checks: bool) -> Option<String> {
        let log = Log::of(&self.broker.store());
        let orders = self.names("SELECT name FROM orders ORDER BY name").await;
        let packets = self.names("SELECT name FROM packets ORDER BY name").await;
        let visible: Vec<String> = log.visible.iter().flat_map(|(order, times)| vec![order.clone(); *times]).collect();
        let open: Vec<_> = log.halves.iter().filter(|half| !log.ended.contains(half)).collect();
        let is_parked = |order: &String| outlasts_checks && log.parked.contains(order) && !visible.contains(order);
        let published: Vec<_> = orders.iter().filter(|order| !is_parked(order)).cloned().collect();
        let agreed = published == packets && published == visible && open.is_empty() && !log.parked.is_empty();
        (!agreed).then(|| format!("orders {orders:?}\nvisible {visible:?}\npackets {packets:?}\nopen {open:?} {log:?}"))
    }

    /// As `differences`, once so many services have done all that they do, in this life.
    pub(super) async fn unsettled(&self, services: usize, life: usize, outlasts_checks: bool) -> Option<String> {
        let said = std::fs::read_to_string(self.directory.path().join("service")).unwrap_or_default();
        match said.matches(&format!("{ALL_ANSWERED} {life}\n")).count() >= services {
            true => self.differences(outlasts_checks).await,
            false => Some("a service still waits for answers".to_owned()),
        }
    }

    pub(super) fn said(&self) -> String {
        let last = |role| std::fs::read_to_string(self.directory.path().join(role)).unwrap_or_default();
        let roles = ["service", "consumer", "second"].map(|role| format!("{role}: {}\n", last(role)));
        format!("{}broker: {}", roles.concat(), self.broker.log())
    }
}

/// What lies in the commit log, read from its bytes while the broker works on.
#[derive(Debug, Default)]
struct Log {
    halves: BTreeSet<u64>,
    ended: BTreeSet<u64>,
    visible: BTreeMap<String, usize>,
    parked: BTreeSet<String>,
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
        let order = || record.message.property("KEYS").unwrap_or_default().to_owned();
        match &*record.message.topic {
            topic::HALF => drop(self.halves.insert(record.queue_offset.0)),
            topic::OP_HALF => {
                let body = String::from_utf8_lossy(&record.message.body).into_owned();
                self.ended.extend(body.split_terminator(',').filter_map(|half| half.parse::<u64>().ok()));
            }
            topic::CHECK_MAX_TIME => drop(self.parked.insert(order())),
            TOPIC => *self.visible.entry(order()).or_default() += 1,
            _ => {}
        }
    }
}

/// A broker that dies where it is told to, built once and out of the way of the ordinary one.
pub(super) fn armed_mq() -> &'static Path {
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
