//! One trace from whoever calls, over half, checkback and delivery, to what the delivery emits.

use std::{sync::Arc, time::Duration};

use mq_client::Properties;
use parking_lot::Mutex;
use serde_json::Value;
use txn_sdk::{Consumer, Delivered, Effect, Inbox, Message, Msg, Outcome, TraceContext, TxnProducer};

use crate::{
    broker::{Broker, Half, OnSend},
    databases::{Engine, Scratch, TestDatabase, on_all_databases},
    inbox::paid,
    producer::message,
};

const INSERT_ORDER: &str = "INSERT INTO orders (note) VALUES ('paid')";

on_all_databases!(a_trace_goes_on_from_the_caller_to_what_a_handler_emits);

fn context(last: u8) -> TraceContext {
    let parent = format!("00-4bf92f3577b34da6a3ce929d0e0e47{last:02x}-00f067aa0ba902b7-01");
    TraceContext::parse(&parent, Some("vendor=1")).unwrap()
}

fn of(half: &Half) -> TraceContext {
    TraceContext::parse(half.property("traceparent").unwrap(), half.property("tracestate")).unwrap()
}

async fn a_trace_goes_on_from_the_caller_to_what_a_handler_emits<D: TestDatabase>(engine: Engine) {
    let (broker, file) = (Broker::start().await, Scratch::with_orders(engine).await);
    let current: Arc<Mutex<Option<TraceContext>>> = Arc::default();
    let asked = current.clone();
    let txn = TxnProducer::builder(broker.address())
        .group("order-service")
        .database(file.open::<D>().await)
        .topics(["ORDER_PAID"])
        .deadline(Duration::ZERO)
        .trace_from(move || asked.lock().clone().or_else(TraceContext::current))
        .build()
        .await
        .unwrap();
    let send = async |message: Message| {
        let sent = txn.send(message, async |tx| D::run(tx, INSERT_ORDER).await).await.unwrap();
        assert_eq!(sent.outcome, Outcome::Committed);
        broker.last()
    };

    assert_eq!(send(message()).await.property("traceparent"), None, "nothing is invented");
    *current.lock() = Some(context(1));
    let hooked = of(&send(message()).await);
    assert_eq!((hooked.trace_id(), hooked.state()), (context(1).trace_id(), Some("vendor=1")));
    assert_ne!(hooked.span_id(), context(1).span_id(), "a span of the half's own");
    let attached = of(&send(context(2).attach(message())).await);
    assert_eq!(attached.trace_id(), context(2).trace_id(), "what the message says counts more");
    *current.lock() = None;

    // The consumer: the handler is inside the message's trace, and so is what it emits.
    let followed: Arc<Mutex<Vec<TraceContext>>> = Arc::default();
    let follows = followed.clone();
    let consumer = Consumer::builder("127.0.0.1:1")
        .group("red-packet")
        .inbox(Inbox::of(&txn))
        .on_emitting("ORDER_PAID", async |tx: &mut Effect<D>, paid: Msg<Value>| {
            let sent_in = TraceContext::of(&paid.message).expect("the message has one");
            let here = TraceContext::current().expect("a delivery has one");
            assert!(here.trace_id() == sent_in.trace_id() && here.span_id() != sent_in.span_id());
            tx.emit(message()).await.map(drop).map_err(|error| error.to_string())
        })
        .follow_trace(move |_, context| follows.lock().push(context.clone()));
    let mut delivery = paid(1);
    let headers = [("traceparent", attached.to_string()), ("tracestate", "vendor=1".to_owned())];
    let properties = delivery.properties.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    delivery.properties =
        properties.chain(headers.map(|(name, value)| (name.to_owned(), value))).collect::<Properties>();
    assert_eq!(consumer.deliver(delivery).await, Delivered::Done);
    assert_eq!(of(&broker.last()).trace_id(), context(2).trace_id());
    assert_eq!(followed.lock().as_slice(), [attached]);
    assert_eq!(TraceContext::current(), None, "outside of it there is none");

    // Without a hook too, and over the outbox.
    let outboxed = crate::outbox::with_outbox::<D>(&broker.address(), &file, 10).await;
    broker.on_send(OnSend::Refuse(mq_protocol::codes::response::SERVICE_NOT_AVAILABLE));
    let before = broker.halves().len();
    let late = context(3).attach(message());
    outboxed.send(late, async |tx| D::run(tx, INSERT_ORDER).await).await.unwrap().message_id.ok_or(()).unwrap_err();
    broker.on_send(OnSend::Store);
    broker.until("relayed", async |broker| broker.halves().len() > before).await;
    assert_eq!(of(&broker.last()).trace_id(), context(3).trace_id());
}
