//! What tools do: create, read, change and delete topics and groups, and look who is there.

use mq_protocol::body::{self, SubscriptionGroup, SubscriptionGroupTable, TopicConfig, TopicConfigTable, TopicList};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{
    ConsumerConnectionList, CreateTopic, DeleteSubscriptionGroup, GetTopicConfig, GroupName, ProducerConnectionList,
    TopicName,
};

use crate::harness::{Client, Pull, Send, World, pulled};

pub(crate) fn create(topic: &str, queues: i32, perm: i32, attributes: &str) -> Command {
    let header = CreateTopic {
        topic: topic.into(),
        default_topic: Some("TBW102".into()),
        read_queue_nums: queues,
        write_queue_nums: queues,
        perm,
        topic_filter_type: Some("SINGLE_TAG".into()),
        topic_sys_flag: Some(0),
        order: Some(false),
        attributes: Some(attributes.into()),
        force: None,
    };
    Command::request_with(request::UPDATE_AND_CREATE_TOPIC, &header)
}

fn delete(topic: &str) -> Command {
    Command::request_with(request::DELETE_TOPIC_IN_BROKER, &TopicName { topic: topic.into() })
}

fn read(topic: &str) -> Command {
    Command::request_with(request::GET_TOPIC_CONFIG, &GetTopicConfig { topic: topic.into(), lo: Some(true) })
}

pub(crate) fn group(name: &str, retries: i32) -> Command {
    let config =
        SubscriptionGroup { group_name: name.into(), retry_max_times: retries, ..SubscriptionGroup::default() };
    Command::request(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP).with_body(body::to_json(&config))
}

fn read_group(name: &str) -> Command {
    Command::request_with(request::GET_SUBSCRIPTIONGROUP_CONFIG, &GroupName { group: name.into() })
}

async fn check(client: &mut Client, cases: impl IntoIterator<Item = (Command, i32)>) {
    for (request, code) in cases {
        let answer = client.call(request.clone()).await;
        assert_eq!(answer.code, code, "{request:?}: {:?}", answer.remark);
        assert_eq!(answer.remark.is_some(), code != response::SUCCESS, "every refusal says why");
    }
}

#[tokio::test]
async fn what_a_tool_may_not_do_is_refused_and_changes_nothing() {
    let broker = World::new().start().await;
    let mut tool = broker.connect().await;
    let refused = response::INVALID_PARAMETER;
    check(
        &mut tool,
        [
            (create("a b", 4, 6, ""), refused),
            (create("", 4, 6, ""), refused),
            (create("TBW102", 4, 6, ""), refused),
            (create("orders", 0, 6, ""), refused),
            (create("orders", -4, 6, ""), refused),
            (create("orders", i32::MAX, 6, ""), refused),
            (create("orders", 4, 99, ""), refused),
            (create("orders", 4, 6, "+colour=red"), refused),
            (Command::request(request::UPDATE_AND_CREATE_TOPIC), refused),
            (read("orders"), response::TOPIC_NOT_EXIST),
            (delete(" "), refused),
            (delete("../config"), refused),
            (delete("RMQ_SYS_TRANS_HALF_TOPIC"), refused),
            (delete("orders"), response::SUCCESS),
            (group("g 1", 3), refused),
            (group("", 3), refused),
            (Command::request(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP), refused),
            (read_group("g"), response::SUBSCRIPTION_GROUP_NOT_EXIST),
        ],
    )
    .await;
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn topics_and_groups_outlive_the_broker() {
    let world = World::new();
    let broker = world.start().await;
    let mut tool = broker.connect().await;
    check(
        &mut tool,
        [
            (create("orders", 2, 6, "+message.type=FIFO"), response::SUCCESS),
            (create("gone", 2, 6, ""), response::SUCCESS),
            (delete("gone"), response::SUCCESS),
            (group("g", 3), response::SUCCESS),
            (group("temporary", 3), response::SUCCESS),
        ],
    )
    .await;
    let remove = DeleteSubscriptionGroup { group_name: "temporary".into(), clean_offset: Some(true) };
    check(&mut tool, [(Command::request_with(request::DELETE_SUBSCRIPTIONGROUP, &remove), response::SUCCESS)]).await;
    broker.stop().await.unwrap();

    let broker = world.start().await;
    let mut tool = broker.connect().await;
    let config: TopicConfig = body::from_json("topic", &tool.call(read("orders")).await.body).unwrap();
    assert_eq!((config.read_queue_nums, &*config.attributes["message.type"]), (2, "FIFO"));
    let config: SubscriptionGroup = body::from_json("group", &tool.call(read_group("g")).await.body).unwrap();
    assert_eq!(config.retry_max_times, 3);
    let topics = tool.call(Command::request(request::GET_ALL_TOPIC_CONFIG)).await;
    let topics: TopicConfigTable = body::from_json("topics", &topics.body).unwrap();
    let groups = tool.call(Command::request(request::GET_ALL_SUBSCRIPTIONGROUP_CONFIG)).await;
    let groups: SubscriptionGroupTable = body::from_json("groups", &groups.body).unwrap();
    assert!(topics.topic_config_table.contains_key("TBW102") && !topics.topic_config_table.contains_key("gone"));
    assert!(groups.subscription_group_table.contains_key("g"));
    assert!(!groups.subscription_group_table.contains_key("temporary"));
    assert_eq!((topics.data_version.counter, groups.data_version.counter), (3, 3));
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn a_deleted_topic_takes_its_messages_along() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    client.send(Send::to("orders")).await;
    check(&mut client, [(delete("orders"), response::SUCCESS), (read("orders"), response::TOPIC_NOT_EXIST)]).await;
    assert_eq!(client.call(Pull::of("orders", 0, 0).command()).await.code, response::TOPIC_NOT_EXIST);
    let again = client.send(Send::to("orders").body("new")).await.queue_offset.0;
    assert_eq!(again, 1, "the numbering goes on, so that no old offset points at a new message");
    let (code, next, ..) = pulled(&client.call(Pull::of("orders", 0, 0).command()).await);
    assert_eq!((code, next), (response::PULL_OFFSET_MOVED, 1));
    assert_eq!(pulled(&client.call(Pull::of("orders", 0, 1).command()).await).4, ["new"]);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn tools_see_who_is_connected_and_who_reads_what() {
    let broker = World::new().start().await;
    let mut tool = broker.connect().await;
    let mut client = broker.connect().await;
    let consumers = |group: &str| {
        let header = ConsumerConnectionList { consumer_group: group.into() };
        Command::request_with(request::GET_CONSUMER_CONNECTION_LIST, &header)
    };
    let producers = |group: &str| {
        let header = ProducerConnectionList { producer_group: group.into() };
        Command::request_with(request::GET_PRODUCER_CONNECTION_LIST, &header)
    };
    check(&mut tool, [(consumers("g"), response::CONSUMER_NOT_ONLINE), (producers("p"), response::SYSTEM_ERROR)]).await;
    client.heartbeat("c1", &["p"], &[("g", "orders", "paid")]).await;
    let online: serde_json::Value = serde_json::from_slice(&tool.call(consumers("g")).await.body).unwrap();
    assert_eq!(online["connectionSet"][0]["clientId"], "c1");
    assert_eq!(online["subscriptionTable"]["orders"]["subString"], "paid");
    assert_eq!((&online["messageModel"], &online["consumeType"]), (&"CLUSTERING".into(), &"CONSUME_PASSIVELY".into()));
    let online: serde_json::Value = serde_json::from_slice(&tool.call(producers("p")).await.body).unwrap();
    assert_eq!(online["connectionSet"][0]["language"], "JAVA");

    let who = Command::request_with(request::QUERY_TOPIC_CONSUME_BY_WHO, &TopicName { topic: "orders".into() });
    assert_eq!(tool.call(who).await.body, r#"{"groupList":["g"]}"#);
    let what = Command::request_with(request::QUERY_TOPICS_BY_CONSUMER, &GroupName { group: "g".into() });
    let list: TopicList = body::from_json("topics", &tool.call(what).await.body).unwrap();
    assert!(list.topic_list.is_empty(), "nothing is consumed yet");
    broker.stop().await.unwrap();
}
