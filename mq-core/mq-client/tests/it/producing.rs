//! Every way of sending, read back.

use mq_client::{Message, Producer, SendFailure, SendStatus};

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
