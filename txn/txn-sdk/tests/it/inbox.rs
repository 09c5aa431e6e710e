//! The consumer's inbox: whatever is delivered however often, each message has one effect in the database.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use mq_client::{Message, ReceivedMessage};
use mq_protocol::ids::UnixMillis;
use serde::Deserialize;
use txn_sdk::{ConsumeError, Consumer, Delivered, Inbox, Key, Msg};

use crate::databases::{Engine, Scratch, TestDatabase, on_all_databases};

const INSERT_ORDER: &str = "INSERT INTO orders (note) VALUES ('red packet')";

on_all_databases!(
    parallel_duplicates_have_one_effect,
    only_a_row_that_is_there_makes_a_duplicate,
    failed_deliveries_leave_nothing_and_may_come_again,
    a_handler_that_lost_its_transaction_has_no_effect_and_is_asked_again,
    messages_are_told_apart_by_group_topic_tag_and_key,
    the_longest_names_and_keys_are_kept_whole,
    the_key_function_chooses,
    each_group_forgets_its_own_messages_in_its_own_time,
    a_consumer_can_be_spawned,
    two_handlers_of_one_topic_are_refused,
);

#[derive(Debug, Deserialize)]
struct Paid {
    order: u64,
}

fn message(topic: &str, properties: &[(&str, &str)], body: &str) -> ReceivedMessage {
    let message = Message::new(topic.to_owned(), body.to_owned());
    let with = |message: Message, (name, value): &(&str, &str)| message.property(*name, *value);
    ReceivedMessage::undelivered(properties.iter().fold(message, with))
}

pub(crate) fn paid(order: u64) -> ReceivedMessage {
    message("ORDER_PAID", &[("KEYS", &format!("order-{order}"))], &format!(r#"{{"order":{order}}}"#))
}

async fn parallel_duplicates_have_one_effect<D: TestDatabase>(engine: Engine) {
    const ORDERS: u64 = 20;
    const COPIES: usize = 8;
    let file = Scratch::with_orders(engine).await;
    // Two processes of the group, each with a pool of its own.
    let mut instances = Vec::new();
    for _ in 0..2 {
        let inbox = Inbox::new(file.open::<D>().await).dedupe_by(Key::Business);
        let consumer = Consumer::builder("127.0.0.1:1").group("red-packet").inbox(inbox).on(
            "ORDER_PAID",
            async |tx, paid: Msg<Paid>| {
                assert!(paid.body.order < ORDERS);
                D::run(tx, INSERT_ORDER).await
            },
        );
        consumer.prepare().await.unwrap();
        instances.push(Arc::new(consumer));
    }
    let deliveries = (0..ORDERS).flat_map(|order| (0..COPIES).map(move |copy| (order, copy)));
    let running = deliveries.map(|(order, copy)| {
        let instance = &instances[copy % 2];
        async move { instance.deliver(paid(order)).await }
    });
    let delivered = futures_util::future::join_all(running).await;
    let done = delivered.iter().filter(|delivered| **delivered == Delivered::Done).count();
    let duplicates = delivered.iter().filter(|delivered| **delivered == Delivered::Duplicate).count();
    assert_eq!((done, duplicates), (ORDERS as usize, ORDERS as usize * (COPIES - 1)), "{delivered:?}");
    assert_eq!(file.orders().await, ORDERS as i64);
    let counted: u64 = instances
        .iter()
        .flat_map(|i| i.counters().samples())
        .filter(|s| s.name == "inbox_duplicate_total")
        .map(|s| s.value)
        .sum();
    assert_eq!(counted, duplicates as u64);
}

/// A row that does not go in, though none is there: as when durability is switched off and on again between two looks.
async fn only_a_row_that_is_there_makes_a_duplicate<D: TestDatabase>(engine: Engine) {
    let file = Scratch::with_orders(engine).await;
    let consumer = Consumer::builder("127.0.0.1:1")
        .group("red-packet")
        .inbox(Inbox::new(file.open::<D>().await))
        .on("ORDER_PAID", async |tx, _: Msg<Paid>| D::run(tx, INSERT_ORDER).await);
    consumer.prepare().await.unwrap();
    let (keep_out, let_in): (&[&str], &str) = match engine {
        Engine::Sqlite => (
            &["CREATE TRIGGER keeps_out BEFORE INSERT ON checkback_inbox BEGIN SELECT RAISE(IGNORE); END"],
            "DROP TRIGGER keeps_out",
        ),
        Engine::Postgres => (
            &[
                "CREATE FUNCTION keeps_out() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
                "CREATE TRIGGER keeps_out BEFORE INSERT ON checkback_inbox FOR EACH ROW EXECUTE FUNCTION keeps_out()",
            ],
            "DROP TRIGGER keeps_out ON checkback_inbox",
        ),
        _ => (
            &["CREATE TRIGGER keeps_out BEFORE INSERT ON checkback_inbox
               FOR EACH ROW SIGNAL SQLSTATE '23000' SET MYSQL_ERRNO = 1062"],
            "DROP TRIGGER keeps_out",
        ),
    };
    for statement in keep_out {
        file.run(statement).await;
    }
    let delivered = consumer.deliver(paid(1)).await;
    assert!(matches!(&delivered, Delivered::Later(why) if why.contains("not written")), "{delivered:?}");
    file.run(let_in).await;
    assert_eq!(consumer.deliver(paid(1)).await, Delivered::Done);
    assert_eq!(consumer.deliver(paid(1)).await, Delivered::Duplicate);
    assert_eq!(file.orders().await, 1);
}

async fn failed_deliveries_leave_nothing_and_may_come_again<D: TestDatabase>(engine: Engine) {
    let file = Scratch::with_orders(engine).await;
    let attempts = AtomicU32::new(0);
    let consumer = Consumer::builder("127.0.0.1:1")
        .group("red-packet")
        .inbox(Inbox::new(file.open::<D>().await))
        .on("ORDER_PAID", async |tx, _: Msg<Paid>| {
            D::run(tx, INSERT_ORDER).await?;
            match attempts.fetch_add(1, Ordering::Relaxed) {
                0 => Err("no gift left".to_owned()),
                1 => panic!("a bug"),
                _ => Ok(()),
            }
        })
        .on("ORDER_VOID", async |tx, _: Msg<Paid>| D::run(tx, "INSERT INTO no_such_table VALUES (1)").await);
    consumer.prepare().await.unwrap();
    let two_keys = message("ORDER_PAID", &[("KEYS", "order-1 user-2")], r#"{"order":1}"#);
    let void = message("ORDER_VOID", &[("KEYS", "order-1")], r#"{"order":1}"#);
    for (case, delivery, reason) in [
        ("handler error", paid(1), "no gift left"),
        ("panic", paid(1), "panicked"),
        ("body of another shape", message("ORDER_PAID", &[("KEYS", "order-1")], "{}"), "body is not what"),
        ("body that is no JSON", message("ORDER_PAID", &[("KEYS", "order-1")], "\u{1}"), "body is not what"),
        ("several keys and no function", two_keys, "several KEYS"),
        ("nobody handles the topic", message("OTHER", &[("KEYS", "k")], "{}"), "no handler"),
        ("statement that fails", void, "no_such_table"),
        ("endless key", message("ORDER_PAID", &[("KEYS", &"k".repeat(1025))], "{}"), "1025 bytes"),
        ("no key and no id", message("ORDER_PAID", &[], "{}"), "no key"),
    ] {
        let Delivered::Later(why) = consumer.deliver(delivery).await else { panic!("{case}: was taken") };
        assert!(why.contains(reason), "{case}: {why}");
        assert_eq!(file.orders().await, 0, "{case}");
        assert_eq!(file.count("SELECT count(*) FROM checkback_inbox").await, 0, "{case}");
    }
    assert_eq!(consumer.deliver(paid(1)).await, Delivered::Done, "the third attempt goes well");
    assert_eq!(consumer.deliver(paid(1)).await, Delivered::Duplicate);
    assert_eq!((file.orders().await, attempts.load(Ordering::Relaxed)), (1, 3));
}

async fn messages_are_told_apart_by_group_topic_tag_and_key<D: TestDatabase>(engine: Engine) {
    let file = Scratch::with_orders(engine).await;
    let database = file.open::<D>().await;
    let consumer = |group: &str| {
        Consumer::builder("127.0.0.1:1")
            .group(group)
            .inbox(Inbox::new(database.clone()))
            .on("A", async |tx, _: Msg<u8>| D::run(tx, INSERT_ORDER).await)
            .on("B", async |tx, _: Msg<u8>| D::run(tx, INSERT_ORDER).await)
    };
    let (one, two) = (consumer("one"), consumer("two"));
    one.prepare().await.unwrap();
    // (topic, tag, KEYS, unique id): trailing blanks and case make a difference, as in no collation of any database
    for (topic, tag, keys, id, expected) in [
        ("A", "", "k", "1", Delivered::Done),
        ("A", "", "k", "2", Delivered::Duplicate),
        ("A", "", "K", "1", Delivered::Done),
        ("A", "t", "k", "1", Delivered::Done),
        ("A", "T", "k", "1", Delivered::Done),
        ("B", "", "k", "1", Delivered::Done),
        ("A", "", "k ", "1", Delivered::Duplicate), // a blank separates KEYS
        ("A", "", "", "1", Delivered::Done),
        ("A", "", "", "1", Delivered::Duplicate),
        ("A", "", "", "2", Delivered::Done),
        ("A", "", "ü", "2", Delivered::Done),
    ] {
        let delivery = message(topic, &[("TAGS", tag), ("KEYS", keys), ("UNIQ_KEY", id)], "1");
        assert_eq!(one.deliver(delivery).await, expected, "{topic} {tag:?} {keys:?} {id}");
    }
    let delivery = message("A", &[("KEYS", "k")], "1");
    assert_eq!(two.deliver(delivery).await, Delivered::Done, "another group has an effect of its own");
}

/// It swallowed an error with which PostgreSQL gives the transaction up, or ended it itself.
async fn a_handler_that_lost_its_transaction_has_no_effect_and_is_asked_again<D: TestDatabase>(engine: Engine) {
    let file = Scratch::with_orders(engine).await;
    let attempts = AtomicU32::new(0);
    let consumer = Consumer::builder("127.0.0.1:1").group("red-packet").inbox(Inbox::new(file.open::<D>().await)).on(
        "LOST",
        async |tx, _: Msg<Paid>| {
            let lost = if engine == Engine::Postgres { "INSERT INTO no_such_table VALUES (1)" } else { "ROLLBACK" };
            let first = attempts.fetch_add(1, Ordering::Relaxed) == 0;
            let _swallowed = D::run(tx, if first { lost } else { INSERT_ORDER }).await;
            Ok::<_, String>(())
        },
    );
    consumer.prepare().await.unwrap();
    let lost = || message("LOST", &[("KEYS", "order-1")], r#"{"order":1}"#);
    let delivered = consumer.deliver(lost()).await;
    assert!(matches!(delivered, Delivered::Later(_)), "{delivered:?}");
    assert_eq!(file.count("SELECT count(*) FROM checkback_inbox").await, 0);
    assert_eq!(consumer.deliver(lost()).await, Delivered::Done);
    assert_eq!((file.orders().await, attempts.into_inner()), (1, 2));
}

/// Up to the limit all of it counts: nothing is cut, no index is too small.
async fn the_longest_names_and_keys_are_kept_whole<D: TestDatabase>(engine: Engine) {
    use rand::{Rng, SeedableRng, distr::Alphanumeric, rngs::StdRng};
    let mut random = StdRng::seed_from_u64(5).sample_iter(Alphanumeric).map(char::from); // nothing to compress
    let mut text = |bytes: usize| random.by_ref().take(bytes).collect::<String>();
    let (group, topic, tag, key) = (text(255), text(255), text(1024), text(1023));
    let file = Scratch::with_orders(engine).await;
    let consumer = Consumer::builder("127.0.0.1:1")
        .group(group)
        .inbox(Inbox::new(file.open::<D>().await))
        .on(topic.clone(), async |tx, _: Msg<u8>| D::run(tx, INSERT_ORDER).await);
    consumer.prepare().await.unwrap();
    for (last, expected) in [("x", Delivered::Done), ("x", Delivered::Duplicate), ("y", Delivered::Done)] {
        let delivery = message(&topic, &[("TAGS", &tag), ("KEYS", &format!("{key}{last}"))], "1");
        assert_eq!(consumer.deliver(delivery).await, expected, "{last}");
    }
    let longer = message(&topic, &[("TAGS", &format!("{tag}x")), ("KEYS", "k")], "1");
    assert!(matches!(consumer.deliver(longer).await, Delivered::Later(_)));
}

async fn the_key_function_chooses<D: TestDatabase>(engine: Engine) {
    let file = Scratch::with_orders(engine).await;
    let by_user = Key::by(|message| message.keys().find(|key| key.starts_with("user-")).map(str::to_owned));
    let consumer = Consumer::builder("127.0.0.1:1")
        .group("welcome")
        .inbox(Inbox::new(file.open::<D>().await).dedupe_by(by_user))
        .on("A", async |tx, _: Msg<u8>| D::run(tx, INSERT_ORDER).await);
    consumer.prepare().await.unwrap();
    let delivery = |keys| message("A", &[("KEYS", keys)], "1");
    assert_eq!(consumer.deliver(delivery("order-1 user-7")).await, Delivered::Done);
    assert_eq!(consumer.deliver(delivery("order-2 user-7")).await, Delivered::Duplicate);
    assert_eq!(consumer.deliver(delivery("order-2 user-8")).await, Delivered::Done);
    assert!(matches!(consumer.deliver(delivery("order-2")).await, Delivered::Later(_)));
}

/// A database shared with a producer, and with a group that remembers for longer: a row that goes too early would be a
/// second effect, a marker that goes too early a message that is never published.
async fn each_group_forgets_its_own_messages_in_its_own_time<D: TestDatabase>(engine: Engine) {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let file = Scratch::with_orders(engine).await;
    let consumer = |group: &str, inbox: Inbox<D>| {
        let builder = Consumer::builder("127.0.0.1:1").group(group).inbox(inbox);
        builder.on("ORDER_PAID", async |tx, _: Msg<Paid>| D::run(tx, INSERT_ORDER).await)
    };
    let (short, long) = (
        consumer("short", Inbox::new(file.open::<D>().await).keep(7 * DAY)),
        consumer("long", Inbox::new(file.open::<D>().await).keep(30 * DAY)),
    );
    short.prepare().await.unwrap();
    file.run("INSERT INTO checkback_marker VALUES ('0123456789abcdef', 'g', 't', 1, 0, 0)").await;
    for order in 0..600 {
        assert_eq!(short.deliver(paid(order)).await, Delivered::Done);
    }
    assert_eq!(long.deliver(paid(0)).await, Delivered::Done);

    let since_epoch = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap() + 10 * DAY;
    let later = UnixMillis(since_epoch.as_millis() as i64);
    assert_eq!((short.clean(later).await.unwrap(), long.clean(later).await.unwrap()), (600, 0));
    assert_eq!(short.deliver(paid(0)).await, Delivered::Done, "forgotten");
    assert_eq!(long.deliver(paid(0)).await, Delivered::Duplicate, "remembered");
    assert_eq!(file.count("SELECT count(*) FROM checkback_marker").await, 1);
    assert_eq!(file.count("SELECT count(*) FROM checkback_cleaned WHERE horizon_ms > 0").await, 0);
}

async fn a_consumer_can_be_spawned<D: TestDatabase>(engine: Engine) {
    let file = Scratch::with_orders(engine).await;
    let consumer = Consumer::builder("127.0.0.1:1")
        .group("red-packet")
        .inbox(Inbox::new(file.open::<D>().await))
        .on("ORDER_PAID", async |tx, _: Msg<Paid>| D::run(tx, INSERT_ORDER).await);
    consumer.prepare().await.unwrap();
    let delivered = tokio::spawn(async move { consumer.deliver(paid(1)).await }).await.unwrap();
    assert_eq!(delivered, Delivered::Done);
}

/// Also compiles only if a whole running consumer may move between threads.
async fn two_handlers_of_one_topic_are_refused<D: TestDatabase>(engine: Engine) {
    let file = Scratch::with_orders(engine).await;
    let consumer = Consumer::builder("127.0.0.1:1")
        .group("red-packet")
        .inbox(Inbox::new(file.open::<D>().await))
        .on("A", async |tx, _: Msg<Paid>| D::run(tx, INSERT_ORDER).await)
        .on("B", async |tx, _: Msg<Paid>| D::run(tx, INSERT_ORDER).await)
        .on("A", async |tx, _: Msg<Paid>| D::run(tx, INSERT_ORDER).await);
    let run = tokio::spawn(consumer.run_until(std::future::pending())).await.unwrap();
    assert!(matches!(&run, Err(ConsumeError::TwoHandlers(topic)) if topic == "A"), "{run:?}");
}
