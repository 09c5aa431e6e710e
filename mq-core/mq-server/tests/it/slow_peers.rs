//! Peers that ask and never read an answer: the broker stops reading them, and keeps no more for them than its limits say.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::BytesMut;
use mq_protocol::codes::request;
use mq_protocol::command::Command;
use mq_protocol::header::{PopMessage, PullMessage, SendMessage};
use mq_protocol::ids::QueueId;

use crate::process::{Mq, outcome};

const TOPIC: &str = "slow";
const PEERS: usize = 8;
/// A broker that has not taken a byte for so long does not read any more. One that is merely slow makes this test weaker.
const NOT_READ_FOR: Duration = Duration::from_secs(2);
/// Far more than sockets and the broker's limits hold.
const TOO_MUCH: usize = 1 << 30;
/// For one peer: its unsent answers (4 MiB), what was read of it, and as much again for the allocator.
const KIB_OF_A_PEER: u64 = 24 << 10;
const KIB_OF_THE_REST: u64 = 64 << 10;

fn send(_: usize) -> Command {
    let mut command = Command::request(request::SEND_MESSAGE_V2).with_body(&b"x"[..]);
    SendMessage::new("g".into(), TOPIC.into()).encode_v2(&mut command.ext);
    command
}

fn pull(_: usize) -> Command {
    let header = PullMessage::new("readers".into(), TOPIC.into(), QueueId(0), 0);
    Command::request_with(request::PULL_MESSAGE, &PullMessage { max_msg_nums: 32, ..header })
}

/// Of a group of its own, to which every message is new. Until it is on disk, its answer is a copy.
fn pop(peer: usize) -> Command {
    let header = PopMessage::new(format!("poppers-{peer}").into(), TOPIC.into(), 3_600_000);
    Command::request_with(request::POP_MESSAGE, &PopMessage { queue_id: 0, ..header })
}

/// Asks until nobody listens.
fn stuff(broker: SocketAddr, command: &Command) -> TcpStream {
    let mut frame = BytesMut::new();
    command.encode(&mut frame);
    let requests = frame.repeat((1 << 20) / frame.len());
    let mut socket = TcpStream::connect(broker).expect("the broker listens");
    socket.set_write_timeout(Some(NOT_READ_FOR)).expect("a timeout");
    let mut written = 0;
    loop {
        match socket.write(&requests[written % requests.len()..]) {
            Ok(bytes) => written += bytes,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return socket,
            Err(error) => panic!("after {written} bytes: {error}"),
        }
        assert!(written < TOO_MUCH, "the broker reads on and on");
    }
}

#[test]
fn peers_that_never_read_cost_the_broker_a_bounded_amount_of_memory() {
    let store = tempfile::tempdir().expect("a directory");
    let mq = Mq::up(store.path(), &[]);
    let (broker, address) = (mq.broker(), mq.broker().to_string());
    let to = ["--addr", &address, "--topic", TOPIC, "--queues", "1", "--warmup", "0"];
    let (filled, said) = outcome(&[&["bench", "send", "--size", "8192", "--count", "4000"][..], &to].concat());
    assert!(filled, "{said}");
    for (name, request) in [("send", send as fn(usize) -> Command), ("pull", pull), ("pop", pop)] {
        let before = mq.anonymous_memory_kib();
        let peers: Vec<_> = (0..PEERS)
            .map(|peer| std::thread::spawn(move || stuff(broker, &request(peer))))
            .collect::<Vec<_>>()
            .into_iter()
            .map(|thread| thread.join().expect("a peer"))
            .collect();
        let after = mq.anonymous_memory_kib();
        println!("{name}: {before} KiB before {PEERS} peers that never read, {after} KiB with them");
        let bound = before + PEERS as u64 * KIB_OF_A_PEER + KIB_OF_THE_REST;
        assert!(after < bound, "{name}: {after} KiB, more than {bound}");
        let (served, said) = outcome(&[&["bench", "send", "--count", "100"][..], &to].concat());
        assert!(served, "others are served while {} peers never read: {said}", peers.len());
    }
}
