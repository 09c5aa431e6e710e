//! A raw pipelined connection: bytes out, whole frames in.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;

use super::frames::{Answer, MAX_FRAME};

const BUFFER_BYTES: usize = 1 << 20;
const SMALL_BUFFER_BYTES: usize = 1 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Requests in flight where only their number counts.
const WINDOW: u64 = 2048;

pub(super) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Connection {
    pub(super) async fn open(address: &str) -> Result<Self> {
        Self::with_buffer(address, BUFFER_BYTES).await
    }

    /// One of thousands, which is to read little.
    pub(super) async fn small(address: &str) -> Result<Self> {
        Self::with_buffer(address, SMALL_BUFFER_BYTES).await
    }

    async fn with_buffer(address: &str, bytes: usize) -> Result<Self> {
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
        let stream = stream.map_err(anyhow::Error::from).and_then(|stream| Ok(stream?));
        let stream = stream.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; bytes], start: 0, end: 0 })
    }

    /// For a thread that writes; it never waits by itself.
    pub(super) fn second_handle(&self) -> Result<std::net::TcpStream> {
        let handle = self.stream.as_fd().try_clone_to_owned();
        Ok(handle.context("no descriptor is left")?.into())
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).await.context("the server closed the connection")
    }

    /// Hands over every whole frame that is there; waits for at least one. Keeps what it read when it is dropped.
    pub(super) async fn answers(&mut self, mut each: impl FnMut(Answer<'_>) -> Result<()>) -> Result<()> {
        let mut any = false;
        loop {
            while let Some(length) = self.whole_frame()? {
                let frame = self.start + 4..self.start + 4 + length;
                self.start = frame.end;
                each(Answer::parse(&self.buffer[frame])?)?;
                any = true;
            }
            if any {
                return Ok(());
            }
            self.read().await?;
        }
    }

    /// Sends so many requests, a window at a time, and returns when each is accepted. `put` appends the frame of a slot of
    /// the window and a number of the whole.
    pub(super) async fn fill(
        &mut self,
        what: &str,
        count: u64,
        mut put: impl FnMut(&mut Vec<u8>, u32, u64),
    ) -> Result<()> {
        let mut sent = 0;
        while sent < count {
            let window = WINDOW.min(count - sent);
            let (mut out, mut answered) = (Vec::new(), 0);
            (0..window).for_each(|slot| put(&mut out, slot as u32, sent + slot));
            self.write(&out).await?;
            while answered < window {
                self.answers(|answer| {
                    ensure!(answer.code == 0, "{what} is refused: {}", answer.refusal());
                    answered += 1;
                    Ok(())
                })
                .await?;
            }
            sent += window;
        }
        Ok(())
    }

    /// Writes what the socket takes of `out`, and hands over every whole frame that is there. Waits until there is
    /// something to do, but not for long.
    pub(super) async fn exchange(
        &mut self,
        out: &mut Vec<u8>,
        pause: Duration,
        mut each: impl FnMut(Answer<'_>) -> Result<()>,
    ) -> Result<()> {
        let interest = if out.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        let Ok(ready) = tokio::time::timeout(pause, self.stream.ready(interest)).await else { return Ok(()) };
        let ready = ready?;
        if ready.is_writable() && !out.is_empty() {
            match self.stream.try_write(out) {
                Ok(written) => drop(out.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("the server closed the connection"),
            }
        }
        if ready.is_readable() {
            self.make_room();
            match self.stream.try_read(&mut self.buffer[self.end..]) {
                Ok(0) => bail!("the server closed the connection"),
                Ok(bytes) => self.end += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("the connection broke"),
            }
            while let Some(length) = self.whole_frame()? {
                let frame = self.start + 4..self.start + 4 + length;
                self.start = frame.end;
                each(Answer::parse(&self.buffer[frame])?)?;
            }
        }
        Ok(())
    }

    /// The length of the frame at the front, if all of it is there.
    fn whole_frame(&mut self) -> Result<Option<usize>> {
        let Some((word, rest)) = self.buffer[self.start..self.end].split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*word) as usize;
        ensure!(length <= MAX_FRAME, "the server sent a frame of {length} bytes");
        let whole = rest.len() >= length;
        if !whole && self.buffer.len() < 4 + length {
            self.buffer.resize(4 + length, 0);
        }
        Ok(whole.then_some(length))
    }

    fn make_room(&mut self) {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    async fn read(&mut self) -> Result<()> {
        self.make_room();
        match self.stream.read(&mut self.buffer[self.end..]).await.context("the connection broke")? {
            0 => bail!("the server closed the connection"),
            bytes => self.end += bytes,
        }
        Ok(())
    }
}
