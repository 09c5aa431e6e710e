//! The end of a broker: orderly, or because its disk failed.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use mq_broker::RunError;
use mq_protocol::codes::response;
use mq_store::backend::{CrashBackend, Fault};

use crate::harness::{Pull, Send, World, pulled};

#[tokio::test]
async fn an_orderly_stop_answers_what_it_has_read_and_closes_every_connection() {
    let world = World::new();
    let broker = world.start().await;
    let (mut client, mut idle) = (broker.connect().await, broker.connect().await);
    let mut opaques = Vec::new();
    for n in 0..50 {
        opaques.push(client.post(Send::to("T").body(n.to_string()).command()).await);
    }
    for opaque in opaques {
        assert_eq!(client.answer(opaque).await.code, response::SUCCESS);
    }
    client.post(Pull::of("T", 0, 50).waiting(Duration::from_secs(15)).command()).await;
    broker.stop().await.unwrap();
    assert!(client.read().await.is_none());
    assert!(idle.read().await.is_none());
    let broker = world.start().await;
    let mut client = broker.connect().await;
    assert_eq!(pulled(&client.call(Pull::of("T", 0, 0).command()).await).3, 50);
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_and_the_run_ends_with_the_reason() {
    let disk = CrashBackend::new();
    let broker = World::on(Arc::new(disk.clone())).start().await;
    let mut client = broker.connect().await;
    // A large one: behind small ones the store writes zeros, which would be the operations that fail.
    client.send(Send::to("T").body(vec![7; 100 << 10])).await;
    let refused = loop {
        // The write of the record comes first, its sync is the operation after it. When the store's upkeep comes in
        // between, the write itself fails: then the send is refused, and it is tried again.
        disk.plan(disk.operations() + 1, Fault::Fails(ErrorKind::Other));
        client.post(Send::to("T").body("lost").command()).await;
        match client.read().await {
            Some(answer) => assert_ne!(answer.code, response::SUCCESS),
            None => break client,
        }
    };
    drop(refused);
    let error = broker.ended().await.expect_err("a failed store is an error");
    assert!(matches!(error, RunError::Store(_)), "{error}");
}

#[tokio::test]
async fn a_full_disk_is_an_error_with_its_limit_and_writes_resume_when_there_is_room() {
    let disk = CrashBackend::new();
    let broker = World::on(Arc::new(disk.clone())).start_with(|config| config.commit_log_segment_bytes = 1 << 20).await;
    let mut client = broker.connect().await;
    client.send(Send::to("T")).await;
    disk.set_capacity(1 << 20);
    let mut stored = 1;
    let full = loop {
        let answer = client.call(Send::to("T").body(vec![7; 100 << 10]).command()).await;
        if answer.code != response::SUCCESS {
            break answer;
        }
        stored += 1;
        assert!(stored < 40, "the disk has room for no more than that");
    };
    let remark = full.remark.unwrap();
    assert_eq!(full.code, response::SERVICE_NOT_AVAILABLE, "{remark}");
    assert!(remark.contains("full") && remark.contains("1048576"), "{remark}");
    let (code, .., max, _) = pulled(&client.call(Pull::of("T", 0, 0).command()).await);
    assert_eq!((code, max), (response::SUCCESS, stored), "reads go on");
    disk.set_capacity(u64::MAX);
    assert_eq!(client.send(Send::to("T")).await.queue_offset.0, stored);
}
