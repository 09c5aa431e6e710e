//! Settings and topics that a tool changes in a running name server.

use mq_namesrv::NamesrvConfig;
use mq_protocol::body::{self, QueueData, TopicList, TopicRoute};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::java_properties;

use crate::client::Client;
use crate::{Running, json_registration, register, route_of, with_fields};

fn update(text: &'static str) -> Command {
    Command::request(request::UPDATE_NAMESRV_CONFIG).with_body(text)
}

async fn setting(client: &mut Client, key: &str) -> Option<String> {
    let answer = client.call(Command::request(request::GET_NAMESRV_CONFIG)).await;
    let pairs = java_properties::parse(std::str::from_utf8(&answer.body).expect("text"));
    pairs.into_iter().find(|(held, _)| held == key).map(|(_, value)| value)
}

#[tokio::test]
async fn a_changed_setting_works_at_once_and_outlives_the_server() {
    let directory = tempfile::tempdir().expect("a directory");
    let config =
        || NamesrvConfig { kv_config_path: Some(directory.path().join("kvConfig.json")), ..NamesrvConfig::default() };
    let server = Running::start(config()).await;
    let mut client = server.client().await;
    let list = || Command::request(request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER);
    assert_eq!(client.call(list()).await.code, response::SUCCESS);
    assert_eq!(client.call(update("enableAllTopicList=false")).await.code, response::SUCCESS);
    let said = client.call(update("serverWorkerThreads=8")).await.remark;
    assert_eq!(said.as_deref(), Some("serverWorkerThreads has no effect on this name server"));
    server.stop().await;

    let server = Running::start(config()).await;
    let mut client = server.client().await;
    let refused = client.call(list()).await;
    assert_eq!(refused.code, response::SYSTEM_ERROR);
    assert!(refused.remark.expect("a reason").starts_with("disable: "));
    assert_eq!(setting(&mut client, "enableAllTopicList").await.as_deref(), Some("false"));
    for (text, code, says) in [
        ("kvConfigPath=/x", response::NO_PERMISSION, "kvConfigPath cannot be changed"),
        ("enableTopicList=maybe", response::SYSTEM_ERROR, "enableTopicList=maybe: true or false is expected"),
        ("enableTopicList=false\nenableTopicLst=false", response::SYSTEM_ERROR, "enableTopicLst is not a setting"),
    ] {
        let answer = client.call(update(text)).await;
        assert_eq!(answer.code, code, "{text}");
        assert!(answer.remark.expect("a reason").starts_with(says), "{text}");
    }
    assert_eq!(setting(&mut client, "enableTopicList").await.as_deref(), Some("true"));
    server.stop().await;
}

#[tokio::test]
async fn topics_can_be_added_to_known_brokers_and_listed_by_their_flags() {
    let server = Running::start(NamesrvConfig::default()).await;
    let mut client = server.client().await;
    client.call(register("a", false, json_registration())).await;
    for (topic, broker, flag) in [("unit", "a", 1), ("both", "a", 3), ("subscribed", "a", 2), ("lost", "nobody", 1)] {
        let queues = QueueData { broker_name: broker.into(), perm: 6, topic_sys_flag: flag, ..QueueData::default() };
        let route = TopicRoute { queue_datas: vec![queues], ..TopicRoute::default() };
        let request = with_fields(request::REGISTER_TOPIC_IN_NAMESRV, &[("topic", topic)]);
        assert_eq!(client.call(request.with_body(body::to_json(&route))).await.code, response::SUCCESS);
    }
    for (code, names) in [
        (request::GET_UNIT_TOPIC_LIST, vec!["both", "unit"]),
        (request::GET_HAS_UNIT_SUB_TOPIC_LIST, vec!["both", "subscribed"]),
        (request::GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST, vec!["subscribed"]),
    ] {
        let list: TopicList =
            body::from_json("topics", &client.call(Command::request(code)).await.body).expect("a list");
        assert_eq!(list.topic_list, names, "{code}");
    }
    assert_eq!(client.call(route_of("lost")).await.code, response::TOPIC_NOT_EXIST);
    server.stop().await;
}

#[tokio::test]
async fn a_static_order_is_told_to_clients_and_brokers_as_far_as_it_is_enabled() {
    let server = Running::start(NamesrvConfig::default()).await;
    let mut client = server.client().await;
    let order = [("namespace", "ORDER_TOPIC_CONFIG"), ("key", "T"), ("value", "a:4")];
    assert_eq!(client.call(with_fields(request::PUT_KV_CONFIG, &order)).await.code, response::SUCCESS);
    for (change, to_clients, to_brokers) in [
        ("", false, true),
        ("orderMessageEnable=true", true, true),
        ("returnOrderTopicConfigToBroker=false", true, false),
        ("orderMessageEnable=false\nreturnOrderTopicConfigToBroker=true", false, true),
    ] {
        assert_eq!(client.call(update(change)).await.code, response::SUCCESS);
        let registered = client.call(register("a", false, json_registration())).await;
        let table: &[u8] = if to_brokers { br#"{"table":{"T":"a:4"}}"# } else { b"" };
        assert_eq!(&registered.body[..], table, "{change}");
        let route: TopicRoute = body::from_json("route", &client.call(route_of("T")).await.body).expect("a route");
        assert_eq!(route.order_topic_conf.as_deref(), to_clients.then_some("a:4"), "{change}");
        assert_eq!(setting(&mut client, "orderMessageEnable").await, Some(to_clients.to_string()), "{change}");
    }
    server.stop().await;
}
