//! A broker on port 0 and a client that speaks frames, nothing more.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mq_broker::{Broker, BrokerConfig, RunError};
use mq_protocol::ByteString;
use mq_protocol::body::{self, ConsumerData, HeartbeatData, ProducerData, Subscription};
use mq_protocol::codes::{request, response};
use mq_protocol::command::{Command, Language};
use mq_protocol::frame::{self, HeaderFormat};
use mq_protocol::header::{
    EndTransaction, GetMaxOffset, Header, OffsetResponse, PullMessage, PullMessageResponse, SendMessage,
    SendMessageResponse,
};
use mq_protocol::ids::{LogOffset, QueueId, QueueOffset, UnixMillis};
use mq_protocol::properties::Properties;
use mq_protocol::record::{self, StoredMessage};
use mq_protocol::sys_flag::pull;
use mq_store::{Backend, Clock, ManualClock, MemoryBackend};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes, also on a slow machine; only a bug waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// A whole test: one that hangs says so, and all of them end.
const TEST_PATIENCE: Duration = Duration::from_secs(480);
pub(crate) const START: UnixMillis = UnixMillis(1_700_000_000_000);

thread_local! {
    /// Of the test that runs on this thread, to the end of the thread: the end of a test's runtime may hang as well.
    static WATCHDOG: RefCell<Option<Watchdog>> = const { RefCell::new(None) };
    /// The threads of a broker that is not stopped save their tables while the test's runtime ends: its directory stays
    /// until then.
    static DIRECTORIES: RefCell<Vec<Arc<tempfile::TempDir>>> = const { RefCell::new(Vec::new()) };
}

/// Ends the process, with the test's name, unless it is dropped in time.
struct Watchdog {
    _alive: mpsc::Sender<()>,
}

impl Watchdog {
    fn start() -> Self {
        let (alive, gone) = mpsc::channel::<()>();
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        std::thread::spawn(move || {
            if gone.recv_timeout(TEST_PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{test} hangs: it still runs after {TEST_PATIENCE:?}");
                std::process::abort();
            }
        });
        Self { _alive: alive }
    }
}

/// What outlives a broker's process: its disk and the time.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) directory: Arc<tempfile::TempDir>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::on(Arc::new(MemoryBackend::default()))
    }

    pub(crate) fn on(backend: Arc<dyn Backend>) -> Self {
        WATCHDOG.with_borrow_mut(|watchdog| *watchdog = Some(Watchdog::start()));
        let directory = Arc::new(tempfile::tempdir().unwrap());
        DIRECTORIES.with_borrow_mut(|directories| directories.push(directory.clone()));
        Self { backend, clock: Arc::new(ManualClock::at(START)), directory }
    }

    /// Returns once the threads of an abandoned broker let go of the store.
    pub(crate) async fn wait_unlocked(&self) {
        let free = async {
            while self.backend.lock("lock").is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, free).await.expect("the broker's threads end");
    }

    pub(crate) async fn start(&self) -> TestBroker {
        self.start_with(|_| {}).await
    }

    pub(crate) async fn start_with(&self, adjust: impl FnOnce(&mut BrokerConfig)) -> TestBroker {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut config = BrokerConfig {
            broker_name: "broker-a".into(),
            store_root: self.directory.path().to_owned(),
            listen_port: address.port(),
            commit_log_segment_bytes: 32 << 20,
            ..BrokerConfig::default()
        };
        adjust(&mut config);
        let clock: Arc<dyn Clock> = self.clock.clone();
        let broker = Broker::open_on(self.backend.clone(), config, clock).unwrap();
        let shutdown = CancellationToken::new();
        let (stop, serving) = (shutdown.clone(), broker.clone());
        let running = tokio::spawn(async move { serving.run(vec![listener], stop).await });
        TestBroker { address, broker, shutdown, running }
    }
}

pub(crate) struct TestBroker {
    pub(crate) address: SocketAddr,
    pub(crate) broker: Arc<Broker>,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), RunError>>,
}

impl TestBroker {
    pub(crate) async fn connect(&self) -> Client {
        Client::connect(self.address).await
    }

    /// What Prometheus scrapes.
    pub(crate) fn metrics(&self) -> String {
        self.broker.metrics()
    }

    /// Ends it without an orderly stop. Its threads let go of the store a moment later.
    pub(crate) async fn abandon(self) {
        drop(self.broker);
        self.running.abort();
        let _ = self.running.await;
    }

    /// Waits for it to end by itself.
    pub(crate) async fn ended(self) -> Result<(), RunError> {
        drop(self.broker);
        tokio::time::timeout(PATIENCE, self.running).await.expect("the broker ends").expect("no panic")
    }

    pub(crate) async fn stop(self) -> Result<(), RunError> {
        self.shutdown.cancel();
        self.ended().await
    }
}

/// Polls until it is so; the limit only bounds a failing test.
pub(crate) async fn until(mut so: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.expect("it comes true");
}

/// One connection. Answers are found by their opaque; requests of the broker are kept for `request`.
pub(crate) struct Client {
    stream: TcpStream,
    input: BytesMut,
    opaque: i32,
    pub(crate) format: HeaderFormat,
    pub(crate) language: Language,
    kept: Vec<Command>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        Self {
            stream,
            input: BytesMut::new(),
            opaque: 0,
            format: HeaderFormat::Json,
            language: Language::JAVA,
            kept: Vec::new(),
        }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Gives the command an opaque and its bytes.
    pub(crate) fn frame(&mut self, mut command: Command) -> (i32, BytesMut) {
        self.opaque += 1;
        command.opaque = self.opaque;
        command.format = self.format;
        command.language = self.language;
        let mut bytes = BytesMut::new();
        command.encode(&mut bytes);
        (self.opaque, bytes)
    }

    pub(crate) async fn post(&mut self, command: Command) -> i32 {
        let (opaque, bytes) = self.frame(command);
        self.write(&bytes).await;
        opaque
    }

    pub(crate) async fn call(&mut self, command: Command) -> Command {
        let opaque = self.post(command).await;
        self.answer(opaque).await
    }

    pub(crate) async fn answer(&mut self, opaque: i32) -> Command {
        self.find(|command| command.is_response() && command.opaque == opaque).await
    }

    /// Whether the answer came while others were waited for.
    pub(crate) fn kept(&self, opaque: i32) -> bool {
        self.kept.iter().any(|command| command.is_response() && command.opaque == opaque)
    }

    /// Answers a request of the broker.
    pub(crate) async fn respond(&mut self, answer: Command) {
        let mut bytes = BytesMut::new();
        answer.encode(&mut bytes);
        self.write(&bytes).await;
    }

    /// The next request of the broker with this code.
    pub(crate) async fn request(&mut self, code: i32) -> Command {
        self.find(|command| !command.is_response() && command.code == code).await
    }

    async fn find(&mut self, wanted: impl Fn(&Command) -> bool) -> Command {
        if let Some(at) = self.kept.iter().position(&wanted) {
            return self.kept.remove(at);
        }
        loop {
            let command = self.read().await.expect("the connection is open");
            if wanted(&command) {
                return command;
            }
            self.kept.push(command);
        }
    }

    /// The next frame; `None` when the broker closed the connection.
    pub(crate) async fn read(&mut self) -> Option<Command> {
        loop {
            if let Some(frame) = frame::split(&mut self.input, frame::MAX_FRAME_BYTES).unwrap() {
                return Some(Command::decode(frame).unwrap());
            }
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await;
            match read.expect("the broker answers in time") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Sends and expects success.
    pub(crate) async fn send(&mut self, send: Send) -> SendMessageResponse {
        let answer = self.call(send.command()).await;
        assert_eq!(answer.code, response::SUCCESS, "{:?}", answer.remark);
        answer.header().unwrap()
    }

    pub(crate) async fn heartbeat(&mut self, client_id: &str, producers: &[&str], consumers: &[(&str, &str, &str)]) {
        let consumer = |(group, topic, tags): &(&str, &str, &str)| ConsumerData {
            group_name: (*group).to_owned(),
            subscription_data_set: vec![
                Subscription::tags(topic, tags, 1),
                Subscription::tags(&mq_protocol::topic::retry_topic(group), "*", 1),
            ],
            ..ConsumerData::default()
        };
        let data = HeartbeatData {
            client_id: client_id.to_owned(),
            producer_data_set: producers
                .iter()
                .map(|group| ProducerData { group_name: (*group).to_owned(), ..ProducerData::default() })
                .collect(),
            consumer_data_set: consumers.iter().map(consumer).collect(),
            ..HeartbeatData::default()
        };
        let answer = self.call(Command::request(request::HEART_BEAT).with_body(body::to_json(&data))).await;
        assert_eq!(answer.code, response::SUCCESS, "{:?}", answer.remark);
    }

    pub(crate) async fn max_offset(&mut self, topic: &str, queue: u32) -> u64 {
        let header = GetMaxOffset { topic: topic.into(), queue_id: QueueId(queue), committed: None, bname: None };
        let answer = self.call(Command::request_with(request::GET_MAX_OFFSET, &header)).await;
        answer.header::<OffsetResponse>().unwrap().offset.0
    }

    /// Pulls until a message is there; the broker holds the request meanwhile.
    pub(crate) async fn pull(&mut self, pull: Pull) -> Vec<StoredMessage> {
        let answer = self.call(pull.command()).await;
        assert_eq!(answer.code, response::SUCCESS, "{:?}", answer.remark);
        record::decode_all(&answer.body).unwrap()
    }
}

/// A send with what most tests want.
#[derive(Clone)]
pub(crate) struct Send {
    pub(crate) code: i32,
    pub(crate) header: SendMessage,
    pub(crate) properties: Properties,
    pub(crate) body: Bytes,
    pub(crate) oneway: bool,
}

impl Send {
    pub(crate) fn to(topic: &str) -> Self {
        let header = SendMessage { queue_id: 0, ..SendMessage::new("producers".into(), topic.into()) };
        Self {
            code: request::SEND_MESSAGE_V2,
            header,
            properties: Properties::default(),
            body: Bytes::from_static(b"hello"),
            oneway: false,
        }
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn property(mut self, name: &'static str, value: impl Into<ByteString>) -> Self {
        self.properties.set(name, value);
        self
    }

    pub(crate) fn half(self, key: &str) -> Self {
        let group = self.header.producer_group.clone();
        self.property("TRAN_MSG", "true").property("PGROUP", group).property("UNIQ_KEY", key.to_owned())
    }

    pub(crate) fn command(self) -> Command {
        let header = SendMessage { properties: Some(self.properties.encode()), ..self.header };
        let mut command = Command::request(self.code).with_body(self.body);
        if self.code == request::SEND_MESSAGE {
            header.encode(&mut command.ext);
        } else {
            header.encode_v2(&mut command.ext);
        }
        if self.oneway { command.oneway() } else { command }
    }
}

#[derive(Clone)]
pub(crate) struct Pull(pub(crate) PullMessage);

impl Pull {
    /// Subscribes in the request itself and does not wait.
    pub(crate) fn of(topic: &str, queue: u32, from: i64) -> Self {
        Self(PullMessage::new(mq_protocol::topic::TOOLS_GROUP.into(), topic.into(), QueueId(queue), from))
    }

    pub(crate) fn tags(mut self, expression: &str) -> Self {
        self.0.subscription = Some(expression.into());
        self
    }

    /// As a consumer of `group`, which subscribed by its heartbeat.
    pub(crate) fn by(mut self, group: &str) -> Self {
        self.0.consumer_group = group.into();
        self.0.sys_flag &= !pull::SUBSCRIPTION;
        self
    }

    pub(crate) fn waiting(mut self, up_to: Duration) -> Self {
        self.0.sys_flag |= pull::SUSPEND;
        self.0.suspend_timeout_millis = up_to.as_millis() as i64;
        self
    }

    pub(crate) fn command(self) -> Command {
        Command::request_with(request::PULL_MESSAGE, &self.0)
    }
}

/// Code, next offset, bounds and bodies of a pull's answer.
pub(crate) fn pulled(answer: &Command) -> (i32, u64, u64, u64, Vec<Bytes>) {
    let header: PullMessageResponse = answer.header().unwrap();
    let bodies = record::decode_all(&answer.body).unwrap().into_iter().map(|stored| stored.message.body).collect();
    (answer.code, header.next_begin_offset.0, header.min_offset.0, header.max_offset.0, bodies)
}

/// END_TRANSACTION for a half as its send was answered.
pub(crate) fn end(sent: &SendMessageResponse, group: &str, bits: i32) -> Command {
    let (_, log_offset) = mq_protocol::message_id::parse_offset_id(&sent.msg_id).unwrap();
    end_at(sent.queue_offset, log_offset, group, bits)
}

pub(crate) fn end_at(half: QueueOffset, log_offset: LogOffset, group: &str, bits: i32) -> Command {
    let header = EndTransaction {
        topic: None,
        producer_group: group.into(),
        tran_state_table_offset: half,
        commit_log_offset: log_offset,
        commit_or_rollback: bits,
        from_transaction_check: Some(false),
        msg_id: Some("key".into()),
        transaction_id: None,
        bname: None,
    };
    Command::request_with(request::END_TRANSACTION, &header)
}
