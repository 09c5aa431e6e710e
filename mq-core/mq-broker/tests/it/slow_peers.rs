//! A peer that does not take what it asked for keeps nothing from others, and gets it when it does.

use bytes::BytesMut;
use mq_protocol::codes::response;
use mq_protocol::frame::HeaderFormat;
use tokio::time::Instant;

use crate::harness::{Pull, Send, World, pulled, until};
use crate::pop::{LONG, command, done, member, messages, pop, popped, waiting};

const LARGE: usize = 4_000_000;
/// Many times what the sockets of both sides hold.
const PULLS: usize = 10;

#[tokio::test]
async fn what_wakes_a_pop_of_a_peer_that_takes_nothing_goes_to_another_and_its_pulls_wait() {
    let broker = World::new().start_with(|config| config.default_topic_queues = 1).await;
    let mut client = member(&broker).await;
    for (topic, body) in [("Large", vec![b'x'; LARGE]), ("T", b"first".to_vec()), ("P", b"first".to_vec())] {
        client.send(Send::to(topic).body(body)).await;
    }
    for popped in popped(&mut client, &pop("g", "T")).await {
        done(&mut client, popped.ack()).await;
    }
    let mut stuck = broker.connect().await;
    stuck.format = HeaderFormat::Binary;
    let begun = Instant::now();
    let held_pop = stuck.post(command(&waiting(pop("g", "T")))).await;
    let held_pull = stuck.post(Pull::of("P", 0, 1).waiting(LONG).command()).await;
    let mut requests = BytesMut::new();
    let marker = stuck.frame(Send::to("Large").command()).1;
    requests.extend_from_slice(&marker);
    let larges: Vec<i32> = (0..PULLS)
        .map(|_| {
            let (opaque, bytes) = stuck.frame(Pull::of("Large", 0, 0).command());
            requests.extend_from_slice(&bytes);
            opaque
        })
        .collect();
    assert!(requests.len() < 4096, "one read takes them all: {}", requests.len());
    stuck.write(&requests).await;
    until(async || client.max_offset("Large", 0).await == 2).await;
    for topic in ["T", "P"] {
        client.send(Send::to(topic).body("wanted")).await;
    }
    until(async || {
        let found = popped(&mut client, &pop("g", "T")).await;
        found.iter().any(|popped| popped.body() == "wanted")
    })
    .await;
    for opaque in larges {
        assert_eq!(pulled(&stuck.answer(opaque).await).4[0].len(), LARGE);
    }
    let (code, .., bodies) = pulled(&stuck.answer(held_pull).await);
    assert_eq!((code, bodies), (response::SUCCESS, vec!["wanted".into()]), "it waited, and is not lost");
    client.send(Send::to("T").body("late")).await;
    let answer = stuck.answer(held_pop).await;
    let found = messages(&pop("g", "T"), &answer);
    assert!(found.iter().all(|popped| popped.body() == "late"));
    assert!(found.len() == 1 || begun.elapsed() >= LONG, "it waited for its message, or to the end of its time");
}
