//! Our own client against the real `mq` process, through the scenarios that the official one runs. What each call means
//! in detail is tested in mq-client; here it is the programs together.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mq_client::{
    Action, CheckedHalf, ConsumeFrom, Filter, Message, Producer, PushConsumer, PushConsumerBuilder, ReceivedMessage,
    Verdict,
};
use mq_testkit::process::MqProcess;
use parking_lot::Mutex;
use tempfile::TempDir;

const WAIT: Duration = Duration::from_secs(120);

/// Bodies in the order in which they came.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    fn noting(&self, action: Action) -> impl Fn(Vec<ReceivedMessage>) -> std::future::Ready<Action> + use<> {
        let seen = self.clone();
        move |batch| {
            seen.0.lock().extend(batch.iter().map(|message| String::from_utf8_lossy(&message.body).into_owned()));
            ready(action)
        }
    }

    fn sorted(&self) -> Vec<String> {
        let mut all = self.0.lock().clone();
        all.sort();
        all
    }

    async fn becomes(&self, expected: &[&str]) {
        let deadline = Instant::now() + WAIT;
        while self.sorted() != expected {
            assert!(Instant::now() < deadline, "expected {expected:?}, got {:?}", self.sorted());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

struct Stage {
    names: String,
    // Killed before its directory goes.
    _mq: MqProcess,
    _directory: TempDir,
}

impl Stage {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let mut mq = MqProcess::new(directory.path(), super::SHORT_TIMES).unwrap();
        mq.start().unwrap();
        Self { names: mq.name_server.to_string(), _mq: mq, _directory: directory }
    }

    async fn producer(&self) -> Producer {
        Producer::builder(&self.names).group("plain").build().await.unwrap()
    }

    fn member(&self, group: &str, topic: &str, filter: Filter) -> PushConsumerBuilder {
        let group = PushConsumer::builder(&self.names).group(group.to_owned());
        group.subscribe(topic, filter).consume_from(ConsumeFrom::First)
    }

    /// Everything that a group of its own sees of a topic.
    async fn reads(&self, group: &str, topic: &str, filter: Filter) -> (Seen, PushConsumer) {
        let seen = Seen::default();
        let consumer = self.member(group, topic, filter).concurrent(seen.noting(Action::Ack)).start().await.unwrap();
        (seen, consumer)
    }
}

#[tokio::test]
async fn every_way_of_sending_reaches_those_who_asked_for_it() {
    let stage = Stage::new();
    let producer = stage.producer().await;
    let message = |body: &str, tag: &str| Message::new("sends", body.to_owned()).tags(tag.to_owned());
    producer.send(message("sync", "red")).await.unwrap();
    let (first, second) = (message("at once 1", "red"), message("at once 2", "blue"));
    let (first, second) = tokio::join!(producer.send(first), producer.send(second));
    assert_ne!(first.unwrap().message_id, second.unwrap().message_id);
    producer.send_oneway(message("oneway", "red")).await.unwrap();
    let batch = vec![message("batch 1", "red"), message("batch 2", "blue")];
    assert_eq!(producer.send_batch(batch).await.unwrap().len(), 2);
    let (red, _red) = stage.reads("red", "sends", Filter::tags("red || green")).await;
    red.becomes(&["at once 1", "batch 1", "oneway", "sync"]).await;

    let sent = Instant::now();
    producer.send(message("two seconds", "red").delay_level(2)).await.unwrap();
    red.becomes(&["at once 1", "batch 1", "oneway", "sync", "two seconds"]).await;
    assert!(sent.elapsed() >= Duration::from_millis(1900), "early: {:?}", sent.elapsed());

    let all = ["at once 1", "at once 2", "batch 1", "batch 2", "oneway", "sync", "two seconds"];
    let members = [Seen::default(), Seen::default()];
    let mut listening = Vec::new();
    for seen in &members {
        let member = stage.member("everyone", "sends", Filter::all()).broadcast();
        listening.push(member.concurrent(seen.noting(Action::Ack)).start().await.unwrap());
    }
    for seen in &members {
        seen.becomes(&all).await;
    }
}

#[tokio::test]
async fn orderly_consumers_keep_the_order_and_failures_end_in_the_dead_letter_topic() {
    let stage = Stage::new();
    let producer = stage.producer().await;
    for number in 0..20 {
        producer.send_by_hash(Message::new("steps", format!("{number:02}")), "one key").await.unwrap();
    }
    let ordered = Seen::default();
    let member = stage.member("ordered", "steps", Filter::all()).orderly(ordered.noting(Action::Ack));
    let _ordered = member.start().await.unwrap();
    let expected: Vec<String> = (0..20).map(|number| format!("{number:02}")).collect();
    ordered.becomes(&expected.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(*ordered.0.lock(), expected, "in this order");

    producer.send(Message::new("poison", "bad")).await.unwrap();
    let tries = Seen::default();
    let member = stage.member("failing", "poison", Filter::all()).concurrent(tries.noting(Action::RetryAfterLevel(1)));
    let _failing = member.options(|options| options.max_reconsume_times = Some(2)).start().await.unwrap();
    let (dead, _dead) = stage.reads("undertaker", "%DLQ%failing", Filter::all()).await;
    dead.becomes(&["bad"]).await;
    tries.becomes(&["bad", "bad", "bad"]).await;
}

#[tokio::test]
async fn checkbacks_are_answered_with_commit_rollback_and_unknown_twice() {
    let stage = Stage::new();
    stage.producer().await.send(Message::new("orders", "plain")).await.unwrap();
    let (seen, _reader) = stage.reads("reader", "orders", Filter::all()).await;
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let checker = move |half: CheckedHalf| {
        ready(match &half.message.body[..] {
            b"asked: commit" => Verdict::Commit,
            b"asked: third time" if count.fetch_add(1, Ordering::SeqCst) == 2 => Verdict::Commit,
            b"asked: third time" => Verdict::Unknown,
            _ => Verdict::Rollback,
        })
    };
    let builder = Producer::builder(&stage.names).group("transactions").topics(["orders"]).checker(checker);
    let producer = builder.build().await.unwrap();
    for (body, verdict) in [
        ("commit", Some(Verdict::Commit)),
        ("rollback", Some(Verdict::Rollback)),
        ("asked: commit", None),
        ("asked: rollback", None),
        ("asked: third time", None),
    ] {
        let half = producer.send_half(Message::new("orders", body)).await.unwrap();
        if let Some(verdict) = verdict {
            producer.end(&half, verdict).await.unwrap();
        }
    }
    seen.becomes(&["asked: commit", "asked: third time", "commit", "plain"]).await;
    // Checks that were on their way arrive meanwhile; then there are no more.
    let deadline = Instant::now() + WAIT;
    loop {
        let checks = asked.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(2500)).await;
        if asked.load(Ordering::SeqCst) == checks {
            break;
        }
        assert!(Instant::now() < deadline, "no check after the verdict");
    }
    seen.becomes(&["asked: commit", "asked: third time", "commit", "plain"]).await;
}
