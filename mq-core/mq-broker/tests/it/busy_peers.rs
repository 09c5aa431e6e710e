//! A peer that writes without ever pausing leaves its thread to the others every few turns.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use bytes::BytesMut;
use mq_broker::{FlushDiskType, limits};

use crate::harness::{Send, World};

/// Of one request: a turn takes hundreds, which take the broker far longer than their bytes take to come.
const BODY_BYTES: usize = 900;
const FRAMES: usize = 1024;
const TIMES: usize = 64;
/// Turns of the busy peer that a call of another may have to wait for: eight on its way there, eight on the way back,
/// and some for a kernel that is slow to deliver. Without the broker's pauses a call waits for all there are.
const TURNS: usize = 48;

/// Writes so many one-way sends from a thread of its own, as fast as the broker takes them.
fn write_without_pause(address: SocketAddr) {
    let send = Send { oneway: true, ..Send::to("T").body(vec![b'x'; BODY_BYTES]) }.command();
    let mut frames = BytesMut::new();
    (0..FRAMES).for_each(|_| send.encode(&mut frames));
    std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        // The end of the broker is the end of this, too.
        (0..TIMES).try_for_each(|_| stream.write_all(&frames))
    });
}

/// All of a test runs on one thread. The offsets of a queue tell what came between two messages of another peer.
#[tokio::test]
async fn a_peer_that_never_pauses_does_not_keep_its_thread_from_others() {
    let broker = World::new().start_with(|config| config.flush_disk_type = FlushDiskType::Async).await;
    let mut client = broker.connect().await;
    client.send(Send::to("T")).await;
    write_without_pause(broker.address);
    let mut calls_meanwhile = 0;
    loop {
        match client.send(Send::to("T")).await.queue_offset.0 as usize {
            at if at >= FRAMES * TIMES => break,
            at if at >= FRAMES => calls_meanwhile += 1,
            _ => {}
        }
    }
    let least = FRAMES * TIMES * BODY_BYTES / (TURNS * limits::MAX_READ_BYTES);
    assert!(calls_meanwhile >= least, "{calls_meanwhile} calls were answered meanwhile, at least {least} could be");
}
