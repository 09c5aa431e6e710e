//! What is given out: for how long, to be acknowledged or changed, one by one and in batches.

use std::sync::Arc;

use mq_store::backend::CrashBackend;

use super::*;

#[tokio::test]
async fn what_is_not_acknowledged_in_time_comes_again_and_what_is_does_not() {
    for format in [HeaderFormat::Json, HeaderFormat::Binary] {
        let world = World::new();
        let broker = world.start().await;
        let mut client = member(&broker).await;
        client.format = format;
        send(&mut client, &["a", "b", "c"]).await;
        let first = popped(&mut client, &pop("g", "T")).await;
        assert_eq!(bodies(&first), ["a", "b", "c"]);
        assert!(first.iter().all(|message| message.tries() == 0 && message.handle.mark == Mark::Normal));
        done(&mut client, first[0].ack()).await;
        done(&mut client, first[2].ack()).await;
        world.clock.advance(INVISIBLE - Duration::from_millis(1));
        assert!(popped(&mut client, &pop("g", "T")).await.is_empty(), "not before its time");
        world.clock.advance(Duration::from_millis(1));
        let again = popped(&mut client, &waiting(pop("g", "T"))).await;
        assert_eq!((bodies(&again), again[0].tries(), again[0].handle.mark), (vec!["b"], 1, Mark::RetryV1));
        let again = &again[0].message.message;
        assert_eq!(again.property(name::FIRST_POP_TIME), Some(START.to_string().as_str()));
        assert_eq!(again.property(name::UNIQ_KEY), first[1].message.message.property(name::UNIQ_KEY));

        world.clock.advance(INVISIBLE);
        let third = popped(&mut client, &waiting(pop("g", "T"))).await;
        assert_eq!((bodies(&third), third[0].tries()), (vec!["b"], 2), "a retry is tried again in its own topic");
        done(&mut client, third[0].ack()).await;
        world.clock.advance(INVISIBLE * 2);
        let nothing = PopMessage { poll_time: 500, ..pop("g", "T") };
        assert!(popped(&mut client, &nothing).await.is_empty());
    }
}

#[tokio::test]
async fn a_pop_takes_of_all_queues_what_its_filter_wants_and_passes_over_the_rest() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    for queue in 0..4 {
        for (tag, body) in [("x", "skipped"), ("a", "one"), ("b", "two")] {
            let mut message = Send::to("T").property("TAGS", tag).body(body);
            message.header.queue_id = queue;
            client.send(message).await;
        }
    }
    let all = PopMessage { exp: Some("a || b".into()), exp_type: Some("TAG".into()), ..pop("g", "T") };
    let one = PopMessage { queue_id: 2, ..all.clone() };
    assert_eq!(bodies(&popped(&mut client, &one).await), ["one", "two"]);
    let some = PopMessage { max_msg_nums: 3, ..all.clone() };
    let answer = client.call(command(&some)).await;
    let header: PopMessageResponse = answer.header().unwrap();
    assert_eq!((messages(&some, &answer).len(), answer.remark.as_deref()), (3, Some("FOUND")));
    assert!(header.rest_num > 0, "{header:?}");
    assert_eq!(popped(&mut client, &all).await.len(), 3);
    assert!(popped(&mut client, &all).await.is_empty());
    assert!(popped(&mut client, &pop("g", "T")).await.is_empty(), "what no filter wanted is passed over for good");
}

#[tokio::test]
async fn a_changed_time_makes_a_new_handle_and_ends_the_old_one() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    send(&mut client, &["later", "sooner", "done"]).await;
    let mut first = popped(&mut client, &pop("g", "T")).await;
    first.sort_by_key(|message| message.message.queue_offset);
    let answer = done(&mut client, first[0].change(INVISIBLE * 3)).await;
    let later = first[0].changed(&answer);
    assert_ne!(later.handle.pop_time, first[0].handle.pop_time);
    let answer = done(&mut client, first[1].change(Duration::from_secs(1))).await;
    let sooner = first[1].changed(&answer);
    let answer = done(&mut client, first[2].change(Duration::from_secs(1))).await;
    done(&mut client, first[2].changed(&answer).ack()).await;
    // The old handles name nothing any more.
    done(&mut client, first[0].ack()).await;
    done(&mut client, first[1].ack()).await;

    world.clock.advance(Duration::from_secs(2));
    let again = popped(&mut client, &waiting(pop("g", "T"))).await;
    assert_eq!(bodies(&again), ["sooner"]);
    done(&mut client, again[0].ack()).await;
    // Too late: it has come again under another handle, and that one is acknowledged.
    let late = client.call(sooner.change(Duration::from_secs(1))).await.code;
    assert!([response::SUCCESS, response::NO_MESSAGE].contains(&late), "{late}");
    world.clock.advance(INVISIBLE * 3);
    let again = popped(&mut client, &waiting(pop("g", "T"))).await;
    assert_eq!(bodies(&again), ["later"]);
    done(&mut client, again[0].ack()).await;
    world.clock.advance(INVISIBLE * 9);
    assert!(popped(&mut client, &PopMessage { poll_time: 500, ..pop("g", "T") }).await.is_empty());
}

#[tokio::test]
async fn a_batch_acknowledges_messages_of_several_queues() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    for queue in [0, 0, 0, 1] {
        let mut message = Send::to("T").body(format!("m{queue}"));
        message.header.queue_id = queue;
        client.send(message).await;
    }
    let first = popped(&mut client, &pop("g", "T")).await;
    let handle = |queue: u32| &first.iter().find(|popped| popped.handle.queue_id.0 == queue).unwrap().handle;
    let acks = |queue: u32, bits: &[u64]| BatchAck {
        consumer_group: "g".into(),
        topic: "T".into(),
        retry: "0".into(),
        start_offset: handle(queue).start_offset,
        queue_id: QueueId(queue),
        revive_qid: handle(queue).revive_qid,
        pop_time: handle(queue).pop_time,
        invisible_time: handle(queue).invisible_time,
        bits: bits.iter().copied().collect(),
    };
    // Offsets that the queue does not have are passed over.
    let batch = BatchAcks { broker_name: "broker-a".into(), acks: vec![acks(0, &[0, 2, 900]), acks(1, &[0])] };
    done(&mut client, Command::request(request::BATCH_ACK_MESSAGE).with_body(body::to_json(&batch))).await;
    world.clock.advance(INVISIBLE);
    let again = popped(&mut client, &waiting(pop("g", "T"))).await;
    assert_eq!(again.iter().map(|popped| popped.message.queue_offset).collect::<Vec<_>>(), [QueueOffset(0)]);
    assert_eq!(bodies(&again), ["m0"]);
    let retried = BatchAcks { acks: vec![BatchAck { retry: "1".into(), ..acks_of(&again[0]) }], ..batch };
    done(&mut client, Command::request(request::BATCH_ACK_MESSAGE).with_body(body::to_json(&retried))).await;
    world.clock.advance(INVISIBLE);
    assert!(popped(&mut client, &PopMessage { poll_time: 500, ..pop("g", "T") }).await.is_empty());
}

#[tokio::test]
async fn an_acknowledgement_that_finds_the_disk_full_is_refused_and_can_be_given_again() {
    let disk = CrashBackend::new();
    let world = World::on(Arc::new(disk.clone()));
    let broker = world.start_with(|config| config.commit_log_segment_bytes = 1 << 20).await;
    let mut client = member(&broker).await;
    send(&mut client, &["a"]).await;
    let first = popped(&mut client, &pop("g", "T")).await.remove(0);
    disk.set_capacity(1 << 20);
    // To the last byte that a record of the broker's own would fit into.
    for bytes in [100 << 10, 1 << 10, 1] {
        while client.call(Send::to("filler").body(vec![7; bytes]).command()).await.code == response::SUCCESS {}
    }
    for request in [first.ack(), first.change(INVISIBLE)] {
        let refused = client.call(request).await;
        let remark = refused.remark.unwrap();
        assert_eq!(refused.code, response::SERVICE_NOT_AVAILABLE, "{remark}");
        assert!(remark.contains("full") && remark.contains("1048576"), "{remark}");
    }
    disk.set_capacity(u64::MAX);
    done(&mut client, first.ack()).await;
    world.clock.advance(INVISIBLE * 2);
    assert!(popped(&mut client, &PopMessage { poll_time: 500, ..pop("g", "T") }).await.is_empty(), "it is done");
}
