//! One client instance: its connections, routes and groups, and the heartbeats by which brokers know it.
//!
//! Producers and consumers make one for themselves, or share one. Knows nothing of how messages are sent or consumed.

mod asked;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use mq_protocol::ByteString;
use mq_protocol::body::{
    self, ConsumedDirectly, ConsumerData, ConsumerPositions, HeartbeatData, InboxAnswer, ProducerData, QueueOffsets,
};
use mq_protocol::codes::request;
use mq_protocol::command::Command;
use mq_protocol::header::{HeartbeatResponse, UnregisterClient};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::consumer::InboxLookup;
use crate::error::{CallError, ClientError, RequestError};
use crate::message::ReceivedMessage;
use crate::names::NameServers;
use crate::producer::{Checks, Requests};
use crate::remoting::{Connection, Inbound, Patience, Pool};
use crate::route::Routes;
use crate::trace::{Tracer, WeakTracer};
use crate::unique_key::UniqueKeys;

/// How often topics are asked for that should exist and do not yet.
const MISSING_ROUTE_INTERVAL: Duration = Duration::from_secs(1);
/// How long one try to get a lost broker back lasts before the routes are looked at again.
const RECONNECT_ROUND: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Name servers as in `NAMESRV_ADDR`: `host:port;host:port`.
    pub name_servers: String,
    /// Tells clients of one process apart in the client id; random when not given.
    pub instance: Option<String>,
    pub connect_timeout: Duration,
    /// Route queries, heartbeats, offsets, locks.
    pub request_timeout: Duration,
    pub heartbeat_interval: Duration,
    pub route_interval: Duration,
}

impl ClientOptions {
    #[must_use]
    pub fn new(name_servers: impl Into<String>) -> Self {
        Self {
            name_servers: name_servers.into(),
            instance: None,
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(3),
            heartbeat_interval: Duration::from_secs(30),
            route_interval: Duration::from_secs(30),
        }
    }
}

/// What a producer or consumer is built on: a client that others use as well, or one of its own.
#[derive(Clone)]
pub(crate) struct ClientChoice {
    pub(crate) shared: Option<Client>,
    pub(crate) options: ClientOptions,
}

impl ClientChoice {
    pub(crate) fn of(name_servers: impl Into<String>) -> Self {
        Self { shared: None, options: ClientOptions::new(name_servers) }
    }

    pub(crate) fn open(self) -> Result<Client, ClientError> {
        self.shared.map_or_else(|| Client::new(self.options), Ok)
    }
}

/// A cheap handle. The connections close when the last handle, producer and consumer of it are gone.
#[derive(Clone)]
pub struct Client(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) id: ByteString,
    pub(crate) options: ClientOptions,
    pub(crate) routes: Routes,
    pub(crate) keys: UniqueKeys,
    pool: Pool,
    /// Requests that wait for replies.
    pub(crate) requests: Requests,
    producers: Mutex<BTreeMap<ByteString, RegisteredProducer>>,
    consumers: Mutex<BTreeMap<ByteString, Weak<dyn GroupMember>>>,
    /// What each broker says that it can do beyond Apache's.
    capabilities: Mutex<HashMap<ByteString, ByteString>>,
    reconnecting: Mutex<BTreeSet<ByteString>>,
    me: Weak<Inner>,
    closed: CancellationToken,
}

/// A producer group as the brokers should know it.
#[derive(Default)]
pub(crate) struct RegisteredProducer {
    pub(crate) topics: Vec<ByteString>,
    pub(crate) checks: Option<Arc<Checks>>,
    /// The producer holds it; this client would live as long as a strong one.
    pub(crate) tracer: Option<WeakTracer>,
}

/// A consumer, as its client sees it.
pub(crate) trait GroupMember: Send + Sync {
    fn heartbeat(&self) -> ConsumerData;
    /// Somebody joined or left the group.
    fn members_changed(&self);
    /// An operator wants it to go on elsewhere: 220.
    fn reset(self: Arc<Self>, offsets: QueueOffsets);
    /// How far it is in a topic: 221.
    fn positions(&self, topic: &str) -> ConsumerPositions;
    /// Handles one message that an operator picked: 309.
    fn consume_directly(self: Arc<Self>, message: ReceivedMessage) -> Consuming;
    /// What an operator's tool is told about it: 307.
    fn running_info(&self, inbox: Option<&InboxAnswer>) -> Bytes;
    /// Who looks into the inbox of its database, where it has one.
    fn inbox(&self) -> Option<InboxLookup> {
        None
    }
}

pub(crate) type Consuming = Pin<Box<dyn Future<Output = ConsumedDirectly> + Send>>;

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("id", &self.0.id).finish_non_exhaustive()
    }
}

impl Client {
    /// Starts the instance's upkeep; connects to nobody yet. Must be called inside a tokio runtime.
    pub fn new(options: ClientOptions) -> Result<Self, ClientError> {
        let names = NameServers::new(&options.name_servers, options.request_timeout)?;
        let ip = local_ip(names.first());
        let instance = options
            .instance
            .clone()
            .unwrap_or_else(|| format!("{}#{:016x}", std::process::id(), rand::random::<u64>()));
        let inner = Arc::new_cyclic(|me: &Weak<Inner>| {
            let inbound: Weak<dyn Inbound> = me.clone();
            Inner {
                id: format!("{ip}@{instance}").into(),
                routes: Routes::new(names),
                keys: UniqueKeys::new(ip),
                pool: Pool::new(inbound, options.connect_timeout),
                requests: Requests::default(),
                producers: Mutex::default(),
                consumers: Mutex::default(),
                capabilities: Mutex::default(),
                reconnecting: Mutex::default(),
                me: me.clone(),
                closed: CancellationToken::new(),
                options,
            }
        });
        let (heartbeat_interval, route_interval) = (inner.options.heartbeat_interval, inner.options.route_interval);
        tokio::spawn(beat(Arc::downgrade(&inner), inner.closed.clone(), heartbeat_interval));
        tokio::spawn(keep_routes(Arc::downgrade(&inner), inner.closed.clone(), route_interval));
        Ok(Self(inner))
    }

    /// `ip@instance`: how brokers and tools name this client.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// What this broker says that it can do beyond Apache RocketMQ; empty until it was reached, and on Apache's.
    #[must_use]
    pub fn capabilities(&self, broker_address: &str) -> Vec<String> {
        let capabilities = self.0.capabilities.lock();
        let list = capabilities.get(broker_address).map_or("", |list| list);
        list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }

    /// Closes every connection. Producers and consumers of this client fail from now on.
    pub fn close(&self) {
        self.0.closed.cancel();
        self.0.pool.close();
    }
}

impl Inner {
    pub(crate) async fn connection(
        &self,
        address: &ByteString,
        patience: Patience,
    ) -> Result<Arc<Connection>, RequestError> {
        if self.closed.is_cancelled() {
            return Err(RequestError::Connect { address: address.clone(), reason: "the client is closed".into() });
        }
        self.pool.get(address, patience).await
    }

    /// A connection within this time, however often it takes to get one.
    pub(crate) async fn connection_by(
        &self,
        address: &ByteString,
        deadline: Instant,
    ) -> Result<Arc<Connection>, RequestError> {
        let late = || RequestError::Connect { address: address.clone(), reason: "not in time".into() };
        timeout_at(deadline, self.connection(address, Patience::Until(deadline))).await.map_err(|_| late())?
    }

    /// Asks a broker and wants a good answer, within the request timeout.
    pub(crate) async fn call(&self, address: &ByteString, command: Command) -> Result<Command, CallError> {
        let deadline = Instant::now() + self.options.request_timeout;
        let connection = self.connection_by(address, deadline).await?;
        connection.call(command, deadline.saturating_duration_since(Instant::now())).await
    }

    pub(crate) async fn register_producer(&self, group: ByteString, producer: RegisteredProducer) {
        for topic in &producer.topics {
            self.routes.want(topic.clone());
        }
        let topics = producer.topics.clone();
        self.producers.lock().insert(group, producer);
        for topic in topics {
            if let Err(error) = self.routes.for_sending(&topic).await {
                tracing::warn!(%error, "not registered for checkbacks yet; will keep trying");
            }
        }
        self.heartbeat_all().await;
    }

    pub(crate) fn tracer(&self, group: &str) -> Option<Tracer> {
        self.producers.lock().get(group).and_then(|producer| producer.tracer.as_ref()?.upgrade())
    }

    pub(crate) fn checks(&self, group: &str) -> Option<Arc<Checks>> {
        self.producers.lock().get(group).and_then(|producer| producer.checks.clone())
    }

    /// Whether every broker of the group's topics knows this client, on the connection that is open now.
    pub(crate) fn is_registered(&self, group: &str) -> bool {
        let topics = self.producers.lock().get(group).map(|producer| producer.topics.clone()).unwrap_or_default();
        let routes: Option<Vec<_>> = topics.iter().map(|topic| self.routes.found(topic)).collect();
        let masters: Vec<_> = routes.iter().flatten().flat_map(|route| route.masters()).collect();
        let heard = self.capabilities.lock();
        !masters.is_empty() && masters.iter().all(|it| heard.contains_key(*it) && self.pool.existing(it).is_some())
    }

    pub(crate) async fn register_consumer(&self, group: ByteString, consumer: Weak<dyn GroupMember>) {
        self.consumers.lock().insert(group, consumer);
        self.heartbeat_all().await;
    }

    /// Tells every broker that a group has left; brokers that do not answer notice by the closed connection.
    pub(crate) async fn unregister(&self, producer_group: Option<ByteString>, consumer_group: Option<ByteString>) {
        if let Some(group) = &producer_group {
            self.producers.lock().remove(group);
        }
        if let Some(group) = &consumer_group {
            self.consumers.lock().remove(group);
        }
        let header = UnregisterClient { client_id: self.id.clone(), producer_group, consumer_group };
        let command = Command::request_with(request::UNREGISTER_CLIENT, &header);
        let mut told = JoinSet::new();
        for connection in self.pool.live() {
            let (command, within) = (command.clone(), self.options.request_timeout);
            told.spawn(async move {
                if let Err(error) = connection.call(command, within).await {
                    tracing::debug!(%error, "not unregistered");
                }
            });
        }
        told.join_all().await;
    }

    fn heartbeat_data(&self) -> HeartbeatData {
        let producers = self.producers.lock();
        let producer_data = producers.iter().map(|(group, producer)| ProducerData {
            group_name: group.to_string(),
            checkback_topics: producer.topics.iter().map(ToString::to_string).collect(),
        });
        let consumers = self.consumers.lock();
        HeartbeatData {
            client_id: self.id.to_string(),
            producer_data_set: producer_data.collect(),
            consumer_data_set: consumers.values().filter_map(Weak::upgrade).map(|member| member.heartbeat()).collect(),
            ..HeartbeatData::default()
        }
    }

    /// Tells every broker of every route that we live; opens connections that are missing.
    pub(crate) async fn heartbeat_all(&self) {
        let Some(me) = self.me.upgrade() else { return };
        let slaves = !self.consumers.lock().is_empty();
        let mut beats = JoinSet::new();
        for address in self.routes.addresses(slaves) {
            let me = me.clone();
            beats.spawn(async move {
                match me.pool.existing(&address) {
                    Some(connection) => me.heartbeat(&connection).await,
                    // A new connection begins with a heartbeat.
                    None => match me.connection(&address, Patience::Fail).await {
                        Ok(_) => {}
                        Err(error) => tracing::debug!(%error, "no heartbeat"),
                    },
                }
            });
        }
        beats.join_all().await;
    }

    async fn heartbeat(&self, connection: &Connection) {
        let data = self.heartbeat_data();
        if data.producer_data_set.is_empty() && data.consumer_data_set.is_empty() {
            return;
        }
        let command = Command::request(request::HEART_BEAT).with_body(body::to_json(&data));
        match connection.call(command, self.options.request_timeout).await {
            Ok(answer) => {
                let capabilities = answer.header::<HeartbeatResponse>().ok().and_then(|header| header.capabilities);
                self.capabilities.lock().insert(connection.address().clone(), capabilities.unwrap_or_default());
            }
            Err(CallError::Refused(error)) => tracing::warn!(%error, "heartbeat refused"),
            Err(error) => {
                tracing::warn!(%error, "no answer to a heartbeat: closing the connection");
                connection.close();
            }
        }
    }

    /// Asks again for topics that nobody knew, and greets the brokers that turn up with them.
    async fn find_missing(&self) {
        let before = self.routes.addresses(true);
        for topic in self.routes.missing() {
            let _ = self.routes.for_sending(&topic).await;
        }
        if self.routes.addresses(true) != before {
            self.heartbeat_all().await;
        }
    }

    /// Connections of brokers that no route names any more.
    fn forget_strangers(&self) {
        let known = self.routes.addresses(true);
        for connection in self.pool.live() {
            if !known.contains(connection.address()) {
                self.pool.forget(connection.address());
            }
        }
    }

    /// Gets a lost broker back, so that it knows us at once when it is up again.
    async fn reconnect(&self, address: ByteString) {
        if !self.reconnecting.lock().insert(address.clone()) {
            return;
        }
        while !self.closed.is_cancelled() && self.routes.addresses(true).contains(&address) {
            if self.connection_by(&address, Instant::now() + RECONNECT_ROUND).await.is_ok() {
                tracing::info!(%address, "connected again");
                break;
            }
        }
        self.reconnecting.lock().remove(&address);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

/// Heartbeats, until the client is closed or gone. Apart from the routes, so that a name server that does not answer
/// cannot make brokers believe that we are dead.
async fn beat(client: Weak<Inner>, closed: CancellationToken, every: Duration) {
    let mut heartbeats = timer(every);
    loop {
        tokio::select! {
            () = closed.cancelled() => return,
            _ = heartbeats.tick() => {}
        }
        let Some(client) = client.upgrade() else { return };
        client.heartbeat_all().await;
    }
}

/// Fresh routes, until the client is closed or gone.
async fn keep_routes(client: Weak<Inner>, closed: CancellationToken, every: Duration) {
    let mut all = timer(every);
    let mut missing = timer(MISSING_ROUTE_INTERVAL);
    loop {
        let refresh_all = tokio::select! {
            () = closed.cancelled() => return,
            _ = all.tick() => true,
            _ = missing.tick() => false,
        };
        let Some(client) = client.upgrade() else { return };
        if refresh_all {
            client.routes.refresh_all().await;
            client.forget_strangers();
        } else {
            client.find_missing().await;
        }
    }
}

fn timer(every: Duration) -> tokio::time::Interval {
    let mut timer = interval(every);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer.reset();
    timer
}

/// The address of ours that faces the name server; nothing is sent to find out.
fn local_ip(name_server: &str) -> Ipv4Addr {
    let facing = |target: SocketAddr| -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(target)?;
        Ok(socket.local_addr()?.ip())
    };
    let target = name_server.to_socket_addrs().ok().and_then(|mut found| found.find(SocketAddr::is_ipv4));
    match target.map(facing) {
        Some(Ok(IpAddr::V4(ip))) => ip,
        _ => Ipv4Addr::LOCALHOST,
    }
}
