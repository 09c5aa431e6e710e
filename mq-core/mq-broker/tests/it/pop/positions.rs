//! Where a group starts and goes on: its first pop, crashes, resets.

use super::*;

#[tokio::test]
async fn a_new_group_starts_where_its_first_pop_says() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    let groups = [("first", "T", "*"), ("last", "T", "*")];
    client.heartbeat("c1", &[], &groups).await;
    send(&mut client, &["a", "b", "c"]).await;
    let last = |group| PopMessage { init_mode: PopMessage::INIT_AT_LAST, ..pop(group, "T") };
    assert_eq!(bodies(&popped(&mut client, &last("last")).await), ["a", "b", "c"], "a young queue is read whole");
    broker.stop().await.unwrap();
    let broker = world.start_with(|config| config.pop.start_of_young_queues = false).await;
    let mut client = broker.connect().await;
    client.heartbeat("c1", &[], &[("first", "T", "*"), ("other", "T", "*"), ("last", "T", "*")]).await;
    assert_eq!(bodies(&popped(&mut client, &last("other")).await), ["c"]);
    assert_eq!(bodies(&popped(&mut client, &pop("first", "T")).await), ["a", "b", "c"]);
    assert!(popped(&mut client, &last("last")).await.is_empty(), "it has begun long ago");
}

#[tokio::test]
async fn a_crash_loses_no_message_that_is_in_flight_and_brings_none_back_that_is_done() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    send(&mut client, &["done", "flying", "changed", "revived"]).await;
    let one = PopMessage { max_msg_nums: 1, ..pop("g", "T") };
    let mut each = Vec::new();
    for _ in 0..4 {
        each.extend(popped(&mut client, &one).await);
    }
    done(&mut client, each[0].ack()).await;
    let answer = done(&mut client, each[2].change(INVISIBLE * 2)).await;
    let changed = each[2].changed(&answer);
    done(&mut client, each[3].change(Duration::from_secs(1))).await;
    world.clock.advance(Duration::from_secs(2));
    let revived = popped(&mut client, &waiting(one.clone())).await;
    assert_eq!(bodies(&revived), ["revived"]);
    broker.abandon().await;
    world.wait_unlocked().await;

    let broker = world.start().await;
    let mut client = member(&broker).await;
    assert!(popped(&mut client, &pop("g", "T")).await.is_empty(), "what was given out stays away for its time");
    assert_eq!(broker.broker.pop_in_flight("T", "g", QueueId(0)), 2);
    assert_eq!(broker.broker.pop_in_flight("%RETRY%g_T", "g", QueueId(0)), 1);
    done(&mut client, revived[0].ack()).await;
    world.clock.advance(INVISIBLE - Duration::from_secs(2));
    assert_eq!(bodies(&popped(&mut client, &waiting(pop("g", "T"))).await), ["flying"]);
    done(&mut client, changed.ack()).await;
    world.clock.advance(INVISIBLE * 2);
    assert_eq!(bodies(&popped(&mut client, &waiting(pop("g", "T"))).await), ["flying"], "and nothing else");
}

#[tokio::test]
async fn a_group_that_was_sent_back_stays_there_over_a_restart() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    send(&mut client, &["a", "b"]).await;
    for popped in popped(&mut client, &pop("g", "T")).await {
        done(&mut client, popped.ack()).await;
    }
    let mut tool = broker.connect().await;
    let header = mq_protocol::header::UpdateConsumerOffset {
        consumer_group: "g".into(),
        topic: "T".into(),
        queue_id: QueueId(0),
        commit_offset: 1,
        bname: None,
    };
    done(&mut tool, Command::request_with(request::UPDATE_CONSUMER_OFFSET, &header)).await;
    broker.stop().await.unwrap();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    assert_eq!(bodies(&popped(&mut client, &pop("g", "T")).await), ["b"]);
}

#[tokio::test]
async fn a_group_that_pops_goes_once_where_its_topic_is_reset_to_also_while_it_waits() {
    let world = World::new();
    let broker = world.start_with(|config| config.default_topic_queues = 1).await;
    let mut client = member(&broker).await;
    send(&mut client, &["a", "b", "c"]).await;
    for popped in popped(&mut client, &pop("g", "T")).await {
        done(&mut client, popped.ack()).await;
    }
    let mut tool = broker.connect().await;
    until(async || offset(&mut tool).await == 3).await;
    for (waits, to, expected) in [(false, 1, &["b", "c"][..]), (true, 2, &["c"])] {
        let ask = if waits { waiting(pop("g", "T")) } else { pop("g", "T") };
        let waits_since = if waits { Some(client.post(command(&ask)).await) } else { None };
        let info = PollingInfo { consumer_group: "g".into(), topic: "T".into(), queue_id: -1, bname: None };
        until(async || {
            let answer = done(&mut tool, Command::request_with(request::POLLING_INFO, &info)).await;
            answer.header::<PollingInfoResponse>().unwrap().polling_num == u32::from(waits)
        })
        .await;
        let header = ResetOffset {
            topic: "T".into(),
            group: "g".into(),
            timestamp: UnixMillis(-1),
            is_force: Some(true),
            queue_id: Some(0),
            offset: Some(to),
        };
        done(&mut tool, Command::request_with(request::INVOKE_BROKER_TO_RESET_OFFSET, &header)).await;
        let found = match waits_since {
            Some(opaque) => messages(&ask, &client.answer(opaque).await),
            None => popped(&mut client, &ask).await,
        };
        assert_eq!(bodies(&found), expected, "reset to {to}");
        for popped in &found {
            done(&mut client, popped.ack()).await;
        }
        until(async || offset(&mut tool).await == 3).await;
        assert!(popped(&mut client, &pop("g", "T")).await.is_empty(), "they came once");
    }
}
