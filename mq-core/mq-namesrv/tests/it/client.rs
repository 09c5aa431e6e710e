//! A raw remoting client: one request, one answer.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use mq_protocol::command::Command;
use mq_protocol::frame::{self, MAX_FRAME_BYTES};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Bounds a failing test; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    input: BytesMut,
    opaque: i32,
}

impl Client {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.expect("the server listens");
        Self { stream, input: BytesMut::new(), opaque: 0 }
    }

    pub(crate) async fn send(&mut self, mut request: Command) -> i32 {
        self.opaque += 1;
        request.opaque = self.opaque;
        let mut out = BytesMut::new();
        request.encode(&mut out);
        self.stream.write_all(&out).await.expect("sent");
        self.opaque
    }

    pub(crate) async fn call(&mut self, request: Command) -> Command {
        let opaque = self.send(request).await;
        loop {
            if let Some(frame) = frame::split(&mut self.input, MAX_FRAME_BYTES).expect("a good frame") {
                let answer = Command::decode(frame).expect("a good header");
                assert!(answer.is_response());
                assert_eq!(answer.opaque, opaque);
                return answer;
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await.expect("an answer in time");
            assert_ne!(read.expect("readable"), 0, "the server closed the connection");
        }
    }

    pub(crate) async fn is_closed(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await.expect("closed in time");
        matches!(read, Ok(0) | Err(_))
    }
}
