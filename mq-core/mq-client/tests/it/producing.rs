//! Every way of sending, read back.

use std::time::Duration;

use mq_client::{ClientError, Message, Producer, SendFailure, SendStatus};
use mq_protocol::codes::response;
use mq_store::{Clock, SystemClock};

use crate::cluster::{Cluster, body, eventually, unique};

#[tokio::test]
async fn every_kind_of_send_is_stored_with_its_bytes_and_properties() {
    let cluster = Cluster::start().await;
    let producer = cluster.producer().await;
    let topic = cluster.topic("kinds", &producer).await;
    let message = |body: &str| Message::new(topic.clone(), body.to_owned());

    let sync = producer.send(message("sync").tags("t").keys(["k1", "k2"]).property("own", "ä").flag(7)).await;
    let sync = sync.expect("stored");
    assert_eq!((sync.status, sync.message_id.len(), &sync.queue.topic), (SendStatus::SendOk, 32, &topic));
    let batch = producer.send_batch(vec![message("b0"), message("b1").tags("x"), message("b2")]).await.expect("stored");
    let offsets: Vec<u64> = batch.iter().map(|receipt| receipt.queue_offset.0).collect();
    assert_eq!(offsets, [offsets[0], offsets[0] + 1, offsets[0] + 2]);
    producer.send_oneway(message("oneway")).await.expect("handed over");

    let bodies = ["b0", "b1", "b2", "first", "oneway", "sync"];
    eventually("six messages", || async { (cluster.bodies(&topic).await == bodies).then_some(()) }).await;
    let all = cluster.read_all(&topic).await;
    let read = all.iter().find(|message| message.message_id == sync.message_id).expect("by its id");
    assert_eq!((body(read), read.tags(), read.flag), ("sync".into(), Some("t"), 7));
    assert_eq!(read.keys().collect::<Vec<_>>(), ["k1", "k2"]);
    assert_eq!(read.property("own"), Some("ä"));
    assert_eq!((read.queue_offset, &read.offset_message_id), (sync.queue_offset, &sync.offset_message_id));
    for (receipt, expected) in batch.iter().zip(["b0", "b1", "b2"]) {
        let read = all.iter().find(|message| message.message_id == receipt.message_id).expect("by its id");
        assert_eq!((body(read).as_str(), read.queue_offset), (expected, receipt.queue_offset));
        assert_eq!(read.offset_message_id, receipt.offset_message_id);
    }
}

#[tokio::test]
async fn one_key_is_one_queue_in_the_order_of_the_sends() {
    let cluster = Cluster::start().await;
    let producer = cluster.producer().await;
    let topic = cluster.topic("keyed", &producer).await;
    for number in 0..20 {
        for key in ["a", "b", "c"] {
            let message = Message::new(topic.clone(), format!("{key}{number:02}"));
            producer.send_by_hash(message, key).await.expect("stored");
        }
    }
    let all = cluster.read_all(&topic).await;
    for key in ["a", "b", "c"] {
        let of_key: Vec<_> = all.iter().filter(|message| body(message).starts_with(key)).collect();
        assert_eq!(of_key.len(), 20);
        assert!(of_key.iter().all(|message| message.queue == of_key[0].queue));
        assert!(of_key.iter().map(|message| body(message)).is_sorted());
    }
}

#[tokio::test]
async fn plain_sends_go_round_all_queues() {
    let cluster = Cluster::start().await;
    let producer = cluster.producer().await;
    let topic = cluster.topic("round", &producer).await;
    let queues = producer.queues(&topic).await.expect("a route").len();
    assert!(queues > 1);
    let mut used = std::collections::BTreeSet::new();
    for _ in 0..queues {
        used.insert(producer.send(Message::new(topic.clone(), "x")).await.expect("stored").queue.queue_id);
    }
    assert_eq!(used.len(), queues);
}

#[tokio::test]
async fn large_bodies_travel_compressed_and_arrive_as_they_were() {
    let cluster = Cluster::start().await;
    let producer = Producer::builder(&cluster.name_servers)
        .group(unique("producers"))
        .options(|options| options.compress_from_bytes = Some(4096))
        .build()
        .await
        .expect("valid");
    let topic = cluster.topic("large", &producer).await;
    let large = "repeat ".repeat(100_000);
    producer.send(Message::new(topic.clone(), large.clone())).await.expect("stored");
    assert_eq!(cluster.bodies(&topic).await, ["first".to_owned(), large]);

    let too_large =
        producer.send(Message::new(topic.clone(), vec![b'x'; (4 << 20) + 1])).await.expect_err("over 4 MiB");
    assert!(matches!(*too_large.reason, SendFailure::Invalid(_)) && !too_large.may_be_stored(), "{too_large}");
}

#[tokio::test]
async fn many_tasks_share_one_producer() {
    let cluster = Cluster::start().await;
    let producer = cluster.producer().await;
    let topic = cluster.topic("shared", &producer).await;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..16 {
        let (producer, topic) = (producer.clone(), topic.clone());
        tasks.spawn(async move {
            for number in 0..50 {
                producer.send(Message::new(topic.clone(), format!("{task}-{number}"))).await.expect("stored");
            }
        });
    }
    tasks.join_all().await;
    let bodies = cluster.bodies(&topic).await;
    assert_eq!(bodies.len(), 16 * 50 + 1);
    assert!(bodies.windows(2).all(|pair| pair[0] != pair[1]), "nothing is stored twice");
}

#[tokio::test]
async fn a_message_is_delivered_when_its_time_has_come_unless_it_is_taken_back() {
    let cluster = Cluster::start().await;
    let producer = cluster.producer().await;
    let topic = cluster.topic("delayed", &producer).await;
    let message = |body: &str| Message::new(topic.clone(), body.to_owned());
    let far = Duration::from_secs(86_400);
    let taken_back = producer.send(message("taken back").delay(far)).await.expect("stored");
    let handle = taken_back.recall_handle.expect("a handle");
    assert_eq!(producer.recall(&handle).await.expect("in time"), taken_back.message_id);

    let at = SystemClock.now().plus(Duration::from_secs(2));
    let receipt = producer.send(message("late").deliver_at(at)).await.expect("stored");
    producer.send(message("soon").delay(Duration::from_millis(150))).await.expect("stored");
    producer.send(message("now")).await.expect("stored");
    let all = eventually("all of them", || async {
        let all = cluster.read_all(&topic).await;
        (all.len() == 4).then_some(all)
    })
    .await;
    let late = all.iter().find(|message| body(message) == "late").expect("it is there");
    assert!(late.store_timestamp >= at, "{} is before {at}", late.store_timestamp);
    assert_eq!(late.message_id, receipt.message_id);

    // A machine that took two seconds for the send delivered it at once, and gave no handle.
    if let Some(handle) = receipt.recall_handle {
        let refused = producer.recall(&handle).await.expect_err("too late");
        let ClientError::Call(refused) = &refused else { panic!("{refused}") };
        assert_eq!(refused.code(), Some(response::ILLEGAL_OPERATION));
    }
    assert!(matches!(producer.recall("rubbish").await, Err(ClientError::Invalid(_))));
}

#[tokio::test]
async fn a_priority_is_a_queue() {
    let cluster = Cluster::start().await;
    let producer = cluster.producer().await;
    let topic = cluster.topic("priority", &producer).await;
    let last = producer.queues(&topic).await.expect("a route").len() as u32 - 1;
    for (priority, queue) in [(0, 0), (1, 1), (500, last)] {
        let receipt = producer.send(Message::new(topic.clone(), "x").priority(priority)).await.expect("stored");
        assert_eq!(receipt.queue.queue_id, queue);
    }
}
