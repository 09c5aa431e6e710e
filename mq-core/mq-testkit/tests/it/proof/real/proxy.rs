//! The network of one process, which fails once: to its broker, whose frames it knows, or to its database. Knows nothing
//! of what the frames mean but the texts in them.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_util::task::AbortOnDropHandle;

/// Longest piece that is passed on at once.
const PIECE_BYTES: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Through {
    Broker,
    Database,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    Process,
    Server,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Does {
    /// The connection ends instead.
    Cuts,
    /// It arrives, and the connection ends before anything comes back.
    LosesAnswer,
    Repeats,
}

/// What happens to the first piece that holds all these texts, on a connection that has carried another one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub(super) from: From,
    pub(super) after: &'static str,
    pub(super) holds: &'static [&'static str],
    pub(super) does: Does,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} of the {:?}'s", self.does, self.holds.join(" "), self.from)
    }
}

#[derive(Clone, Debug)]
pub(super) enum Target {
    /// A broker or a name server; in what a name server says, the one port is replaced by the other.
    Frames(SocketAddr, Option<(u16, u16)>),
    Postgres(PathBuf),
}

pub(super) struct Proxy {
    pub(super) port: u16,
    has_failed: Arc<AtomicBool>,
    _accepting: AbortOnDropHandle<()>,
}

impl Proxy {
    pub(super) async fn start(target: Target, rule: Option<Rule>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let has_failed = Arc::new(AtomicBool::new(false));
        let failed = has_failed.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((process, _)) = listener.accept().await {
                let line = Line {
                    rule,
                    target: target.clone(),
                    has_failed: failed.clone(),
                    is_near: AtomicBool::new(false),
                    ends: AtomicBool::new(false),
                };
                // However it ends, both sides are closed then.
                tokio::spawn(async move { drop(line.carry(process).await) });
            }
        });
        Self { port, has_failed, _accepting: AbortOnDropHandle::new(accepting) }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }
}

/// One connection.
struct Line {
    rule: Option<Rule>,
    target: Target,
    /// Of all connections.
    has_failed: Arc<AtomicBool>,
    /// The text that is to come before has come.
    is_near: AtomicBool,
    /// Nothing comes back any more.
    ends: AtomicBool,
}

impl Line {
    async fn carry(&self, process: TcpStream) -> io::Result<()> {
        process.set_nodelay(true)?;
        match &self.target {
            Target::Frames(address, _) => self.between(process, TcpStream::connect(address).await?).await,
            Target::Postgres(socket) => self.between(process, UnixStream::connect(socket).await?).await,
        }
    }

    async fn between(&self, process: TcpStream, server: impl AsyncRead + AsyncWrite) -> io::Result<()> {
        let (from_process, to_process) = split(process);
        let (from_server, to_server) = split(server);
        tokio::select! {
            ended = self.pass_on(From::Process, from_process, to_server) => ended,
            ended = self.pass_on(From::Server, from_server, to_process) => ended,
        }
    }

    async fn pass_on(
        &self,
        from: From,
        mut source: impl AsyncRead + Unpin,
        mut sink: impl AsyncWrite + Unpin,
    ) -> io::Result<()> {
        loop {
            let piece = self.piece(&mut source).await?;
            if piece.is_empty() || from == From::Server && self.ends.load(Ordering::Relaxed) {
                return Ok(());
            }
            match self.strikes(from, &piece) {
                None => sink.write_all(&piece).await?,
                Some(Does::Cuts) => return Ok(()),
                Some(Does::Repeats) => sink.write_all(&[&*piece, &*piece].concat()).await?,
                Some(Does::LosesAnswer) => {
                    self.ends.store(true, Ordering::Relaxed);
                    sink.write_all(&piece).await?;
                }
            }
        }
    }

    /// A frame, whole; or what is there of another protocol.
    async fn piece(&self, source: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
        let mut piece = vec![0; PIECE_BYTES];
        let Target::Frames(_, renamed) = self.target else {
            let bytes = source.read(&mut piece).await?;
            piece.truncate(bytes);
            return Ok(piece);
        };
        let length = source.read_u32().await?;
        piece.resize(4 + length as usize, 0);
        piece[..4].copy_from_slice(&length.to_be_bytes());
        source.read_exact(&mut piece[4..]).await?;
        if let Some((port, other)) = renamed.map(|(port, other)| (format!(":{port}"), format!(":{other}"))) {
            assert_eq!(port.len(), other.len(), "frames keep their length");
            while let Some(at) = position(&piece, &port) {
                piece[at..at + other.len()].copy_from_slice(other.as_bytes());
            }
        }
        Ok(piece)
    }

    fn strikes(&self, from: From, piece: &[u8]) -> Option<Does> {
        let rule = self.rule.filter(|rule| rule.from == from)?;
        if self.is_near.load(Ordering::Relaxed) || rule.after.is_empty() {
            let all = rule.holds.iter().all(|text| position(piece, text).is_some());
            return (all && !self.has_failed.swap(true, Ordering::Relaxed)).then_some(rule.does);
        }
        self.is_near.store(position(piece, rule.after).is_some(), Ordering::Relaxed);
        None
    }
}

fn position(piece: &[u8], text: &str) -> Option<usize> {
    piece.windows(text.len()).position(|window| window == text.as_bytes())
}
