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

/// What the rest of the broker learns from its registrations.
#[derive(Clone)]
pub(crate) struct Progress {
    /// How many name servers know the broker.
    pub(crate) registered: watch::Sender<usize>,
    /// The newest version of the topics that one of them knows.
    pub(crate) routed: watch::Sender<u64>,
}

/// Keeps the broker registered until `shutdown`, then unregisters.
pub(crate) async fn run(
    registrant: Registrant,
    topics: Arc<TopicTable>,
    progress: Progress,
    shutdown: CancellationToken,
) {
    let mut tasks = JoinSet::new();
    for addr in &registrant.name_servers {
        let link = Link { addr: addr.clone(), registrant: registrant.clone(), topics: topics.clone() };
        tasks.spawn(link.keep(progress.clone(), shutdown.clone()));
    }
    while tasks.join_next().await.is_some() {}
}

/// The bond with one name server.
struct Link {
    addr: String,
    registrant: Registrant,
    topics: Arc<TopicTable>,
}

impl Link {
    async fn keep(self, progress: Progress, shutdown: CancellationToken) {
        let mut rest = RETRY_FIRST;
        loop {
            let mut known = false;
            let stayed = self.stay_registered(&progress, &mut known, &shutdown).await;
            if known {
                progress.registered.send_modify(|count| *count -= 1);
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
    async fn stay_registered(
        &self,
        progress: &Progress,
        known: &mut bool,
        shutdown: &CancellationToken,
    ) -> Result<(), RegisterError> {
        let mut changes = self.topics.changes();
        let mut wire = tokio::select! {
            wire = Wire::connect(&self.addr) => wire?,
            () = shutdown.cancelled() => return Ok(()),
        };
        loop {
            let version = *changes.borrow_and_update();
            wire.call(self.registration()).await?;
            progress.routed.send_if_modified(|routed| std::mem::replace(routed, version.max(*routed)) < version);
            if !*known {
                *known = true;
                progress.registered.send_modify(|count| *count += 1);
                info!(name_server = self.addr, broker = %self.registrant.identity.broker_name, "registered");
            }
            tokio::select! {
                () = sleep(self.registrant.interval) => {}
                _ = changes.changed() => {}
                () = wire.closed() => return Err(RegisterError::Closed),
                () = shutdown.cancelled() => break,
            }
        }
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
