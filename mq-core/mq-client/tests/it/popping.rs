//! Popping: messages for a time, acknowledged one by one.

use std::time::Duration;

use mq_client::{ClientError, ConsumeFrom, Filter, Message, PopConsumer, PoppedMessage, UnixMillis};

use crate::cluster::{Cluster, PATIENCE, body, unique};

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(3600);

async fn receive(consumer: &PopConsumer, topic: &str, count: usize) -> Vec<PoppedMessage> {
    let mut popped: Vec<PoppedMessage> = Vec::new();
    while popped.len() < count {
        popped.extend(consumer.receive(topic, 32, PATIENCE).await.expect("popped"));
    }
    popped.sort_by_key(|popped| body(&popped.message));
    popped
}

fn bodies(popped: &[PoppedMessage]) -> Vec<String> {
    popped.iter().map(|popped| body(&popped.message)).collect()
}

#[tokio::test]
async fn a_popped_message_is_done_comes_again_or_comes_when_it_was_asked_to() {
    let cluster = Cluster::start().await;
    let producer = cluster.producer().await;
    let topic = cluster.topic("pops", &producer).await;
    for text in ["again", "done", "later"] {
        producer.send(Message::new(topic.clone(), text).tags("a")).await.expect("stored");
    }
    producer.send(Message::new(topic.clone(), "other").tags("b")).await.expect("stored");
    let consumer = PopConsumer::builder(&cluster.name_servers)
        .group(unique("g"))
        .filter(Filter::tags("a"))
        .consume_from(ConsumeFrom::First)
        .invisible(LONG)
        .build()
        .await
        .expect("valid");
    let mut popped = receive(&consumer, &topic, 3).await;
    assert_eq!(bodies(&popped), ["again", "done", "later"]);
    assert!(popped.iter().all(|popped| popped.message.reconsume_times == 0 && popped.message.topic == topic));
    let first_handle = popped[0].handle();
    consumer.ack(&popped[1]).await.expect("acknowledged");
    consumer.change_invisible(&mut popped[2], LONG).await.expect("changed");
    consumer.change_invisible(&mut popped[0], Duration::from_millis(1)).await.expect("changed");
    assert_ne!(popped[0].handle(), first_handle);

    let again = receive(&consumer, &topic, 1).await;
    assert_eq!(bodies(&again), ["again"]);
    assert_eq!((again[0].message.reconsume_times, &again[0].message.topic), (1, &topic.as_str().into()));
    consumer.ack(&again[0]).await.expect("acknowledged in its retry topic");
    // The handle of the message's second life is as good as that of its first.
    consumer.change_invisible(&mut popped[2], Duration::from_millis(1)).await.expect("changed");
    assert_eq!(bodies(&receive(&consumer, &topic, 1).await), ["later"]);
}

#[tokio::test]
async fn a_group_that_pops_begins_at_the_first_or_the_last_message() {
    let at_a_time = ConsumeFrom::Time(UnixMillis(1));
    let refused = PopConsumer::builder("127.0.0.1:1").consume_from(at_a_time).build().await;
    assert!(matches!(refused, Err(ClientError::Invalid(_))));
}
