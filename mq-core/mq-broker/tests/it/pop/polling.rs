//! Pops that wait, and what is asked without taking anything: notifications, peeks.

use super::*;

#[tokio::test]
async fn a_pop_waits_for_a_message_and_is_told_when_there_is_none_or_no_room_to_wait() {
    let world = World::new();
    let broker = world.start_with(|config| config.pop.polling_size = 1).await;
    let mut client = member(&broker).await;
    send(&mut client, &["before"]).await;
    popped(&mut client, &pop("g", "T")).await;
    let wait = waiting(PopMessage { exp: Some("wanted".into()), ..pop("g", "T") });
    let opaque = client.post(command(&wait)).await;
    let mut other = broker.connect().await;
    let info = PollingInfo { consumer_group: "g".into(), topic: "T".into(), queue_id: -1, bname: None };
    loop {
        let answer = done(&mut other, Command::request_with(request::POLLING_INFO, &info)).await;
        if answer.header::<PollingInfoResponse>().unwrap().polling_num == 1 {
            break;
        }
        tokio::task::yield_now().await;
    }
    let refused = other.call(command(&wait)).await;
    assert_eq!(refused.code, response::POLLING_FULL);
    assert!(refused.remark.unwrap().contains("popPollingSize"));
    other.send(Send::to("T").property("TAGS", "other").body("passed over")).await;
    let ended = other.call(command(&PopMessage { queue_id: 0, poll_time: 50, ..wait.clone() })).await;
    assert_eq!((ended.code, ended.remark.as_deref()), (response::POLLING_TIMEOUT, Some("NO_MESSAGE_IN_QUEUE")));
    other.send(Send::to("T").property("TAGS", "wanted").body("after")).await;
    let answer = client.answer(opaque).await;
    assert_eq!(bodies(&messages(&wait, &answer)), ["after"]);
    let late = PopMessage { born_time: Some(START.0 - 601), poll_time: 100, ..pop("g", "T") };
    assert_eq!(client.call(command(&late)).await.code, response::POLLING_TIMEOUT);
}

#[tokio::test]
async fn a_notification_comes_when_a_pop_would_find_something() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    let ask = |poll_time| {
        let header = Notification {
            consumer_group: "g".into(),
            topic: "T".into(),
            queue_id: -1,
            poll_time,
            born_time: Some(0),
            order: Some(false),
            attempt_id: None,
            bname: None,
        };
        Command::request_with(request::NOTIFICATION, &header)
    };
    send(&mut client, &["a"]).await;
    let told = |answer: Command| answer.header::<NotificationResponse>().unwrap().has_msg;
    assert!(told(done(&mut client, ask(0)).await));
    popped(&mut client, &pop("g", "T")).await;
    assert!(!told(done(&mut client, ask(0)).await));
    let opaque = client.post(ask(LONG.as_millis() as i64)).await;
    world.clock.advance(INVISIBLE);
    assert!(told(client.answer(opaque).await), "a revived message is news too");
}

#[tokio::test]
async fn a_peek_shows_the_next_messages_and_takes_none() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = member(&broker).await;
    let peek =
        PeekMessage { consumer_group: "g".into(), topic: "T".into(), queue_id: -1, max_msg_nums: 2, bname: None };
    let peek = || Command::request_with(request::PEEK_MESSAGE, &peek);
    client.send(Send::to("T").body("a")).await;
    popped(&mut client, &pop("g", "T")).await;
    assert_eq!(client.call(peek()).await.code, response::PULL_NOT_FOUND);
    send(&mut client, &["b", "c", "d"]).await;
    for _ in 0..2 {
        let answer = done(&mut client, peek()).await;
        let seen = record::decode_all(&answer.body).unwrap();
        assert_eq!(seen.iter().map(|seen| &seen.message.body[..]).collect::<Vec<_>>(), [b"b", b"c"]);
        assert_eq!(answer.header::<PopMessageResponse>().unwrap().rest_num, 3);
    }
    assert_eq!(popped(&mut client, &pop("g", "T")).await.len(), 3);
}
