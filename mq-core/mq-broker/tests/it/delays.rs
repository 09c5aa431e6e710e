//! Delay levels: hidden until due, delivered once, also across restarts.

use std::sync::Arc;
use std::time::Duration;

use mq_protocol::codes::response;
use mq_protocol::sys_flag;
use mq_store::Backend;
use mq_store::backend::CrashBackend;

use crate::harness::{Pull, Send, World, end, pulled, until};

const LONG: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_delayed_message_appears_at_its_time_where_it_was_sent_to() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    client.send(Send::to("T")).await;
    let sent = client.send(Send::to("T").property("DELAY", "2").property("TAGS", "late").body("late")).await;
    assert_eq!(sent.queue_id.0, 0, "the answer names the queue that was asked for");
    let opaque = client.post(Pull::of("T", 0, 1).tags("late").waiting(LONG).command()).await;
    world.clock.advance(Duration::from_millis(4999));
    assert_eq!(client.max_offset("T", 0).await, 1);
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(pulled(&client.answer(opaque).await).4, ["late"]);
}

#[tokio::test]
async fn levels_follow_the_configuration_and_a_level_too_high_is_the_last() {
    let world = World::new();
    let broker = world.start_with(|config| config.delay_levels = "1s 2s".into()).await;
    let mut client = broker.connect().await;
    for (level, body) in [("99", "second"), ("1", "first")] {
        client.send(Send::to("T").property("DELAY", level).body(body)).await;
    }
    for (offset, body) in [(0, "first"), (1, "second")] {
        world.clock.advance(Duration::from_secs(1));
        let answer = client.call(Pull::of("T", 0, offset).waiting(LONG).command()).await;
        assert_eq!(pulled(&answer).4, [body]);
    }
}

#[tokio::test]
async fn what_was_delivered_is_not_delivered_again_after_a_stop_or_a_crash() {
    for crash in [false, true] {
        let world = World::new();
        let broker = world.start().await;
        let progress = world.directory.path().join("config/delayOffset.json");
        let at_start = std::fs::read(&progress).unwrap();
        let mut client = broker.connect().await;
        for n in 0..40 {
            client.send(Send::to("T").property("DELAY", if n < 30 { "1" } else { "18" }).body(n.to_string())).await;
        }
        world.clock.advance(Duration::from_secs(1));
        while client.max_offset("T", 0).await < 30 {
            client.call(Pull::of("T", 0, 29).waiting(LONG).command()).await;
        }
        if crash {
            // As after kill -9: the progress file is as old as can be.
            broker.abandon().await;
            world.wait_unlocked().await;
            std::fs::write(&progress, &at_start).unwrap();
        } else {
            broker.stop().await.unwrap();
        }
        let broker = world.start().await;
        let mut client = broker.connect().await;
        client.send(Send::to("T").property("DELAY", "1").body("marker")).await;
        world.clock.advance(Duration::from_secs(1));
        let answer = client.call(Pull::of("T", 0, 30).waiting(LONG).command()).await;
        let (code, next, .., bodies) = pulled(&answer);
        assert_eq!((code, next), (response::SUCCESS, 31), "crash: {crash}");
        assert_eq!(bodies, ["marker"], "crash: {crash}");
        world.clock.advance(Duration::from_secs(7200));
        let mut late = Vec::new();
        while late.len() < 10 {
            let from = 31 + late.len() as i64;
            late.extend(pulled(&client.call(Pull::of("T", 0, from).waiting(LONG).command()).await).4);
        }
        assert_eq!(late, (30..40).map(|n| n.to_string()).collect::<Vec<_>>(), "crash: {crash}");
    }
}

#[tokio::test]
async fn a_damaged_delayed_message_is_left_out_and_holds_up_nobody() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    for (level, body) in [("1", "damaged"), ("1", "behind it"), ("2", "another level")] {
        client.send(Send::to("T").property("DELAY", level).body(body)).await;
    }
    let log = world.backend.open("commitlog/00000000000000000000").unwrap();
    let mut bytes = vec![0; 4096];
    log.read_at(0, &mut bytes).unwrap();
    let at = bytes.windows(7).position(|window| window == b"damaged").expect("it is in the log");
    log.write_at(at as u64, b"D").unwrap();
    world.clock.advance(Duration::from_secs(5));
    let mut delivered = Vec::new();
    while delivered.len() < 2 {
        let from = delivered.len() as i64;
        delivered.extend(pulled(&client.call(Pull::of("T", 0, from).waiting(LONG).command()).await).4);
    }
    assert_eq!(delivered, ["behind it", "another level"]);
}

#[tokio::test]
async fn stored_messages_are_delivered_and_committed_under_a_lower_limit_of_bodies() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    let long = vec![b'x'; 200 << 10];
    client.send(Send::to("T").property("DELAY", "1").body(long.clone())).await;
    client.send(Send::to("T").property("DELAY", "1").body("behind it")).await;
    let half = client.send(Send::to("T").half("key").body(long.clone())).await;
    broker.stop().await.expect("a clean end");
    let broker = world.start_with(|config| config.max_message_bytes = 1000).await;
    let mut client = broker.connect().await;
    let refused = client.call(Send::to("T").body(long.clone()).command()).await;
    assert_eq!(refused.code, response::MESSAGE_ILLEGAL, "{:?}", refused.remark);
    let ended = client.call(end(&half, "producers", sys_flag::TRANSACTION_COMMIT)).await;
    assert_eq!(ended.code, response::SUCCESS, "{:?}", ended.remark);
    world.clock.advance(Duration::from_secs(1));
    for (offset, body) in [(0, &long[..]), (1, &long[..]), (2, &b"behind it"[..])] {
        let answer = client.call(Pull::of("T", 0, offset).waiting(LONG).command()).await;
        assert_eq!(pulled(&answer).4[0], body, "offset {offset}");
    }
}

#[tokio::test]
async fn large_messages_that_are_due_together_are_delivered_a_few_at_a_time() {
    const SEGMENT: u64 = 16 << 20;
    let disk = CrashBackend::new();
    let world = World::on(Arc::new(disk.clone()));
    let broker = world.start_with(|config| config.commit_log_segment_bytes = SEGMENT).await;
    let mut client = broker.connect().await;
    for _ in 0..12 {
        client.send(Send::to("T").property("DELAY", "1").body(vec![b'x'; 3 << 20])).await;
    }
    // Room for some of them; all at once would never fit.
    disk.set_capacity(disk.usage().unwrap().used_bytes + SEGMENT + SEGMENT / 2);
    world.clock.advance(Duration::from_secs(1));
    until(async || client.max_offset("T", 0).await > 0).await;
}
