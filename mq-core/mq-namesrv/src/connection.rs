//! One socket: frames in, answers out, in order. Knows nothing of what the requests mean.

use std::io;

use bytes::BytesMut;
use mq_protocol::command::Command;
use mq_protocol::frame::{self, FrameError, MAX_FRAME_BYTES};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::requests::{self, Peer};
use crate::routes::ConnectionId;
use crate::server::State;

/// Answers are written when they reach this size, so that pipelined requests for large routes do not pile up.
const WRITE_AT_BYTES: usize = 256 * 1024;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("the stream cannot be trusted: {0}")]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("idle for too long")]
    Idle,
}

pub(crate) async fn serve(
    mut stream: TcpStream,
    id: ConnectionId,
    state: &State,
    shutdown: &CancellationToken,
) -> Result<(), ConnectionError> {
    stream.set_nodelay(true)?;
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    let mut peer = Peer::new(id);
    loop {
        let read = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            read = timeout(state.idle_timeout, stream.read_buf(&mut input)) => read,
        };
        if read.map_err(|_| ConnectionError::Idle)?? == 0 {
            return Ok(());
        }
        loop {
            let answered = answer_some(&mut input, &mut output, &mut peer, state);
            timeout(state.idle_timeout, stream.write_all(&output)).await.map_err(|_| ConnectionError::Idle)??;
            output.clear();
            if !answered? {
                break;
            }
        }
    }
}

/// Answers the whole frames of `input`; true when it stopped only because `output` is to be written first.
fn answer_some(
    input: &mut BytesMut,
    output: &mut BytesMut,
    peer: &mut Peer,
    state: &State,
) -> Result<bool, FrameError> {
    while let Some(frame) = frame::split(input, MAX_FRAME_BYTES)? {
        let command = Command::decode(frame)?;
        if command.is_response() {
            continue;
        }
        let answer = requests::answer(state, peer, &command);
        if !command.is_oneway() {
            answer.encode(output);
        }
        if output.len() >= WRITE_AT_BYTES {
            return Ok(true);
        }
    }
    Ok(false)
}
