//! The name servers: one after the other until one answers; the last good one is asked first.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use mq_protocol::ByteString;
use mq_protocol::body::{ClusterInfo, TopicRoute};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::GetRouteInfo;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::error::{CallError, ClientError, RouteError};
use crate::remoting::{Connection, Inbound, Patience, Pool, json_body};

/// The master's broker id.
pub(crate) const MASTER_ID: u64 = 0;

/// A name server that did not answer is asked after all others for this long.
const REST: Duration = Duration::from_secs(30);

pub(crate) struct NameServers {
    addresses: Vec<ByteString>,
    pool: Pool,
    /// Keeps the pool's inbound alive.
    _silent: Arc<Silent>,
    last_good: AtomicUsize,
    /// When each last failed to answer.
    silent_since: Mutex<Vec<Option<Instant>>>,
    timeout: Duration,
}

impl NameServers {
    /// Addresses as in `NAMESRV_ADDR`: separated by `;` (a comma or blank will do).
    pub(crate) fn new(addresses: &str, timeout: Duration) -> Result<Self, ClientError> {
        let addresses: Vec<ByteString> =
            addresses.split([';', ',', ' ']).map(str::trim).filter(|part| !part.is_empty()).map(Into::into).collect();
        if addresses.is_empty() {
            return Err(ClientError::Invalid("no name server address; give one such as 127.0.0.1:9876".into()));
        }
        if let Some(bad) = addresses.iter().find(|address| !has_port(address)) {
            return Err(ClientError::Invalid(format!("name server {bad:?} is not host:port")));
        }
        let silent = Arc::new(Silent);
        let inbound: Weak<dyn Inbound> = Arc::downgrade(&(silent.clone() as Arc<dyn Inbound>));
        let pool = Pool::new(inbound, timeout);
        let silent_since = Mutex::new(vec![None; addresses.len()]);
        Ok(Self { addresses, pool, _silent: silent, last_good: AtomicUsize::new(0), silent_since, timeout })
    }

    pub(crate) fn first(&self) -> &ByteString {
        &self.addresses[0]
    }

    pub(crate) async fn route(&self, topic: &ByteString) -> Result<TopicRoute, RouteError> {
        let header = GetRouteInfo { topic: topic.clone(), accept_standard_json_only: Some(true) };
        let command = Command::request_with(request::GET_ROUTEINFO_BY_TOPIC, &header);
        let names = || self.addresses.join(";");
        match self.call(&command).await {
            Ok(answer) => json_body("route", self.first(), command.code, &answer).map_err(|last| {
                RouteError::NoNameServer { topic: topic.clone(), names: names(), last: Box::new(last) }
            }),
            Err(last) if last.code() == Some(response::TOPIC_NOT_EXIST) => {
                Err(RouteError::NoTopic { topic: topic.clone(), names: names() })
            }
            Err(last) => Err(RouteError::NoNameServer { topic: topic.clone(), names: names(), last: Box::new(last) }),
        }
    }

    /// All clusters and their brokers.
    pub(crate) async fn cluster(&self) -> Result<ClusterInfo, CallError> {
        let command = Command::request(request::GET_BROKER_CLUSTER_INFO);
        let answer = self.call(&command).await?;
        json_body("cluster", self.first(), command.code, &answer)
    }

    /// Asks each in turn, beginning with the last good one. That a topic does not exist is an answer, but only if no
    /// other server knows better; those that did not answer a moment ago are not waited for again then.
    pub(crate) async fn call(&self, command: &Command) -> Result<Command, CallError> {
        let first = self.last_good.load(Ordering::Relaxed);
        let in_turn = (0..self.addresses.len()).map(|step| (first + step) % self.addresses.len());
        let (resting, awake): (Vec<usize>, Vec<usize>) = in_turn.partition(|at| self.rests(*at));
        let mut refused = None;
        let mut failed = None;
        for at in awake.into_iter().chain(resting) {
            if refused.is_some() && self.rests(at) {
                continue;
            }
            match self.ask(&self.addresses[at], command.clone()).await {
                Ok(answer) => {
                    self.last_good.store(at, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) if error.code().is_some() => refused = Some(error),
                Err(error) => {
                    self.silent_since.lock()[at] = Some(Instant::now());
                    failed = Some(error);
                }
            }
        }
        Err(refused.or(failed).expect("there is at least one name server"))
    }

    /// Tells every name server the same: they do not know of each other.
    pub(crate) async fn tell_all(&self, command: &Command) -> Result<(), CallError> {
        self.ask_all(command).await.map(drop)
    }

    /// The answer of each.
    pub(crate) async fn ask_all(&self, command: &Command) -> Result<Vec<(ByteString, Command)>, CallError> {
        let mut answers = Vec::new();
        for address in &self.addresses {
            answers.push((address.clone(), self.ask(address, command.clone()).await?));
        }
        Ok(answers)
    }

    fn rests(&self, at: usize) -> bool {
        self.silent_since.lock()[at].is_some_and(|since| since.elapsed() < REST)
    }

    async fn ask(&self, address: &ByteString, command: Command) -> Result<Command, CallError> {
        let connection = self.pool.get(address, Patience::Fail).await?;
        let answer = connection.call(command, self.timeout).await;
        if matches!(answer, Err(CallError::Request(_))) {
            connection.close();
        }
        answer
    }
}

fn has_port(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// Name servers ask nothing of us, and want no heartbeat.
struct Silent;

impl Inbound for Silent {
    fn request(&self, connection: &Connection, command: Command) {
        if !command.is_oneway() {
            connection.reply(&command.error(response::REQUEST_CODE_NOT_SUPPORTED, "this is a client"));
        }
    }
    fn greet(&self, _: Connection) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }
    fn closed(&self, _: &ByteString) {}
}
