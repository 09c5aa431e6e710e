//! Many requests at once: nothing is lost, woken late or held back for ever.

use std::time::Duration;

use mq_protocol::codes::response;
use tokio::time::Instant;

use crate::harness::{Client, Pull, Send, World, pulled};

const LONG: Duration = Duration::from_secs(15);
/// Of one request, less than a hold: a wake-up that got lost shows in the time.
const NO_WAKE_UP_LOST: Duration = Duration::from_secs(12);

#[tokio::test]
async fn a_message_that_comes_while_a_pull_is_being_held_wakes_it() {
    let broker = World::new().start().await;
    let (mut reader, mut writer) = (broker.connect().await, broker.connect().await);
    writer.send(Send::to("T")).await;
    for round in 1..=400 {
        let started = Instant::now();
        // Neither waits for the other: the arrival hits every moment of the hold.
        let pull = Pull::of("T", 0, round).waiting(LONG);
        let (answer, _) = tokio::join!(reader.call(pull.command()), writer.send(Send::to("T")));
        assert_eq!(pulled(&answer).0, response::SUCCESS, "round {round}");
        assert!(started.elapsed() < NO_WAKE_UP_LOST, "round {round}: {:?}", started.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_of_many_writers_is_read_once_and_in_each_writers_order() {
    const WRITERS: u32 = 4;
    const EACH: u32 = 500;
    let broker = World::new().start().await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let address = broker.address;
        writers.spawn(async move {
            let mut client = Client::connect(address).await;
            let mut opaques = std::collections::VecDeque::new();
            for n in 0..EACH {
                opaques.push_back(client.post(Send::to("T").body(format!("{writer} {n}")).command()).await);
                if opaques.len() == 64 {
                    let answer = client.answer(opaques.pop_front().unwrap()).await;
                    assert_eq!(answer.code, response::SUCCESS);
                }
            }
            for opaque in opaques {
                assert_eq!(client.answer(opaque).await.code, response::SUCCESS);
            }
        });
    }
    let mut reader = broker.connect().await;
    reader.send(Send::to("T").body("first")).await;
    let mut next_of = vec![0; WRITERS as usize];
    let (mut next, mut read) = (0, 0);
    while read < WRITERS * EACH {
        let started = Instant::now();
        let (code, then, .., bodies) = pulled(&reader.call(Pull::of("T", 0, next).waiting(LONG).command()).await);
        assert_eq!(code, response::SUCCESS);
        assert!(started.elapsed() < NO_WAKE_UP_LOST, "{:?}", started.elapsed());
        next = then as i64;
        for body in bodies.iter().filter(|body| &body[..] != b"first") {
            let text = std::str::from_utf8(body).unwrap();
            let (writer, n) = text.split_once(' ').unwrap();
            let expected = &mut next_of[writer.parse::<usize>().unwrap()];
            assert_eq!(n.parse::<u32>().unwrap(), *expected, "order of writer {writer}");
            *expected += 1;
            read += 1;
        }
    }
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answers_is_not_read_either_and_loses_none() {
    let broker = World::new().start().await;
    let (mut slow, mut other) = (broker.connect().await, broker.connect().await);
    slow.send(Send::to("T").body(vec![7; 200 << 10])).await;
    let mut opaques = Vec::new();
    for _ in 0..100 {
        // 20 MiB of answers in all, far over what is kept for one connection.
        opaques.push(slow.post(Pull::of("T", 0, 0).command()).await);
    }
    assert_eq!(other.send(Send::to("T")).await.queue_offset.0, 1, "others go on");
    for opaque in opaques {
        assert_eq!(pulled(&slow.answer(opaque).await).4[0].len(), 200 << 10);
    }
}

#[tokio::test]
async fn with_asynchronous_flushing_halves_still_wait_for_the_disk_but_not_for_the_interval() {
    let broker = World::new()
        .start_with(|config| {
            config.flush_disk_type = mq_broker::FlushDiskType::Async;
            config.flush_interval = Duration::from_secs(3600);
        })
        .await;
    let mut client = broker.connect().await;
    client.send(Send::to("T")).await;
    let half = client.send(Send::to("T").half("K")).await;
    let end = crate::harness::end(&half, "producers", mq_protocol::sys_flag::TRANSACTION_COMMIT);
    assert_eq!(client.call(end).await.code, response::SUCCESS);
    // Shown by whoever is showing something, a moment after the answer perhaps.
    assert_eq!(client.pull(Pull::of("T", 0, 1).waiting(LONG)).await.len(), 1);
    broker.stop().await.unwrap();
}
