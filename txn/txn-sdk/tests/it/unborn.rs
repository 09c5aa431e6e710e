//! Over a real broker: a transaction whose id is of a clock that leapt ahead, and whose process died, is fenced off and
//! rolled back as any other. It is not parked.

use std::time::Duration;

use mq_client::{Admin, ClientOptions};
use mq_protocol::body::TxnQuery;
use mq_testkit::cluster::{Cluster, ClusterOptions};
use tokio::time::Instant;
use txn_sdk::{Message, TRANSACTION_ID_PROPERTY, TransactionId, TxnProducer};

use crate::databases::{Engine, Scratch, TestDatabase, on_all_databases};

const PATIENCE: Duration = Duration::from_secs(180);
const DEADLINE: Duration = Duration::from_millis(500);

on_all_databases!(a_transaction_of_tomorrow_is_rolled_back_at_its_deadline);

async fn a_transaction_of_tomorrow_is_rolled_back_at_its_deadline<D: TestDatabase>(engine: Engine) {
    let cluster = Cluster::start(ClusterOptions::fast()).await.unwrap();
    let names = cluster.name_servers();
    let file = Scratch::with_orders(engine).await;
    let txn = TxnProducer::builder(&names)
        .group("order-service")
        .database(file.open::<D>().await)
        .topics(["ORDER_PAID"])
        .deadline(DEADLINE)
        .checks_every(Duration::from_millis(200))
        .build()
        .await
        .unwrap();
    let now = TransactionId::fresh().born();
    let tomorrow = TransactionId::born_at(now.plus(Duration::from_secs(24 * 3600)));
    // All that a process that died in the middle leaves behind. Fifteen checks may be over before a slow machine answers one.
    let half =
        Message::new("ORDER_PAID", "{}").max_checks(1_000).property(TRANSACTION_ID_PROPERTY, tomorrow.to_string());
    let sent = Instant::now();
    txn.producer().send_half(half).await.unwrap();

    while file.count("SELECT count(*) FROM checkback_marker WHERE state = 2").await == 0 {
        assert!(sent.elapsed() < PATIENCE, "asked about in vain");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(sent.elapsed() >= DEADLINE, "given up after {:?}", sent.elapsed());

    let admin = Admin::new(ClientOptions::new(&names)).unwrap();
    let [master] = &admin.masters().await.unwrap()[..] else { panic!("one broker") };
    let halves = async |parked: bool| {
        let query = TxnQuery { parked, ..TxnQuery::default() };
        admin.transactions(master, &query).await.unwrap().rows.len()
    };
    while halves(false).await > 0 {
        assert!(sent.elapsed() < PATIENCE, "not rolled back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(halves(true).await, 0, "parked");
    txn.shutdown().await;
    cluster.stop().await.unwrap();
}
