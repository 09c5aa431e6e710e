//! What a consumer could not process: send-back, the retry topic, the dead letters.

use std::time::Duration;

use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::ConsumerSendMsgBack;
use mq_protocol::ids::LogOffset;
use mq_protocol::record::StoredMessage;
use mq_protocol::topic::{dead_letter_topic, retry_topic};

use crate::harness::{Client, Pull, Send, World};

const LONG: Duration = Duration::from_secs(15);

pub(crate) fn back(offset: LogOffset, group: &str, delay_level: i32, max: Option<i32>) -> Command {
    let header = ConsumerSendMsgBack {
        offset,
        group: group.into(),
        delay_level,
        origin_msg_id: None,
        origin_topic: Some("T".into()),
        unit_mode: Some(false),
        max_reconsume_times: max,
        bname: None,
    };
    Command::request_with(request::CONSUMER_SEND_MSG_BACK, &header)
}

async fn next(client: &mut Client, topic: &str, offset: i64) -> StoredMessage {
    client.pull(Pull::of(topic, 0, offset).waiting(LONG)).await.remove(0)
}

#[tokio::test]
async fn a_message_sent_back_comes_again_later_each_time_and_at_last_goes_to_the_dead_letters() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    client.heartbeat("c@1", &[], &[("g", "T", "*")]).await;
    let sent = client.send(Send::to("T").property("UNIQ_KEY", "K").body("poison")).await;
    let mut message = next(&mut client, "T", 0).await;
    for (tries, delay_s) in [(1, 10), (2, 30)] {
        let answer = client.call(back(message.log_offset, "g", 0, Some(2))).await;
        assert_eq!(answer.code, response::SUCCESS, "{:?}", answer.remark);
        let opaque = client.post(Pull::of(&retry_topic("g"), 0, tries - 1).waiting(LONG).command()).await;
        world.clock.advance(Duration::from_secs(delay_s - 1));
        assert_eq!(client.max_offset(&retry_topic("g"), 0).await, tries as u64 - 1, "not before its time");
        world.clock.advance(Duration::from_secs(1));
        message = mq_protocol::record::decode_all(&client.answer(opaque).await.body).unwrap().remove(0);
        assert_eq!(i64::from(message.message.reconsume_times), tries);
        assert_eq!(message.message.property("RETRY_TOPIC"), Some("T"));
        assert_eq!(message.message.property("ORIGIN_MESSAGE_ID"), Some(&*sent.msg_id));
        assert_eq!((message.message.property("UNIQ_KEY"), &message.message.body[..]), (Some("K"), &b"poison"[..]));
    }
    assert_eq!(client.call(back(message.log_offset, "g", 0, Some(2))).await.code, response::SUCCESS);
    let dead = next(&mut client, &dead_letter_topic("g"), 0).await;
    assert_eq!((&dead.message.body[..], dead.message.reconsume_times), (&b"poison"[..], 3));
    assert_eq!(dead.message.property("DELAY"), None);
}

#[tokio::test]
async fn a_level_below_zero_means_the_dead_letters_at_once() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    client.heartbeat("c@1", &[], &[("g", "T", "*")]).await;
    client.send(Send::to("T")).await;
    let message = next(&mut client, "T", 0).await;
    assert_eq!(client.call(back(message.log_offset, "g", -1, None)).await.code, response::SUCCESS);
    next(&mut client, &dead_letter_topic("g"), 0).await;
}

#[tokio::test]
async fn a_send_back_that_names_nothing_is_refused() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    client.heartbeat("c@1", &[], &[("g", "T", "*")]).await;
    for (name, command, code) in [
        ("group", back(LogOffset(0), "nobody", 0, None), response::SUBSCRIPTION_GROUP_NOT_EXIST),
        ("message", back(LogOffset(0), "g", 0, None), response::SYSTEM_ERROR),
        ("offset", back(LogOffset(1 << 50), "g", 0, None), response::SYSTEM_ERROR),
    ] {
        assert_eq!(client.call(command).await.code, code, "{name}");
    }
}

#[tokio::test]
async fn a_client_that_resends_by_itself_gets_the_same_treatment() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    client.heartbeat("c@1", &[], &[("g", "T", "*")]).await;
    let resend = |times: i32| {
        // A message that once was transactional still says so; its retries are not.
        let send = Send::to(&retry_topic("g")).half("K");
        let mut send = send.property("RETRY_TOPIC", "T").property("DELAY", "3");
        send.header.reconsume_times = Some(times);
        send.header.max_reconsume_times = Some(16);
        send.body(times.to_string())
    };
    client.send(resend(16)).await;
    world.clock.advance(Duration::from_secs(10));
    let retried = next(&mut client, &retry_topic("g"), 0).await;
    assert_eq!((&retried.message.body[..], retried.message.reconsume_times), (&b"16"[..], 16));
    client.send(resend(17)).await;
    let dead = next(&mut client, &dead_letter_topic("g"), 0).await;
    assert_eq!((&dead.message.body[..], dead.message.property("DELAY")), (&b"17"[..], None));
}

#[tokio::test]
async fn a_groups_own_retry_policy_says_when_a_message_comes_again_unless_the_consumer_chose_a_level() {
    let customized = r#"{"type":"CUSTOMIZED","customizedRetryPolicy":{"next":[1000,1000,2000,7000]}}"#;
    let exponential = r#"{"type":"EXPONENTIAL","exponentialRetryPolicy":{"initial":4000,"max":9000,"multiplier":2}}"#;
    let no_rest = r#"{"type":"CUSTOMIZED","customizedRetryPolicy":{"next":[0]}}"#;
    let endless = r#"{"type":"CUSTOMIZED","customizedRetryPolicy":{"next":[9000000000000]}}"#;
    for (policy, timers, level, rests_s) in [
        (customized, true, 0, &[2, 7, 7][..]),
        (exponential, true, 0, &[4, 8, 9]),
        (no_rest, true, 0, &[0, 0]),
        (endless, true, 0, &[259_200]),
        (customized, true, 4, &[30, 30]),
        (customized, false, 0, &[10, 30]),
        (r#"{"type":"CUSTOMIZED"}"#, true, 0, &[10, 30]),
    ] {
        let world = World::new();
        let broker = world.start_with(|config| config.timer_wheel = timers).await;
        let mut client = broker.connect().await;
        let group = format!(r#"{{"groupName":"g","groupRetryPolicy":{policy}}}"#);
        let put = Command::request(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP).with_body(group);
        assert_eq!(client.call(put).await.code, response::SUCCESS);
        client.send(Send::to("T")).await;
        let mut message = next(&mut client, "T", 0).await;
        for (tries, rest_s) in rests_s.iter().enumerate() {
            let answer = client.call(back(message.log_offset, "g", level, None)).await;
            assert_eq!(answer.code, response::SUCCESS, "{:?}", answer.remark);
            let case = format!("{policy}, timers {timers}, level {level}, try {tries}");
            if *rest_s > 0 {
                world.clock.advance(Duration::from_secs(rest_s - 1));
                assert_eq!(client.max_offset(&retry_topic("g"), 0).await, tries as u64, "{case}: not before its time");
                world.clock.advance(Duration::from_secs(1));
            }
            message = next(&mut client, &retry_topic("g"), tries as i64).await;
            assert_eq!(message.message.reconsume_times as usize, tries + 1, "{case}");
        }
    }
}
