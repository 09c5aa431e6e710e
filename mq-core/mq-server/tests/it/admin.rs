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
    by_hand(&operator, directory.path());
    let gone = operator.refused("topic delete orders");
    assert!(gone.contains("orders was not typed"), "{gone}");
    assert_eq!(operator.json("topic delete orders --yes"), json!({"done": "topic orders is deleted"}));
    assert_eq!(operator.json("topic delete orders --yes"), json!({"done": "topic orders was not there"}));
    assert_eq!(operator.json("topic list"), json!([]));
    slips(&operator, &mq);
    assert!(mq.stop().success());
}

/// What is not done is said, and why.
fn slips(operator: &Operator, mq: &Mq) {
    for changing in [
        "topic create orders",
        "topic order orders --delete",
        "group delete packers --yes",
        "offset skip packers orders --apply",
        "message send orders x",
        "message resend packers --key x",
        "kv put shop colour red",
        "broker set fileReservedTime=1",
        "namesrv set orderMessageEnable=true",
        "txn resume 1",
    ] {
        let refused = operator.refused(&format!("{changing} --watch 1"));
        assert!(refused.contains("this command changes something: nothing was done"), "{changing}: {refused}");
    }
    assert_eq!(operator.json("topic list"), json!([]));
    let broker = mq.broker().to_string();
    let (success, _, said) = printed(&["admin", "--namesrv", &broker, "topic", "list"]);
    assert!(!success && said.contains(&format!("{broker} answers, but is no name server")), "{said}");
    let refused = operator.refused("group progress strangers");
    assert!(refused.contains("no broker knows group strangers"), "{refused}");
    operator.json("group create newcomers");
    let (success, said, _) = printed(&["admin", "--namesrv", &operator.name_server, "group", "progress", "newcomers"]);
    assert!(success && said.contains("has committed nothing yet; 0 of its clients online"), "{said}");
}

fn topics(operator: &Operator) {
    operator.json("topic create orders --queues 2");
    assert_eq!(operator.json("topic list"), json!([{"topic": "orders"}]));
    assert!(column(&operator.json("topic list --all"), "topic").contains(&"TBW102".into()));
    let route = operator.json("topic route orders");
    assert_eq!((column(&route, "perm"), column(&route, "read_queues")), (vec!["rw".into()], vec![2.into()]));
    operator.json("topic create orders --queues 2 --perm r");
    operator.until("topic route orders", |route| column(route, "perm") == ["r"]);
    operator.json("topic create orders --attributes +message.type=NORMAL");
    let route = operator.json("topic route orders");
    assert_eq!((column(&route, "perm"), column(&route, "read_queues")), (vec!["r".into()], vec![2.into()]));
    let refused = operator.refused("topic create orders --queues 1");
    assert!(refused.contains("2 queues") && refused.contains("--shrink"), "{refused}");
    operator.json("topic create orders --perm rw");
    operator.until("topic route orders", |route| column(route, "perm") == ["rw"]);
}

/// What is created from files, sent, read, shared out and cleaned by hand.
fn by_hand(operator: &Operator, directory: &std::path::Path) {
    let topics = directory.join("topics.json");
    std::fs::write(&topics, r#"[{"topicName":"parcels","readQueueNums":2,"writeQueueNums":2}]"#).expect("written");
    operator.json(&format!("topic import {}", topics.display()));
    let groups = directory.join("groups.json");
    std::fs::write(&groups, r#"[{"groupName":"drivers","retryMaxTimes":5},{"groupName":"heirs"}]"#).expect("written");
    operator.json(&format!("group import {}", groups.display()));
    let of = |answer: &Value, column: &str, key: &str| {
        let row = answer.as_array().expect("rows").iter().find(|row| row[column] == key).cloned();
        row.unwrap_or_else(|| panic!("no {key} in {answer}"))["value"].clone()
    };
    assert_eq!(of(&operator.json("group show drivers"), "key", "retryMaxTimes"), 5);
    assert!(operator.refused("group show nobody").contains("nobody"));
    operator.json("topic perm parcels r");
    operator.until("topic route parcels", |route| column(route, "perm") == ["r"]);
    operator.json("topic perm parcels rw");
    let route = operator.until("topic route parcels", |route| column(route, "perm") == ["rw"]);
    assert_eq!((&route[0]["read_queues"], &route[0]["cluster"]), (&json!(2), &json!("DefaultCluster")));
    let shared = operator.json("topic allocate parcels b a");
    assert_eq!(
        (column(&shared, "client"), column(&shared, "queue")),
        (vec!["a".into(), "b".into()], vec![0.into(), 1.into()])
    );

    let sent = operator.json("message send parcels one --queue 1 --key p-1 --key p-2 --tags heavy --count 3 --trace");
    assert_eq!(
        (column(&sent, "queue"), column(&sent, "offset")),
        (vec![json!(1); 3], vec![json!(0), json!(1), json!(2)])
    );
    assert_eq!(column(&sent, "outcome"), ["SendOk"; 3]);
    operator.json("message send parcels two --property colour=blue --queue 0");
    assert!(operator.refused("message send parcels lost --queue 7").contains("has no such queue"));
    assert_eq!(column(&operator.json("message read parcels"), "body"), ["one", "one", "one", "two"]);
    let heavy = operator.json("message read parcels --tags heavy --queue 1 --offset 1");
    assert_eq!(
        (column(&heavy, "offset"), column(&heavy, "keys")),
        (vec![json!(1), json!(2)], vec![json!("p-1 p-2"); 2])
    );
    assert_eq!(column(&operator.json("message read parcels --from 1h --until 30m"), "body"), Vec::<Value>::new());
    assert_eq!(column(&operator.json("message read parcels --count 1"), "body"), ["one"]);
    let id = heavy[0]["unique_key"].as_str().expect("text");
    assert_eq!(operator.found(&format!("message trace --id {id}"))[0]["group"], "mq-admin");
    let entries = operator.json("topic entries parcels --queue 1 --from 1 --group drivers");
    assert_eq!(
        (column(&entries, "offset"), column(&entries, "passes")),
        (vec![json!(1), json!(2)], vec![json!(false); 2])
    );

    let lag = |group: &str| -> i64 {
        let progress = operator.json(&format!("group progress {group} --topic parcels"));
        column(&progress, "lag").iter().filter_map(Value::as_i64).sum()
    };
    operator.json("offset skip drivers parcels --apply");
    let plan = operator.json("offset clone drivers heirs");
    assert_eq!((column(&plan, "to"), column(&plan, "from")), (vec![json!(1), json!(3)], vec![Value::Null; 2]));
    assert_eq!((lag("drivers"), lag("heirs")), (0, 4), "a dry run changes nothing");
    operator.json("offset clone drivers heirs --apply");
    assert_eq!(lag("heirs"), 0);
    let rates = operator.until("topic rates parcels", |rates| rates[0]["in_a_day"] == 4);
    assert_eq!(
        (column(&rates, "group"), column(&rates, "lag")),
        (vec![json!("drivers"), json!("heirs")], vec![json!(0); 2])
    );
    operator.json("group mode drivers parcels pop --share 1");
    assert!(operator.refused("group mode drivers nowhere pop").contains("nowhere"));

    operator.json("topic order parcels --set DefaultCluster:2");
    assert_eq!(operator.json("topic order parcels"), json!([{"topic": "parcels", "order": "DefaultCluster:2"}]));
    operator.json("topic order parcels --delete");
    assert_eq!(operator.json("topic order parcels"), json!([]));
    for what in ["log", "queues", "topics"] {
        let done = operator.json(&format!("broker clean {what}"));
        assert!(done["done"].as_str().expect("text").contains(": cleaned."), "{done}");
    }
    let latency = operator.json("cluster latency --count 2");
    let broker = latency[0]["broker"].as_str().expect("text");
    assert_eq!(latency[0]["sends"], 2);
    operator.json(&format!("broker stop-writes {broker}"));
    assert_eq!(column(&operator.json("topic route parcels"), "perm"), ["r"]);
    operator.json(&format!("broker allow-writes {broker}"));
    assert_eq!(column(&operator.json("topic route parcels"), "perm"), ["rw"]);
    operator.json("namesrv set orderMessageEnable=true");
    assert_eq!(operator.json("namesrv config orderMessageEnable")[0]["value"], "true");
    operator.json("topic delete parcels --yes");
    let mut watching = Mq::start(&["admin", "--namesrv", &operator.name_server, "--watch", "1", "kv", "list", "none"]);
    let [first, second] = [watching.line(), watching.line()];
    assert_eq!(first.split_whitespace().collect::<Vec<_>>(), ["key", "value"]);
    assert_eq!(first, second);
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
    operator.json("group create packers --from 1700000000123");
    let groups = operator.json("group list");
    let since = groups.as_array().expect("rows").iter().find(|row| row["group"] == "packers").expect("listed");
    assert!(since["starts_from"].as_str().is_some_and(|since| since.ends_with(":20.123+00:00")), "{since}");
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
    let status = operator.json("group status packers");
    let row = status.as_array().expect("rows").iter().find(|row| row["topic"] == "orders").expect("told");
    assert_eq!((&row["queues"], &row["failed_in_an_hour"]), (&json!(2), &json!(0)));
    assert!(operator.refused("group status packers --client nobody").contains("nobody is not connected"));
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
    assert_eq!(operator.json("group delete packers --yes"), json!({"done": "group packers was not there"}));
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
    assert_eq!(operator.json("kv delete shop colour"), json!({"done": "colour of shop is deleted"}));
    assert_eq!(operator.json("kv delete shop colour"), json!({"done": "colour of shop was not there"}));
    assert_eq!(operator.json("kv list shop"), json!([]));
}
