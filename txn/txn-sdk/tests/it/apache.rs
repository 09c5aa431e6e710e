//! The SDK on Apache RocketMQ's own broker (from Maven Central): transactional send, checkback, inbox and emitting
//! handlers, on the three databases, through both libraries.

use std::time::Duration;

use mq_client::{Client, ClientOptions, TopicSettings};
use mq_testkit::{
    apache::{ApacheBroker, ApacheOptions},
    cluster::Names,
};
use sea_orm::DatabaseConnection;
use sqlx::{MySqlPool, PgPool, SqlitePool};
use txn_sdk::{Message, TxnError, TxnProducer};

use crate::{
    databases::{Engine, Scratch},
    end_to_end::{Stage, journey},
};

const WAIT: Duration = Duration::from_secs(180);
const CONFIGURATION: &str = "\
flushDiskType=SYNC_FLUSH
mappedFileSizeCommitLog=67108864
messageDelayLevel=1s 1s 1s 1s 1s 1s 2s 2s 2s 3s 3s 4s 4s 5s 5s 6s 6s 7s
transactionTimeOut=1000
transactionCheckInterval=1000
transactionOpBatchInterval=50
";

/// One Java machine for all of it: it takes long enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_apaches_broker_each_payment_becomes_one_packet_too() {
    let names = Names::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut options = ApacheOptions::new(directory.path());
    options.name_server = Some(names.address);
    options.configuration = CONFIGURATION.to_owned();
    let mut broker = tokio::task::spawn_blocking(|| ApacheBroker::start(options)).await.unwrap().unwrap();
    let address = names.address.to_string();
    let client = Client::new(ClientOptions::new(&address)).unwrap();
    macro_rules! columns {
        ($($topic:literal: $database:ty, $engine:ident;)+) => {$(
            create(&client, $topic).await;
            create(&client, concat!($topic, "_ISSUED")).await;
            let stage = Stage { names: &address, topic: $topic, every: Duration::from_secs(1) };
            journey::<$database>(Engine::$engine, stage, async || {}).await;
        )+};
    }
    columns! {
        "PAID_SQLX_SQLITE": SqlitePool, Sqlite;
        "PAID_SQLX_MARIADB": MySqlPool, MariaDb;
        "PAID_SQLX_MYSQL": MySqlPool, MySql;
        "PAID_SQLX_POSTGRES": PgPool, Postgres;
        "PAID_ORM_SQLITE": DatabaseConnection, Sqlite;
        "PAID_ORM_MARIADB": DatabaseConnection, MariaDb;
        "PAID_ORM_MYSQL": DatabaseConnection, MySql;
        "PAID_ORM_POSTGRES": DatabaseConnection, Postgres;
    }
    refuses_what_only_ours_do(&address).await;
    broker.kill().unwrap();
}

/// By name, and nothing is stored: Apache's brokers would take the message and do nothing of what it asks for.
async fn refuses_what_only_ours_do(names: &str) {
    let place = Scratch::with_orders(Engine::Sqlite).await;
    let txn = TxnProducer::builder(names)
        .group("beyond")
        .database(place.open::<SqlitePool>().await)
        .topics(["PAID_SQLX_SQLITE"])
        .build()
        .await
        .unwrap();
    txn.registered().await;
    let message = || Message::new("PAID_SQLX_SQLITE", "{}");
    for (messages, asked_for) in [
        (vec![message(), message()], "shared-verdict"),
        (vec![message().delay_from_commit(WAIT)], "delay-from-commit"),
        (vec![message().in_commit_order("account-7")], "commit-order"),
        (vec![message().max_checks(3)], "max-checks"),
    ] {
        let refused = match <[Message; 1]>::try_from(messages) {
            Ok([message]) => txn.begin(message).await.map(drop),
            Err(messages) => txn.begin_all(messages).await.map(drop),
        };
        assert!(
            matches!(&refused, Err(TxnError::NotOffered { capability, .. }) if *capability == asked_for),
            "{asked_for}: {refused:?}"
        );
    }
    txn.shutdown().await;
}

/// It can be done once a name server knows the broker.
async fn create(client: &Client, topic: &str) {
    let give_up = tokio::time::Instant::now() + WAIT;
    while let Err(error) = client.create_topic(topic, TopicSettings::with_queues(2)).await {
        assert!(tokio::time::Instant::now() < give_up, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
