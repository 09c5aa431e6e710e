//! One blocking connection that speaks frames and nothing else: an oracle that shares no code with mq-client.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use mq_protocol::command::Command;
use mq_protocol::frame::{self, MAX_FRAME_BYTES};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const READ_CHUNK: usize = 64 * 1024;

pub struct Peer {
    stream: TcpStream,
    input: BytesMut,
    output: BytesMut,
    next_opaque: i32,
}

impl Peer {
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, input: BytesMut::new(), output: BytesMut::new(), next_opaque: 1 })
    }

    /// Puts a request into the buffer; [`Peer::flush`] sends it. Returns the opaque of its answer.
    pub fn write(&mut self, mut command: Command) -> i32 {
        command.opaque = self.next_opaque;
        self.next_opaque += 1;
        command.encode(&mut self.output);
        command.opaque
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }

    /// The next frame, a response or a request of the broker's own; `None` when there is none in time.
    pub fn receive(&mut self, within: Duration) -> io::Result<Option<Command>> {
        let deadline = Instant::now() + within;
        loop {
            let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            if let Some(frame) = frame::split(&mut self.input, MAX_FRAME_BYTES).map_err(invalid)? {
                return Command::decode(frame).map(Some).map_err(invalid);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut chunk = [0; READ_CHUNK];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => self.input.extend_from_slice(&chunk[..bytes]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends one request and waits for its answer; drops whatever else arrives meanwhile.
    pub fn ask(&mut self, command: Command, within: Duration) -> io::Result<Command> {
        let opaque = self.write(command);
        self.flush()?;
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.receive(left)? {
                Some(answer) if answer.is_response() && answer.opaque == opaque => return Ok(answer),
                Some(_) => {}
                None => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
    }
}
