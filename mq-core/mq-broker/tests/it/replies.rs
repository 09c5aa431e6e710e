//! Request and reply: the reply goes to the client that asked, and into the log.

use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{PushReplyMessage, SendMessageResponse};
use mq_protocol::properties::Properties;

use crate::harness::{Client, Pull, Send, TestBroker, World};

const REPLIES: &str = "DefaultCluster_REPLY_TOPIC";

async fn requester(broker: &TestBroker) -> Client {
    let mut client = broker.connect().await;
    client.heartbeat("asker@1", &["askers"], &[]).await;
    client
}

fn reply(code: i32, to: &str) -> Command {
    let mut send = Send::to(REPLIES).body("answer").property("CORRELATION_ID", "c-1").property("MSG_TYPE", "reply");
    if !to.is_empty() {
        send = send.property("REPLY_TO_CLIENT", to.to_owned());
    }
    // 324 has the long names of 10, 325 the short ones.
    send.code = if code == request::SEND_REPLY_MESSAGE { request::SEND_MESSAGE } else { request::SEND_MESSAGE_V2 };
    Command { code, ..send.command() }
}

#[tokio::test]
async fn a_reply_is_pushed_to_the_client_that_asked_and_stored() {
    let broker = World::new().start().await;
    let (mut asker, mut answerer) = (requester(&broker).await, broker.connect().await);
    for (nth, code) in [request::SEND_REPLY_MESSAGE, request::SEND_REPLY_MESSAGE_V2].into_iter().enumerate() {
        let opaque = answerer.post(reply(code, "asker@1")).await;
        let pushed = asker.request(request::PUSH_REPLY_MESSAGE_TO_CLIENT).await;
        assert_eq!(&pushed.body[..], b"answer");
        let header: PushReplyMessage = pushed.header().unwrap();
        let properties = Properties::parse(&header.properties.unwrap());
        assert_eq!(properties.get("CORRELATION_ID").map(|id| &**id), Some("c-1"));
        assert!(properties.get("PUSH_REPLY_TIME").is_some());
        asker.respond(pushed.response(response::SUCCESS)).await;
        let answer = answerer.answer(opaque).await;
        assert_eq!(answer.code, response::SUCCESS, "{:?}", answer.remark);
        assert_eq!(answer.header::<SendMessageResponse>().unwrap().queue_offset.0, nth as u64);
    }
    let stored = answerer.pull(Pull::of(REPLIES, 0, 0)).await;
    assert_eq!(stored.len(), 2);
    assert_eq!(stored[0].message.property("REPLY_TO_CLIENT"), Some("asker@1"));
    assert_eq!(stored[0].message.property("PUSH_REPLY_TIME"), None);
}

#[tokio::test]
async fn a_reply_that_nobody_takes_is_refused_with_the_reason() {
    let broker = World::new().start().await;
    let (mut asker, mut answerer) = (requester(&broker).await, broker.connect().await);
    for (to, refuses, reason) in [
        ("", false, "no property REPLY_TO_CLIENT"),
        ("stranger@1", false, "stranger@1 is not connected to this broker"),
        ("asker@1", true, "asker@1 did not take the reply: full"),
    ] {
        let opaque = answerer.post(reply(request::SEND_REPLY_MESSAGE_V2, to)).await;
        if refuses {
            let pushed = asker.request(request::PUSH_REPLY_MESSAGE_TO_CLIENT).await;
            asker.respond(pushed.error(response::SYSTEM_ERROR, "full")).await;
        }
        let answer = answerer.answer(opaque).await;
        assert_eq!(answer.code, response::SYSTEM_ERROR);
        assert!(answer.remark.as_ref().unwrap().contains(reason), "{:?}", answer.remark);
        assert!(answer.ext.get("MSG_REGION").is_some(), "Java reads the fields of every answer");
    }
    let opaque = answerer.post(reply(request::SEND_REPLY_MESSAGE_V2, "asker@1")).await;
    asker.request(request::PUSH_REPLY_MESSAGE_TO_CLIENT).await;
    drop(asker);
    let answer = answerer.answer(opaque).await;
    assert!(answer.remark.as_ref().unwrap().contains("the connection is closed"), "{:?}", answer.remark);
}

#[tokio::test]
async fn a_reply_that_is_a_half_message_is_refused_by_name() {
    let broker = World::new().start().await;
    let mut answerer = broker.connect().await;
    let half = Send::to(REPLIES).body("answer").property("REPLY_TO_CLIENT", "asker@1").half("key").command();
    let answer = answerer.call(Command { code: request::SEND_REPLY_MESSAGE_V2, ..half }).await;
    assert_eq!(answer.code, response::MESSAGE_ILLEGAL);
    assert!(answer.remark.as_ref().unwrap().contains("send it without TRAN_MSG"), "{:?}", answer.remark);
    assert_eq!(answerer.max_offset("RMQ_SYS_TRANS_HALF_TOPIC", 0).await, 0, "nothing is stored");
}

#[tokio::test]
async fn replies_need_not_be_stored() {
    let broker = World::new().start_with(|config| config.store_replies = false).await;
    let (mut asker, mut answerer) = (requester(&broker).await, broker.connect().await);
    let opaque = answerer.post(reply(request::SEND_REPLY_MESSAGE_V2, "asker@1")).await;
    let pushed = asker.request(request::PUSH_REPLY_MESSAGE_TO_CLIENT).await;
    asker.respond(pushed.response(response::SUCCESS)).await;
    let answer = answerer.answer(opaque).await;
    assert_eq!(answer.header::<SendMessageResponse>().unwrap().msg_id, "0");
    assert_eq!(answerer.max_offset(REPLIES, 0).await, 0);
}
