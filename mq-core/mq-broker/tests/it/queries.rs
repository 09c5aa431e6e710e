//! Messages by key: request 12 as tools send it.

use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::header::{QueryMessage, QueryMessageResponse};
use mq_protocol::ids::UnixMillis;
use mq_protocol::record;

use crate::harness::{Client, START, Send, World};

fn query(topic: &str, key: &str, unique: Option<bool>) -> QueryMessage {
    QueryMessage {
        topic: topic.into(),
        key: key.into(),
        max_num: 100,
        begin_timestamp: UnixMillis(0),
        end_timestamp: UnixMillis(i64::MAX),
        unique_key_query: unique,
        index_type: None,
    }
}

async fn ask(client: &mut Client, header: &QueryMessage) -> Command {
    client.call(Command::request_with(request::QUERY_MESSAGE, header)).await
}

fn bodies(answer: &Command) -> Vec<String> {
    let stored = record::decode_all(&answer.body).unwrap();
    stored.into_iter().map(|stored| String::from_utf8(stored.message.body.to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn messages_are_found_by_each_word_of_their_keys_and_by_their_unique_key_at_once() {
    let world = World::new();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    for number in 0..70 {
        let send = Send::to("orders").property("UNIQ_KEY", format!("u{number}")).property("KEYS", "each all");
        client.send(send.body(number.to_string())).await;
    }
    let numbers = |from: i32| (from..70).map(|number| number.to_string()).collect::<Vec<_>>();
    let answer = ask(&mut client, &query("orders", "all", None)).await;
    assert_eq!((answer.code, bodies(&answer)), (response::SUCCESS, numbers(6)), "64 at most, the newest");
    let marks: QueryMessageResponse = answer.header().unwrap();
    assert_eq!(marks.index_last_update_timestamp, START);
    let few = QueryMessage { max_num: 2, ..query("orders", "each", Some(false)) };
    assert_eq!(bodies(&ask(&mut client, &few).await), numbers(68));
    assert_eq!(bodies(&ask(&mut client, &query("orders", "u7", Some(true))).await), ["7"]);

    for (what, header) in [
        ("another topic", query("others", "all", None)),
        ("a word as a unique key", query("orders", "all", Some(true))),
        ("a time before", QueryMessage { end_timestamp: UnixMillis(START.0 - 1), ..query("orders", "all", None) }),
    ] {
        let answer = ask(&mut client, &header).await;
        assert_eq!(answer.code, response::QUERY_NOT_FOUND, "{what}: {:?}", answer.remark);
        assert!(answer.header::<QueryMessageResponse>().is_ok(), "{what}: the marks are there all the same");
    }

    broker.stop().await.unwrap();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    assert_eq!(bodies(&ask(&mut client, &query("orders", "u7", Some(true))).await), ["7"], "after a restart");
    broker.stop().await.unwrap();
    let broker = world.start_with(|config| config.index_messages = false).await;
    let answer = ask(&mut broker.connect().await, &query("orders", "u7", Some(true))).await;
    assert_eq!(answer.code, response::SERVICE_NOT_AVAILABLE);
    assert!(answer.remark.unwrap().contains("messageIndexEnable=false"));
}
