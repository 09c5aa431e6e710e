//! One TCP connection with many requests in flight, matched with their answers by `opaque`; what the server asks of us
//! goes to an [`Inbound`].
//!
//! A request costs no task: callers encode into one buffer, one writer empties it with one write for all that gathered.
//! Requests that are worth it wait a moment for others to go with them ([`Gather`]).

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::BytesMut;
use mq_protocol::ByteString;
use mq_protocol::codes::response;
use mq_protocol::command::Command;
use mq_protocol::frame::{self, FrameError, MAX_FRAME_BYTES};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::error::{CallError, Refused, RequestError};

/// Requests that wait for an answer on one connection; long polls count. Beyond it callers wait for a place.
const MAX_IN_FLIGHT: usize = 8192;
/// Bytes that wait for the socket. Beyond it callers wait, so that a slow peer cannot fill our memory.
const MAX_OUTBOX_BYTES: usize = 8 * 1024 * 1024;
/// Of one read. It grows while reads fill it: answers are small mostly, and each read that they outlive takes a new buffer.
const MIN_READ_BYTES: usize = 8 * 1024;
const MAX_READ_BYTES: usize = 256 * 1024;
/// What a frame takes beside its body, at most.
const HEAD_BYTES: usize = 64 * 1024;
/// How long requests wait for others to go with them; the runtime's clock rounds it up to its next millisecond.
const GATHER_TIME: Duration = Duration::from_micros(500);
/// A buffer that one large frame blew up is given back.
const KEEP_BUFFER_BYTES: usize = 1024 * 1024;

/// What a server may start by itself on a connection that we opened.
pub(crate) trait Inbound: Send + Sync + 'static {
    /// Must be quick: it runs on the reader.
    fn request(&self, connection: &Connection, command: Command);
    /// Runs before anybody else may use the new connection: a heartbeat, so that the broker knows us.
    fn greet(&self, connection: Connection) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
    fn closed(&self, address: &ByteString);
}

/// Whether a request waits for others to go with it, at most [`GATHER_TIME`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gather {
    AtOnce,
    /// Until so many wait.
    UpTo(usize),
}

#[derive(Clone)]
pub(crate) struct Connection(Arc<Shared>);

/// What waits for the socket.
#[derive(Default)]
struct Outbox {
    bytes: BytesMut,
    /// Requests that wait for others.
    gathered: usize,
    /// Something in it waits no longer.
    ready: bool,
}

impl Outbox {
    /// True: the writer has something new to know.
    fn put(&mut self, command: &Command, gather: Gather) -> bool {
        let (was_empty, was_ready) = (self.bytes.is_empty(), self.ready);
        command.encode(&mut self.bytes);
        self.gathered += 1;
        self.ready |= match gather {
            Gather::AtOnce => true,
            Gather::UpTo(enough) => self.gathered >= enough,
        };
        was_empty || self.ready != was_ready
    }

    fn take(&mut self, writing: &mut BytesMut) {
        std::mem::swap(writing, &mut self.bytes);
        (self.gathered, self.ready) = (0, false);
    }
}

struct Shared {
    address: ByteString,
    next_opaque: AtomicI32,
    pending: Mutex<HashMap<i32, oneshot::Sender<Command>>>,
    outbox: Mutex<Outbox>,
    /// The outbox has something for the writer.
    filled: Notify,
    /// The writer took the outbox.
    emptied: Notify,
    in_flight: Semaphore,
    closed: CancellationToken,
}

impl Connection {
    pub(crate) async fn open(
        address: ByteString,
        within: Duration,
        inbound: Weak<dyn Inbound>,
    ) -> Result<Self, RequestError> {
        let failed = |reason: String| RequestError::Connect { address: address.clone(), reason };
        let stream = tokio::time::timeout(within, TcpStream::connect(&*address))
            .await
            .map_err(|_| failed(format!("no answer within {within:?}")))?
            .map_err(|error| failed(error.to_string()))?;
        stream.set_nodelay(true).map_err(|error| failed(error.to_string()))?;
        let (read, write) = stream.into_split();
        let connection = Self(Arc::new(Shared {
            address,
            next_opaque: AtomicI32::new(0),
            pending: Mutex::default(),
            outbox: Mutex::default(),
            filled: Notify::new(),
            emptied: Notify::new(),
            in_flight: Semaphore::new(MAX_IN_FLIGHT),
            closed: CancellationToken::new(),
        }));
        tokio::spawn(write_loop(connection.clone(), write));
        tokio::spawn(read_loop(connection.clone(), read, inbound));
        Ok(connection)
    }

    pub(crate) fn address(&self) -> &ByteString {
        &self.0.address
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.closed.is_cancelled()
    }

    pub(crate) fn close(&self) {
        self.0.closed.cancel();
        self.0.pending.lock().clear();
        self.0.emptied.notify_waiters();
    }

    pub(crate) fn close_on_drop(self) -> CloseOnDrop {
        CloseOnDrop(Some(self))
    }

    /// Sends and waits for the answer, whatever its code.
    pub(crate) async fn request(&self, command: Command, within: Duration) -> Result<Command, RequestError> {
        self.request_with(command, within, Gather::AtOnce).await
    }

    pub(crate) async fn request_with(
        &self,
        mut command: Command,
        within: Duration,
        gather: Gather,
    ) -> Result<Command, RequestError> {
        let (address, code) = (&self.0.address, command.code);
        let deadline = Instant::now() + within;
        let no_room = || RequestError::NoRoom { address: address.clone(), code, within };
        let lost = || RequestError::Lost { address: address.clone(), code };
        let in_flight = timeout_at(deadline, self.0.in_flight.acquire()).await.map_err(|_| no_room())?;
        let _in_flight = in_flight.expect("the semaphore is never closed");
        command.opaque = self.0.next_opaque.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.0.pending.lock().insert(command.opaque, answer);
        let _pending = Pending { connection: self, opaque: command.opaque };
        timeout_at(deadline, self.enqueue(&command, gather)).await.map_err(|_| no_room())??;
        let timeout = || RequestError::Timeout { address: address.clone(), code, within };
        timeout_at(deadline, answered).await.map_err(|_| timeout())?.map_err(|_| lost())
    }

    /// Sends and wants a good answer.
    pub(crate) async fn call(&self, command: Command, within: Duration) -> Result<Command, CallError> {
        self.call_with(command, within, Gather::AtOnce).await
    }

    pub(crate) async fn call_with(
        &self,
        command: Command,
        within: Duration,
        gather: Gather,
    ) -> Result<Command, CallError> {
        let request = command.code;
        let answer = self.request_with(command, within, gather).await?;
        if answer.code == response::SUCCESS { Ok(answer) } else { Err(self.refused(request, &answer).into()) }
    }

    pub(crate) fn refused(&self, request: i32, answer: &Command) -> Refused {
        let remark = answer.remark.clone().unwrap_or_default();
        Refused { address: self.0.address.clone(), request, code: answer.code, remark }
    }

    pub(crate) fn unreadable(&self, request: i32, reason: impl ToString) -> CallError {
        CallError::unreadable(&self.0.address, request, reason)
    }

    /// Hands a request to the writer that the server must not answer.
    pub(crate) async fn oneway(&self, mut command: Command) -> Result<(), RequestError> {
        command.opaque = self.0.next_opaque.fetch_add(1, Ordering::Relaxed);
        self.enqueue(&command.oneway(), Gather::AtOnce).await
    }

    /// Answers a request of the server, without waiting for room: these are few and small.
    pub(crate) fn reply(&self, response: &Command) {
        if self.0.outbox.lock().put(response, Gather::AtOnce) {
            self.0.filled.notify_one();
        }
    }

    async fn enqueue(&self, command: &Command, gather: Gather) -> Result<(), RequestError> {
        let bytes = command.body.len();
        if bytes + HEAD_BYTES > MAX_FRAME_BYTES {
            return Err(RequestError::TooLarge { bytes, limit: MAX_FRAME_BYTES - HEAD_BYTES });
        }
        loop {
            let emptied = self.0.emptied.notified();
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            if self.is_closed() {
                let reason = "the connection has just ended".to_owned();
                return Err(RequestError::Connect { address: self.0.address.clone(), reason });
            }
            let put = {
                let mut outbox = self.0.outbox.lock();
                (outbox.bytes.len() < MAX_OUTBOX_BYTES).then(|| outbox.put(command, gather))
            };
            match put {
                Some(true) => {
                    self.0.filled.notify_one();
                    return Ok(());
                }
                Some(false) => return Ok(()),
                None => emptied.await,
            }
        }
    }

    /// Takes what is to be written, once there is something and it has waited for others as long as it may.
    async fn filled(&self, writing: &mut BytesMut) {
        self.ready().await;
        // Those who run now and have something to send are taken along: a write costs more than all that they do.
        yield_now().await;
        self.0.outbox.lock().take(writing);
        self.0.emptied.notify_waiters();
    }

    async fn ready(&self) {
        let mut until = None;
        loop {
            {
                let outbox = self.0.outbox.lock();
                if outbox.ready || until.is_some_and(|until| Instant::now() >= until) {
                    return;
                }
                if until.is_none() && !outbox.bytes.is_empty() {
                    until = Some(Instant::now() + GATHER_TIME);
                }
            }
            match until {
                None => self.0.filled.notified().await,
                Some(until) => drop(timeout_at(until, self.0.filled.notified()).await),
            }
        }
    }
}

/// Closes a connection that its opener gave up on half-way.
pub(crate) struct CloseOnDrop(Option<Connection>);

impl CloseOnDrop {
    pub(crate) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if let Some(connection) = &self.0 {
            connection.close();
        }
    }
}

/// Forgets a request whose caller stopped waiting.
struct Pending<'c> {
    connection: &'c Connection,
    opaque: i32,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.connection.0.pending.lock().remove(&self.opaque);
    }
}

async fn write_loop(connection: Connection, mut socket: OwnedWriteHalf) {
    let shared = &connection.0;
    let mut writing = BytesMut::new();
    loop {
        let step = async {
            connection.filled(&mut writing).await;
            socket.write_all(&writing).await
        };
        let done = tokio::select! {
            done = step => done,
            () = shared.closed.cancelled() => break,
        };
        if let Err(error) = done {
            tracing::debug!(address = %shared.address, %error, "write failed");
            break;
        }
        writing.clear();
        if writing.capacity() > KEEP_BUFFER_BYTES {
            writing = BytesMut::new();
        }
    }
    connection.close();
}

async fn read_loop(connection: Connection, mut socket: OwnedReadHalf, inbound: Weak<dyn Inbound>) {
    let shared = &connection.0;
    let (mut input, mut read_bytes) = (BytesMut::new(), MIN_READ_BYTES);
    loop {
        if let Err(error) = take_frames(&connection, &mut input, &inbound) {
            tracing::warn!(address = %shared.address, %error, "closing: the stream cannot be trusted");
            break;
        }
        input.reserve(read_bytes);
        let read = tokio::select! {
            read = socket.read_buf(&mut input) => read,
            () = shared.closed.cancelled() => break,
        };
        match read {
            Ok(0) => break,
            Ok(read) => read_bytes = frame::next_read(read_bytes, read, MIN_READ_BYTES..=MAX_READ_BYTES),
            Err(error) => {
                tracing::debug!(address = %shared.address, %error, "read failed");
                break;
            }
        }
    }
    connection.close();
    if let Some(inbound) = inbound.upgrade() {
        inbound.closed(&shared.address);
    }
}

fn take_frames(connection: &Connection, input: &mut BytesMut, inbound: &Weak<dyn Inbound>) -> Result<(), FrameError> {
    while let Some(frame) = frame::split(input, MAX_FRAME_BYTES)? {
        let command = Command::decode(frame)?;
        if !command.is_response() {
            if let Some(inbound) = inbound.upgrade() {
                inbound.request(connection, command);
            }
            continue;
        }
        let waiting = connection.0.pending.lock().remove(&command.opaque);
        match waiting {
            Some(waiting) => drop(waiting.send(command)),
            None => tracing::trace!(address = %connection.address(), opaque = command.opaque, "answer came too late"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_writer_is_woken_by_the_first_request_and_when_enough_of_them_wait() {
        use Gather::{AtOnce, UpTo};
        let mut outbox = Outbox::default();
        let mut writing = BytesMut::new();
        for (requests, woken, ready) in [
            (&[AtOnce, AtOnce][..], &[true, false][..], true),
            (&[UpTo(3), UpTo(3), UpTo(3), UpTo(3)], &[true, false, true, false], true),
            (&[UpTo(9), UpTo(9)], &[true, false], false),
            (&[UpTo(9), AtOnce, UpTo(9)], &[true, true, false], true),
            (&[UpTo(0)], &[true], true),
        ] {
            let put = requests.iter().map(|gather| outbox.put(&Command::request(10), *gather)).collect::<Vec<_>>();
            assert_eq!((put.as_slice(), outbox.ready), (woken, ready), "{requests:?}");
            writing.clear();
            outbox.take(&mut writing);
            assert!(!writing.is_empty() && outbox.bytes.is_empty() && !outbox.ready, "{requests:?}");
        }
    }
}
