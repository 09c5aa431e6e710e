//! Bytes that no client of good will sends: the error goes to that client, its connection closes where the stream
//! cannot be trusted, and everyone else is unaffected.

use std::time::{Duration, Instant};

use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{Pull, Send, World};

const LONG: Duration = Duration::from_secs(15);

#[tokio::test]
async fn an_untrustworthy_stream_is_closed_and_nobody_else_notices() {
    let broker = World::new().start().await;
    let mut good = broker.connect().await;
    good.send(Send::to("T")).await;
    let huge = (17u32 << 20).to_be_bytes();
    let cases: [(&str, &[u8]); 6] = [
        ("over 16 MiB", &huge),
        ("negative length", &[0xff; 4]),
        ("header longer than the frame", &[0, 0, 0, 8, 0, 0, 0, 99, 0, 0, 0, 0]),
        ("unknown header format", &[0, 0, 0, 4, 9, 0, 0, 0]),
        ("no JSON", &[0, 0, 0, 8, 0, 0, 0, 4, b'{', b'x', b'}', b' ']),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    ];
    for (name, bytes) in cases {
        let mut bad = broker.connect().await;
        bad.write(bytes).await;
        assert!(bad.read().await.is_none(), "{name}");
        assert_eq!(good.call(Command::request(9999)).await.code, response::REQUEST_CODE_NOT_SUPPORTED, "{name}");
    }
    // A frame that never ends harms nobody either.
    let mut cut = broker.connect().await;
    let (_, frame) = cut.frame(Send::to("T").command());
    cut.write(&frame[..frame.len() - 1]).await;
    drop(cut);
    assert_eq!(good.send(Send::to("T")).await.queue_offset.0, 1);
}

#[tokio::test]
async fn what_came_before_a_broken_frame_is_done_and_answered() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    client.send(Send::to("T")).await;
    let (_, mut bytes) = client.frame(Send { oneway: true, ..Send::to("T").body("before") }.command());
    let (opaque, asked) = client.frame(Command::request(9999));
    bytes.extend_from_slice(&asked);
    bytes.extend_from_slice(&[0xff; 8]);
    client.write(&bytes).await;
    assert_eq!(client.answer(opaque).await.code, response::REQUEST_CODE_NOT_SUPPORTED);
    assert!(client.read().await.is_none());
    let mut other = broker.connect().await;
    let stored = other.pull(Pull::of("T", 0, 1).waiting(LONG)).await;
    assert_eq!(stored[0].message.body, "before");
}

#[tokio::test]
async fn a_request_without_its_fields_is_refused_by_name() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    for (code, field) in [
        (request::SEND_MESSAGE, "producerGroup"),
        (request::SEND_MESSAGE_V2, "lacks a"),
        (request::PULL_MESSAGE, "consumerGroup"),
        (request::END_TRANSACTION, "producerGroup"),
        (request::CONSUMER_SEND_MSG_BACK, "offset"),
        (request::VIEW_MESSAGE_BY_ID, "offset"),
        (request::GET_MAX_OFFSET, "topic"),
        (request::GET_MIN_OFFSET, "topic"),
        (request::SEARCH_OFFSET_BY_TIMESTAMP, "topic"),
        (request::GET_EARLIEST_MSG_STORETIME, "topic"),
    ] {
        let answer = client.call(Command::request(code)).await;
        let remark = answer.remark.as_deref().unwrap_or_default();
        assert_eq!(answer.code, response::INVALID_PARAMETER, "{code}: {remark}");
        assert!(remark.contains(field), "{code}: {remark}");
    }
}

#[tokio::test]
async fn answers_that_nobody_asked_for_are_ignored() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    let stray = Command::request(request::HEART_BEAT).response(response::SUCCESS);
    client.post(stray).await;
    assert_eq!(client.send(Send::to("T")).await.queue_offset.0, 0);
}

#[tokio::test]
async fn a_frame_that_arrives_byte_by_byte_is_cut_off() {
    let broker = World::new().start_with(|config| config.max_idle = Duration::from_secs(1)).await;
    let mut slow = TcpStream::connect(broker.address).await.expect("accepted");
    let mut good = broker.connect().await;
    let (_, frame) = good.frame(Send::to("T").body(vec![b'x'; 100_000]).command());
    let begun = Instant::now();
    let dripping = async {
        for byte in frame {
            slow.write_all(&[byte]).await?;
            // What the broker has to say, and its goodbye.
            if let Ok(read) = timeout(Duration::from_millis(20), slow.read_u8()).await {
                return read.map(drop);
            }
        }
        Ok(())
    };
    let cut = timeout(Duration::from_secs(120), dripping).await.expect("it is cut off");
    assert!(cut.is_err() && begun.elapsed() >= Duration::from_secs(1), "{cut:?} after {:?}", begun.elapsed());
}
