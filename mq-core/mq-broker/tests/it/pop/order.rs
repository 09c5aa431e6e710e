//! Pops in order: a queue gives nothing more until what it gave is settled.

use super::*;

#[tokio::test]
async fn an_orderly_queue_gives_nothing_more_until_what_it_gave_is_settled() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    send(&mut client, &["a", "b", "c"]).await;
    let two = in_order(PopMessage { max_msg_nums: 2, attempt_id: Some("1".into()), ..pop("g", "T") });
    let first = popped(&mut client, &two).await;
    assert_eq!((bodies(&first), first[0].handle.revive_qid), (vec!["a", "b"], ORDERLY));
    let next = PopMessage { attempt_id: Some("2".into()), ..two.clone() };
    assert!(popped(&mut client, &next).await.is_empty(), "the queue waits");
    assert_eq!(bodies(&popped(&mut client, &two).await), ["a", "b"], "the same attempt may be repeated");
    let first = popped(&mut client, &two).await;
    assert_eq!(broker.broker.pop_in_flight("T", "g", QueueId(0)), 2);

    let opaque = client.post(command(&waiting(next.clone()))).await;
    done(&mut client, first[0].ack()).await;
    assert_eq!(offset(&mut client).await, 1);
    done(&mut client, first[1].ack()).await;
    let second = messages(&next, &client.answer(opaque).await);
    assert_eq!((bodies(&second), offset(&mut client).await), (vec!["c"], 2), "acknowledging opens the queue");

    // Its time ends without an acknowledgement: it comes again in its place, counted.
    let opaque = client.post(command(&waiting(PopMessage { attempt_id: Some("3".into()), ..two.clone() }))).await;
    world.clock.advance(INVISIBLE);
    let answer = client.answer(opaque).await;
    let header: PopMessageResponse = answer.header().unwrap();
    assert_eq!(header.order_count_info.as_deref(), Some("0 qo0%2 1;0 0 1"));
    let third = messages(&two, &answer);
    assert_eq!(bodies(&third), ["c"]);

    let answer = done(&mut client, third[0].change(INVISIBLE * 4)).await;
    let later = third[0].changed(&answer);
    assert_eq!(later.handle.pop_time, third[0].handle.pop_time);
    world.clock.advance(INVISIBLE * 2);
    assert!(popped(&mut client, &in_order(pop("g", "T"))).await.is_empty(), "its consumer wanted more time");

    // A clean stop keeps what the queue waits for.
    broker.stop().await.unwrap();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    assert!(popped(&mut client, &in_order(pop("g", "T"))).await.is_empty());
    let not_given =
        Popped { message: StoredMessage { queue_offset: QueueOffset(1), ..later.message.clone() }, ..later.clone() };
    done(&mut client, not_given.ack()).await;
    done(&mut client, later.ack()).await;
    assert_eq!(offset(&mut client).await, 3);
    send(&mut client, &["d"]).await;
    assert_eq!(bodies(&popped(&mut client, &in_order(pop("g", "T"))).await), ["d"]);
}

#[tokio::test]
async fn an_acknowledgement_in_order_from_before_a_reset_passes_over_nothing() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    send(&mut client, &["a", "b", "c"]).await;
    let before = popped(&mut client, &in_order(pop("g", "T"))).await;
    let header = mq_protocol::header::UpdateConsumerOffset {
        consumer_group: "g".into(),
        topic: "T".into(),
        queue_id: QueueId(0),
        commit_offset: 0,
        bname: None,
    };
    done(&mut client, Command::request_with(request::UPDATE_CONSUMER_OFFSET, &header)).await;
    done(&mut client, before[2].ack()).await;
    assert_eq!(offset(&mut client).await, 0);
    assert_eq!(bodies(&popped(&mut client, &in_order(pop("g", "T"))).await), ["a", "b", "c"]);
}
