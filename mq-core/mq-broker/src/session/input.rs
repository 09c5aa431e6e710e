//! What was read from a socket and is not taken yet: bytes, cut into frames, and since when the rest of one is awaited.
//! Knows no request.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use mq_protocol::command::Command;
use mq_protocol::frame::{self, FrameError, MAX_FRAME_BYTES};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::End;
use crate::limits;

/// How long a peer may take.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// To say anything.
    idle: Duration,
    /// For the bytes of one frame.
    frame: Duration,
}

impl Patience {
    pub(super) fn new(idle: Duration) -> Self {
        Self { idle, frame: limits::FRAME_WITHIN.min(idle) }
    }
}

pub(super) struct Input {
    bytes: BytesMut,
    /// Of the next read. Grows while reads fill it, shrinks when they do not: an idle connection keeps little.
    read_bytes: usize,
    heard: Instant,
    /// When the first bytes of a frame came that is not whole yet.
    half_since: Option<Instant>,
    /// Something stands behind the frame that was taken last.
    left: bool,
}

impl Input {
    pub(super) fn new(now: Instant) -> Self {
        let (bytes, read_bytes) = (BytesMut::new(), limits::MIN_READ_BYTES);
        Self { bytes, read_bytes, heard: now, half_since: None, left: false }
    }

    /// Whether taking frames was broken off: what is left may be whole ones.
    pub(super) fn is_left(&self) -> bool {
        self.left
    }

    /// When something was heard, if anything is there.
    pub(super) fn read(&mut self, socket: &mut TcpStream) -> Result<Option<Instant>, End> {
        self.bytes.reserve(self.read_bytes);
        // Not `try_read_buf`: after that the socket still counts as readable, and is read once more for nothing.
        match pin!(socket.read_buf(&mut self.bytes)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => return Ok(None),
            Poll::Ready(Ok(0)) => return Err(End::PeerClosed),
            Poll::Ready(Ok(read)) => {
                let within = limits::MIN_READ_BYTES..=limits::MAX_READ_BYTES;
                self.read_bytes = frame::next_read(self.read_bytes, read, within);
            }
            Poll::Ready(Err(error)) => return Err(error.into()),
        }
        self.heard = Instant::now();
        Ok(Some(self.heard))
    }

    /// The next whole frame.
    pub(super) fn take(&mut self) -> Result<Option<Command>, FrameError> {
        let frame = frame::split(&mut self.bytes, MAX_FRAME_BYTES)?;
        self.left = frame.is_some() && !self.bytes.is_empty();
        frame.map(Command::decode).transpose()
    }

    /// Nothing more is taken in the turn that began `now`, in which frames were `taken` or not.
    pub(super) fn rest(&mut self, now: Instant, taken: bool) {
        self.half_since = self.half_since.filter(|_| !taken).or(Some(now)).filter(|_| !self.bytes.is_empty());
        if self.bytes.is_empty() && self.read_bytes == limits::MIN_READ_BYTES {
            // Nothing half read and little traffic: an idle connection keeps no buffer.
            self.bytes = BytesMut::new();
        }
    }

    /// It is this side that keeps the rest of the frame waiting.
    pub(super) fn excuse(&mut self, now: Instant) {
        self.half_since = self.half_since.map(|_| now);
    }

    /// It has no reason to say anything.
    pub(super) fn forgive_silence(&mut self, now: Instant) {
        self.heard = now;
    }

    /// When the peer's time is over, unless it says more.
    pub(super) fn until(&self, patience: Patience) -> Instant {
        let quiet = self.heard + patience.idle;
        self.half_since.map_or(quiet, |since| quiet.min(since + patience.frame))
    }

    /// Whether it is.
    pub(super) fn overdue(&self, now: Instant, patience: Patience) -> Result<(), End> {
        match now {
            _ if now >= self.heard + patience.idle => Err(End::Idle(patience.idle)),
            _ if now >= self.until(patience) => Err(End::HalfFrame(patience.frame)),
            _ => Ok(()),
        }
    }
}
