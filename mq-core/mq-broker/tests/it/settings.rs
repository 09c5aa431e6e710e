//! Settings of a running broker: read, changed, kept.

use std::collections::HashMap;
use std::time::Duration;

use mq_broker::config::java_properties;
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::BrokerConfigResponse;

use crate::harness::{Client, Pull, Send, World};

async fn read(tool: &mut Client) -> (HashMap<String, String>, String) {
    let answer = tool.call(Command::request(request::GET_BROKER_CONFIG)).await;
    let text = std::str::from_utf8(&answer.body).unwrap();
    (
        java_properties::parse(text).into_iter().collect(),
        answer.header::<BrokerConfigResponse>().unwrap().version.into(),
    )
}

fn update(text: &'static str) -> Command {
    Command::request(request::UPDATE_BROKER_CONFIG).with_body(text)
}

#[tokio::test]
async fn a_changed_setting_works_at_once_and_outlives_the_broker() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    client.send(Send::to("orders")).await;
    let (before, first_version) = read(&mut client).await;
    assert_eq!((&*before["transactionCheckInterval"], &*before["brokerName"]), ("30000", "broker-a"));

    assert_eq!(client.call(update("autoCreateTopicEnable=false\nrejectTransactionMessage=true\n")).await.code, 0);
    assert_eq!(client.call(Send::to("new").command()).await.code, response::TOPIC_NOT_EXIST);
    assert_eq!(client.call(Send::to("orders").half("K").command()).await.code, response::NO_PERMISSION);
    assert_eq!(client.call(update("brokerPermission=2\n")).await.code, 0);
    assert_eq!(client.call(Pull::of("orders", 0, 0).command()).await.code, response::NO_PERMISSION);
    let (after, version) = read(&mut client).await;
    assert_eq!((&*after["brokerPermission"], &*after["autoCreateTopicEnable"]), ("2", "false"));
    assert!(version.starts_with(r#"{"counter":2,"#) && first_version.starts_with(r#"{"counter":0,"#), "{version}");

    let answer = client.call(update("flushDiskType=ASYNC_FLUSH")).await;
    assert_eq!(answer.remark.as_deref(), Some("saved; takes effect at the next start: flushDiskType"));
    broker.stop().await.unwrap();

    let broker = world.start().await;
    let mut client = broker.connect().await;
    let (kept, _) = read(&mut client).await;
    for (key, value) in
        [("brokerPermission", "2"), ("autoCreateTopicEnable", "false"), ("flushDiskType", "ASYNC_FLUSH")]
    {
        assert_eq!(kept[key], value, "{key}");
    }
    assert_eq!(client.call(Send::to("new").command()).await.code, response::TOPIC_NOT_EXIST);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn the_schedule_of_checks_changes_while_halves_wait() {
    let world = World::new();
    let broker = world.start_with(|config| config.transaction_timeout = Duration::from_secs(3600)).await;
    let mut client = broker.connect().await;
    client.heartbeat("c", &["producers"], &[]).await;
    assert_eq!(client.call(update("transactionTimeOut=1000")).await.code, response::SUCCESS);
    client.send(Send::to("T").half("K")).await;
    world.clock.advance(Duration::from_secs(2));
    client.request(request::CHECK_TRANSACTION_STATE).await;
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn a_change_that_cannot_be_is_refused_as_a_whole() {
    let world = World::new();
    let broker = world.start().await;
    let mut tool = broker.connect().await;
    for (text, code, says) in [
        ("brokerPermission=4\nlistenPort=1", response::NO_PERMISSION, "listenPort can only be set in broker.conf"),
        ("brokerPermission=4\nstorePathRootDir=/x", response::NO_PERMISSION, "storePathRootDir can only be set"),
        (
            "brokerPermission=4\ntransactionCheckMax=many",
            response::INVALID_PARAMETER,
            "transactionCheckMax=many: a number",
        ),
        ("brokerPermission=4\nbrokerRole=SLAVE", response::INVALID_PARAMETER, "brokerRole=SLAVE is not supported"),
        (
            "brokerPermission=4\ntransactionChekMax=1",
            response::INVALID_PARAMETER,
            "unknown key transactionChekMax; did",
        ),
    ] {
        let answer = tool.call(update(text)).await;
        assert_eq!(answer.code, code, "{text}");
        let remark = answer.remark.unwrap();
        assert!(remark.starts_with(says), "{remark}");
    }
    assert_eq!(read(&mut tool).await.0["brokerPermission"], "6");
    broker.stop().await.unwrap();
}
