//! Brokers and name servers that are slow, wrong, away or restarted.

use std::time::Duration;

use mq_client::{
    Action, Admin, CheckedHalf, ClientError, ClientOptions, ConsumeFrom, Filter, Message, Producer, PushConsumer,
    ReceivedMessage, ResetTo, Verdict,
};
use mq_protocol::body::{self, ConsumerIds, HeartbeatData, LockBatch, LockedQueues};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::SendMessageResponse;
use mq_protocol::ids::{QueueId, QueueOffset};
use parking_lot::Mutex;

use crate::cluster::{Cluster, PATIENCE, Seen, body, eventually, unique};
use crate::fake::Fake;

fn stored(command: &Command) -> Command {
    command.response(response::SUCCESS).with_header(&SendMessageResponse {
        msg_id: "7F00000100002A9F0000000000000007".into(),
        queue_id: QueueId(0),
        queue_offset: QueueOffset(3),
        transaction_id: None,
        batch_uniq_id: None,
        recall_handle: None,
        region: None,
        trace_on: None,
    })
}

async fn producer(names: &Fake) -> Producer {
    let builder = Producer::builder(&names.address).group("g").send_timeout(Duration::from_millis(400));
    builder.build().await.expect("valid")
}

#[tokio::test]
async fn a_refusal_that_may_pass_is_retried_on_another_broker_and_the_first_is_avoided() {
    for code in [response::SYSTEM_BUSY, response::SERVICE_NOT_AVAILABLE, response::NO_PERMISSION] {
        let ill = Fake::broker(move |command| Some(command.error(code, "not now"))).await;
        let well = Fake::broker(|command| Some(stored(command))).await;
        let names = Fake::name_server(&[("ill", &ill), ("well", &well)]).await;
        let producer = producer(&names).await;
        for _ in 0..4 {
            let receipt = producer.send(Message::new("T", "x")).await.expect("the other broker takes it");
            assert_eq!(receipt.queue.broker_name, "well");
        }
        assert_eq!(well.asked(request::SEND_MESSAGE_V2), 4);
    }
}

#[tokio::test]
async fn a_static_order_keeps_its_queues_and_only_what_belongs_to_an_absent_broker_fails() {
    let here = Fake::broker(|command| Some(stored(command))).await;
    let names = Fake::ordered_name_server(&[("here", &here)], Some("away:2;here:1")).await;
    let builder = Producer::builder(&names.address).group("g").send_timeout(PATIENCE);
    let producer = builder.build().await.expect("valid");
    let queues = producer.queues("T").await.expect("a route");
    let named: Vec<_> = queues.iter().map(|queue| (queue.broker_name.as_str(), queue.queue_id)).collect();
    assert_eq!(named, [("away", 0), ("away", 1), ("here", 0)]);
    for _ in 0..6 {
        let receipt = producer.send(Message::new("T", "x")).await.expect("any queue will do");
        assert_eq!(receipt.queue.broker_name, "here");
    }
    let error = producer.send_to_queue(Message::new("T", "x"), &queues[0]).await.expect_err("its broker is away");
    assert!(!error.may_be_stored(), "{error}");
}

#[tokio::test]
async fn a_final_refusal_is_not_retried() {
    let broker = Fake::broker(|command| Some(command.error(response::MESSAGE_ILLEGAL, "no"))).await;
    let names = Fake::name_server(&[("b", &broker)]).await;
    let error = producer(&names).await.send(Message::new("T", "x")).await.expect_err("refused");
    assert!(!error.may_be_stored(), "{error}");
    assert_eq!((error.attempts, broker.asked(request::SEND_MESSAGE_V2)), (1, 1));
}

#[tokio::test]
async fn a_half_in_doubt_is_reported_and_never_sent_again() {
    let silent = Fake::broker(|_| None).await;
    let other = Fake::broker(|_| None).await;
    let names = Fake::name_server(&[("a", &silent), ("b", &other)]).await;
    let error = producer(&names).await.send_half(Message::new("T", "x")).await.expect_err("no answer");
    assert!(error.may_be_stored(), "{error}");
    let sends = silent.asked(request::SEND_MESSAGE_V2) + other.asked(request::SEND_MESSAGE_V2);
    assert_eq!((error.attempts, sends), (1, 1));
}

#[tokio::test]
async fn a_half_that_is_stored_but_not_safe_gives_no_receipt() {
    for code in [response::FLUSH_DISK_TIMEOUT, response::SLAVE_NOT_AVAILABLE, response::FLUSH_SLAVE_TIMEOUT] {
        let broker = Fake::broker(move |command| Some(Command { code, ..stored(command) })).await;
        let names = Fake::name_server(&[("b", &broker)]).await;
        let producer = producer(&names).await;
        let error = producer.send_half(Message::new("T", "x")).await.expect_err("not safe");
        assert!(error.may_be_stored(), "{error}");
        assert!(producer.send(Message::new("T", "x")).await.is_ok(), "a plain send is told by its status");
    }
}

#[tokio::test]
async fn a_half_surely_not_stored_may_go_to_another_broker() {
    let busy = Fake::broker(|command| Some(command.error(response::SYSTEM_BUSY, "busy"))).await;
    let well = Fake::broker(|command| Some(stored(command))).await;
    let names = Fake::name_server(&[("busy", &busy), ("well", &well)]).await;
    let half = producer(&names).await.send_half(Message::new("T", "x")).await.expect("the other broker takes it");
    assert_eq!((&*half.broker_name, half.half_offset, half.log_offset.0), ("well", QueueOffset(3), 7));
}

/// A broker with one member, whose offsets it cannot tell. It never answers who asks for locks of the retry topic.
async fn ill_broker_of_one_member(freed: Seen) -> Fake {
    let member = Mutex::new(String::new());
    Fake::start(move |command| match command.code {
        request::HEART_BEAT => {
            let data: HeartbeatData = body::from_json("heartbeat", &command.body).expect("a heartbeat");
            *member.lock() = data.client_id;
            Some(command.response(0))
        }
        request::GET_CONSUMER_LIST_BY_GROUP => {
            let ids = ConsumerIds { consumer_id_list: vec![member.lock().clone()] };
            Some(command.response(0).with_body(body::to_json(&ids)))
        }
        request::LOCK_BATCH_MQ => {
            let wanted: LockBatch = body::from_json("locks", &command.body).expect("locks");
            let granted = command.response(0).with_body(body::to_json(&LockedQueues { locked: wanted.mq_set.clone() }));
            wanted.mq_set.iter().all(|queue| queue.topic == "T").then_some(granted)
        }
        request::UNLOCK_BATCH_MQ => {
            let unused: LockBatch = body::from_json("locks", &command.body).expect("locks");
            unused.mq_set.into_iter().for_each(|queue| freed.add(queue.topic));
            Some(command.response(0))
        }
        _ => Some(command.error(response::SYSTEM_ERROR, "ill")),
    })
    .await
}

#[tokio::test]
async fn a_lock_that_cannot_be_used_is_given_back_at_once_whether_its_grant_was_heard_or_not() {
    let freed = Seen::default();
    let broker = ill_broker_of_one_member(freed.clone()).await;
    let names = Fake::name_server(&[("b", &broker)]).await;
    let consumer = PushConsumer::builder(&names.address)
        .group("g")
        .subscribe("T", Filter::all())
        .client_options(|options| options.request_timeout = Duration::from_secs(1))
        .orderly(|_: Vec<ReceivedMessage>| std::future::ready(Action::Ack));
    let consumer = consumer.start().await.expect("valid");
    for topic in ["T", "%RETRY%g"] {
        let is_freed = || async { freed.all().iter().any(|freed| freed == topic).then_some(()) };
        eventually(&format!("{topic} is free again"), is_freed).await;
    }
    assert!(consumer.queues().is_empty());
    consumer.shut_down().await;
}

#[tokio::test]
async fn an_unreachable_cluster_is_an_error_that_names_it() {
    let producer = Producer::builder("127.0.0.1:1;127.0.0.1:2").build().await.expect("being away is no error yet");
    let error = producer.send(Message::new("T", "x")).await.expect_err("nobody there");
    assert!(!error.may_be_stored());
    assert!(error.to_string().contains("127.0.0.1:1;127.0.0.1:2"), "{error}");
    for bad in ["", ";", "localhost", "host:port"] {
        assert!(Producer::builder(bad).build().await.is_err(), "{bad:?}");
    }
}

#[tokio::test]
async fn the_second_name_server_answers_when_the_first_is_dead() {
    let cluster = Cluster::start().await;
    let names = format!("127.0.0.1:1;{}", cluster.name_servers);
    let producer = Producer::builder(names).group(unique("g")).build().await.expect("valid");
    producer.send(Message::new(unique("failover"), "x")).await.expect("stored");
}

#[tokio::test]
async fn a_name_server_that_does_not_answer_is_passed_over_and_then_asked_last() {
    let cluster = Cluster::start().await;
    let silent = Fake::start(|_| None).await;
    let builder = Producer::builder(format!("{};{}", silent.address, cluster.name_servers)).group(unique("g"));
    let builder = builder.client_options(|options| options.request_timeout = Duration::from_millis(300));
    let producer = builder.send_timeout(PATIENCE).build().await.expect("valid");
    for _ in 0..3 {
        producer.send(Message::new(unique("passed-over"), "x")).await.expect("stored");
    }
    assert_eq!(silent.asked(request::GET_ROUTEINFO_BY_TOPIC), 1);
}

#[tokio::test]
async fn known_routes_serve_on_without_a_name_server() {
    let Some(cluster) = Cluster::start_own().await else { return };
    let producer = cluster.producer().await;
    let topic = cluster.topic("survives", &producer).await;
    producer.send(Message::new(topic.clone(), "before")).await.expect("stored");
    cluster
        .without_name_server(async || {
            for _ in 0..10 {
                producer.send(Message::new(topic.clone(), "after")).await.expect("stored");
            }
        })
        .await;
}

#[tokio::test]
async fn a_restarted_broker_is_found_again_by_senders_and_consumers() {
    let Some(cluster) = Cluster::start_own().await else { return };
    let producer = cluster.producer().await;
    let topic = cluster.topic("restarted", &producer).await;
    let seen = Seen::default();
    let log = seen.clone();
    let handler = move |batch: Vec<ReceivedMessage>| {
        log.add(body(&batch[0]));
        std::future::ready(Action::Ack)
    };
    let builder = PushConsumer::builder(&cluster.name_servers).group(unique("g")).subscribe(&topic, Filter::all());
    let consumer = builder.consume_from(ConsumeFrom::First).concurrent(handler).start().await.expect("valid");
    seen.reach(1).await;
    let sending = {
        let (producer, topic) = (producer.clone(), topic.clone());
        async move || {
            // The first one may still go into the dying connection; then it is in doubt.
            eventually("a refused connection, which stores nothing", || async {
                let error = producer.send_half(Message::new(topic.clone(), "x")).await.expect_err("nobody there");
                (!error.may_be_stored()).then_some(())
            })
            .await;
        }
    };
    let _cluster = cluster.restart_broker(sending).await;
    producer.send(Message::new(topic.clone(), "again")).await.expect("stored");
    seen.reach(2).await;
    assert_eq!(seen.all(), ["first", "again"]);
    consumer.shut_down().await;
}

#[tokio::test]
async fn a_broker_that_forgot_how_far_a_group_is_hears_it_again() {
    let Some(cluster) = Cluster::start_own().await else { return };
    let topic = cluster.topic("forgotten", &cluster.producer().await).await;
    let group = unique("g");
    let consumer = PushConsumer::builder(&cluster.name_servers)
        .group(group.clone())
        .subscribe(&topic, Filter::all())
        .consume_from(ConsumeFrom::First)
        .options(|options| options.commit_interval = Duration::from_millis(50))
        .concurrent(|_: Vec<ReceivedMessage>| std::future::ready(Action::Ack));
    let consumer = consumer.start().await.expect("valid");
    let nothing_left = || async {
        let lag = consumer.client().lag(&group, &topic).await;
        (lag == Ok(0)).then_some(())
    };
    eventually("the commit", nothing_left).await;
    let _cluster = cluster.restart_broker_without_offsets().await;
    eventually("the commit, again", nothing_left).await;
    consumer.shut_down().await;
}

#[tokio::test]
async fn a_restarted_broker_hears_of_its_checkers_at_once() {
    let Some(cluster) = Cluster::start_own().await else { return };
    let topic = cluster.topic("asked-again", &cluster.producer().await).await;
    let (sender, answerer) = (unique("sender"), Seen::default());
    let log = answerer.clone();
    let checker = move |half: CheckedHalf| {
        log.add(body(&half.message));
        std::future::ready(Verdict::Commit)
    };
    let builder = Producer::builder(&cluster.name_servers).group(sender).topics([topic.clone()]).checker(checker);
    let producer = builder.build().await.expect("valid");
    producer.send_half(Message::new(topic.clone(), "half")).await.expect("stored");
    let cluster = cluster.restart_broker(async || {}).await;
    // The producer sends nothing any more: only its heartbeat on the new connection can tell the broker whom to ask.
    eventually("the half", || async { (cluster.bodies(&topic).await == ["first", "half"]).then_some(()) }).await;
    assert!(!answerer.all().is_empty());
}

#[tokio::test]
async fn a_reset_that_some_brokers_refuse_says_which_and_is_in_doubt() {
    let reset = request::INVOKE_BROKER_TO_RESET_OFFSET;
    let broker = |refuses: bool| {
        Fake::start(move |command| {
            Some(match command.code {
                code if code == reset && refuses => command.error(response::SYSTEM_ERROR, "the disk is ill"),
                _ => command.response(response::SUCCESS),
            })
        })
    };
    for (refusing, expected) in [
        ([false, false], None),
        ([true, true], Some((true, "the disk is ill"))),
        ([true, false], Some((false, "not done at a: "))),
        ([false, true], Some((false, "not done at b: "))),
    ] {
        let (a, b) = (broker(refusing[0]).await, broker(refusing[1]).await);
        let names = Fake::name_server(&[("a", &a), ("b", &b)]).await;
        let admin = Admin::new(ClientOptions::new(&names.address)).expect("valid");
        let outcome = admin.reset("readers", "T", ResetTo::End).await;
        assert_eq!((a.asked(reset), b.asked(reset)), (1, 1), "{refusing:?}: those behind a failure are told too");
        match (outcome, expected) {
            (Ok(()), None) => {}
            (Err(error), Some((is_plain, text))) => {
                assert_eq!(matches!(error, ClientError::Partly { .. }), !is_plain, "{refusing:?}: {error}");
                assert!(error.to_string().contains(text), "{refusing:?}: {error}");
                assert!(error.may_have_happened(), "{refusing:?}: {error}");
            }
            (outcome, _) => panic!("{refusing:?}: {outcome:?}"),
        }
    }
}
