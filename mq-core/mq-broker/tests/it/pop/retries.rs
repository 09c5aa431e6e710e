//! Messages that fail: retry topics, a group's retry policy, dead letters.

use super::*;

#[tokio::test]
async fn a_message_that_fails_as_often_as_its_group_allows_becomes_a_dead_letter() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    set_group(&mut client, SubscriptionGroup { retry_max_times: 2, ..group() }).await;
    send(&mut client, &["poison"]).await;
    for tries in 0..3 {
        let found = popped(&mut client, &waiting(pop("g", "T"))).await;
        assert_eq!((bodies(&found), found[0].tries()), (vec!["poison"], tries));
        world.clock.advance(INVISIBLE);
    }
    let dead = client.pull(Pull::of("T", 0, 0)).await;
    let origin = mq_protocol::message_id::offset_id(dead[0].message.store_host, dead[0].log_offset);
    while client.max_offset("%DLQ%g", 0).await == 0 {
        tokio::task::yield_now().await;
    }
    let dead = client.pull(Pull::of("%DLQ%g", 0, 0)).await;
    assert_eq!(dead.len(), 1);
    let message = &dead[0].message;
    assert_eq!((&message.body[..], message.reconsume_times), (&b"poison"[..], 3));
    for (property, value) in [
        (name::DLQ_ORIGIN_TOPIC, "T"),
        (name::RETRY_TOPIC, "T"),
        (name::DLQ_ORIGIN_MESSAGE_ID, origin.as_str()),
        (name::ORIGIN_MESSAGE_ID, origin.as_str()),
    ] {
        assert_eq!(message.property(property), Some(value), "{property}");
    }
    assert!(popped(&mut client, &pop("g", "T")).await.is_empty());
    // The dead letter is seen before its message is taken off the books.
    until(async || broker.broker.pop_in_flight("%RETRY%g_T", "g", QueueId(0)) == 0).await;
}

#[tokio::test]
async fn a_groups_own_retry_policy_makes_its_messages_rest_unless_the_consumer_chose_the_time() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    let policy = r#"{"type":"EXPONENTIAL","exponentialRetryPolicy":{"initial":100000,"max":7200000,"multiplier":3}}"#;
    set_group(&mut client, SubscriptionGroup { group_retry_policy: serde_json::from_str(policy).unwrap(), ..group() })
        .await;
    let listed = client.call(Command::request(request::GET_ALL_SUBSCRIPTIONGROUP_CONFIG)).await;
    let listed: serde_json::Value = serde_json::from_slice(&listed.body).unwrap();
    let stored = &listed["subscriptionGroupTable"]["g"]["groupRetryPolicy"]["exponentialRetryPolicy"]["initial"];
    assert_eq!(stored, 100_000);
    send(&mut client, &["m"]).await;
    for (rest, tries) in [(100, 0), (300, 1)] {
        assert_eq!(popped(&mut client, &waiting(pop("g", "T"))).await[0].tries(), tries);
        world.clock.advance(Duration::from_secs(rest) - Duration::from_millis(1));
        assert!(popped(&mut client, &PopMessage { poll_time: 400, ..pop("g", "T") }).await.is_empty(), "{rest}");
        world.clock.advance(Duration::from_millis(1));
    }
    let third = popped(&mut client, &waiting(pop("g", "T"))).await;
    done(&mut client, third[0].change(Duration::from_secs(1))).await;
    world.clock.advance(Duration::from_secs(2));
    assert_eq!(popped(&mut client, &waiting(pop("g", "T"))).await[0].tries(), 3);
}

#[tokio::test]
async fn newer_retry_topics_are_written_and_older_ones_still_read() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    send(&mut client, &["old", "new"]).await;
    let one = PopMessage { max_msg_nums: 1, ..pop("g", "T") };
    assert_eq!(bodies(&popped(&mut client, &one).await), ["old"]);
    world.clock.advance(INVISIBLE);
    while client.max_offset("%RETRY%g_T", 0).await == 0 {
        tokio::task::yield_now().await;
    }
    drop(client);
    broker.stop().await.unwrap();
    let broker = world.start_with(|config| config.pop.retry_topic_v2 = true).await;
    let mut client = member(&broker).await;
    assert_eq!(bodies(&popped(&mut client, &PopMessage { queue_id: 0, ..one.clone() }).await).len(), 1);
    let rest = popped(&mut client, &waiting(pop("g", "T"))).await;
    assert_eq!(rest.len(), 1);
    world.clock.advance(INVISIBLE);
    while client.max_offset("%RETRY%g+T", 0).await + client.max_offset("%RETRY%g_T", 0).await < 3 {
        tokio::task::yield_now().await;
    }
    let mut again = popped(&mut client, &waiting(pop("g", "T"))).await;
    again.sort_by_key(|popped| popped.handle.mark);
    let marks: Vec<_> = again.iter().map(|popped| (popped.body(), popped.handle.mark, popped.tries())).collect();
    assert_eq!(marks, [("old", Mark::RetryV1, 2), ("new", Mark::RetryV2, 1)]);
    for popped in &again {
        done(&mut client, popped.ack()).await;
    }
    world.clock.advance(INVISIBLE);
    assert!(popped(&mut client, &PopMessage { poll_time: 500, ..pop("g", "T") }).await.is_empty());
}

#[tokio::test]
async fn a_damaged_message_of_a_retry_topic_takes_none_of_its_neighbours_along() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    send(&mut client, &["first", "damaged", "last"]).await;
    assert_eq!(popped(&mut client, &pop("g", "T")).await.len(), 3);
    world.clock.advance(INVISIBLE);
    let retry = Mark::RetryV1.topic("T", "g");
    until(async || client.max_offset(&retry, 0).await == 3).await;
    let log = world.backend.open("commitlog/00000000000000000000").unwrap();
    let mut bytes = vec![0; 256 << 10];
    log.read_at(0, &mut bytes).unwrap();
    let at = bytes.windows(7).rposition(|window| window == b"damaged").expect("its copy is in the log");
    log.write_at(at as u64, b"D").unwrap();
    let mut found = Vec::new();
    until(async || {
        let answer = client.call(command(&pop("g", "T"))).await;
        if answer.code == response::SUCCESS {
            found.extend(messages(&pop("g", "T"), &answer).iter().map(|popped| popped.body().to_owned()));
        }
        found.len() == 2
    })
    .await;
    assert_eq!(found, ["first", "last"]);
}
