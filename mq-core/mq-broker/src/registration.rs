//! Telling the name servers of this broker: at the start, every 30 s, at once after a change of topics; and goodbye.
//!
//! One task and one connection a name server: while it is open the name server knows that the broker lives.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use mq_protocol::body::{self, RegisterBrokerBody};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::frame::{self, FrameError, MAX_FRAME_BYTES};
use mq_protocol::header::{BrokerIdentity, RegisterBroker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::config::BrokerConfig;
use crate::topics::TopicTable;

/// A name server answers within milliseconds; this long, on a busy machine too, means that it is not there. To give up
/// early costs more than to wait: the name server forgets a broker whose connection ends.
const PATIENCE: Duration = Duration::from_secs(20);
/// Rest between attempts at a name server that is away.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LAST: Duration = Duration::from_secs(5);

/// What a registration says besides the topics.
#[derive(Clone, Debug)]
pub(crate) struct Registrant {
    pub(crate) identity: BrokerIdentity,
    pub(crate) ha_addr: String,
    pub(crate) name_servers: Vec<String>,
    pub(crate) interval: Duration,
}

impl Registrant {
    pub(crate) fn new(config: &BrokerConfig, advertised: SocketAddr) -> Self {
        Self {
            identity: BrokerIdentity {
                broker_name: config.broker_name.as_str().into(),
                broker_addr: advertised.to_string().into(),
                cluster_name: config.cluster_name.as_str().into(),
                broker_id: config.broker_id,
            },
            ha_addr: SocketAddr::new(advertised.ip(), advertised.port().wrapping_add(1)).to_string(),
            name_servers: config.name_servers.clone(),
            interval: config.register_interval,
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum RegisterError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Late,
    #[error("the name server closed the connection")]
    Closed,
    #[error("the name server's stream cannot be trusted: {0}")]
    Frame(#[from] FrameError),
    #[error("refused with code {code}: {remark}")]
    Refused { code: i32, remark: String },
}

/// What the name servers know: of each, while the broker is registered there, the version of the topics.
#[derive(Clone)]
pub(crate) struct Registrations(watch::Sender<Vec<Option<u64>>>);

impl Registrations {
    pub(crate) fn with(name_servers: &[String]) -> Self {
        Self(watch::Sender::new(vec![None; name_servers.len()]))
    }

    /// Completes once a name server knows the broker.
    pub(crate) async fn any(&self) {
        let _ = self.0.subscribe().wait_for(|known| known.iter().any(Option::is_some)).await;
    }

    /// Completes once every name server that knows the broker knows the topics of `version`; at once if none does.
    pub(crate) async fn all_know(&self, version: u64) {
        let known = |known: &Vec<Option<u64>>| known.iter().flatten().all(|known| *known >= version);
        let _ = self.0.subscribe().wait_for(known).await;
    }

    pub(crate) fn changes(&self) -> RegistrationChanges {
        RegistrationChanges { known: self.0.subscribe(), newest: 0 }
    }

    fn note(&self, name_server: usize, version: Option<u64>) {
        self.0.send_if_modified(|known| std::mem::replace(&mut known[name_server], version) != version);
    }
}

pub(crate) struct RegistrationChanges {
    known: watch::Receiver<Vec<Option<u64>>>,
    newest: u64,
}

impl RegistrationChanges {
    /// The version of the topics that a name server knows, as soon as it is a newer one.
    pub(crate) async fn newer(&mut self) -> Option<u64> {
        let newest = |known: &Vec<Option<u64>>| known.iter().flatten().max().copied().unwrap_or(0);
        self.newest =
            self.known.wait_for(|known| newest(known) > self.newest).await.ok().map(|known| newest(&known))?;
        Some(self.newest)
    }
}

/// Keeps the broker registered until `shutdown`, then unregisters.
pub(crate) async fn run(
    registrant: Registrant,
    topics: Arc<TopicTable>,
    registrations: Registrations,
    shutdown: CancellationToken,
) {
    let mut tasks = JoinSet::new();
    for (index, addr) in registrant.name_servers.iter().enumerate() {
        let (registrant, topics, registrations) = (registrant.clone(), topics.clone(), registrations.clone());
        let link = Link { index, addr: addr.clone(), registrant, topics, registrations };
        tasks.spawn(link.keep(shutdown.clone()));
    }
    while tasks.join_next().await.is_some() {}
}

/// The bond with one name server.
struct Link {
    index: usize,
    addr: String,
    registrant: Registrant,
    topics: Arc<TopicTable>,
    registrations: Registrations,
}

impl Link {
    async fn keep(self, shutdown: CancellationToken) {
        let mut rest = RETRY_FIRST;
        loop {
            let mut known = false;
            let stayed = self.stay_registered(&mut known, &shutdown).await;
            if known {
                self.registrations.note(self.index, None);
                rest = RETRY_FIRST;
            }
            let Err(error) = stayed else { return };
            warn!(name_server = self.addr, %error, "not registered; trying again");
            tokio::select! {
                () = sleep(rest) => rest = (rest * 2).min(RETRY_LAST),
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Ends well only by `shutdown`.
    async fn stay_registered(&self, known: &mut bool, shutdown: &CancellationToken) -> Result<(), RegisterError> {
        let mut changes = self.topics.changes();
        let mut wire = tokio::select! {
            wire = Wire::connect(&self.addr) => wire?,
            () = shutdown.cancelled() => return Ok(()),
        };
        loop {
            let version = *changes.borrow_and_update();
            wire.call(self.registration()).await?;
            self.registrations.note(self.index, Some(version));
            if !*known {
                *known = true;
                info!(name_server = self.addr, broker = %self.registrant.identity.broker_name, "registered");
            }
            tokio::select! {
                () = sleep(self.registrant.interval) => {}
                _ = changes.changed() => {}
                () = wire.closed() => return Err(RegisterError::Closed),
                () = shutdown.cancelled() => break,
            }
        }
        // Nobody waits for what this name server is not told any more.
        self.registrations.note(self.index, None);
        let goodbye = Command::request_with(request::UNREGISTER_BROKER, &self.registrant.identity);
        if let Err(error) = wire.call(goodbye).await {
            debug!(name_server = self.addr, %error, "the name server did not hear the goodbye");
        }
        Ok(())
    }

    fn registration(&self) -> Command {
        let body = body::to_json(&RegisterBrokerBody {
            filter_server_list: Vec::new(),
            topic_config_serialize_wrapper: self.topics.registration(),
        });
        let BrokerIdentity { broker_name, broker_addr, cluster_name, broker_id } = self.registrant.identity.clone();
        let header = RegisterBroker {
            broker_name,
            broker_addr,
            cluster_name,
            ha_server_addr: Some(self.registrant.ha_addr.as_str().into()),
            broker_id,
            heartbeat_timeout_millis: None,
            enable_acting_master: Some(false),
            compressed: Some(false),
            body_crc32: Some(crc32fast::hash(&body) & 0x7FFF_FFFF),
            zone_name: None,
        };
        Command::request_with(request::REGISTER_BROKER, &header).with_body(body)
    }
}

/// One question at a time.
struct Wire {
    stream: TcpStream,
    input: BytesMut,
    opaque: i32,
}

impl Wire {
    async fn connect(addr: &str) -> Result<Self, RegisterError> {
        let stream = timeout(PATIENCE, TcpStream::connect(addr)).await.map_err(|_| RegisterError::Late)??;
        stream.set_nodelay(true)?;
        Ok(Self { stream, input: BytesMut::new(), opaque: 0 })
    }

    async fn call(&mut self, mut request: Command) -> Result<(), RegisterError> {
        self.opaque = self.opaque.wrapping_add(1);
        request.opaque = self.opaque;
        let answer = timeout(PATIENCE, self.exchange(&request)).await.map_err(|_| RegisterError::Late)??;
        if answer.code == response::SUCCESS {
            return Ok(());
        }
        Err(RegisterError::Refused { code: answer.code, remark: answer.remark.unwrap_or_default().to_string() })
    }

    async fn exchange(&mut self, request: &Command) -> Result<Command, RegisterError> {
        let mut out = BytesMut::new();
        request.encode(&mut out);
        self.stream.write_all(&out).await?;
        loop {
            while let Some(frame) = frame::split(&mut self.input, MAX_FRAME_BYTES)? {
                let answer = Command::decode(frame)?;
                if answer.is_response() && answer.opaque == request.opaque {
                    return Ok(answer);
                }
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(RegisterError::Closed);
            }
        }
    }

    /// Completes when the name server is gone. What it says unasked is of no use here.
    async fn closed(&mut self) {
        while matches!(self.stream.read_buf(&mut self.input).await, Ok(read) if read > 0) {
            self.input.clear();
        }
    }
}
