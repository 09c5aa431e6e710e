//! Apache's `mqadmin` (Maven Central's `rocketmq-tools`), unchanged, against the real `mq` process: each command that our
//! release promises, what it is called with, and what it must print.

use std::fmt::Write as _;
use std::future::ready;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use mq_client::{
    Action, Admin, ClientOptions, ConsumeFrom, Filter, Message, Producer, PushConsumer, ReceivedMessage, TRACE_TOPIC,
    TopicSettings,
};
use mq_testkit::process::{MqProcess, workspace};
use mq_testkit::report;
use tempfile::TempDir;

/// Of one command; only a bug waits for it.
const SECONDS: u32 = 120;
const WAIT: Duration = Duration::from_secs(120);

/// A command line, and what its output must contain. `$NAME` stands for what [`Scene`] found out.
struct Row {
    line: &'static str,
    shows: &'static [&'static str],
}

const fn row(line: &'static str, shows: &'static [&'static str]) -> Row {
    Row { line, shows }
}

/// Never ends by itself: it is left alone once it printed the first text.
const ENDLESS: &str = "clusterRT";

/// In this order: what a row makes, later ones use.
const ROWS: &[Row] = &[
    // Topics.
    row("updateTopic -b $BROKER -t Made -r 4 -w 4 -p 6", &["create topic to $BROKER success.", "topicName=Made"]),
    row(
        "updateTopic -c $CLUSTER -t Ordered -r 2 -w 2 -o true",
        &["create topic to $BROKER success.", "set cluster orderConf", "broker-a:2"],
    ),
    row("updateTopicList -b $BROKER -f $FILES/topics.json", &["submit batch of topic config to $BROKER success"]),
    row("updateTopicPerm -t Made -p 4 -b $BROKER", &["update topic perm from 6 to 4 in $BROKER success."]),
    row("updateTopicPerm -t Made -p 6 -c $CLUSTER", &["update topic perm from 4 to 6 in $BROKER success."]),
    row("topicList", &["Made", "Listed1", "Listed2", "Orders"]),
    row("topicList -c", &["#Consumer Group", "$CLUSTER", "Orders", "shop"]),
    row("topicRoute -t Orders", &["\"brokerName\":\"broker-a\"", "\"readQueueNums\":4", "$BROKER"]),
    row("topicRoute -t Orders -l", &["#BrokerAddrs", "$CLUSTER", "$BROKER", "Total:"]),
    row("topicStatus -t Orders", &["#Max Offset", "broker-a", "Topic Put TPS:"]),
    row("topicClusterList -t Orders", &["$CLUSTER"]),
    row(
        "updateOrderConf -t Ordered -m put -v broker-a:2",
        &["update orderConf success. topic=[Ordered], orderConf=[broker-a:2]"],
    ),
    row("updateOrderConf -t Ordered -m get", &["get orderConf success. topic=[Ordered], orderConf=[broker-a:2]"]),
    row("updateOrderConf -t Ordered -m delete", &["delete orderConf success. topic=[Ordered]"]),
    row("allocateMQ -t Orders -i 10.0.0.1,10.0.0.2", &["10.0.0.1", "10.0.0.2", "\"queueId\":3"]),
    // Groups.
    row(
        "updateSubGroup -b $BROKER -g made -r 3 -q 2",
        &["create subscription group to $BROKER success.", "groupName=made", "retryMaxTimes=3"],
    ),
    row(
        "updateSubGroup -c $CLUSTER -g policed -p {\"type\":\"CUSTOMIZED\",\"customizedRetryPolicy\":{\"next\":[1000,5000]}}",
        &["create subscription group to $BROKER success.", "type=CUSTOMIZED"],
    ),
    row(
        "updateSubGroup -b $BROKER -g beginners --attributes +consume.from=first",
        &["create subscription group to $BROKER success."],
    ),
    row("updateSubGroupList -b $BROKER -f $FILES/groups.json", &["submit batch of group config to $BROKER success"]),
    row("getConsumerConfig -g made", &["$CLUSTER:broker-a", "retryMaxTimes                           =  3"]),
    row("getConsumerConfig -g listed1", &["$CLUSTER:broker-a", "groupName                               =  listed1"]),
    row(
        "setConsumeMode -b $BROKER -t Orders -g made -m POP -q 2",
        &["set consume mode to $BROKER success.", "consume mode[POP]"],
    ),
    row(
        "setConsumeMode -c $CLUSTER -t Orders -g made -m PULL",
        &["set consume mode to $BROKER success.", "consume mode[PULL]"],
    ),
    row("consumerProgress", &["#Group", "shop", "CLUSTERING"]),
    row("consumerProgress -g shop", &["Orders", "#Consumer Offset", "Consume Diff Total: 0"]),
    row("consumerProgress -g shop -t Orders -s true", &["#Client IP", "$CLIENT_IP", "Consume Diff Total: 0"]),
    row("consumerStatus -g shop", &["$CLIENT"]),
    row(
        "consumerStatus -g shop -i $CLIENT",
        &["#Consumer Properties#", "PROP_CONSUME_TYPE", "#Consumer Subscription#", "Orders", "#Consumer Offset#"],
    ),
    row(
        "consumerConnection -g shop",
        &[
            "#ClientId",
            "$CLIENT",
            "Orders",
            "ConsumeType: CONSUME_PASSIVELY",
            "MessageModel: CLUSTERING",
            "ConsumeFromWhere: CONSUME_FROM_FIRST_OFFSET",
        ],
    ),
    row("producerConnection -g makers -t Orders", &["$PRODUCER"]),
    row("producer -b $BROKER", &["producer group (makers) instance"]),
    // Messages.
    row("sendMessage -t Orders -p sent-by-a-tool -c tool -k tool-key", &["#MsgId", "broker-a", "SEND_OK"]),
    row("sendMessage -t Orders -p placed -b broker-a -i 2", &["broker-a", "2", "SEND_OK"]),
    row("consumeMessage -t Orders -b broker-a -i $QUEUE -o $OFFSET -c 1", &["Consume ok", "$KEY"]),
    row("consumeMessage -t Orders -g reading -c 3", &["Consume ok", "BODY: "]),
    row("printMsg -t Orders -d true", &["minOffset=0", "BODY: order-0", "BODY: sent-by-a-tool"]),
    row("printMsg -t Orders -s tool -d true", &["BODY: sent-by-a-tool"]),
    row("printMsgByQueue -t Orders -a broker-a -i $QUEUE -p true -d true -f true", &["BODY: order-0", "Tag: paid"]),
    row(
        "queryMsgById -t Orders -i $OFFSET_ID",
        &[
            "OffsetID:            $OFFSET_ID",
            "Topic:               Orders",
            "Tags:                [paid]",
            "Keys:                [$KEY]",
            "Queue Offset:        $OFFSET",
            "CONSUMED",
        ],
    ),
    row("queryMsgByKey -t Orders -k $KEY", &["#Message ID", "$MESSAGE_ID"]),
    row("queryMsgByKey -t Orders -k tool-key", &["#Message ID", "#Offset"]),
    row(
        "queryMsgByUniqueKey -t Orders -i $MESSAGE_ID",
        &["Topic:               Orders", "Message Body Path:", "CONSUMED"],
    ),
    row("queryMsgByUniqueKey -t Orders -i $MESSAGE_ID -a", &["Topic:               Orders"]),
    row("queryMsgByOffset -t Orders -b broker-a -i $QUEUE -o $OFFSET", &["OffsetID:            $OFFSET_ID"]),
    row("queryMsgTraceById -i $TRACED", &["#ProducerGroup", "Pub ", "success"]),
    // By our own client.
    row(
        "queryMsgTraceById -i $MESSAGE_ID",
        &["#ProducerGroup", "Pub        makers", "#ConsumerGroup", "Sub        shop", "$CLIENT_IP", "success"],
    ),
    row("checkMsgSendRT -t Orders -a 5 -s 64", &["broker-a", "true", "Avg RT:"]),
    row("sendMsgStatus -b broker-a -c 3", &["rt=", "SEND_OK"]),
    // Offsets.
    row("updateSubGroup -b $BROKER -g heirs", &["create subscription group to $BROKER success."]),
    row(
        "cloneGroupOffset -s shop -d heirs -t Orders",
        &["clone group offset success. srcGroup[shop], destGroup=[heirs], topic[Orders]"],
    ),
    row("consumerProgress -g heirs -t Orders", &["broker-a", "Consume Diff Total:"]),
    row("resetOffsetByTime -g heirs -t Orders -s 0", &["Orders", "broker-a"]),
    row(
        "resetOffsetByTime -g shop -t Orders -s now",
        &["start reset consumer offset by specified, group[shop]", "broker-a"],
    ),
    row(
        "resetOffsetByTime -g heirs -t Orders -s -1 -b $BROKER -q 0 -o 1",
        &[
            "start reset consumer offset by specified, group[heirs], topic[Orders], queueId[0]",
            "reset consumer offset to 1",
        ],
    ),
    row("skipAccumulatedMessage -g heirs -t Orders", &["broker-a"]),
    // Brokers.
    row(
        "brokerStatus -b $BROKER",
        &["brokerVersionDesc", "putTps", "msgPutTotalTodayNow", "commitLogDirCapacity", "bootTimestamp"],
    ),
    row("brokerStatus -c $CLUSTER", &["$BROKER", "runtime"]),
    row("brokerConsumeStats -b $BROKER", &["#Consumer Offset", "shop", "Diff Total:"]),
    row("getBrokerConfig -b $BROKER", &["brokerName", "broker-a", "flushDiskType", "SYNC_FLUSH", "fileReservedTime"]),
    row("getBrokerConfig -c $CLUSTER", &["Master: $BROKER", "brokerClusterName"]),
    row("updateBrokerConfig -b $BROKER -k fileReservedTime -v 71", &["update broker config success, $BROKER"]),
    row("getBrokerConfig -b $BROKER", &["fileReservedTime                                  =  71"]),
    row("updateBrokerConfig -c $CLUSTER -k fileReservedTime -v 72", &["update broker config success, $BROKER"]),
    row("cleanExpiredCQ -b $BROKER", &["success"]),
    row("cleanExpiredCQ -c $CLUSTER", &["success"]),
    row("deleteExpiredCommitLog -b $BROKER", &["success"]),
    row("deleteExpiredCommitLog -c $CLUSTER", &["success"]),
    row("cleanUnusedTopic -b $BROKER", &["success"]),
    row("cleanUnusedTopic -c $CLUSTER", &["success"]),
    row("resetMasterFlushOffset -b $BROKER -o 0", &["reset master flush offset to 0 success"]),
    row(
        "queryCq -t Orders -q $QUEUE -i 0 -c 2 -g shop -b $BROKER",
        &["Subscription data:", "Queue data:", "max: ", "idx: 0"],
    ),
    row("queryCq -t Orders -q $QUEUE -i 0 -c 2", &["Queue data:", "idx: 0"]),
    row("statsAll", &["#InTPS", "Orders", "shop"]),
    row("statsAll -a -t Orders", &["Orders", "shop"]),
    // Cluster and name server.
    row("clusterList", &["$CLUSTER", "broker-a", "$BROKER", "V5_3_3-checkback-"]),
    row("clusterList -m", &["#InTotalYest", "$CLUSTER", "broker-a"]),
    row("clusterRT -c $CLUSTER -a 3 -i 1", &["broker-a ", "$CLUSTER "]),
    row("getNamesrvConfig", &["$NAMES", "kvConfigPath"]),
    row("updateNamesrvConfig -k orderMessageEnable -v true", &["update name server config success!"]),
    row("updateOrderConf -t Orders -m put -v broker-a:3", &["update orderConf success. topic=[Orders]"]),
    row("topicRoute -t Orders", &["\"orderTopicConf\":\"broker-a:3\""]),
    row("updateOrderConf -t Orders -m delete", &["delete orderConf success. topic=[Orders]"]),
    row("updateKvConfig -s space -k colour -v blue", &["create or update kv config to namespace success."]),
    row("deleteKvConfig -s space -k colour", &["delete kv config from namespace success."]),
    row("wipeWritePerm -b broker-a", &["wipe write perm of broker[broker-a] in name server[$NAMES] OK"]),
    row("addWritePerm -b broker-a", &["add write perm of broker[broker-a] in name server[$NAMES] OK"]),
    row("startMonitoring", &[]),
    // The end of all that was made.
    row(
        "deleteSubGroup -b $BROKER -g made -r true",
        &["delete subscription group [made] from broker [$BROKER] success."],
    ),
    row(
        "deleteSubGroup -c $CLUSTER -g policed",
        &["delete subscription group [policed] from broker [$BROKER] in cluster [$CLUSTER] success."],
    ),
    row(
        "deleteTopic -c $CLUSTER -t Made",
        &["delete topic [Made] from cluster [$CLUSTER] success.", "delete topic [Made] from NameServer success."],
    ),
];

/// The commands, in a JVM of theirs.
struct Tools {
    jvm: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Tools {
    fn start(home: &TempDir, name_server: &str) -> Self {
        let jar: PathBuf = workspace().join("target/mqadmin/mqadmin.jar");
        assert!(jar.is_file(), "{} is not there: `make test` installs Java and Maven and builds it", jar.display());
        let mut jvm = Command::new("java")
            // Logs and message bodies go below these.
            .arg(format!("-Duser.home={}", home.path().display()))
            .arg(format!("-Drocketmq.namesrv.addr={name_server}"))
            .args(["-XX:TieredStopAtLevel=1", "-Xmx256m", "-jar"])
            .arg(jar)
            // Some commands leave files where they run.
            .current_dir(home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("java does not start: `make test` installs it");
        let (input, output) = (jvm.stdin.take().unwrap(), BufReader::new(jvm.stdout.take().unwrap()));
        Self { jvm, input, output }
    }

    fn run(&mut self, line: &str, until: &str) -> String {
        writeln!(self.input, "{SECONDS}\t{until}\t{}", line.replace(' ', "\t")).unwrap();
        let mut length = String::new();
        self.output.read_line(&mut length).unwrap();
        let mut text = vec![0; length.trim().parse().expect("the JVM says how long its answer is")];
        self.output.read_exact(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }
}

impl Drop for Tools {
    fn drop(&mut self) {
        let _ = self.jvm.kill();
        let _ = self.jvm.wait();
    }
}

/// A broker with a topic, four messages, a producer and a consumer, and what they are called.
struct Scene {
    names: Vec<(&'static str, String)>,
    _producer: Producer,
    _consumer: PushConsumer,
}

impl Scene {
    async fn set(mq: &MqProcess, files: &TempDir) -> Self {
        let name_server = mq.name_server.to_string();
        let producer = Producer::builder(&name_server).group("makers").topics(["Orders"]);
        let producer = producer.options(|options| options.trace = Some(TRACE_TOPIC.into())).build().await.unwrap();
        producer.client().create_topic("Orders", TopicSettings::with_queues(4)).await.unwrap();
        let consumer = PushConsumer::builder(&name_server)
            .group("shop")
            .subscribe("Orders", Filter::all())
            .consume_from(ConsumeFrom::First)
            .options(|options| {
                options.commit_interval = Duration::from_millis(100);
                options.trace = Some(TRACE_TOPIC.into());
            })
            .concurrent(|_: Vec<ReceivedMessage>| ready(Action::Ack));
        let consumer = consumer.start().await.unwrap();
        let mut sent = Vec::new();
        for number in 0..4 {
            let message = Message::new("Orders", format!("order-{number}")).tags("paid").key(format!("key-{number}"));
            sent.push(producer.send(message).await.unwrap());
        }
        let deadline = Instant::now() + WAIT;
        while consumer.client().lag("shop", "Orders").await != Ok(0) {
            assert!(Instant::now() < deadline, "the messages are not consumed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let admin = Admin::new(ClientOptions::new(&name_server)).unwrap();
        while admin.traces(TRACE_TOPIC, &sent[0].message_id).await.map_or(0, |found| found.len()) < 3 {
            assert!(Instant::now() < deadline, "the traces are not there");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let list = |name: &str, text: &str| std::fs::write(files.path().join(name), text).unwrap();
        list(
            "topics.json",
            r#"[{"topicName":"Listed1","readQueueNums":1,"writeQueueNums":1},{"topicName":"Listed2"}]"#,
        );
        list("groups.json", r#"[{"groupName":"listed1"},{"groupName":"listed2","retryMaxTimes":2}]"#);
        let (first, client) = (&sent[0], consumer.client().id().to_owned());
        let names = vec![
            ("$BROKER", mq.broker.to_string()),
            ("$CLUSTER", "DefaultCluster".into()),
            ("$NAMES", name_server),
            ("$FILES", files.path().display().to_string()),
            ("$CLIENT_IP", client.split('@').next().unwrap().into()),
            ("$CLIENT", client),
            ("$PRODUCER", producer.client().id().into()),
            ("$OFFSET_ID", first.offset_message_id.to_string()),
            ("$MESSAGE_ID", first.message_id.to_string()),
            ("$QUEUE", first.queue.queue_id.to_string()),
            ("$OFFSET", first.queue_offset.to_string()),
            ("$KEY", "key-0".into()),
        ];
        Self { names, _producer: producer, _consumer: consumer }
    }

    fn said(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
    }
}

/// What is wrong with a row's output; `None`: nothing.
fn fault(scene: &Scene, row: &Row, output: &str) -> Option<String> {
    let missing = row.shows.iter().map(|text| scene.said(text)).find(|text| !output.contains(text.as_str()));
    match missing {
        Some(text) => Some(format!("does not show {text:?}")),
        None if output.contains("Exception") => Some("throws".into()),
        None => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_mqadmin_gets_its_answer() {
    let (directory, files) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let configuration = format!("{}brokerName=broker-a\ntraceTopicEnable=true\n", super::SHORT_TIMES);
    let mut mq = MqProcess::new(directory.path(), &configuration).unwrap();
    mq.start().unwrap();
    let mut scene = Scene::set(&mq, &files).await;
    let mut tools = Tools::start(&directory, &mq.name_server.to_string());
    let sent = tools.run("sendMessage -t Orders -p traced -m true", "");
    let traced = sent.lines().last().and_then(|line| line.split_whitespace().last());
    scene.names.push(("$TRACED", traced.unwrap_or_else(|| panic!("no message id in {sent}")).into()));
    let (mut failed, mut table) = (0, String::new());
    for row in ROWS {
        let command = row.line.split(' ').next().expect("a command");
        let line = scene.said(row.line);
        let until = if command == ENDLESS { scene.said(row.shows[0]) } else { String::new() };
        let began = Instant::now();
        let output = tools.run(&line, &until);
        let took = began.elapsed().as_millis();
        match fault(&scene, row, &output) {
            None => writeln!(table, "PASS mqadmin {line} ({took} ms)").expect("memory takes text"),
            Some(fault) => {
                failed += 1;
                println!("FAIL mqadmin {line}: {fault}; it printed:\n{output}");
            }
        }
    }
    report::show("20 mqadmin", &format!("{table}mqadmin: {} commands, {failed} failed", ROWS.len()));
    assert_eq!(failed, 0, "see FAIL above; the broker said:\n{}", mq.log());
}
