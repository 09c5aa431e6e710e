//! What waits to be written to one socket: small replies gathered in one buffer, message slices as they lie in the log.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes, BytesMut};
use mq_protocol::command::Command;
use tokio::net::TcpStream;

use crate::limits::KEPT_BYTES;

/// Slices of one vectored write.
const MAX_SLICES: usize = 64;
/// A body of so many bytes is cheaper copied than kept.
const COPIED_BYTES: usize = 4 << 10;

/// What can be gathered with other small replies.
pub(crate) trait Encode {
    fn encode(&self, out: &mut BytesMut);
}

impl Encode for Command {
    fn encode(&self, out: &mut BytesMut) {
        Command::encode(self, out);
    }
}

#[derive(Default)]
pub(crate) struct Output {
    chunks: VecDeque<Bytes>,
    /// The open end: replies that are still being gathered.
    tail: BytesMut,
    bytes: usize,
}

impl Output {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn push(&mut self, answer: &impl Encode) {
        let before = self.tail.len();
        answer.encode(&mut self.tail);
        self.bytes += self.tail.len() - before;
    }

    /// Replies that were encoded while they waited.
    pub(crate) fn push_encoded(&mut self, replies: BytesMut) {
        self.bytes += replies.len();
        if self.tail.is_empty() {
            self.tail = replies;
        } else {
            self.tail.extend_from_slice(&replies);
        }
    }

    /// An answer whose body is `slices`, which are not copied unless they are small.
    pub(crate) fn push_slices(&mut self, head: &Command, slices: impl IntoIterator<Item = Bytes>, body_bytes: usize) {
        let before = self.tail.len();
        head.encode_without_body(body_bytes, &mut self.tail);
        self.bytes += self.tail.len() - before + body_bytes;
        if body_bytes <= COPIED_BYTES {
            slices.into_iter().for_each(|slice| self.tail.extend_from_slice(&slice));
            return;
        }
        self.chunks.push_back(self.tail.split().freeze());
        self.chunks.extend(slices);
    }

    /// Writes until all is out or the socket takes no more.
    pub(crate) fn write_to(&mut self, socket: &TcpStream) -> io::Result<()> {
        while self.bytes > 0 {
            let written = if self.chunks.is_empty() {
                socket.try_write(&self.tail)
            } else {
                let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                let pending = self.chunks.iter().map(|chunk| &chunk[..]).chain([&self.tail[..]]);
                let used = slices.iter_mut().zip(pending).map(|(slot, bytes)| *slot = IoSlice::new(bytes)).count();
                socket.try_write_vectored(&slices[..used])
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while let Some(chunk) = self.chunks.front_mut() {
            if written < chunk.len() {
                chunk.advance(written);
                return;
            }
            written -= chunk.len();
            self.chunks.pop_front();
        }
        self.tail.advance(written);
        if self.tail.is_empty() && self.tail.capacity() > KEPT_BYTES {
            self.tail = BytesMut::new();
        }
    }
}
