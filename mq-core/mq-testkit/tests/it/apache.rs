//! One store directory, two brokers: Apache RocketMQ's own (from Maven Central) and the real `mq`, one after the other,
//! in both orders, after a clean stop and after SIGKILL. What one stored the other has to go on with.

mod popping;

use std::collections::BTreeMap;
use std::future::ready;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mq_client::{
    Admin, CheckedHalf, ClientOptions, Message, Producer, PullConsumer, QueueOffset, ReceivedMessage, TopicSettings,
    UnixMillis, Verdict,
};
use mq_namesrv::{NameServer, NamesrvConfig};
use mq_protocol::body::SubscriptionGroup;
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::QueryMessage;
use mq_protocol::record;
use mq_testkit::apache::{ApacheBroker, ApacheOptions};
use mq_testkit::process::MqProcess;
use mq_testkit::report;
use mq_testkit::wire::Peer;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

const WAIT: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(50);
/// Until a timer's message is due that the second broker is to deliver. It may be the first on a slow machine.
const TIMER: Duration = Duration::from_secs(30);
/// The same for both brokers: a store's files have the length that its configuration says.
const CONFIGURATION: &str = "\
brokerName=broker-a
mappedFileSizeCommitLog=16777216
mappedFileSizeConsumeQueue=60000
mappedFileSizeTimerLog=1048576
flushDiskType=SYNC_FLUSH
flushConsumerOffsetInterval=200
messageDelayLevel=1s 25s
transactionTimeOut=1000
transactionCheckInterval=1000
transactionCheckMax=1000
transactionOpBatchInterval=50
";
/// One Java machine at a time: they take long enough alone.
static IN_TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
const QUEUES: u32 = 3;
const MESSAGES: usize = 60;
/// What group `readers` has read of each queue of `orders`.
const READ: [u64; QUEUES as usize] = [5, 6, 7];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Whose {
    Apaches,
    Ours,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Clean,
    Kill,
}

enum Process {
    /// With the name server that it needs.
    Apache {
        broker: ApacheBroker,
        _names: DropGuard,
    },
    Ours(MqProcess),
}

/// A broker that answers clients.
struct Broker {
    process: Process,
    names: String,
    address: SocketAddr,
}

impl Broker {
    async fn start(whose: Whose, directory: &TempDir) -> Self {
        let broker = match whose {
            Whose::Apaches => Self::apaches(directory).await,
            Whose::Ours => Self::ours(directory),
        };
        let (admin, deadline) = (broker.admin(), Instant::now() + WAIT);
        while admin.groups().await.is_err() {
            assert!(Instant::now() < deadline, "no name server knows it\n{}", broker.log());
            tokio::time::sleep(POLL).await;
        }
        broker
    }

    /// On a store that is new: its topics, and a group with settings of its own.
    async fn furnish(&self) {
        for (topic, queues) in [("orders", QUEUES), (popping::TOPIC, 1)] {
            self.admin().create_topic(topic, TopicSettings::with_queues(queues)).await.unwrap();
        }
        self.admin().put_group(&tuned()).await.unwrap();
    }

    fn admin(&self) -> Admin {
        Admin::new(ClientOptions::new(&self.names)).unwrap()
    }

    /// The settings of that group, and the queues of the topic for orders.
    async fn knows_its_settings(&self) {
        let groups = self.admin().groups().await.unwrap();
        let (kept, made) = (groups.get("tuned").unwrap_or_else(|| panic!("tuned is not in {groups:?}")), tuned());
        let told = |group: &SubscriptionGroup| {
            let SubscriptionGroup { retry_max_times, retry_queue_nums, consume_timeout_minute, .. } = *group;
            (retry_max_times, retry_queue_nums, consume_timeout_minute, group.consume_broadcast_enable)
        };
        assert_eq!(told(kept), told(&made));
        let route = self.admin().route("orders").await.unwrap();
        assert!(route.queue_datas.iter().all(|queues| queues.write_queue_nums == QUEUES), "{route:?}");
    }

    async fn apaches(directory: &TempDir) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let names = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let (server, until) = (NameServer::new(NamesrvConfig::default()).unwrap(), shutdown.clone());
        tokio::spawn(async move { server.run(listener, until).await });
        let mut options = ApacheOptions::new(directory.path());
        options.name_server = Some(names);
        options.configuration = CONFIGURATION.to_owned();
        let broker = tokio::task::spawn_blocking(|| ApacheBroker::start(options)).await.unwrap().unwrap();
        let address = broker.broker;
        Self { process: Process::Apache { broker, _names: shutdown.drop_guard() }, names: names.to_string(), address }
    }

    fn ours(directory: &TempDir) -> Self {
        let mut mq = MqProcess::new(directory.path(), CONFIGURATION).unwrap();
        mq.start().unwrap();
        let (names, address) = (mq.name_server.to_string(), mq.broker);
        Self { process: Process::Ours(mq), names, address }
    }

    fn end(self, end: End) {
        match (self.process, end) {
            (Process::Apache { mut broker, .. }, End::Clean) => drop(broker.stop().unwrap()),
            (Process::Apache { mut broker, .. }, End::Kill) => broker.kill().unwrap(),
            (Process::Ours(mut mq), End::Clean) => assert!(mq.stop().unwrap().success(), "{}", mq.log()),
            (Process::Ours(mut mq), End::Kill) => mq.kill().unwrap(),
        }
    }

    fn log(&self) -> String {
        match &self.process {
            Process::Apache { broker, .. } => broker.log(),
            Process::Ours(mq) => mq.log(),
        }
    }

    /// `pending` is its answer about the half message of that body; about others it knows nothing.
    async fn producer(&self, pending: Verdict) -> Producer {
        let checker =
            move |half: CheckedHalf| ready(if half.message.body == "pending" { pending } else { Verdict::Unknown });
        Producer::builder(&self.names).group("writers").topics(["bank"]).checker(checker).build().await.unwrap()
    }

    async fn reader(&self) -> PullConsumer {
        PullConsumer::builder(&self.names).group("readers").build().await.unwrap()
    }

    /// All messages of a topic, queue by queue.
    async fn messages(&self, topic: &str) -> Vec<ReceivedMessage> {
        let reader = self.reader().await;
        let mut messages = Vec::new();
        let Ok(mut queues) = reader.queues(topic).await else { return messages };
        queues.sort_by_key(|queue| queue.queue_id);
        for queue in queues {
            let mut next = reader.min_offset(&queue).await.unwrap();
            while next < reader.max_offset(&queue).await.unwrap() {
                let pulled = reader.pull(&queue, next, 32, Duration::ZERO).await.unwrap();
                assert!(pulled.next > next, "{queue:?} at {next}: {:?}", pulled.status);
                next = pulled.next;
                messages.extend(pulled.messages);
            }
        }
        messages
    }

    /// Bodies of a topic with their numbers, once there are as many as these.
    async fn bodies(&self, topic: &str, expected: &[&str]) -> BTreeMap<String, usize> {
        let deadline = Instant::now() + WAIT;
        loop {
            let mut counts = BTreeMap::new();
            for message in self.messages(topic).await {
                *counts.entry(String::from_utf8(message.body.to_vec()).unwrap()).or_default() += 1;
            }
            if expected.iter().all(|body| counts.contains_key(*body)) {
                return counts;
            }
            assert!(Instant::now() < deadline, "{topic} has {counts:?}, {expected:?} expected\n{}", self.log());
            tokio::time::sleep(POLL).await;
        }
    }

    async fn committed(&self) -> Vec<Option<QueueOffset>> {
        let reader = self.reader().await;
        let mut queues = reader.queues("orders").await.unwrap();
        queues.sort_by_key(|queue| queue.queue_id);
        let mut committed = Vec::new();
        for queue in &queues {
            committed.push(reader.committed(queue).await.unwrap());
        }
        committed
    }

    /// The bodies that the broker finds by a key.
    fn query(&self, key: &str) -> Vec<String> {
        let header = QueryMessage {
            topic: "orders".into(),
            key: key.to_owned().into(),
            max_num: 32,
            begin_timestamp: UnixMillis(0),
            end_timestamp: UnixMillis(i64::MAX),
            unique_key_query: Some(false),
            index_type: None,
        };
        let asked = Command::request_with(request::QUERY_MESSAGE, &header);
        let answer = Peer::connect(self.address).unwrap().ask(asked, WAIT).unwrap();
        if answer.code == response::QUERY_NOT_FOUND {
            return Vec::new();
        }
        assert_eq!(answer.code, response::SUCCESS, "{:?}", answer.remark);
        let stored = record::decode_all(&answer.body).unwrap();
        stored.into_iter().map(|stored| String::from_utf8(stored.message.body.to_vec()).unwrap()).collect()
    }
}

fn tuned() -> SubscriptionGroup {
    SubscriptionGroup {
        group_name: "tuned".into(),
        retry_max_times: 3,
        retry_queue_nums: 2,
        consume_timeout_minute: 5,
        consume_broadcast_enable: false,
        ..SubscriptionGroup::default()
    }
}

/// Everything that the second broker has to know.
struct Written {
    orders: Vec<ReceivedMessage>,
}

async fn write(broker: &Broker, store: PathBuf) -> Written {
    let producer = broker.producer(Verdict::Unknown).await;
    for number in 0..MESSAGES {
        let body = format!("{number}:{}", "ä".repeat(number * 7));
        let message = Message::new("orders", body).tags(["red", "blue"][number % 2]).key(format!("k{number}"));
        producer.send(message.property("color", "grün").flag(number as i32)).await.unwrap();
    }
    let reader = broker.reader().await;
    for (queue, read) in
        reader.queues("orders").await.unwrap().iter().map(|queue| (queue, READ[queue.queue_id as usize]))
    {
        reader.commit_at(queue, QueueOffset(read)).await.unwrap();
    }
    producer.send(Message::new("later", "soon").delay_level(1)).await.unwrap();
    broker.bodies("later", &["soon"]).await;
    let half = |body: &str| producer.send_half(Message::new("bank", body.to_owned()));
    let committed = half("committed").await.unwrap();
    producer.end(&committed, Verdict::Commit).await.unwrap();
    let rolled_back = half("rolled back").await.unwrap();
    producer.end(&rolled_back, Verdict::Rollback).await.unwrap();
    half("pending").await.unwrap();
    broker.bodies("bank", &["committed"]).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    producer.send(Message::new("timed", "soon").deliver_at(millis(now + Duration::from_secs(2)))).await.unwrap();
    broker.bodies("timed", &["soon"]).await;
    // The second broker delivers these: the first is gone by then.
    producer.send(Message::new("timed", "after the change").deliver_at(millis(now + TIMER))).await.unwrap();
    producer.send(Message::new("later", "after the change").delay_level(2)).await.unwrap();
    popping::create_group(broker.address);
    for body in ["done", "open"] {
        producer.send(Message::new(popping::TOPIC, body)).await.unwrap();
    }
    let popped = popping::pop_until(broker.address, "open");
    popping::acknowledge(broker.address, popped.iter().find(|popped| popped.body() == "done").unwrap());
    let offsets = store.join("config/consumerOffset.json");
    let saved = [
        format!("orders@readers:{{0:{},1:{},2:{}}}", READ[0], READ[1], READ[2]),
        format!("{}@poppers:{{0:2}}", popping::TOPIC),
    ];
    let deadline = Instant::now() + WAIT;
    loop {
        let text = std::fs::read_to_string(&offsets).unwrap_or_default().replace(['"', '\n', '\t', ' '], "");
        if saved.iter().all(|saved| text.contains(saved)) {
            break;
        }
        assert!(Instant::now() < deadline, "{saved:?} are not in {text}");
        tokio::time::sleep(POLL).await;
    }
    Written { orders: broker.messages("orders").await }
}

fn millis(since_1970: Duration) -> UnixMillis {
    UnixMillis(since_1970.as_millis() as i64)
}

/// What was given out and not acknowledged comes again, and nothing else.
fn pops_again(broker: &Broker) -> popping::Popped {
    let mut popped = popping::pop_until(broker.address, "open");
    let bodies: Vec<_> = popped.iter().map(popping::Popped::body).collect();
    assert_eq!(bodies, ["open"], "the other is acknowledged\n{}", broker.log());
    popped.remove(0)
}

async fn goes_on_with(first: Whose, end: End) {
    let _turn = IN_TURN.lock().await;
    let second = if first == Whose::Apaches { Whose::Ours } else { Whose::Apaches };
    let directory = TempDir::new().unwrap();
    let broker = Broker::start(first, &directory).await;
    broker.furnish().await;
    let written = write(&broker, directory.path().join("store")).await;
    assert_eq!(written.orders.len(), MESSAGES);
    broker.end(end);

    let broker = Broker::start(second, &directory).await;
    broker.knows_its_settings().await;
    assert_eq!(broker.messages("orders").await, written.orders, "the same messages at the same places");
    assert_eq!(broker.committed().await, READ.map(|read| Some(QueueOffset(read))), "the group goes on where it was");
    let found = broker.query("k7");
    assert!(found.len() == 1 && found[0].starts_with("7:"), "by key: {found:?}");

    let producer = broker.producer(Verdict::Commit).await;
    let bank = broker.bodies("bank", &["committed", "pending"]).await;
    assert_eq!(bank, [("committed".into(), 1), ("pending".into(), 1)].into(), "the pending half was asked about");
    let later = broker.bodies("later", &["soon", "after the change"]).await;
    // Apache saves every ten seconds what it delivered, so a kill may repeat a delivery; on a machine that took long
    // enough to get here that of the second message, too.
    let at_most = if end == End::Clean { 1 } else { 2 };
    assert!(later.values().all(|count| *count <= at_most), "delayed: {later:?}");
    pops_again(&broker);
    let timed = broker.bodies("timed", &["soon", "after the change"]).await;
    assert!(timed.values().all(|count| *count <= at_most), "timed: {timed:?}");

    let sent = producer.send(Message::new("orders", "one more").key("k7")).await.unwrap();
    let offsets =
        written.orders.iter().filter(|message| message.queue == sent.queue).map(|message| message.queue_offset);
    assert_eq!(sent.queue_offset, offsets.max().unwrap().plus(1), "numbering goes on");
    broker.end(End::Clean);
    let (ends, goes_on) = match end {
        End::Clean => ("closed", format!("{second:?} goes on, {first:?} takes it back")),
        End::Kill => ("was killed over", format!("{second:?} goes on")),
    };
    let passed = format!("PASS a store that {first:?} {ends}: {goes_on}");
    if end == End::Kill {
        // The way back is the same as after a clean end.
        return report::show(&format!("40 disk {first:?} {end:?}"), &passed);
    }

    let broker = Broker::start(first, &directory).await;
    broker.knows_its_settings().await;
    let orders = broker.messages("orders").await;
    assert_eq!(orders.len(), MESSAGES + 1, "and back");
    assert!(written.orders.iter().all(|message| orders.contains(message)));
    let mut found = broker.query("k7");
    found.sort_by_key(String::len);
    assert!(found.len() == 2 && found[0] == "one more", "by key, back: {found:?}");
    assert_eq!(broker.bodies("bank", &["committed", "pending"]).await, bank);
    assert_eq!(broker.bodies("later", &["soon", "after the change"]).await, later);
    assert_eq!(broker.bodies("timed", &["soon", "after the change"]).await, timed);
    popping::acknowledge(broker.address, &pops_again(&broker));
    report::show(&format!("40 disk {first:?} {end:?}"), &passed);
}

#[tokio::test(flavor = "multi_thread")]
async fn ours_goes_on_with_a_store_that_apache_closed_and_apache_takes_it_back() {
    goes_on_with(Whose::Apaches, End::Clean).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ours_goes_on_with_a_store_of_an_apache_that_was_killed() {
    goes_on_with(Whose::Apaches, End::Kill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn apache_goes_on_with_a_store_that_ours_closed_and_ours_takes_it_back() {
    goes_on_with(Whose::Ours, End::Clean).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn apache_goes_on_with_a_store_of_ours_that_was_killed() {
    goes_on_with(Whose::Ours, End::Kill).await;
}
