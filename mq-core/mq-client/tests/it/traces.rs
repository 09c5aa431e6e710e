//! What traces say of a message, and that nobody waits for them.

use std::sync::atomic::{AtomicBool, Ordering};

use mq_client::{
    Action, Admin, CheckedHalf, ClientOptions, ConsumeFrom, Filter, Message, Producer, PushConsumer, ReceivedMessage,
    TRACE_TOPIC, TraceRecord, TracedKind, Verdict,
};

use crate::cluster::{Cluster, eventually, unique};

/// The traces of a message once there are so many.
async fn traces(cluster: &Cluster, id: &str, count: usize) -> Vec<TraceRecord> {
    let admin = Admin::new(ClientOptions::new(&*cluster.name_servers)).expect("valid");
    eventually("the traces", || async { admin.traces(TRACE_TOPIC, id).await.ok().filter(|found| found.len() >= count) })
        .await
}

#[tokio::test]
async fn a_message_is_traced_from_its_send_to_the_handler_that_took_it() {
    let cluster = Cluster::start().await;
    let (topic, makers, group) = (unique("traced"), unique("makers"), unique("g"));
    let builder = Producer::builder(&cluster.name_servers).group(makers.clone());
    let producer = builder.options(|options| options.trace = Some(TRACE_TOPIC.into())).build().await.expect("valid");
    let message = Message::new(topic.clone(), "hello").tags("paid").keys(["k1", "k2"]);
    let receipt = producer.send(message).await.expect("stored");
    let failed_once = AtomicBool::new(false);
    let consumer = PushConsumer::builder(&cluster.name_servers)
        .group(group.clone())
        .subscribe(&topic, Filter::all())
        .consume_from(ConsumeFrom::First)
        .options(|options| options.trace = Some(TRACE_TOPIC.into()))
        .concurrent(move |_: Vec<ReceivedMessage>| {
            let again = !failed_once.swap(true, Ordering::SeqCst);
            std::future::ready(if again { Action::RetryLater } else { Action::Ack })
        })
        .start()
        .await
        .expect("valid");
    let found = traces(&cluster, &receipt.message_id, 5).await;
    let mut said: Vec<String> = found.iter().map(|record| said(record, &makers, &group)).collect();
    said.sort();
    let expected = [
        "begun, failed 0 times",
        "begun, failed 1 times",
        "handled: false, 4",
        "handled: true, 0",
        "sent Normal 5 bytes tags paid keys k1 k2: true",
    ];
    assert_eq!(said, expected);
    let Some(TraceRecord::Sent { message, offset_id, .. }) = found.first() else { panic!("{found:?}") };
    assert_eq!((&*message.topic, offset_id), (&*topic, &receipt.offset_message_id));
    consumer.shut_down().await;

    // By a key, too; and each message of a batch.
    assert_eq!(found.len(), 5);
    let batch = vec![Message::new(topic.clone(), "a"), Message::new(topic.clone(), "bc")];
    let receipts = producer.send_batch(batch).await.expect("stored");
    producer.close().await;
    for (receipt, bytes) in receipts.iter().zip([1, 2]) {
        let found = traces(&cluster, &receipt.message_id, 1).await;
        let sent = matches!(&found[0], TraceRecord::Sent { body_bytes, offset_id, .. }
            if *body_bytes == bytes && *offset_id == receipt.offset_message_id);
        assert!(sent, "{found:?}");
    }
}

fn said(record: &TraceRecord, makers: &str, consumers: &str) -> String {
    let (group, text) = match record {
        TraceRecord::Sent { group, message, body_bytes, success, .. } => {
            let text = |text: &Option<_>| text.as_ref().map_or("-".to_owned(), ToString::to_string);
            let (kind, tags, keys) = (message.kind, text(&message.tags), text(&message.keys));
            assert_eq!(**group, *makers);
            return format!("sent {kind:?} {body_bytes} bytes tags {tags} keys {keys}: {success}");
        }
        TraceRecord::Begun { group, failed_before, .. } => (group, format!("begun, failed {failed_before} times")),
        TraceRecord::Handled { group, success, outcome, .. } => (group, format!("handled: {success}, {outcome}")),
        TraceRecord::Ended { .. } => panic!("{record:?}"),
    };
    assert_eq!(**group, *consumers);
    text
}

#[tokio::test]
async fn the_end_of_a_transaction_is_traced_also_when_the_broker_asked_for_it() {
    let cluster = Cluster::start().await;
    let topic = cluster.topic("ends", &cluster.producer().await).await;
    let producer = Producer::builder(&cluster.name_servers)
        .group(unique("transactions"))
        .topics([topic.clone()])
        .options(|options| options.trace = Some(TRACE_TOPIC.into()))
        .checker(|_: CheckedHalf| std::future::ready(Verdict::Rollback))
        .build()
        .await
        .expect("valid");
    let ended = producer.send_half(Message::new(topic.clone(), "ended").key("k")).await.expect("stored");
    producer.end(&ended, Verdict::Commit).await.expect("acknowledged");
    let checked = producer.send_half(Message::new(topic.clone(), "checked").key("k")).await.expect("stored");
    for (half, verdict, by_check) in [(ended, Verdict::Commit, false), (checked, Verdict::Rollback, true)] {
        let found = traces(&cluster, &half.message_id, 2).await;
        let is_half = |record: &TraceRecord| matches!(record, TraceRecord::Sent { message, .. } if message.kind == TracedKind::Half);
        let is_end = |record: &TraceRecord| {
            matches!(record, TraceRecord::Ended { verdict: told, by_check: asked, transaction_id, message, .. }
                if *told == verdict && *asked == by_check && *transaction_id == half.transaction_id
                    && message.keys.is_some() == by_check)
        };
        assert!(found.iter().any(is_half) && found.iter().any(is_end), "{found:?}");
    }
}

#[tokio::test]
async fn traces_that_no_broker_takes_do_not_keep_a_send() {
    let cluster = Cluster::start().await;
    // Nobody may create a topic of this name.
    let builder = Producer::builder(&cluster.name_servers).group(unique("makers"));
    let trace = format!("%RETRY%{}", unique("nobody"));
    let producer = builder.options(|options| options.trace = Some(trace.into())).build().await.expect("valid");
    for number in 0..3000 {
        producer.send(Message::new("traceless", format!("{number}"))).await.expect("stored");
    }
    producer.close().await;
}
