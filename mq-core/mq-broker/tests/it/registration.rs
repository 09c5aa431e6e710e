//! What a name server hears of a broker.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use mq_broker::limits::ROUTED_WITHIN;
use mq_protocol::body::{self, RegisterBrokerBody};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::frame;
use mq_protocol::header::{BrokerIdentity, CreateTopic, RegisterBroker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Send, World};

const PATIENCE: Duration = Duration::from_secs(120);

/// A name server that the test plays.
struct Desk(TcpListener);

impl Desk {
    async fn open() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (Self(listener), address)
    }

    async fn visitor(&self) -> Visitor {
        let accepted = tokio::time::timeout(PATIENCE, self.0.accept()).await;
        Visitor { stream: accepted.expect("the broker comes").unwrap().0, input: BytesMut::new() }
    }
}

struct Visitor {
    stream: TcpStream,
    input: BytesMut,
}

impl Visitor {
    async fn next(&mut self, answer: i32) -> Command {
        loop {
            if let Some(frame) = frame::split(&mut self.input, frame::MAX_FRAME_BYTES).unwrap() {
                let command = Command::decode(frame).unwrap();
                let mut out = BytesMut::new();
                command.response(answer).encode(&mut out);
                self.stream.write_all(&out).await.unwrap();
                return command;
            }
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await;
            assert_ne!(read.expect("the broker says something").unwrap(), 0, "the broker hung up");
        }
    }

    async fn registration(&mut self, answer: i32) -> (RegisterBroker, RegisterBrokerBody) {
        let command = self.next(answer).await;
        assert_eq!(command.code, request::REGISTER_BROKER);
        let header: RegisterBroker = command.header().unwrap();
        assert_eq!(header.body_crc32, Some(crc32fast::hash(&command.body) & 0x7FFF_FFFF));
        (header, body::from_json("registration", &command.body).unwrap())
    }

    /// Takes registrations until one has the topic.
    async fn hears_of(&mut self, topic: &str) {
        while let (_, body) = self.registration(response::SUCCESS).await
            && !body.topic_config_serialize_wrapper.topic_config_table.contains_key(topic)
        {}
    }
}

#[tokio::test]
async fn a_broker_registers_at_the_start_after_every_change_and_says_goodbye() {
    let (desk, address) = Desk::open().await;
    let world = World::new();
    let broker = world.start_with(|config| config.name_servers = vec![address]).await;
    let mut visitor = desk.visitor().await;
    let (header, first) = visitor.registration(response::SUCCESS).await;
    assert_eq!((&*header.broker_name, header.broker_id), ("broker-a", 0));
    assert_eq!(&*header.broker_addr, broker.address.to_string());
    let first = first.topic_config_serialize_wrapper;
    assert_eq!(first.topic_config_table["TBW102"].perm, 7);

    let mut client = broker.connect().await;
    client.post(Send::to("orders").command()).await;
    let (_, second) = visitor.registration(response::SUCCESS).await;
    let second = second.topic_config_serialize_wrapper;
    assert!(second.topic_config_table.contains_key("orders") && second.topic_config_table.contains_key("TBW102"));
    assert_ne!(second.data_version, first.data_version);

    let stopping = tokio::spawn(broker.stop());
    let goodbye = visitor.next(response::SUCCESS).await;
    assert_eq!(goodbye.code, request::UNREGISTER_BROKER);
    assert_eq!(&*goodbye.header::<BrokerIdentity>().unwrap().broker_name, "broker-a");
    stopping.await.unwrap().unwrap();
}

#[tokio::test]
async fn every_name_server_hears_of_it_and_one_that_refuses_or_hangs_up_is_visited_again() {
    let (first, first_address) = Desk::open().await;
    let (second, second_address) = Desk::open().await;
    let world = World::new();
    let broker = world.start_with(|config| config.name_servers = vec![first_address, second_address]).await;
    first.visitor().await.registration(response::SYSTEM_ERROR).await;
    drop(second.visitor().await);
    let mut once_more = first.visitor().await;
    once_more.registration(response::SUCCESS).await;
    let mut other = second.visitor().await;
    other.registration(response::SUCCESS).await;
    drop(once_more);
    let mut again = first.visitor().await;
    again.registration(response::SUCCESS).await;
    let stopping = tokio::spawn(broker.stop());
    for visitor in [&mut again, &mut other] {
        assert_eq!(visitor.next(response::SUCCESS).await.code, request::UNREGISTER_BROKER);
    }
    stopping.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_broker_whose_run_is_dropped_does_not_stay_registered() {
    let (desk, address) = Desk::open().await;
    let broker = World::new().start_with(|config| config.name_servers = vec![address]).await;
    let mut visitor = desk.visitor().await;
    visitor.registration(response::SUCCESS).await;
    broker.abandon().await;
    assert_eq!(visitor.next(response::SUCCESS).await.code, request::UNREGISTER_BROKER);
}

#[tokio::test]
async fn waiting_consumers_hear_of_a_topic_once_its_route_is_there_and_once_more() {
    let (desk, address) = Desk::open().await;
    let world = World::new();
    let broker = world.start_with(|config| config.name_servers = vec![address]).await;
    let mut visitor = desk.visitor().await;
    visitor.registration(response::SUCCESS).await;
    let (mut consumer, mut producer) = (broker.connect().await, broker.connect().await);
    consumer.heartbeat("c@1", &[], &[("g", "later", "*")]).await;
    let told = async |consumer: &mut crate::harness::Client| {
        for _ in 0..2 {
            consumer.request(request::NOTIFY_CONSUMER_IDS_CHANGED).await;
        }
    };
    // It joined. The retry topic that came with it is not routed before the name server answers.
    told(&mut consumer).await;
    visitor.registration(response::SUCCESS).await;
    told(&mut consumer).await;
    producer.post(Send::to("later").command()).await;
    visitor.registration(response::SUCCESS).await;
    told(&mut consumer).await;
}

fn create(topic: &str) -> Command {
    let header = CreateTopic {
        topic: topic.into(),
        default_topic: Some("TBW102".into()),
        read_queue_nums: 1,
        write_queue_nums: 1,
        perm: 6,
        topic_filter_type: Some("SINGLE_TAG".into()),
        topic_sys_flag: Some(0),
        order: Some(false),
        attributes: None,
        force: None,
    };
    Command::request_with(request::UPDATE_AND_CREATE_TOPIC, &header)
}

#[tokio::test]
async fn a_new_topic_is_acknowledged_once_every_name_server_that_knows_the_broker_knows_the_topic() {
    let ((first, first_address), (second, second_address)) = (Desk::open().await, Desk::open().await);
    let world = World::new();
    let broker = world.start_with(|config| config.name_servers = vec![first_address, second_address]).await;
    let mut client = broker.connect().await;
    // Nobody could be asked for a route yet.
    assert_eq!(client.call(create("before")).await.code, response::SUCCESS);
    let (mut first, mut second) = (first.visitor().await, second.visitor().await);
    let opaque = client.post(create("after")).await;
    first.hears_of("after").await;
    second.hears_of("after").await;
    assert_eq!(client.answer(opaque).await.code, response::SUCCESS);

    for (topic, request) in [("created", create("created")), ("sent", Send::to("sent").command())] {
        let asked = Instant::now();
        let opaque = client.post(request).await;
        first.hears_of(topic).await;
        // What is not about the topic does not wait with it.
        client.send(Send::to("before")).await;
        let early = client.kept(opaque) && asked.elapsed() < ROUTED_WITHIN;
        assert!(!early, "{topic} is acknowledged before the second name server knows it");
        second.hears_of(topic).await;
        assert_eq!(client.answer(opaque).await.code, response::SUCCESS, "{topic}");
    }
    // A name server that says nothing holds nobody up for good.
    assert_eq!(client.call(create("silence")).await.code, response::SUCCESS);
}
