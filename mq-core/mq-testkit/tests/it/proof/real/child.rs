//! What the processes of a case do: a service, a consumer, and one that gets the consumer's messages a second time.

use std::time::Duration;

use mq_client::{Action, ConsumeFrom, Filter, Message, PushConsumer, ReceivedMessage};
use sqlx::PgConnection;
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio::sync::mpsc;
use txn_sdk::{Consumer, Handlers, Inbox, Msg, Outcome, TxnProducer, failpoints};

use super::TOPIC;

/// Orders that a service has to get an answer for before it is done.
const ORDERS: u32 = 6;
/// A service says it, and which life it is in, once it is done.
pub(super) const ALL_ANSWERED: &str = "every order is answered in life";
pub(super) const ROLE: &str = "PROOF_ROLE";
pub(super) const DATABASE: &str = "PROOF_DATABASE";
pub(super) const NAME_SERVER: &str = "PROOF_NAMESRV";
pub(super) const LIFE: &str = "PROOF_LIFE";

/// The child: a service or a consumer. Without its variables, an ordinary test, it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    failpoints::arm();
    let variable = |name| std::env::var(name).unwrap();
    let database = PgPoolOptions::new().max_connections(4).connect(&variable(DATABASE)).await.unwrap();
    let end_of_parent = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    let work = async {
        match &*role {
            "service" => serve(&variable(NAME_SERVER), database, variable(LIFE).parse().unwrap()).await,
            "consumer" => consume(&variable(NAME_SERVER), database).await,
            _ => deliver_again(&variable(NAME_SERVER), database).await,
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
    println!("{ALL_ANSWERED} {life}");
    std::future::pending().await
}

fn packs(name_servers: &str, database: PgPool) -> Consumer<PgPool, impl Handlers<PgPool>> {
    let consumer = Consumer::builder(name_servers).group("red-packet").inbox(Inbox::new(database));
    consumer.on(TOPIC, async |tx: &mut PgConnection, order: Msg<String>| {
        let insert = sqlx::query("INSERT INTO packets (name) VALUES ($1)").bind(order.body.clone());
        insert.execute(&mut *tx).await.map(drop)
    })
}

async fn consume(name_servers: &str, database: PgPool) {
    loop {
        if let Err(error) = packs(name_servers, database.clone()).run_until(std::future::pending::<()>()).await {
            println!("not yet: {error}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Another consumer that gets the same messages at the same time, as if the broker had given the first one up.
async fn deliver_again(name_servers: &str, database: PgPool) {
    let consumer = packs(name_servers, database);
    let (hand_over, mut deliveries) = mpsc::channel::<ReceivedMessage>(1);
    let take = move |batch: Vec<ReceivedMessage>| {
        let hand_over = hand_over.clone();
        async move {
            for message in batch {
                let _ = hand_over.send(message).await;
            }
            Action::Ack
        }
    };
    let second = PushConsumer::builder(name_servers).group("second").subscribe(TOPIC, Filter::all());
    let _second = second.consume_from(ConsumeFrom::First).concurrent(take).start().await.unwrap();
    while let Some(message) = deliveries.recv().await {
        println!("delivered again: {:?}", consumer.deliver(message).await);
    }
}
