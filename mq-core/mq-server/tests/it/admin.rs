//! `mq admin` against a broker that runs: every verb once, as a program reads it.

use mq_client::{Action, ConsumeFrom, Filter, Message, Producer, PushConsumer, SendReceipt, TRACE_TOPIC};
use serde_json::{Value, json};

use crate::process::{Mq, PATIENCE, printed};

/// An operator at a shell.
struct Operator {
    name_server: String,
}

impl Operator {
    fn json(&self, words: &str) -> Value {
        let (success, said, error) = self.run(words);
        assert!(success, "mq admin {words}: {error}");
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("mq admin {words}: {error}: {said}"))
    }

    fn refused(&self, words: &str) -> String {
        let (success, said, error) = self.run(words);
        assert!(!success, "mq admin {words}: {said}");
        error
    }

    fn run(&self, words: &str) -> (bool, String, String) {
        let mut arguments = vec!["admin", "--namesrv", &self.name_server, "--output", "json"];
        arguments.extend(words.split(' '));
        printed(&arguments)
    }

    /// Asks until there is an answer: an index is a moment behind.
    fn found(&self, words: &str) -> Value {
        let started = std::time::Instant::now();
        while !self.run(words).0 {
            assert!(started.elapsed() < PATIENCE, "mq admin {words} finds nothing");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        self.json(words)
    }

    /// Asks until the answer is as it should be.
    fn until(&self, words: &str, good: impl Fn(&Value) -> bool) -> Value {
        let started = std::time::Instant::now();
        loop {
            let answer = self.json(words);
            if good(&answer) {
                return answer;
            }
            assert!(started.elapsed() < PATIENCE, "mq admin {words}: {answer}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

fn column(answer: &Value, name: &str) -> Vec<Value> {
    answer.as_array().expect("rows").iter().map(|row| row[name].clone()).collect()
}

#[test]
fn an_operator_sees_and_changes_topics_groups_offsets_messages_and_settings() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut mq = Mq::up(directory.path(), &[]);
    mq.until_ready();
    let operator = Operator { name_server: mq.address("name server").to_string() };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");

    topics(&operator);
    let receipts = runtime.block_on(send(&operator.name_server));
    messages(&operator, &receipts);
    groups(&operator, &runtime);
    brokers(&operator);
    keys(&operator);
    let gone = operator.refused("topic delete orders");
    assert!(gone.contains("orders was not typed"), "{gone}");
    assert_eq!(operator.json("topic delete orders --yes"), json!({"done": "topic orders is deleted"}));
    assert_eq!(operator.json("topic list"), json!([]));
    assert!(mq.stop().success());
}

fn topics(operator: &Operator) {
    operator.json("topic create orders --queues 2");
    assert_eq!(operator.json("topic list"), json!([{"topic": "orders"}]));
    assert!(column(&operator.json("topic list --all"), "topic").contains(&"TBW102".into()));
    let route = operator.json("topic route orders");
    assert_eq!((column(&route, "perm"), column(&route, "read_queues")), (vec!["rw".into()], vec![2.into()]));
    operator.json("topic create orders --queues 2 --perm r");
    operator.until("topic route orders", |route| column(route, "perm") == ["r"]);
    operator.json("topic create orders --queues 2");
    operator.until("topic route orders", |route| column(route, "perm") == ["rw"]);
}

async fn send(name_server: &str) -> Vec<SendReceipt> {
    let producer = Producer::builder(name_server).group("shop");
    let producer = producer.options(|options| options.trace = Some(TRACE_TOPIC.into())).build().await.expect("valid");
    let mut receipts = Vec::new();
    for number in 0..10 {
        let message = Message::new("orders", format!("order {number}")).key(format!("no-{number}")).tags("t");
        receipts.push(producer.send(message).await.expect("stored"));
    }
    producer.close().await;
    receipts
}

fn messages(operator: &Operator, receipts: &[SendReceipt]) {
    let status = operator.json("topic status orders");
    assert_eq!(column(&status, "messages"), [5, 5]);
    let value = |fields: &Value, name: &str| {
        let of = |row: &&Value| row["field"] == name;
        fields.as_array().expect("rows").iter().find(of).map(|row| row["value"].clone())
    };
    let first = operator.json(&format!("message get {}", receipts[0].offset_message_id));
    assert_eq!(value(&first, "body"), Some("order 0".into()));
    assert_eq!(value(&first, "KEYS"), Some("no-0".into()));
    let found = operator.until("message query orders no-3", |found| !found.as_array().expect("rows").is_empty());
    assert_eq!(column(&found, "body"), ["order 3"]);
    let same = operator.json(&format!("message get {} --topic orders", receipts[3].message_id));
    assert_eq!(value(&same, "body"), Some("order 3".into()));
    assert!(operator.refused("message query orders nothing").contains("has the key nothing"));
    let trace = operator.found(&format!("message trace --id {}", receipts[0].message_id));
    assert_eq!(
        (&trace[0]["event"], &trace[0]["group"], &trace[0]["outcome"]),
        (&json!("sent"), &json!("shop"), &json!("success"))
    );
    assert!(operator.refused("message trace --id nobody").contains("says nothing of nobody"));
}

fn groups(operator: &Operator, runtime: &tokio::runtime::Runtime) {
    operator.json("group create packers --retry-max-times 3 --from start");
    let groups = operator.json("group list");
    let ours = groups.as_array().expect("rows").iter().find(|row| row["group"] == "packers").expect("listed");
    assert_eq!((&ours["retries"], &ours["starts_from"]), (&json!(3), &json!("first")));
    let consumer = runtime.block_on(async {
        let builder = PushConsumer::builder(&operator.name_server).group("packers");
        let builder = builder.subscribe("orders", Filter::all()).consume_from(ConsumeFrom::First);
        builder.concurrent(|_| std::future::ready(Action::Ack)).start().await.expect("valid")
    });
    let total = |answer: &Value, name: &str| -> i64 { column(answer, name).iter().filter_map(Value::as_i64).sum() };
    let progress = "group progress packers --topic orders";
    let done = operator.until(progress, |answer| total(answer, "committed") == 10);
    assert_eq!(total(&done, "lag"), 0);
    let clients = operator.json("group clients packers");
    assert_eq!(column(&clients, "model"), ["CLUSTERING"]);
    assert!(clients[0]["subscriptions"].as_str().expect("text").contains("orders:*"), "{clients}");
    runtime.block_on(consumer.shut_down());
    let row = |answer: &Value| answer.as_array().expect("rows").iter().find(|row| row["group"] == "packers").cloned();
    assert_eq!(row(&operator.json("group lag")), None, "nothing is behind");
    assert!(row(&operator.json("group lag --all")).is_some());

    let dry = operator.json("offset reset packers orders --to start");
    assert_eq!((total(&dry, "from"), total(&dry, "to"), total(&dry, "messages")), (10, 0, -10));
    assert_eq!(total(&operator.json(progress), "committed"), 10, "a dry run changes nothing");
    operator.json("offset reset packers orders --to start --apply");
    operator.until(progress, |answer| total(answer, "lag") == 10);
    let behind = row(&operator.json("group lag")).expect("listed");
    assert_eq!((&behind["topic"], &behind["lag"]), (&json!("orders"), &json!(10)));
    let health = operator.json("broker health");
    assert_eq!(
        (&health[0]["lag"], &health[0]["pending_halves"], &health[0]["timers"]),
        (&json!(10), &json!(0), &json!(0))
    );
    assert!(health[0]["disk_free"].as_str().is_some_and(|free| free.ends_with("iB")), "{health}");
    operator.json("offset skip packers orders --apply");
    operator.until(progress, |answer| total(answer, "lag") == 0);
    assert_eq!(operator.json("group delete packers --yes"), json!({"done": "group packers is deleted"}));
}

fn brokers(operator: &Operator) {
    let list = operator.json("cluster list");
    assert_eq!(column(&list, "in_today").iter().filter_map(Value::as_i64).filter(|count| *count >= 10).count(), 1);
    let status = operator.json("broker status");
    assert!(column(&status, "figure").contains(&"msgPutTotalTodayNow".into()), "{status}");
    assert!(operator.refused("broker status --broker nobody").contains("there is no broker nobody; there are "));
    let key = |key: &str| operator.json(&format!("broker config {key}"))[0]["value"].clone();
    assert_eq!(key("fileReservedTime"), "72");
    operator.json("broker set fileReservedTime=48");
    assert_eq!(key("fileReservedTime"), "48");
}

fn keys(operator: &Operator) {
    operator.json("kv put shop colour blue");
    assert_eq!(operator.json("kv list shop"), json!([{"key": "colour", "value": "blue"}]));
    operator.json("kv delete shop colour");
    assert_eq!(operator.json("kv list shop"), json!([]));
}
