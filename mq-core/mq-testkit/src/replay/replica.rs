//! A half that its broker has stored and no replica has confirmed (#3885, #7709). The fault is in Apache's client, so both
//! clients stand on Apache's broker: a SYNC_MASTER that waits for a replica which is not there, and answers
//! FLUSH_SLAVE_TIMEOUT.

use std::path::Path;
use std::process::{Command as Program, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mq_client::{Client, ClientOptions, SendFailure, SendStatus, TopicSettings};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::topic::HALF;
use sqlx::SqlitePool;
use tokio::runtime::Runtime;
use txn_sdk::{Message, OutboxOptions, TxnError, TxnProducer, TxnProducerBuilder};

use super::stage::{PATIENCE, QUIET, ROUND, wait_for};
use super::{Outcome, Row, Setting, Stage};
use crate::apache::{ApacheBroker, ApacheOptions};
use crate::cluster::Names;
use crate::process::workspace;
use crate::wire::Peer;

/// The tickets of [`unreplicated`].
pub const UNREPLICATED: &str = "#3885 #7709";
/// The master counts as one of the two.
const REPLICA_MISSING: &str =
    "brokerRole=SYNC_MASTER\ninSyncReplicas=2\nslaveTimeout=200\ntransactionOpBatchInterval=50\n";
const REPLICA_BACK: &str = "inSyncReplicas=1\n";
/// It takes the broker so long, for every half and every end.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// Starts Apache's broker, and plays the official Java client and then our SDK on it.
pub fn unreplicated() -> Result<Row> {
    let directory = tempfile::tempdir()?;
    let runtime = Runtime::new()?;
    let names = runtime.block_on(Names::start())?;
    let configuration = format!("{}{REPLICA_MISSING}", Setting::Short.configuration());
    let options =
        ApacheOptions { name_server: Some(names.address), configuration, ..ApacheOptions::new(directory.path()) };
    let broker = ApacheBroker::start(options)?;
    let stage = Stage { broker: broker.broker, setting: Setting::Short };
    let names = names.address.to_string();
    let apaches = java_client(&stage, &runtime, &names, directory.path()).context("the Java client")?;
    let ours = our_sdk(&stage, &runtime, &names, directory.path()).context("our SDK")?;
    Ok(Row {
        tickets: UNREPLICATED,
        done: "Apache's broker waits for a replica that is not there: it stores the half and answers FLUSH_SLAVE_TIMEOUT. \
               Left column: Apache's Java client, right column: our SDK on SQLite, both on that broker",
        right: "an error that says so, or the transaction runs and its message appears if it commits; a stored half is not \
                rolled back unasked behind a call that succeeds",
        apaches,
        ours,
    })
}

fn java_client(stage: &Stage, runtime: &Runtime, names: &str, home: &Path) -> Result<Outcome> {
    let topic = "replay-replica-java";
    runtime.block_on(create(names, topic))?;
    let jar = workspace().join("target/java-clients/java-clients.jar");
    if !jar.is_file() {
        bail!("{} is not there: `make clients` builds it", jar.display());
    }
    let output = Program::new("java")
        .arg(format!("-Duser.home={}", home.display()))
        .args(["-XX:TieredStopAtLevel=1", "-Xmx256m", "-cp"])
        .arg(&jar)
        .args(["checkback.Unreplicated", names, topic, "paid by java", &QUIET.as_secs().to_string()])
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let words: Vec<_> = text.lines().last().unwrap_or_default().split(';').collect();
    let [told, verdict, ran, asked] = words[..] else {
        bail!("the Java client said {text:?}, {}", String::from_utf8_lossy(&output.stderr));
    };
    let (stored, copies) = (is_stored(stage, "paid by java")?, stage.copies(topic)?);
    let ran: usize = ran.parse()?;
    let work = if ran == 0 { "not run" } else { "run" };
    let half = if stored { "the half is stored" } else { "no half is stored" };
    let did = format!(
        "{half}; the call succeeds with {told} in its result, the local transaction is {work}, the client says {verdict} \
         by itself; asked {asked} times"
    );
    Ok(Outcome { did, is_right: told == "an exception" || (ran == 1 && copies == 1) })
}

/// First without an outbox, then with one.
fn our_sdk(stage: &Stage, runtime: &Runtime, names: &str, directory: &Path) -> Result<Outcome> {
    let topic = "replay-replica-sdk";
    let database = format!("sqlite://{}?mode=rwc", directory.join("orders.db").display());
    let (told, outcomes, producer) = runtime.block_on(async {
        create(names, topic).await?;
        let pool = SqlitePool::connect(&database).await?;
        sqlx::query("CREATE TABLE orders (number INTEGER PRIMARY KEY)").execute(&pool).await?;
        let plain = builder(names, topic, "replay-sdk", pool.clone()).build().await?;
        let refused = plain.send(message(topic, "refused"), async |tx| order(tx, 1).await).await;
        let Err(TxnError::HalfUnknown(error)) = &refused else { bail!("without an outbox: {refused:?}") };
        let SendFailure::NotSafe(status) = &*error.reason else { bail!("without an outbox: {error}") };
        let told = (*status, sqlx::query("SELECT number FROM orders").fetch_all(&pool).await?.len());
        plain.shutdown().await;

        let outbox = OutboxOptions::default();
        let producer = builder(names, topic, "replay-sdk-outbox", pool).outbox(outbox).build().await?;
        let paid = producer.send(message(topic, "paid"), async |tx| order(tx, 2).await).await?;
        let unpaid = producer.send(message(topic, "unpaid"), async |_| Err::<(), _>("declined")).await?;
        Ok((told, (format!("{:?}", paid.outcome), format!("{:?}", unpaid.outcome)), producer))
    })?;
    let stored = is_stored(stage, "refused")?;
    let waited = stage.visible(topic)?.is_empty();
    set(stage, REPLICA_BACK)?;
    let came = stage.becomes_visible(topic)?;
    let copies = stage.copies(topic)?;
    let only_paid = stage.visible(topic)? == [b"paid".to_vec()];
    runtime.block_on(producer.shutdown());

    let named = told == (SendStatus::FlushSlaveTimeout, 0);
    let ran = outcomes == ("Committed".to_owned(), r#"RolledBack("declined")"#.to_owned());
    let is_right = named && stored && ran && waited && came && copies == 1 && only_paid;
    let did = format!(
        "without outbox: an error that names {:?}, {} rows written; with the outbox: one transaction {}, one {}; when the \
         replica is back {copies} visible{}",
        told.0,
        told.1,
        outcomes.0,
        outcomes.1,
        if only_paid { ", of the committed one" } else { "" },
    );
    Ok(Outcome { did, is_right })
}

fn builder(names: &str, topic: &str, group: &str, database: SqlitePool) -> TxnProducerBuilder<SqlitePool> {
    TxnProducer::builder(names)
        .group(group)
        .topics([topic])
        .send_timeout(SEND_TIMEOUT)
        .checks_every(ROUND)
        .database(database)
        .deadline(ROUND * 5)
}

fn message(topic: &str, body: &str) -> Message {
    Message::new(topic, body.to_owned())
}

async fn order(tx: &mut sqlx::SqliteConnection, number: i64) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO orders VALUES (?)").bind(number).execute(tx).await.map(drop)
}

/// In one queue, as soon as the name server knows the broker.
async fn create(names: &str, topic: &str) -> Result<()> {
    let client = Client::new(ClientOptions::new(names))?;
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = client.create_topic(topic, TopicSettings::with_queues(1)).await {
        if Instant::now() > deadline {
            return Err(error.into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Whether the broker has it as a half, ended or not.
fn is_stored(stage: &Stage, body: &str) -> Result<bool> {
    wait_for(PATIENCE, || Ok(stage.visible(HALF)?.iter().any(|half| half == body.as_bytes())))
}

fn set(stage: &Stage, settings: &'static str) -> Result<()> {
    let command = Command::request(request::UPDATE_BROKER_CONFIG).with_body(settings.as_bytes().to_vec());
    let answer = Peer::connect(stage.broker)?.ask(command, PATIENCE)?;
    if answer.code != response::SUCCESS {
        bail!("{settings:?} is refused: {answer:?}");
    }
    Ok(())
}
