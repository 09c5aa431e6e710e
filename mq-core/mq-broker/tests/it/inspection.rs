//! Tools look into queues and tables, copy offsets, create many things at once, and are told what is not served.

use std::time::Duration;

use mq_protocol::body::{
    self, ConsumeQueueView, CorrectionOffsets, DelayOffsetTable, ProducerTable, SubscriptionGroup,
    SubscriptionGroupTable, SubscriptionGroups, SubscriptionOfGroup, TopicConfig, TopicConfigTable, TopicConfigs,
    TopicList,
};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{
    CheckTransactionState, CloneGroupOffset, CorrectionOffset, GetAllSubscriptionGroup,
    GetAllSubscriptionGroupResponse, GetAllTopicConfig, GetAllTopicConfigResponse, GroupForbidden, QueryConsumeQueue,
    QueryConsumerOffset, QuerySubscription, ResumeCheckHalf, UpdateConsumerOffset,
};
use mq_protocol::ids::{QueueId, QueueOffset};
use mq_protocol::java;
use mq_protocol::message_id::offset_id;
use mq_protocol::sys_flag::TRANSACTION_COMMIT;

use crate::harness::{Client, Pull, START, Send, World, end_at, until};

async fn ask<T: serde::de::DeserializeOwned>(client: &mut Client, request: Command) -> T {
    let answer = client.call(request).await;
    assert_eq!(answer.code, response::SUCCESS, "{:?}", answer.remark);
    body::from_json("answer", &answer.body).unwrap()
}

async fn refused(client: &mut Client, request: Command) -> (i32, String) {
    let answer = client.call(request).await;
    (answer.code, answer.remark.unwrap_or_default().to_string())
}

#[tokio::test]
async fn entries_of_a_queue_are_shown_with_what_a_group_makes_of_them() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    for tag in ["a", "b", "a"] {
        client.send(Send::to("orders").property("TAGS", tag)).await;
    }
    let view = |queue: u32, index, count, group: Option<&str>| {
        Command::request_with(
            request::QUERY_CONSUME_QUEUE,
            &QueryConsumeQueue {
                topic: "orders".into(),
                queue_id: QueueId(queue),
                index,
                count,
                consumer_group: group.map(Into::into),
            },
        )
    };
    let all: ConsumeQueueView = ask(&mut client, view(0, 0, 10, None)).await;
    assert_eq!((all.min_queue_index, all.max_queue_index, all.queue_data.len()), (0, 3, 3));
    assert_eq!(all.queue_data[1].tags_code, i64::from(java::string_hash("b")));
    assert!(all.subscription_data.is_none() && all.filter_data.is_none());
    let part: ConsumeQueueView = ask(&mut client, view(0, 1, 1, Some("g"))).await;
    assert_eq!((part.queue_data.len(), part.filter_data.as_deref()), (1, Some("g@orders is not online!")));
    client.heartbeat("c", &[], &[("g", "orders", "a")]).await;
    let online: ConsumeQueueView = ask(&mut client, view(0, -5, 10, Some("g"))).await;
    let passes: Vec<_> = online.queue_data.iter().map(|entry| entry.eval).collect();
    assert_eq!((passes, online.subscription_data.unwrap().sub_string), (vec![true, false, true], "a".to_owned()));
    let none: ConsumeQueueView = ask(&mut client, view(0, 3, 10, None)).await;
    assert!(none.queue_data.is_empty());
    assert_eq!(
        refused(&mut client, view(77, 0, 1, None)).await,
        (response::SYSTEM_ERROR, "77@orders is not exist!".into())
    );
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn tools_see_subscriptions_producers_system_topics_and_delays() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    client.heartbeat("c1", &["p"], &[("g", "orders", "paid")]).await;
    let header = QuerySubscription { group: "g".into(), topic: Some("orders".into()) };
    let known: SubscriptionOfGroup =
        ask(&mut client, Command::request_with(request::QUERY_SUBSCRIPTION_BY_CONSUMER, &header)).await;
    assert_eq!((&*known.group, &*known.topic, &*known.subscription_data.unwrap().sub_string), ("g", "orders", "paid"));
    let header = QuerySubscription { group: "h".into(), topic: Some("orders".into()) };
    let unknown: SubscriptionOfGroup =
        ask(&mut client, Command::request_with(request::QUERY_SUBSCRIPTION_BY_CONSUMER, &header)).await;
    assert!(unknown.subscription_data.is_none());

    let producers: ProducerTable = ask(&mut client, Command::request(request::GET_ALL_PRODUCER_INFO)).await;
    let info = &producers.data["p"][0];
    assert_eq!((&*info.client_id, &*info.remote_ip, info.last_update_timestamp), ("c1", "127.0.0.1", START.0));

    let topics: TopicList = ask(&mut client, Command::request(request::GET_SYSTEM_TOPIC_LIST_FROM_BROKER)).await;
    for name in ["TBW102", "SCHEDULE_TOPIC_XXXX", "DefaultCluster", "broker-a", "RMQ_SYS_TRACE_TOPIC"] {
        assert!(topics.topic_list.iter().any(|topic| topic == name), "{name}");
    }
    let delays: DelayOffsetTable = ask(&mut client, Command::request(request::GET_ALL_DELAY_OFFSET)).await;
    assert_eq!(delays.offset_table.len(), 18, "one a level");
    broker.stop().await.unwrap();
}

async fn offset(client: &mut Client, group: &str, queue: u32) -> Option<QueueOffset> {
    let header = QueryConsumerOffset {
        consumer_group: group.into(),
        topic: "orders".into(),
        queue_id: QueueId(queue),
        set_zero_if_not_found: Some(false),
        bname: None,
    };
    let answer = client.call(Command::request_with(request::QUERY_CONSUMER_OFFSET, &header)).await;
    (answer.code == response::SUCCESS).then(|| answer.header::<mq_protocol::header::OffsetResponse>().unwrap().offset)
}

#[tokio::test]
async fn offsets_of_a_group_are_copied_and_compared() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    client.send(Send::to("orders")).await;
    for (group, commits) in [("slow", [(0, 3), (1, 9)]), ("fast", [(0, 5), (1, 6)])] {
        client.heartbeat("c", &[], &[(group, "orders", "*")]).await;
        for (queue, offset) in commits {
            let header = UpdateConsumerOffset {
                consumer_group: group.into(),
                topic: "orders".into(),
                queue_id: QueueId(queue),
                commit_offset: offset,
                bname: None,
            };
            client.call(Command::request_with(request::UPDATE_CONSUMER_OFFSET, &header)).await;
        }
    }
    let copy = |source: &str, target: &str, topic: Option<&str>| {
        let (src_group, dest_group) = (source.into(), target.into());
        let header = CloneGroupOffset { src_group, dest_group, topic: topic.map(Into::into), offline: Some(false) };
        Command::request_with(request::CLONE_GROUP_OFFSET, &header)
    };
    for (request, code) in [
        (copy("slow", "new", None), response::SUCCESS),
        (copy("slow", "one", Some("orders")), response::SUCCESS),
        (copy("slow", "none", Some("gone")), response::SUCCESS),
        (copy("nobody", "none", None), response::SUCCESS),
        (copy("slow", "a b", None), response::INVALID_PARAMETER),
    ] {
        assert_eq!(client.call(request.clone()).await.code, code, "{request:?}");
    }
    for (group, held) in [("new", Some(QueueOffset(3))), ("one", Some(QueueOffset(3))), ("none", None)] {
        assert_eq!(offset(&mut client, group, 0).await, held, "{group}");
    }
    let header = CorrectionOffset {
        filter_groups: Some("new, one".into()),
        compare_group: "fast".into(),
        topic: "orders".into(),
    };
    let corrected: CorrectionOffsets =
        ask(&mut client, Command::request_with(request::QUERY_CORRECTION_OFFSET, &header)).await;
    assert_eq!(corrected.correction_offsets, [(0, 3), (1, 6)].into());
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn a_list_of_topics_or_groups_is_created_as_a_whole_or_not_at_all() {
    let world = World::new();
    let broker = world.start().await;
    let mut tool = broker.connect().await;
    let topic = |name: &str| TopicConfig {
        attributes: [("+message.type".to_owned(), "FIFO".to_owned())].into(),
        ..TopicConfig::new(name, 2, 6)
    };
    let topics = |names: &[&str]| {
        let body = TopicConfigs { topic_config_list: names.iter().map(|name| topic(name)).collect() };
        Command::request(request::UPDATE_AND_CREATE_TOPIC_LIST).with_body(body::to_json(&body))
    };
    let groups = |names: &[&str]| {
        let group = |name: &&str| SubscriptionGroup { group_name: (*name).into(), ..SubscriptionGroup::default() };
        let body = SubscriptionGroups { group_config_list: names.iter().map(group).collect() };
        Command::request(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST).with_body(body::to_json(&body))
    };
    for (request, code) in [
        (topics(&["t1", "bad name"]), response::INVALID_PARAMETER),
        (topics(&["t1", "TBW102"]), response::INVALID_PARAMETER),
        (topics(&["t2", "t3"]), response::SUCCESS),
        (topics(&[]), response::SUCCESS),
        (groups(&["g1", "bad name"]), response::INVALID_PARAMETER),
        (groups(&["g2", "g3"]), response::SUCCESS),
    ] {
        assert_eq!(tool.call(request.clone()).await.code, code, "{request:?}");
    }
    let table: TopicConfigTable = ask(&mut tool, Command::request(request::GET_ALL_TOPIC_CONFIG)).await;
    let there = |name: &str| table.topic_config_table.contains_key(name);
    assert_eq!((there("t1"), there("t2"), there("t3")), (false, true, true));
    assert_eq!(table.topic_config_table["t2"].attributes["message.type"], "FIFO");
    assert_eq!(table.data_version.counter, 1, "one change");
    let table: SubscriptionGroupTable =
        ask(&mut tool, Command::request(request::GET_ALL_SUBSCRIPTIONGROUP_CONFIG)).await;
    assert!(!table.subscription_group_table.contains_key("g1") && table.subscription_group_table.contains_key("g3"));
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn tables_come_in_pages_to_whoever_asks_for_them() {
    let world = World::new();
    let broker = world.start().await;
    let mut tool = broker.connect().await;
    let whole = tool.call(Command::request(request::GET_ALL_TOPIC_CONFIG)).await;
    let total = whole.header::<GetAllTopicConfigResponse>().unwrap().total_topic_num.unwrap();
    let whole: TopicConfigTable = body::from_json("topics", &whole.body).unwrap();
    assert_eq!(usize::try_from(total).unwrap(), whole.topic_config_table.len());
    let version = serde_json::to_string(&whole.data_version).unwrap();
    let mut seen = Vec::new();
    while seen.len() < total as usize {
        let page = GetAllTopicConfig {
            topic_seq: Some(seen.len() as i32),
            max_topic_num: Some(5),
            data_version: Some(version.as_str().into()),
        };
        let page: TopicConfigTable = ask(&mut tool, Command::request_with(request::GET_ALL_TOPIC_CONFIG, &page)).await;
        assert!((1..=5).contains(&page.topic_config_table.len()));
        seen.extend(page.topic_config_table.into_keys());
    }
    assert_eq!(seen, whole.topic_config_table.into_keys().collect::<Vec<_>>());

    let stale = GetAllSubscriptionGroup {
        group_seq: Some(3),
        max_group_num: Some(2),
        data_version: Some(r#"{"counter":77,"stateVersion":0,"timestamp":1}"#.into()),
    };
    let answer = tool.call(Command::request_with(request::GET_ALL_SUBSCRIPTIONGROUP_CONFIG, &stale)).await;
    let total = answer.header::<GetAllSubscriptionGroupResponse>().unwrap().total_group_num.unwrap();
    let page: SubscriptionGroupTable = body::from_json("groups", &answer.body).unwrap();
    assert!(total >= 8 && page.subscription_group_table.len() == 2);
    assert!(page.subscription_group_table.contains_key("CID_ONS-HTTP-PROXY"), "a changed table is read from its start");
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn a_group_that_is_kept_from_a_topic_reads_it_no_more() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    client.heartbeat("c", &[], &[("g", "orders", "*")]).await;
    client.send(Send::to("orders")).await;
    let set = |group: &str, topic: &str, readable| {
        let header = GroupForbidden { group: group.into(), topic: topic.into(), readable };
        Command::request_with(request::UPDATE_AND_GET_GROUP_FORBIDDEN, &header)
    };
    for (readable, told, code) in [
        (Some(false), false, response::NO_PERMISSION),
        (None, false, response::NO_PERMISSION),
        (Some(true), true, response::SUCCESS),
    ] {
        let answer = client.call(set("g", "orders", readable)).await;
        assert_eq!(answer.body, format!(r#"{{"group":"g","readable":{told},"topic":"orders"}}"#));
        assert_eq!(client.call(Pull::of("orders", 0, 0).by("g").command()).await.code, code);
    }
    assert_eq!(client.call(set("h", "orders", None)).await.code, response::SUBSCRIPTION_GROUP_NOT_EXIST);
    assert_eq!(client.call(set("g", "none", Some(false))).await.code, response::TOPIC_NOT_EXIST);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn what_this_broker_does_not_serve_it_refuses_by_name_and_reason() {
    let world = World::new();
    let broker = world.start().await;
    let mut tool = broker.connect().await;
    for (code, says) in [
        (354, "CHECK_ROCKSDB_CQ_WRITE_PROGRESS (354) is not supported: this broker keeps its queues"),
        (513, "UPDATE_AND_CREATE_STATIC_TOPIC (513) is not supported: static topics"),
        (902, "ADD_BROKER (902) is not supported: a process runs one broker"),
        (907, "GET_BROKER_HA_STATUS (907) is not supported: this broker is a master without slaves"),
        (1007, "GET_BROKER_EPOCH_CACHE (1007) is not supported: this broker is not run by a controller"),
        (2003, "GET_COLD_DATA_FLOW_CTR_INFO (2003) is not supported: reads of old messages"),
        (3005, "AUTH_LIST_USER (3005) is not supported: this broker has no users"),
        (1005, "CONTROLLER_GET_METADATA_INFO (1005) is not supported: this broker is not run by a controller"),
        (31_999, " request type 31999 not supported"),
    ] {
        let (answered, remark) = refused(&mut tool, Command::request(code)).await;
        assert_eq!(answered, response::REQUEST_CODE_NOT_SUPPORTED, "{code}");
        assert!(remark.starts_with(says), "{code}: {remark}");
    }
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn a_given_up_half_is_asked_about_again_when_an_operator_resumes_it() {
    const GIVEN_UP: &str = "TRANS_CHECK_MAX_TIME_TOPIC";
    let world = World::new();
    let broker = world.start_with(|config| config.transaction_check_max = 1).await;
    let mut client = broker.connect().await;
    client.heartbeat("c", &["producers"], &[]).await;
    client.send(Send::to("T").half("K").body("paid")).await;
    let plain = client.send(Send::to("other")).await;
    let ask_until = async |client: &mut Client, world: &World, done: u64| {
        until(async || {
            world.clock.advance(Duration::from_secs(40));
            client.max_offset(GIVEN_UP, 0).await >= done
        })
        .await;
    };
    ask_until(&mut client, &world, 1).await;
    client.request(request::CHECK_TRANSACTION_STATE).await;
    let parked = &client.pull(Pull::of(GIVEN_UP, 0, 0)).await[0];
    let id = offset_id(parked.message.store_host, parked.log_offset);
    let resume = |id: &str| {
        let header = ResumeCheckHalf { topic: Some(GIVEN_UP.into()), msg_id: id.into() };
        Command::request_with(request::RESUME_CHECK_HALF_MESSAGE, &header)
    };
    for (id, says) in [("no id", "\"no id\" is not the id"), (&*plain.msg_id, "the message lies in topic other;")] {
        let (code, remark) = refused(&mut client, resume(id)).await;
        assert_eq!(code, response::SYSTEM_ERROR);
        assert!(remark.starts_with(says), "{remark}");
    }
    assert_eq!(client.call(resume(&id)).await.code, response::SUCCESS);
    world.clock.advance(Duration::from_secs(7));
    let check = client.request(request::CHECK_TRANSACTION_STATE).await;
    let asked: CheckTransactionState = check.header().unwrap();
    let verdict = end_at(asked.tran_state_table_offset, asked.commit_log_offset, "producers", TRANSACTION_COMMIT);
    assert_eq!(client.call(verdict).await.code, response::SUCCESS);
    assert_eq!(client.pull(Pull::of("T", 0, 0)).await[0].message.body, "paid");
    let (code, remark) = refused(&mut client, resume(&id)).await;
    assert_eq!(code, response::ILLEGAL_OPERATION);
    assert!(remark.contains("p0 is committed by now: it can be resumed or resolved once"), "{remark}");
    assert_eq!(client.max_offset("T", 0).await, 1, "published once");
    broker.stop().await.unwrap();
    let audit = std::fs::read_to_string(world.directory.path().join("checkback/audit.jsonl")).unwrap();
    let lines: Vec<_> = audit.lines().collect();
    assert_eq!(lines.len(), 4, "{audit}");
    assert!(lines[1].contains("asked about again, as half 1") && lines[3].contains("refused: "), "{audit}");
    assert!(lines.iter().all(|line| line.contains("\"parked\":0") && line.contains("mqadmin")), "{audit}");
}
