//! Request and reply over messages.

use std::time::Duration;

use mq_client::{Action, Filter, Message, Producer, PushConsumer, ReceivedMessage, RequestFailed, property};

use crate::cluster::{Cluster, PATIENCE, body, unique};

/// A consumer that answers every message with its body in capitals.
async fn answering(cluster: &Cluster, topic: &str) -> PushConsumer {
    let producer = cluster.producer().await;
    PushConsumer::builder(&cluster.name_servers)
        .group(unique("answering"))
        .subscribe(topic, Filter::all())
        .consume_from(mq_client::ConsumeFrom::First)
        .concurrent(move |messages: Vec<ReceivedMessage>| {
            let producer = producer.clone();
            async move {
                for message in messages.iter().filter(|message| message.property(property::REPLY_TO_CLIENT).is_some()) {
                    producer.reply(message, body(message).to_uppercase()).await.expect("the requester waits");
                }
                Action::Ack
            }
        })
        .start()
        .await
        .expect("valid")
}

#[tokio::test]
async fn a_request_gets_the_reply_of_whoever_consumes_it() {
    let cluster = Cluster::start().await;
    let producer = cluster.producer().await;
    let topic = cluster.topic("requests", &producer).await;
    let _consumer = answering(&cluster, &topic).await;
    let ask = |producer: Producer, text: String| {
        let message = Message::new(topic.clone(), text);
        async move { producer.request(message, PATIENCE).await.map(|reply| body(&reply)) }
    };
    assert_eq!(ask(producer.clone(), "hello".into()).await, Ok("HELLO".into()));
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..20 {
        let (ask, producer) = (ask(producer.clone(), format!("n{number}")), format!("N{number}"));
        asking.spawn(async move { (ask.await, producer) });
    }
    for (reply, expected) in asking.join_all().await {
        assert_eq!(reply, Ok(expected), "every reply finds its request");
    }
}

#[tokio::test]
async fn a_request_that_nobody_answers_ends_with_its_time() {
    let cluster = Cluster::start().await;
    let producer = cluster.producer().await;
    let topic = cluster.topic("unheard", &producer).await;
    let within = Duration::from_millis(500);
    let failed = producer.request(Message::new(topic.clone(), "hello"), within).await.expect_err("nobody is there");
    assert!(matches!(&failed, RequestFailed::NoReply { message_id, .. } if message_id.len() == 32), "{failed}");

    let stored = cluster.read_all(&topic).await;
    let request = stored.iter().find(|message| body(message) == "hello").expect("stored");
    assert!(request.property(property::CORRELATION_ID).is_some());
    let plain = stored.iter().find(|message| body(message) == "first").expect("stored");
    let refused = producer.reply(plain, "to whom?").await.expect_err("no request");
    assert!(refused.to_string().ends_with("is no request: it has no property CORRELATION_ID"), "{refused}");
}
