//! Messages beyond Apache RocketMQ's, on our broker: several under one verdict, delayed from the commit, in the order of the
//! commits. A cluster that does not offer them refuses by name, and stores nothing.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use mq_client::{Action, ConsumeFrom, Filter, PushConsumer, ReceivedMessage};
use mq_protocol::codes::response;
use mq_testkit::cluster::{Cluster, ClusterOptions};
use parking_lot::Mutex;
use txn_sdk::{Message, Outcome, TxnError, TxnProducer, TxnProducerBuilder, Verdict};

use crate::{
    broker::{Broker, OnSend},
    databases::{Engine, Scratch, TestDatabase, on_all_databases},
    producer::{message, producer},
};

const INSERT_ORDER: &str = "INSERT INTO orders (note) VALUES ('paid')";
const TOPICS: [&str; 2] = ["ORDER_PAID", "STOCK_TAKEN"];
const PATIENCE: Duration = Duration::from_secs(180);

on_all_databases!(
    several_messages_become_visible_together_or_not_at_all,
    a_delay_counts_from_the_commit,
    what_a_cluster_does_not_offer_is_refused_by_name,
);

/// Everything that the topics show, as it came.
struct Reader {
    seen: Arc<Mutex<Vec<(ReceivedMessage, Instant)>>>,
    _consumer: PushConsumer,
}

impl Reader {
    async fn start(cluster: &Cluster) -> Self {
        let seen: Arc<Mutex<Vec<_>>> = Arc::default();
        let sees = seen.clone();
        let builder = PushConsumer::builder(cluster.name_servers()).group("reader").consume_from(ConsumeFrom::First);
        let builder = TOPICS.into_iter().fold(builder, |builder, topic| builder.subscribe(topic, Filter::all()));
        let handler = move |batch: Vec<ReceivedMessage>| {
            sees.lock().extend(batch.into_iter().map(|message| (message, Instant::now())));
            std::future::ready(Action::Ack)
        };
        Self { seen, _consumer: builder.concurrent(handler).start().await.unwrap() }
    }

    /// How often each key was seen.
    fn keys(&self) -> BTreeMap<String, usize> {
        let mut keys = BTreeMap::new();
        for (message, _) in self.seen.lock().iter() {
            *keys.entry(message.keys().next().unwrap_or_default().to_owned()).or_default() += 1;
        }
        keys
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let give_up = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < give_up, "{what}: not in {PATIENCE:?}, seen {:?}", self.keys());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn builder<D: TestDatabase>(cluster: &Cluster, database: D) -> TxnProducerBuilder<D> {
    TxnProducer::builder(cluster.name_servers()).group("order-service").topics(TOPICS).database(database)
}

/// Three on two topics.
fn set(key: &str) -> Vec<Message> {
    let part =
        |topic: &str, body: &str| Message::new(topic.to_owned(), body.to_owned()).key(key.to_owned()).max_checks(1_000);
    vec![part(TOPICS[0], "a"), part(TOPICS[1], "b"), part(TOPICS[0], "c")]
}

async fn several_messages_become_visible_together_or_not_at_all<D: TestDatabase>(engine: Engine) {
    let cluster = Cluster::start(ClusterOptions::fast()).await.unwrap();
    let file = Scratch::with_orders(engine).await;
    let txn = builder(&cluster, file.open::<D>().await)
        .deadline(Duration::from_secs(10)) // a slow machine's transaction is not fenced
        .checks_every(Duration::from_secs(1))
        .build()
        .await
        .unwrap();
    let sent = txn.send_all(set("committed"), async |tx| D::run(tx, INSERT_ORDER).await).await.unwrap();
    assert_eq!(sent.outcome, Outcome::Committed);
    let sent = txn.send_all(set("declined"), async |_| Err::<(), _>("declined")).await.unwrap();
    assert_eq!(sent.outcome, Outcome::RolledBack("declined"));
    drop(txn.begin_all(set("dropped")).await.unwrap());
    // Ended behind the SDK's back, each way: the checkback settles the whole set.
    for (key, behind_our_back) in [("behind", "COMMIT"), ("undone", "ROLLBACK")] {
        let mut transaction = txn.begin_all(set(key)).await.unwrap();
        D::run(transaction.handle(), INSERT_ORDER).await.unwrap();
        D::run(transaction.handle(), behind_our_back).await.unwrap();
        let sent = transaction.commit().await.unwrap();
        assert_ne!((key, sent.outcome), ("undone", Outcome::Committed));
    }
    for (messages, count) in [(Vec::new(), 0), (vec![message(); 33], 33)] {
        let refused = txn.begin_all(messages).await.map(drop);
        assert!(matches!(refused, Err(TxnError::Parts { messages }) if messages == count), "{refused:?}");
    }
    let reader = Reader::start(&cluster).await;
    let expected = BTreeMap::from([("behind".to_owned(), 3), ("committed".to_owned(), 3)]);
    reader.until("both sets", |reader| reader.keys() == expected).await;
    // The others never come.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!((reader.keys(), file.orders().await), (expected, 2));
    txn.shutdown().await;
    cluster.stop().await.unwrap();
}

async fn a_delay_counts_from_the_commit<D: TestDatabase>(engine: Engine) {
    const DELAY: Duration = Duration::from_secs(2);
    let cluster = Cluster::start(ClusterOptions::fast()).await.unwrap();
    let file = Scratch::with_orders(engine).await;
    let txn = builder(&cluster, file.open::<D>().await).build().await.unwrap();
    let reader = Reader::start(&cluster).await;
    let mut transaction = txn.begin(message().delay_from_commit(DELAY).max_checks(1_000)).await.unwrap();
    D::run(transaction.handle(), INSERT_ORDER).await.unwrap();
    tokio::time::sleep(DELAY).await; // a delay from the half would be over
    let before_commit = Instant::now();
    assert_eq!(transaction.commit().await.unwrap().outcome, Outcome::Committed);
    reader.until("delivered", |reader| !reader.seen.lock().is_empty()).await;
    let after = reader.seen.lock()[0].1 - before_commit;
    assert!(after >= DELAY - Duration::from_millis(50), "delivered {after:?} after the commit had begun");
    txn.shutdown().await;
    cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_key_stand_in_the_order_of_their_commits() {
    let cluster = Cluster::start(ClusterOptions::fast()).await.unwrap();
    let txn = TxnProducer::builder(cluster.name_servers())
        .group("order-service")
        .topics(TOPICS)
        .verdicts(|_| std::future::ready(Verdict::Unknown))
        .build()
        .await
        .unwrap();
    let mut pending = Vec::new();
    for number in 0..8 {
        let message =
            Message::new(TOPICS[0], "x").key(number.to_string()).in_commit_order("account-7").max_checks(1_000);
        pending.push(Some(txn.begin(message).await.unwrap()));
    }
    let order = [3, 0, 7, 1, 6, 2, 5, 4];
    for number in order {
        assert_eq!(pending[number].take().unwrap().commit().await.outcome, Outcome::Committed);
    }
    let reader = Reader::start(&cluster).await;
    reader.until("all of them", |reader| reader.seen.lock().len() == order.len()).await;
    let mut seen: Vec<_> = reader.seen.lock().iter().map(|(message, _)| message.clone()).collect();
    assert!(seen.windows(2).all(|pair| pair[0].queue.queue_id == pair[1].queue.queue_id), "one queue");
    seen.sort_by_key(|message| message.queue_offset);
    let keys: Vec<_> = seen.iter().map(|message| message.keys().next().unwrap().to_owned()).collect();
    assert_eq!(keys, order.map(|number| number.to_string()));
    txn.shutdown().await;
    cluster.stop().await.unwrap();
}

async fn what_a_cluster_does_not_offer_is_refused_by_name<D: TestDatabase>(engine: Engine) {
    let (broker, file) = (Broker::start().await, Scratch::with_orders(engine).await);
    let txn = producer(&broker, file.open::<D>().await, Duration::ZERO).await;
    for (messages, asked_for) in [
        (vec![message(), message()], "shared-verdict"),
        (vec![message().delay_from_commit(Duration::from_secs(1))], "delay-from-commit"),
        (vec![message().in_commit_order("account-7")], "commit-order"),
        (vec![message().max_checks(3)], "max-checks"),
    ] {
        let sent = match <[Message; 1]>::try_from(messages) {
            Ok([message]) => txn.send(message, async |tx| D::run(tx, INSERT_ORDER).await).await,
            Err(messages) => txn.send_all(messages, async |tx| D::run(tx, INSERT_ORDER).await).await,
        };
        assert!(
            matches!(&sent, Err(TxnError::NotOffered { capability, .. }) if *capability == asked_for),
            "{asked_for}: {sent:?}"
        );
    }
    assert_eq!((broker.halves().len(), file.orders().await), (0, 0));

    // An outbox is no way round it, and takes no sets.
    let outboxed = crate::outbox::with_outbox::<D>(&broker.address(), &file, 10).await;
    let sent = outboxed.begin(message().max_checks(3)).await.map(drop);
    assert!(matches!(sent, Err(TxnError::NotOffered { .. })), "{sent:?}");
    broker.on_send(OnSend::Refuse(response::SERVICE_NOT_AVAILABLE));
    let sent = outboxed.begin_all(vec![message(), message()]).await.map(drop);
    assert!(matches!(sent, Err(TxnError::NotOffered { .. })), "{sent:?}");
    assert_eq!(file.count("SELECT count(*) FROM checkback_outbox").await, 0);
}
