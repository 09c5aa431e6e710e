//! What an operator's tool does with a running consumer, by way of the broker.

use std::net::SocketAddr;

use bytes::BytesMut;
use mq_client::{Action, ConsumeFrom, Filter, Message, PushConsumer, ReceivedMessage};
use mq_protocol::body::{self, ConsumedDirectly, ConsumerPositions, DirectResult, QueueOffsets};
use mq_protocol::codes::request;
use mq_protocol::command::Command;
use mq_protocol::frame::{self, MAX_FRAME_BYTES};
use mq_protocol::message_id::parse_offset_id;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cluster::{Cluster, PATIENCE, Seen, body, eventually, unique};

/// One question to a broker, as a tool asks it.
async fn ask(broker: SocketAddr, code: i32, fields: &[(&'static str, &str)]) -> Command {
    let mut command = Command::request(code);
    for (name, value) in fields {
        command.ext.push(*name, *value);
    }
    let (mut stream, mut bytes) = (TcpStream::connect(broker).await.expect("it listens"), BytesMut::new());
    command.encode(&mut bytes);
    stream.write_all(&bytes).await.expect("written");
    bytes.clear();
    loop {
        if let Some(frame) = frame::split(&mut bytes, MAX_FRAME_BYTES).expect("a frame") {
            return Command::decode(frame).expect("a command");
        }
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut bytes)).await;
        assert!(read.expect("an answer in time").expect("open") > 0);
    }
}

#[tokio::test]
async fn an_operator_sees_resets_and_feeds_a_running_consumer() {
    let cluster = Cluster::start().await;
    let producer = cluster.producer().await;
    let (topic, group) = (unique("controlled"), unique("g"));
    let receipt = producer.send(Message::new(topic.clone(), "one")).await.expect("stored");
    producer.send_to_queue(Message::new(topic.clone(), "two"), &receipt.queue).await.expect("stored");
    let (broker, _) = parse_offset_id(&receipt.offset_message_id).expect("our broker's");
    let seen = Seen::default();
    let noted = seen.clone();
    let consumer = PushConsumer::builder(&cluster.name_servers)
        .group(group.clone())
        .subscribe(&topic, Filter::all())
        .consume_from(ConsumeFrom::First)
        .concurrent(move |batch: Vec<ReceivedMessage>| {
            batch.iter().for_each(|message| noted.add(body(message)));
            std::future::ready(Action::Ack)
        })
        .start()
        .await
        .expect("valid");
    seen.reach(2).await;
    let client = consumer.client().id().to_owned();

    let positions = eventually("both are settled", || async {
        let fields = [("topic", &*topic), ("group", &group)];
        let answer = ask(broker, request::INVOKE_BROKER_TO_GET_CONSUMER_STATUS, &fields).await;
        let positions: ConsumerPositions = body::from_json("positions", &answer.body).expect("readable");
        positions.consumer_table.get(&client).filter(|queues| queues.values().any(|offset| *offset == 2)).cloned()
    })
    .await;
    assert!(positions.keys().all(|queue| queue.0.topic == topic));

    let fields = [("consumerGroup", &*group), ("clientId", &client), ("jstackEnable", "false")];
    let info = ask(broker, request::GET_CONSUMER_RUNNING_INFO, &fields).await;
    let info = String::from_utf8(info.body.to_vec()).expect("text");
    let queue = format!("{{\"brokerName\":\"{}\",\"queueId\":", receipt.queue.broker_name);
    assert!(info.starts_with("{\"mqPopTable\":{},\"mqTable\":{{\"brokerName\":") && info.contains(&queue), "{info}");

    let status: &str = &info[info.find("\"statusTable\":").expect("a status table")..];
    let of_topic = &status[status.find(&*topic).expect("its topic")..];
    for figure in ["pullRT", "pullTPS", "consumeRT", "consumeOKTPS", "consumeFailedTPS", "consumeFailedMsgs"] {
        assert!(of_topic.contains(figure), "{figure}: {status}");
    }

    let fields = [
        ("consumerGroup", &*group),
        ("clientId", &client),
        ("msgId", &receipt.offset_message_id),
        ("brokerName", &receipt.queue.broker_name),
    ];
    let fed = ask(broker, request::CONSUME_MESSAGE_DIRECTLY, &fields).await;
    let fed: ConsumedDirectly = body::from_json("result", &fed.body).expect("readable");
    assert_eq!((fed.consume_result, fed.order), (DirectResult::Success, false));
    assert_eq!(seen.all(), ["one", "two", "one"]);

    let queue_id = receipt.queue.queue_id.to_string();
    let fields = [("topic", &*topic), ("group", &group), ("timestamp", "0"), ("queueId", &queue_id), ("offset", "-1")];
    let reset = ask(broker, request::INVOKE_BROKER_TO_RESET_OFFSET, &fields).await;
    let reset: QueueOffsets = body::from_json("offsets", &reset.body).expect("readable");
    assert_eq!(reset.offset_table.values().collect::<Vec<_>>(), [&0]);
    seen.reach(5).await;
    assert_eq!(seen.all()[3..], ["one", "two"]);
    consumer.shut_down().await;
}

#[tokio::test]
async fn a_condition_that_no_broker_takes_fails_the_start_with_the_brokers_word() {
    let cluster = Cluster::start().await;
    let topic = cluster.topic("conditions", &cluster.producer().await).await;
    for (topic, filter, expected) in [
        (&topic, Filter::sql("a >"), Some("CHECK_CLIENT_CONFIG")),
        (&topic, Filter::tags("a || b"), None),
        // Nobody can look at it yet.
        (&unique("missing"), Filter::sql("a >"), None),
    ] {
        let consumer = PushConsumer::builder(&cluster.name_servers)
            .group(unique("g"))
            .subscribe(topic, filter)
            .concurrent(|_: Vec<ReceivedMessage>| std::future::ready(Action::Ack))
            .start()
            .await;
        let refused = consumer.err().map(|error| error.to_string());
        assert_eq!(refused.is_some(), expected.is_some(), "{refused:?}");
        assert!(refused.unwrap_or_default().contains(expected.unwrap_or_default()));
    }
}
