//! `floor`: reads frames and answers each with a canned success. It parses as little as can be, and keeps nothing: the
//! cost of sockets alone, which no broker on this machine can beat.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::frames::MAX_FRAME;
use super::options::FloorOptions;

const BUFFER_BYTES: usize = 1 << 20;
const SEND_ANSWER: &str = "\"extFields\":{\"MSG_REGION\":\"DefaultRegion\",\"TRACE_ON\":\"true\",\
    \"msgId\":\"7F00000100002A9F0000000000000000\",\"queueId\":\"0\",\"queueOffset\":\"0\",\"transactionId\":\"0\"},";

pub(super) async fn serve(options: &FloorOptions, shutdown: CancellationToken) -> Result<()> {
    let address = SocketAddr::new(options.bind, options.port);
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    crate::banner::say(format!("floor: answers sends on {}, stores nothing", listener.local_addr()?));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return Ok(()),
        };
        let (stream, _) = accepted.context("cannot accept")?;
        stream.set_nodelay(true)?;
        let file = options.append.as_deref().map(open).transpose()?;
        tokio::spawn(async move {
            if let Err(error) = answer_all(stream, file).await {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
}

fn open(path: &Path) -> Result<File> {
    let file = File::options().create(true).append(true).open(path);
    file.with_context(|| format!("cannot append to {}", path.display()))
}

async fn answer_all(mut stream: TcpStream, mut file: Option<File>) -> Result<()> {
    let mut input = vec![0; BUFFER_BYTES];
    let (mut start, mut end) = (0, 0);
    let mut out = Vec::new();
    loop {
        if end == input.len() {
            input.copy_within(start.., 0);
            end -= start;
            start = 0;
            if end == input.len() {
                input.resize((input.len() * 2).min(MAX_FRAME), 0);
            }
        }
        let read = stream.read(&mut input[end..]).await?;
        if read == 0 {
            return Ok(());
        }
        end += read;
        let used = answer_frames(&input[start..end], &mut out);
        if let Some(file) = &mut file {
            file.write_all(&input[start..start + used])?;
        }
        start += used;
        if start == end {
            (start, end) = (0, 0);
        }
        stream.write_all(&out).await?;
        out.clear();
    }
}

/// Answers every whole frame and says how many bytes these were.
fn answer_frames(input: &[u8], out: &mut Vec<u8>) -> usize {
    let mut used = 0;
    while let Some(prefix) = input[used..].first_chunk::<8>() {
        let [l0, l1, l2, l3, _, h0, h1, h2] = *prefix;
        let whole = 4 + u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let header = u32::from_be_bytes([0, h0, h1, h2]) as usize;
        let Some(frame) = input.get(used..used + whole) else { break };
        let opaque = frame.get(8..8 + header).map_or(&b"0"[..], opaque_digits);
        let at = out.len();
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(b"{\"code\":0,");
        out.extend_from_slice(SEND_ANSWER.as_bytes());
        out.extend_from_slice(b"\"flag\":1,\"language\":\"JAVA\",\"opaque\":");
        out.extend_from_slice(opaque);
        out.extend_from_slice(b",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":479}");
        let header = (out.len() - at - 8) as u32;
        out[at..at + 4].copy_from_slice(&(header + 4).to_be_bytes());
        out[at + 4..at + 8].copy_from_slice(&header.to_be_bytes());
        used += whole;
    }
    used
}

fn opaque_digits(header: &[u8]) -> &[u8] {
    const KEY: &[u8] = b"\"opaque\":";
    let value = memmem::find(header, KEY).map_or(&b""[..], |at| &header[at + KEY.len()..]);
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 { b"0" } else { &value[..digits] }
}
