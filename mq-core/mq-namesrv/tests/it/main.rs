//! The name server over real sockets, with a clock that the test moves.

mod client;
mod settings;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use client::Client;
use mq_namesrv::{NameServer, NamesrvConfig};
use mq_protocol::body::{self, ClusterInfo, DataVersion, TopicConfig, TopicList, TopicRoute};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::compression;
use mq_protocol::frame::HeaderFormat;
use mq_protocol::ids::UnixMillis;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Running {
    addr: std::net::SocketAddr,
    now_ms: Arc<AtomicI64>,
    shutdown: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

impl Running {
    async fn start(config: NamesrvConfig) -> Self {
        let now_ms = Arc::new(AtomicI64::new(1_000_000));
        let clock = Arc::clone(&now_ms);
        let config = NamesrvConfig {
            clock: Arc::new(move || UnixMillis(clock.load(Ordering::SeqCst))),
            scan_interval: Duration::from_millis(5),
            ..config
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("bound");
        let shutdown = CancellationToken::new();
        let server = NameServer::new(config).expect("opens");
        let task = tokio::spawn(server.run(listener, shutdown.clone()));
        Self { addr, now_ms, shutdown, task }
    }

    async fn client(&self) -> Client {
        Client::connect(self.addr).await
    }

    fn pass(&self, duration: Duration) {
        let millis = i64::try_from(duration.as_millis()).expect("short");
        self.now_ms.fetch_add(millis, Ordering::SeqCst);
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("no panic").expect("a clean end");
    }
}

const VERSION: DataVersion = DataVersion { counter: 7, state_version: 0, timestamp: 1 };

fn topics() -> [TopicConfig; 2] {
    [TopicConfig::new("T", 4, 6), TopicConfig::new("U", 8, 7)]
}

fn register(name: &str, compressed: bool, body: bytes::Bytes) -> Command {
    register_in("C", name, compressed, body)
}

fn register_in(cluster: &str, name: &str, compressed: bool, body: bytes::Bytes) -> Command {
    let crc = crc32fast::hash(&body) & 0x7FFF_FFFF;
    let addr = format!("10.0.0.1:1{}", name.len());
    with_fields(
        request::REGISTER_BROKER,
        &[
            ("brokerName", name),
            ("brokerAddr", &addr),
            ("clusterName", cluster),
            ("haServerAddr", "10.0.0.1:10912"),
            ("brokerId", "0"),
            ("compressed", if compressed { "true" } else { "false" }),
            ("bodyCrc32", &crc.to_string()),
            ("enableActingMaster", "false"),
        ],
    )
    .with_body(body)
}

fn json_registration() -> bytes::Bytes {
    let table: std::collections::BTreeMap<_, _> =
        topics().into_iter().map(|topic| (topic.topic_name.clone(), topic)).collect();
    body::to_json(&serde_json::json!({
        "filterServerList": [],
        "topicConfigSerializeWrapper": { "dataVersion": VERSION, "topicConfigTable": table },
    }))
}

fn compressed_registration() -> bytes::Bytes {
    let mut out = BytesMut::new();
    let put = |out: &mut BytesMut, text: &[u8]| {
        out.put_i32(i32::try_from(text.len()).expect("short"));
        out.put_slice(text);
    };
    put(&mut out, &body::to_json(&VERSION));
    out.put_i32(2);
    for topic in topics() {
        let TopicConfig { topic_name, read_queue_nums, write_queue_nums, perm, .. } = topic;
        put(&mut out, format!("{topic_name} {read_queue_nums} {write_queue_nums} {perm} SINGLE_TAG {{}}").as_bytes());
    }
    put(&mut out, b"[]");
    out.put_i32(0);
    compression::deflate_zlib(&out)
}

fn with_fields(code: i32, fields: &[(&str, &str)]) -> Command {
    let mut command = Command::request(code);
    for (key, value) in fields {
        command.ext.push(*key, *value);
    }
    command
}

fn route_of(topic: &str) -> Command {
    with_fields(request::GET_ROUTEINFO_BY_TOPIC, &[("topic", topic)])
}

async fn code_of_route(client: &mut Client, topic: &str) -> i32 {
    client.call(route_of(topic)).await.code
}

/// Polls because the server acts on its own task; the limit only bounds a failing test.
async fn until_route_is(client: &mut Client, topic: &str, code: i32) {
    for _ in 0..2_000 {
        if code_of_route(client, topic).await == code {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("the route of {topic} never answered {code}");
}

#[tokio::test]
async fn plain_and_compressed_registrations_give_the_same_routes() {
    for (compressed, body) in [(false, json_registration()), (true, compressed_registration())] {
        let server = Running::start(NamesrvConfig::default()).await;
        let mut broker = server.client().await;
        assert_eq!(broker.call(register("a", compressed, body)).await.code, 0);
        let answer = broker.call(route_of("U")).await;
        let route: TopicRoute = body::from_json("route", &answer.body).expect("a route");
        assert_eq!(route.broker_datas[0].broker_addrs[&0], "10.0.0.1:11");
        assert_eq!((route.queue_datas[0].read_queue_nums, route.queue_datas[0].perm), (8, 7));
        server.stop().await;
    }
}

#[tokio::test]
async fn broker_ids_are_quoted_for_clients_that_read_standard_json() {
    let server = Running::start(NamesrvConfig::default()).await;
    let mut client = server.client().await;
    client.call(register("a", false, json_registration())).await;
    for (version, standard_only, expected) in [
        (399, false, r#""brokerAddrs":{0:"10.0.0.1:11"}"#),
        (399, true, r#""brokerAddrs":{"0":"10.0.0.1:11"}"#),
        (401, false, r#""brokerAddrs":{"0":"10.0.0.1:11"}"#),
        (493, false, r#""brokerAddrs":{"0":"10.0.0.1:11"}"#),
    ] {
        for format in [HeaderFormat::Json, HeaderFormat::Binary] {
            let mut request = route_of("T");
            request.ext.push("acceptStandardJsonOnly", if standard_only { "true" } else { "false" });
            let answer = client.call(Command { version, format, ..request }).await;
            assert_eq!(answer.format, format);
            let text = String::from_utf8(answer.body.to_vec()).expect("text");
            assert!(text.contains(expected), "{version} {standard_only}: {text}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn bad_requests_get_their_code_and_the_connection_lives_on() {
    let server = Running::start(NamesrvConfig::default()).await;
    let mut client = server.client().await;
    let mut wrong_crc = register("a", false, json_registration());
    wrong_crc.body = json_registration().slice(1..);
    for (request, code, remark) in [
        (Command::request(9999), 3, " request type 9999 not supported"),
        (route_of("nowhere"), 17, "No topic route info in name server for the topic: nowhere"),
        (Command::request(request::GET_ROUTEINFO_BY_TOPIC), 1, "the header lacks topic"),
        (wrong_crc, 1, "crc32 not match"),
        (register("a", true, json_registration()), 1, "the registration cannot be inflated"),
        (register("a", true, compression::deflate_zlib(b"\0\0\0\x09{}")), 1, "the compressed registration ends too"),
        (register("a", false, b"{]"[..].into()), 1, "the body is not a broker registration"),
        (with_fields(request::GET_KV_CONFIG, &[("namespace", "n"), ("key", "k")]), 22, "No config item"),
        (with_fields(request::GET_KVLIST_BY_NAMESPACE, &[("namespace", "n")]), 22, "No config item"),
        (with_fields(request::DELETE_TOPIC_IN_NAMESRV, &[("topic", "")]), 1, "a topic name must not be empty"),
    ] {
        let answer = client.call(request).await;
        let said = answer.remark.as_deref().unwrap_or_default();
        assert_eq!(answer.code, code, "{said}");
        assert!(said.starts_with(remark), "{said:?} does not start with {remark:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn bad_frames_close_their_connection_only() {
    let server = Running::start(NamesrvConfig::default()).await;
    let mut healthy = server.client().await;
    for bytes in [
        &[0x7f, 0xff, 0xff, 0xff][..],
        &[0, 0, 0, 4, 9, 0, 0, 0],
        &[0, 0, 0, 4, 0, 0, 0, 99],
        &[0, 0, 0, 6, 0, 0, 0, 2, b'{', b']'],
        &[0, 0, 0, 6, 1, 0, 0, 2, 0, 0],
    ] {
        let mut bad = server.client().await;
        bad.stream.write_all(bytes).await.expect("sent");
        assert!(bad.is_closed().await, "{bytes:?}");
        assert_eq!(code_of_route(&mut healthy, "T").await, 17);
    }
    server.stop().await;
}

#[tokio::test]
async fn oneway_requests_are_served_and_not_answered() {
    let server = Running::start(NamesrvConfig::default()).await;
    let mut client = server.client().await;
    client.send(register("a", false, json_registration()).oneway()).await;
    assert_eq!(code_of_route(&mut client, "T").await, 0, "the first answer is the route's");
    server.stop().await;
}

#[tokio::test]
async fn a_broker_leaves_the_routes_when_it_is_silent_closes_or_unregisters() {
    let server = Running::start(NamesrvConfig::default()).await;
    let mut client = server.client().await;
    let mut broker = server.client().await;
    broker.call(register("a", false, json_registration())).await;
    server.pass(Duration::from_secs(120));
    assert_eq!(code_of_route(&mut client, "T").await, 0);
    server.pass(Duration::from_secs(1));
    until_route_is(&mut client, "T", 17).await;

    broker.call(register("a", false, json_registration())).await;
    assert_eq!(code_of_route(&mut client, "T").await, 0);
    drop(broker);
    until_route_is(&mut client, "T", 17).await;

    let mut broker = server.client().await;
    broker.call(register("a", false, json_registration())).await;
    let mut unregister = register("a", false, bytes::Bytes::new());
    unregister.code = request::UNREGISTER_BROKER;
    assert_eq!(broker.call(unregister).await.code, 0);
    assert_eq!(code_of_route(&mut client, "T").await, 17);
    server.stop().await;
}

#[tokio::test]
async fn a_broker_asks_whether_its_version_is_known() {
    let server = Running::start(NamesrvConfig::default()).await;
    let mut broker = server.client().await;
    let ask = |version: DataVersion| {
        let mut ask = register("a", false, body::to_json(&version));
        ask.code = request::QUERY_DATA_VERSION;
        ask
    };
    let changed = |answer: &Command| answer.ext.get("changed").map(ToString::to_string);
    assert_eq!(changed(&broker.call(ask(VERSION)).await), Some("true".into()));
    broker.call(register("a", false, json_registration())).await;
    let same = broker.call(ask(VERSION)).await;
    assert_eq!(changed(&same), Some("false".into()));
    assert_eq!(body::from_json::<DataVersion>("version", &same.body).expect("held"), VERSION);
    assert_eq!(changed(&broker.call(ask(DataVersion { counter: 8, ..VERSION })).await), Some("true".into()));
    server.stop().await;
}

#[tokio::test]
async fn tools_see_clusters_and_topics_and_change_permissions() {
    let server = Running::start(NamesrvConfig::default()).await;
    let mut tool = server.client().await;
    tool.call(register("a", false, json_registration())).await;
    let clusters = tool.call(Command::request(request::GET_BROKER_CLUSTER_INFO)).await.body;
    let clusters: ClusterInfo = body::from_json("clusters", &clusters).expect("readable");
    assert_eq!(clusters.cluster_addr_table["C"], ["a"]);
    for (code, fields, expected) in [
        (request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER, &[][..], &["T", "U"][..]),
        (request::GET_TOPICS_BY_CLUSTER, &[("cluster", "C")], &["T", "U"]),
        (request::GET_TOPICS_BY_CLUSTER, &[("cluster", "D")], &[]),
    ] {
        let answer = tool.call(with_fields(code, fields)).await;
        assert_eq!(body::from_json::<TopicList>("topics", &answer.body).expect("readable").topic_list, expected);
    }
    let system = tool.call(Command::request(request::GET_SYSTEM_TOPIC_LIST_FROM_NS)).await.body;
    let system: TopicList = body::from_json("topics", &system).expect("readable");
    assert!(["C", "a", "TBW102"].iter().all(|name| system.topic_list.iter().any(|topic| topic == name)));
    assert_eq!(system.broker_addr.as_deref(), Some("10.0.0.1:11"));
    for (code, field, perm) in [
        (request::WIPE_WRITE_PERM_OF_BROKER, "wipeTopicCount", 4),
        (request::ADD_WRITE_PERM_OF_BROKER, "addTopicCount", 6),
    ] {
        let answer = tool.call(with_fields(code, &[("brokerName", "a")])).await;
        assert_eq!(answer.ext.get(field).map(|count| &**count), Some("2"));
        let route: TopicRoute = body::from_json("route", &tool.call(route_of("T")).await.body).expect("a route");
        assert_eq!(route.queue_datas[0].perm, perm);
    }
    tool.call(with_fields(request::DELETE_TOPIC_IN_NAMESRV, &[("topic", "T")])).await;
    assert_eq!(code_of_route(&mut tool, "T").await, 17);
    server.stop().await;
}

#[tokio::test]
async fn key_value_configuration_survives_a_restart_and_a_torn_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("namesrv/kvConfig.json");
    let config = || NamesrvConfig { kv_config_path: Some(path.clone()), ..NamesrvConfig::default() };
    let key = [("namespace", "ORDER_TOPIC_CONFIG"), ("key", "T")];

    let server = Running::start(config()).await;
    let mut tool = server.client().await;
    let put = [key[0], key[1], ("value", "a:4")];
    assert_eq!(tool.call(with_fields(request::PUT_KV_CONFIG, &put)).await.code, 0);
    server.stop().await;

    let server = Running::start(config()).await;
    let mut tool = server.client().await;
    let value = tool.call(with_fields(request::GET_KV_CONFIG, &key)).await;
    assert_eq!(value.ext.get("value").map(|value| &**value), Some("a:4"));
    let registered = tool.call(register("a", false, json_registration())).await;
    assert_eq!(&registered.body[..], br#"{"table":{"T":"a:4"}}"#);
    assert_eq!(tool.call(with_fields(request::DELETE_KV_CONFIG, &key)).await.code, 0);
    assert_eq!(tool.call(with_fields(request::GET_KV_CONFIG, &key)).await.code, 22);
    server.stop().await;

    std::fs::write(&path, b"{\"configTable\":{").expect("torn");
    let refused = NameServer::new(config()).err().expect("a start would lose the entries").to_string();
    assert!(refused.contains("kvConfig.json") && refused.contains("repair it"), "{refused}");
}

#[tokio::test]
async fn idle_and_surplus_connections_are_closed() {
    let idle = NamesrvConfig { idle_timeout: Duration::from_millis(20), ..NamesrvConfig::default() };
    let server = Running::start(idle).await;
    assert!(server.client().await.is_closed().await);
    server.stop().await;

    let one = NamesrvConfig { max_connections: 1, ..NamesrvConfig::default() };
    let server = Running::start(one).await;
    let mut first = server.client().await;
    assert_eq!(code_of_route(&mut first, "T").await, 17);
    assert!(server.client().await.is_closed().await);
    assert_eq!(code_of_route(&mut first, "T").await, 17);
    server.stop().await;
}

#[tokio::test]
async fn a_consumer_that_knows_no_broker_is_shown_the_way_by_its_retry_topic_when_it_asks_in_vain_again() {
    let server = Running::start(NamesrvConfig::default()).await;
    let mut broker = server.client().await;
    assert_eq!(broker.call(register("b", false, json_registration())).await.code, response::SUCCESS);
    let cluster_info = Command::request(request::GET_BROKER_CLUSTER_INFO);
    for (what, before, shown) in [
        ("its first question", &[][..], false),
        ("its topic is missing", &["later"], true),
        ("it asks again", &["%RETRY%g"], true),
        ("it knows a broker", &["T", "later", "%RETRY%g"], false),
    ] {
        let mut client = server.client().await;
        for topic in before {
            code_of_route(&mut client, topic).await;
        }
        let answer = client.call(route_of("%RETRY%g")).await;
        assert_eq!(answer.code == response::SUCCESS, shown, "{what}");
        if shown {
            let route: TopicRoute = body::from_json("route", &answer.body).expect("readable");
            assert_eq!((route.broker_datas[0].broker_name.as_str(), route.queue_datas[0].read_queue_nums), ("b", 1));
            for name in ["%RETRY%", "%RETRY%a b", "%DLQ%g", "later"] {
                assert_eq!(code_of_route(&mut client, name).await, response::TOPIC_NOT_EXIST, "{name}");
            }
            client.call(cluster_info.clone()).await;
            assert_eq!(code_of_route(&mut client, "%RETRY%g").await, response::TOPIC_NOT_EXIST, "nothing was made");
        }
    }
    let mut client = server.client().await;
    assert_eq!(broker.call(register_in("D", "other", false, json_registration())).await.code, response::SUCCESS);
    for _ in 0..2 {
        assert_eq!(code_of_route(&mut client, "%RETRY%g").await, response::TOPIC_NOT_EXIST, "of which cluster?");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_are_answered_while_a_key_is_written_to_a_slow_disk() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("kvConfig.json");
    // Where `mq_files::replace` writes first: it waits until somebody reads.
    let pipe = directory.path().join(format!("kvConfig.json.{}.tmp", std::process::id()));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    let server = Running::start(NamesrvConfig { kv_config_path: Some(path), ..NamesrvConfig::default() }).await;
    let (mut tool, mut client) = (server.client().await, server.client().await);
    tool.call(register("a", false, json_registration())).await;
    let put = [("namespace", "ORDER_TOPIC_CONFIG"), ("key", "T"), ("value", "a:4")];
    tool.send(with_fields(request::PUT_KV_CONFIG, &put)).await;
    for _ in 0..50 {
        assert_eq!(code_of_route(&mut client, "T").await, 0);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let key = [("namespace", "ORDER_TOPIC_CONFIG"), ("key", "T")];
    assert_eq!(client.call(with_fields(request::GET_KV_CONFIG, &key)).await.code, 22, "it is not on disk yet");
    let reader = std::thread::spawn(move || std::fs::read(pipe));
    reader.join().expect("no panic").expect("the writer was there");
    server.stop().await;
}

#[tokio::test]
async fn key_value_configuration_is_limited_by_entries_and_bytes_and_makes_room_when_it_goes() {
    let put = |namespace: &str, value: &str| {
        with_fields(request::PUT_KV_CONFIG, &[("namespace", namespace), ("key", "k"), ("value", value)])
    };
    let delete = |namespace: &str| with_fields(request::DELETE_KV_CONFIG, &[("namespace", namespace), ("key", "k")]);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("kvConfig.json");
    let full: std::collections::BTreeMap<_, _> =
        (0..10_000).map(|nth| (format!("n{nth}"), serde_json::json!({ "k": "v" }))).collect();
    std::fs::write(&path, body::to_json(&serde_json::json!({ "configTable": full }))).expect("written");
    let large = "x".repeat(3 << 20);
    for (path, first, refusal) in
        [(Some(path), "v", "at most 10000 configuration entries"), (None, &*large, "the limit is 4194304")]
    {
        let server = Running::start(NamesrvConfig { kv_config_path: path, ..NamesrvConfig::default() }).await;
        let mut tool = server.client().await;
        assert_eq!(tool.call(put("n0", first)).await.code, 0, "in the place of another, or the first");
        let refused = tool.call(put("more", &large)).await;
        assert_eq!(refused.code, 1);
        assert!(refused.remark.as_deref().is_some_and(|said| said.contains(refusal)), "{:?}", refused.remark);
        assert_eq!(tool.call(delete("n0")).await.code, 0);
        assert_eq!(tool.call(put("more", &large)).await.code, 0);
        server.stop().await;
    }
}
