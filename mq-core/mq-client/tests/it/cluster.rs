//! A name server and a broker on free ports, and small helpers for waiting and naming.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use mq_broker::{Broker, BrokerConfig};
use mq_client::{Admin, ClientOptions, ConsumeFrom, Message, Producer, PullConsumer, ReceivedMessage};
use mq_namesrv::{NameServer, NamesrvConfig};
use mq_store::SystemClock;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Only a bug waits for it: a busy machine that shares one core with ten others needs a fifth.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A part that serves on a runtime of its own until it is stopped or dropped.
pub(crate) struct Running {
    port: u16,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    async fn start<Serving>(
        port: u16,
        serve: impl FnOnce(TcpListener, CancellationToken) -> Serving + Send + 'static,
    ) -> Self
    where
        Serving: Future<Output = ()>,
    {
        let listener = listen(port).await;
        let port = listener.local_addr().expect("bound").port();
        let listener = listener.into_std().expect("a socket");
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async { serve(TcpListener::from_std(listener).expect("a socket"), stopped).await });
        });
        Self { port, stop, thread: Some(thread) }
    }

    /// Stops in order; its port is free afterwards.
    pub(crate) fn stop(self) -> u16 {
        self.port
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))), "a server panicked");
    }
}

pub(crate) async fn name_server(port: u16) -> Running {
    let server = NameServer::new(NamesrvConfig::default()).expect("no files");
    Running::start(port, |listener, stop| async { server.run(listener, stop).await.expect("serves") }).await
}

pub(crate) async fn broker(port: u16, name_servers: &str, store: &Path) -> Running {
    let config = BrokerConfig {
        broker_name: "broker-a".into(),
        name_servers: name_servers.split(';').map(str::to_owned).collect(),
        store_root: store.to_owned(),
        commit_log_segment_bytes: 16 << 20,
        delay_levels: ["1s"; 18].join(" "),
        timer_precision: Duration::from_millis(100),
        recall: true,
        transaction_timeout: Duration::from_millis(500),
        transaction_check_interval: Duration::from_millis(500),
        ..BrokerConfig::default()
    };
    Running::start(port, move |listener, stop| async move {
        let listen_port = listener.local_addr().expect("bound").port();
        let broker = Broker::open(BrokerConfig { listen_port, ..config }, Arc::new(SystemClock)).expect("opens");
        broker.run(vec![listener], stop).await.expect("serves");
    })
    .await
}

/// A port that was in use a moment ago may take a moment.
async fn listen(port: u16) -> TcpListener {
    eventually("the port to be free", || async { TcpListener::bind(("127.0.0.1", port)).await.ok() }).await
}

/// One name server and one broker.
pub(crate) struct Cluster {
    pub(crate) name_servers: String,
    own: Option<Own>,
}

struct Own {
    names: Running,
    broker: Running,
    store: TempDir,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        if let Ok(name_servers) = std::env::var("MQ_TEST_NAMESRV") {
            return Self { name_servers, own: None };
        }
        let store = tempfile::tempdir().expect("a directory");
        let names = name_server(0).await;
        let broker = broker(0, &names.address(), store.path()).await;
        let asking = Producer::builder(names.address()).build().await.expect("valid");
        eventually("the registration", || async { asking.queues("TBW102").await.ok() }).await;
        Self { name_servers: names.address(), own: Some(Own { names, broker, store }) }
    }

    /// For tests that stop parts: `None` on a cluster of somebody else.
    pub(crate) async fn start_own() -> Option<Self> {
        let cluster = Self::start().await;
        cluster.own.is_some().then_some(cluster)
    }

    fn own(self) -> Own {
        self.own.expect("only of an own cluster")
    }

    /// What the broker knew of its groups' progress, lost.
    pub(crate) async fn restart_broker_without_offsets(self) -> Self {
        let store = self.own.as_ref().expect("only of an own cluster").store.path().to_owned();
        let forget = async || {
            std::fs::remove_file(store.join("checkback/offset-journal")).expect("removed");
            for entry in std::fs::read_dir(store.join("config")).expect("the configuration") {
                let path = entry.expect("a file").path();
                if path.to_string_lossy().contains("consumerOffset") {
                    std::fs::remove_file(path).expect("removed");
                }
            }
        };
        self.restart_broker(forget).await
    }

    /// Stops the broker, has `meanwhile` done, and starts it again on the same port and store.
    pub(crate) async fn restart_broker(self, meanwhile: impl AsyncFnOnce()) -> Self {
        let name_servers = self.name_servers.clone();
        let Own { names, broker: running, store } = self.own();
        let port = running.stop();
        meanwhile().await;
        let broker = broker(port, &name_servers, store.path()).await;
        Self { name_servers, own: Some(Own { names, broker, store }) }
    }

    pub(crate) async fn without_name_server(self, test: impl AsyncFnOnce()) {
        let Own { names, broker, store } = self.own();
        names.stop();
        test().await;
        broker.stop();
        drop(store);
    }

    pub(crate) async fn producer(&self) -> Producer {
        Producer::builder(&self.name_servers).group(unique("producers")).build().await.expect("valid")
    }

    /// Creates the topic by a first message, whose body is `first`.
    pub(crate) async fn topic(&self, name: &str, producer: &Producer) -> String {
        let topic = unique(name);
        producer.send(Message::new(topic.clone(), "first").tags("first")).await.expect("stored");
        // The broker answers a moment before the name server knows the topic that the send created.
        let admin = Admin::new(ClientOptions::new(self.name_servers.clone())).expect("valid");
        eventually("the route", || async { admin.route(&topic).await.ok() }).await;
        topic
    }

    /// Everything that a topic holds now, in the order of the queues.
    pub(crate) async fn read_all(&self, topic: &str) -> Vec<ReceivedMessage> {
        let reader =
            PullConsumer::builder(&self.name_servers).group(unique("readers")).consume_from(ConsumeFrom::First);
        let reader = reader.build().await.expect("valid");
        let queues = eventually("the topic", || async { reader.queues(topic).await.ok() }).await;
        let mut messages = Vec::new();
        for queue in queues {
            let mut from = reader.min_offset(&queue).await.expect("answered");
            while from < reader.max_offset(&queue).await.expect("answered") {
                let pulled = reader.pull(&queue, from, 32, Duration::ZERO).await.expect("answered");
                from = pulled.next;
                messages.extend(pulled.messages);
            }
        }
        reader.close().await;
        messages
    }

    pub(crate) async fn bodies(&self, topic: &str) -> Vec<String> {
        let mut bodies: Vec<String> = self.read_all(topic).await.iter().map(body).collect();
        bodies.sort();
        bodies
    }
}

pub(crate) fn body(message: &ReceivedMessage) -> String {
    String::from_utf8_lossy(&message.body).into_owned()
}

/// A name that no earlier run on the same cluster used.
pub(crate) fn unique(name: &str) -> String {
    format!("{name}-{:016x}", rand::random::<u64>())
}

/// Asks until there is an answer.
pub(crate) async fn eventually<T, Asked: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> Asked) -> T {
    let asking = async {
        loop {
            match ask().await {
                Some(answer) => return answer,
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what}"))
}

/// What handlers saw, in order.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    pub(crate) fn add(&self, entry: impl Into<String>) {
        self.0.lock().push(entry.into());
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().clone()
    }

    pub(crate) fn sorted(&self) -> Vec<String> {
        let mut all = self.all();
        all.sort();
        all
    }

    pub(crate) async fn reach(&self, count: usize) {
        eventually(&format!("{count} entries"), || async { (self.all().len() >= count).then_some(()) }).await;
    }
}
