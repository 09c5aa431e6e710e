//! `mq admin txn` and its JSON API, against a broker that runs: who looks, who settles, and what the audit says of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use mq_client::{Admin, CheckedHalf, ClientOptions, HalfReceipt, Message, Producer, Verdict};
use serde_json::{Value, json};

use crate::process::{Mq, PATIENCE, printed, printed_when_told};

const GROUP: &str = "order-service";
/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(3600);

struct Scene {
    mq: Mq,
    names: String,
    http: SocketAddr,
    runtime: tokio::runtime::Runtime,
    producer: Option<Producer>,
}

impl Scene {
    /// A broker that gives up after two checks, and a producer that never knows.
    fn set(directory: &Path, check_interval: Duration) -> Self {
        Self::with(directory, check_interval, "", &[])
    }

    fn with(directory: &Path, check_interval: Duration, settings: &str, arguments: &[&str]) -> Self {
        let more = settings;
        let conf = directory.join("broker.conf");
        let settings = format!(
            "metricsExporterType=PROM\nmetricsPromExporterPort=0\ntransactionTimeOut=100\n\
             transactionCheckInterval={}\ntransactionCheckMax=2\n{more}",
            check_interval.as_millis()
        );
        std::fs::write(&conf, settings).expect("written");
        let mq = Mq::up(&directory.join("store"), &[&["-c", conf.to_str().expect("plain")], arguments].concat());
        let names = mq.address("name server").to_string();
        let told = mq.said.iter().find_map(|line| line.strip_prefix("metrics      http://")).expect("it says where");
        let http = told.trim_end_matches("/metrics").parse().expect("an address");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let producer = runtime.block_on(async {
            let producer = Producer::builder(&names).group(GROUP).checker(async |_: CheckedHalf| Verdict::Unknown);
            producer.build().await.expect("valid")
        });
        Self { mq, names, http, runtime, producer: Some(producer) }
    }

    /// One that is not asked about before an operator wants it, or one that is at once.
    fn half(&self, key: &str, patient: bool) -> HalfReceipt {
        let message = Message::new("ORDER_PAID", "{}").key(key);
        let message = if patient { message.check_after(LONG) } else { message };
        self.runtime.block_on(self.producer.as_ref().expect("there").send_half(message)).expect("stored")
    }

    fn run(&self, words: &str) -> (bool, String, String) {
        printed(&self.arguments(words))
    }

    /// By one who answers the prompt.
    fn run_and_type(&self, words: &str, line: &str) -> (bool, String, String) {
        printed_when_told(&self.arguments(words), line)
    }

    fn arguments<'a>(&'a self, words: &'a str) -> Vec<&'a str> {
        let mut arguments = vec!["admin", "--namesrv", &self.names, "--output", "json", "txn"];
        arguments.extend(words.split(' '));
        arguments
    }

    fn json(&self, words: &str) -> Value {
        let (success, said, error) = self.run(words);
        assert!(success, "mq admin txn {words}: {error}");
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("mq admin txn {words}: {error}: {said}"))
    }

    /// Of the one broker.
    fn rows(&self, words: &str) -> Value {
        self.json(words)[0]["rows"].clone()
    }

    fn refused(&self, words: &str) -> String {
        let (success, said, error) = self.run(words);
        assert!(!success, "mq admin txn {words}: {said}");
        error
    }

    fn until(&self, words: &str, good: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let answer = self.json(words);
            if good(&answer) {
                return answer;
            }
            assert!(started.elapsed() < PATIENCE, "mq admin txn {words}: {answer}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Status and body.
    fn http(&self, request: &str, headers: &str, body: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(self.http).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let length = body.len();
        // At once: a server that does not want the body may answer and close before a later part comes.
        let text = format!("{request} HTTP/1.1\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
        stream.write_all(text.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        assert!(body.is_empty() || body.ends_with("}\n"), "{request}: {answer}");
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }
}

const LOCAL: &str = "Host: localhost:1\r\n";
const LOCAL_JSON: &str = "Host: 127.0.0.1\r\nContent-Type: application/json\r\n";
const FOREIGN_JSON: &str = "Host: elsewhere.example\r\nContent-Type: application/json\r\n";

fn sentences(shown: &Value) -> String {
    let events = shown["history"].as_array().expect("a list").iter();
    events
        .map(|event| {
            format!("{}: {}\n", event["by"].as_str().unwrap_or_default(), event["what"].as_str().unwrap_or_default())
        })
        .collect()
}

fn audit(directory: &Path) -> Vec<(String, String, String)> {
    let text = std::fs::read_to_string(directory.join("store/checkback/audit.jsonl")).expect("it is there");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let text = |line: &Value, field: &str| line[field].as_str().expect("text").to_owned();
    lines.map(|line| (text(&line, "deed"), text(&line, "transaction"), text(&line, "outcome"))).collect()
}

#[test]
fn an_operator_sees_asks_and_settles_a_transaction_and_the_audit_has_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut scene = Scene::set(directory.path(), LONG);
    let half = scene.half("order-1", true);
    let id = half.message_id.to_string();
    let number = half.half_offset.0;
    let list = scene.rows("list");
    let row = &list[0];
    assert_eq!((&row["half"], &row["state"], &row["transactionId"]), (&json!(number), &json!("open"), &json!(id)));
    assert_eq!((&row["group"], &row["topic"], &row["keys"]), (&json!(GROUP), &json!("ORDER_PAID"), &json!("order-1")));
    assert_eq!((&row["checks"], &row["maxChecks"]), (&json!(0), &json!(2)));
    assert!(row["client"].is_string() && row["nextCheckAt"].is_number() && row["storedAt"].is_number(), "{row}");
    assert_eq!(scene.rows("list --group others"), json!([]));
    assert_eq!(scene.rows("list --topic ORDER_PAID --group order-service --limit 1")[0]["half"], json!(number));

    let said = scene.json(&format!("check {number}"));
    assert!(said["done"].as_str().is_some_and(|said| said.contains("is asked about now")), "{said}");
    let shown = scene.until(&format!("show {number}"), |shown| sentences(shown).contains("said unknown"));
    assert_eq!((&shown["half"]["checks"], &shown["members"]), (&json!(1), &json!([number])));
    let told = sentences(&shown);
    assert!(told.contains("a check was ordered") && told.contains("asked (check 1)"), "{told}");

    let said = scene.refused(&format!("resume {number}"));
    assert!(said.contains("half 0 is open: only what was given up is resumed") && !said.contains("to go on"), "{said}");
    assert!(scene.refused(&format!("resolve {number} commit")).contains("was not typed (--confirm does not ask)"));
    let slip = scene.refused(&format!("resolve {number} commit --confirm another"));
    assert!(slip.contains(&id) && slip.contains("nothing was done"), "{slip}");
    let done = scene.json(&format!("resolve {number} commit --confirm {id}"));
    assert_eq!(done, json!({"done": format!("transaction {id} is committed")}));
    let again = scene.json(&format!("resolve {number} commit --confirm {id}"));
    assert!(again["done"].as_str().is_some_and(|said| said.contains("before; nothing changed")), "{again}");
    assert!(scene.refused(&format!("resolve {number} rollback --confirm {id}")).contains("already committed"));
    for deed in ["resolve 0 rollback", "resolve 0 commit", "resume 0"] {
        let said = scene.refused(deed);
        assert!(said.contains("half 0 is committed already") && !said.contains("to go on"), "{deed}: {said}");
    }
    let shown = scene.json(&format!("show {number}"));
    assert_eq!((&shown["half"]["state"], &shown["half"]["checks"]), (&json!("committed"), &json!(1)));
    assert!(shown["half"]["client"].is_null() && shown["half"]["bornHost"].is_string(), "{shown}");
    assert!(sentences(&shown).contains("operator "), "{shown}");
    assert!(scene.refused("show 99").contains("no half message 99"));
    assert_eq!(scene.rows("list"), json!([]));

    let lines = audit(directory.path());
    let deeds: Vec<&str> = lines.iter().map(|(deed, ..)| deed.as_str()).collect();
    assert_eq!(
        deeds,
        [
            "check",
            "check",
            "resolve commit",
            "resolve commit",
            "resolve commit",
            "resolve commit",
            "resolve commit",
            "resolve commit",
            "resolve rollback",
            "resolve rollback"
        ]
    );
    assert!(lines.iter().all(|(_, transaction, _)| *transaction == id), "{lines:?}");
    assert!(
        lines[3].2.starts_with("refused: that half belongs to transaction"),
        "a confirmation that failed: {lines:?}"
    );
    assert!(lines[4].2 == "asked for" && lines[5].2.ends_with("is committed"), "{lines:?}");
    assert!(lines[9].2.starts_with("refused: "), "{lines:?}");
    let number = scene.half("order-5", true).half_offset.0;
    let producer = scene.producer.take().expect("there");
    scene.runtime.block_on(producer.close());
    let said = scene.refused(&format!("check {number} --by alice"));
    assert!(said.contains("no client of producer group order-service is connected"), "{said}");
    let text = std::fs::read_to_string(directory.path().join("store/checkback/audit.jsonl")).expect("it is there");
    assert!(text.lines().last().is_some_and(|line| line.contains(r#""by":"alice (127.0.0.1:"#)), "{text}");
    assert!(scene.mq.stop().success());
}

#[test]
fn what_is_typed_at_the_prompt_settles_the_half_or_is_a_slip_that_the_audit_has() {
    let directory = tempfile::tempdir().expect("a directory");
    let scene = Scene::set(directory.path(), LONG);
    let half = scene.half("order-6", true);
    let (id, deed) = (half.message_id.to_string(), format!("resolve {} rollback", half.half_offset.0));
    let (done, _, said) = scene.run_and_type(&deed, "");
    assert!(!done && said.contains("was not typed"), "{said}");
    assert!(!directory.path().join("store/checkback/audit.jsonl").exists(), "nothing was tried");
    let (done, _, said) = scene.run_and_type(&deed, "wrong");
    assert!(!done && said.contains(&id) && said.contains("nothing was done"), "{said}");
    let lines = audit(directory.path());
    assert!(lines.len() == 2 && lines[1].2.contains(r#"not to "wrong""#), "{lines:?}");
    assert_eq!(scene.rows("list")[0]["state"], "open");
    let (done, said, error) = scene.run_and_type(&deed, &id);
    assert!(done && said.contains("is rolled back"), "{said} {error}");
    assert!(scene.mq.stop().success());
}

#[test]
fn a_half_that_was_given_up_is_asked_about_again_when_an_operator_resumes_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let scene = Scene::set(directory.path(), Duration::from_millis(200));
    let id = scene.half("order-2", false).message_id.to_string();
    let parked = scene.until("list --parked", |list| !list[0]["rows"][0].is_null());
    let row = &parked[0]["rows"][0];
    assert_eq!((&row["transactionId"], &row["state"], &row["half"]), (&json!(id), &json!("parked"), &json!(0)));
    assert_eq!((&row["parked"], &row["checks"], &row["maxChecks"]), (&json!(0), &json!(2), &json!(2)));
    assert!(row["group"] == GROUP && row["client"].as_str().is_some_and(|client| client.contains('@')), "{row}");
    for number in ["0", "p0"] {
        let shown = scene.json(&format!("show {number}"));
        assert_eq!((&shown["half"]["parked"], &shown["half"]["state"]), (&json!(0), &json!("parked")));
        let told = sentences(&shown);
        assert!(told.contains("asked (check 2)") && told.contains("said unknown"), "{told}");
    }
    assert!(scene.refused("resume p0 --confirm another").contains("nothing was done"));
    assert!(scene.refused("resume p7 --confirm x").contains("no half message p7"));
    assert!(scene.refused("check p0").contains("resume it"));
    let said = scene.json(&format!("resume p0 --confirm {id}"));
    assert!(said["done"].as_str().is_some_and(|said| said.contains("is asked about again, as half 1")), "{said}");
    // It is given up once more, as another copy, for the producer still does not know.
    let parked = scene.until("list --parked", |list| list[0]["rows"].as_array().is_some_and(|rows| rows.len() == 2));
    let parked = &parked[0]["rows"];
    assert_eq!((&parked[0]["state"], &parked[1]["parked"]), (&json!("resumed"), &json!(1)));
    let again = scene.refused(&format!("resume p0 --confirm {id}"));
    assert!(again.contains("p0 was resumed before"), "{again}");
    for deed in ["resume p0", "resolve p0 commit"] {
        let said = scene.refused(deed);
        assert!(said.contains("half p0 is resumed already") && !said.contains("to go on"), "{deed}: {said}");
    }
    // The half's own number stands for its copy.
    let done = scene.json(&format!("resolve 1 commit --confirm {id}"));
    assert_eq!(done, json!({"done": format!("transaction {id} is committed")}));
    let again = scene.refused(&format!("resolve p1 commit --confirm {id}"));
    assert!(again.contains("p1 is committed by now"), "{again}");
    let lines = audit(directory.path());
    let deeds: Vec<&str> = lines.iter().map(|(deed, ..)| deed.as_str()).collect();
    let (resume, commit) = ("resume", "resolve commit");
    assert_eq!(deeds, [resume, resume, resume, resume, resume, resume, commit, commit, commit, commit]);
    assert!(lines.iter().all(|(_, transaction, _)| *transaction == id), "{lines:?}");
    let names = scene.names.clone();
    let found = scene.runtime.block_on(async {
        let admin = Admin::new(ClientOptions::new(names)).expect("valid");
        admin.messages_by_key("ORDER_PAID", "order-2", false).await.expect("answered").len()
    });
    assert_eq!(found, 1, "it is visible once");
    assert!(scene.mq.stop().success());
}

#[test]
fn all_that_were_given_up_are_resumed_by_one_confirmation_and_each_has_its_audit_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let scene = Scene::set(directory.path(), Duration::from_millis(200));
    let waiting = |wanted: usize| {
        let waits = |row: &Value| row["state"] == "parked" && row["group"] == GROUP;
        let count =
            |list: &Value| list[0]["rows"].as_array().map_or(0, |rows| rows.iter().filter(|row| waits(row)).count());
        scene.until("list --parked", |list| count(list) == wanted);
    };
    for number in 0..5 {
        scene.half(&format!("order-{number}"), false);
    }
    waiting(5);
    assert!(scene.refused("resume --all").contains("5 was not typed"));
    assert!(scene.refused("resume --all --confirm 4").contains("5 given-up halves wait"));
    assert!(scene.refused("resume p0 --all --confirm 5").contains("cannot be used with"));
    assert_eq!(scene.json("resume --all --group others"), json!({"done": "no given-up half waits"}));
    assert_eq!(scene.json("resume --all --topic OTHERS"), json!({"done": "no given-up half waits"}));
    let all = "POST /api/txn/resume-all";
    for (body, status, why) in [
        (json!({"confirm": "4", "by": "alice"}), 400, "5 given-up half messages wait there, not \"4\""),
        (json!({"confirm": "5", "limit": 2}), 400, "2 given-up half messages wait there"),
        (json!({"confirm": 1, "limit": 2}), 400, "2 given-up half messages wait there, not \"1\""),
        (json!({"confirm": true}), 400, "invalid type"),
        (json!({"confirm": "5", "grp": "others"}), 400, "is none of confirm, by"),
    ] {
        let (said, answer) = scene.http(all, LOCAL_JSON, &body.to_string());
        assert!(said == status && answer["error"].as_str().is_some_and(|text| text.contains(why)), "{body}: {answer}");
    }
    assert_eq!(scene.http(all, FOREIGN_JSON, &json!({"confirm": "5"}).to_string()).0, 403);
    waiting(5);
    // A page of one, as a console does it, or somebody who was interrupted; then the rest.
    let (status, page) = scene.http(all, LOCAL_JSON, &json!({"limit": 1, "confirm": 1, "by": "alice"}).to_string());
    assert_eq!((status, &page["resumed"], &page["next"]), (200, &json!(1), &json!(1)), "{page}");
    assert_eq!(page["done"], "1 half message is asked about again");
    let resumed = |text: &str| {
        let deeds = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let mut copies: Vec<u64> = deeds
            .filter(|line| {
                line["deed"] == "resume" && line["outcome"].as_str().is_some_and(|it| it.contains("as half"))
            })
            .map(|line| line["parked"].as_u64().expect("a copy"))
            .collect();
        copies.sort_unstable();
        copies
    };
    let path = directory.path().join("store/checkback/audit.jsonl");
    let text = std::fs::read_to_string(&path).expect("it is there");
    assert_eq!(resumed(&text), [0]);
    assert!(text.contains(r#""deed":"resume all""#) && text.contains("wait there, not"), "the refusals: {text}");
    // The first one is given up once more.
    waiting(5);
    assert_eq!(
        scene.json("resume --all --confirm 5 --group order-service"),
        json!({"done": "5 halves are asked about again"})
    );
    assert_eq!(resumed(&std::fs::read_to_string(path).expect("it is there")), [0, 1, 2, 3, 4, 5]);
    assert!(scene.mq.stop().success());
}

#[test]
fn the_json_api_shows_the_same_and_settles_for_this_machine_only() {
    let directory = tempfile::tempdir().expect("a directory");
    let scene = Scene::set(directory.path(), LONG);
    let half = scene.half("order-3", true);
    let (id, number) = (half.message_id.to_string(), half.half_offset.0);
    let (status, page) = scene.http("GET /api/txn?limit=5&group=order-service", LOCAL, "");
    assert_eq!(
        (status, &page["rows"][0]["transactionId"], &page["rows"][0]["state"]),
        (200, &json!(id), &json!("open"))
    );
    let (status, page) = scene.http("GET /api/txn?parked=true", LOCAL, "");
    assert_eq!((status, &page["rows"]), (200, &json!([])));
    let (status, shown) = scene.http(&format!("GET /api/txn/{number}"), LOCAL, "");
    assert_eq!((status, &shown["half"]["keys"]), (200, &json!("order-3")));
    assert_eq!(scene.http("GET /api/txn/99", LOCAL, "").0, 404);
    for (slip, body, why) in [
        ("GET /api/txn?limit=many", "", "limit"),
        ("GET /api/txn?grp=orders", "", r#""grp" is none of parked, from"#),
        ("GET /api/txn/seven", "", "no number of a half"),
        ("POST /api/txn/check", r#"{"hlf": 0}"#, r#""hlf" is none of half, confirm"#),
        ("POST /api/txn/check", r#"{"by": "alice"}"#, "half is missing"),
        ("POST /api/txn/check", r#"{"half": "no"}"#, "invalid type"),
        ("POST /api/txn/check", "[]", "invalid type"),
    ] {
        let (status, said) = scene.http(slip, LOCAL_JSON, body);
        assert_eq!(status, 400, "{slip} {body}: {said}");
        assert!(said["error"].as_str().is_some_and(|text| text.contains(why)), "{slip} {body}: {said}");
    }

    let deed = |confirm: &str, verdict: &str| {
        json!({"half": number, "confirm": confirm, "verdict": verdict, "by": "alice"}).to_string()
    };
    let good = deed(&id, "rollback");
    let resolve = "POST /api/txn/resolve";
    assert_eq!(scene.http(resolve, LOCAL, &good).0, 415, "a web page can send text, and no JSON");
    let (status, said) = scene.http(resolve, FOREIGN_JSON, &good);
    assert_eq!(status, 403, "{said}");
    assert_eq!(scene.http(resolve, LOCAL_JSON, &deed("another", "rollback")).0, 400);
    assert_eq!(scene.http("POST /api/txn/check", LOCAL_JSON, &deed("", "commit")).0, 200);
    let (status, done) = scene.http(resolve, LOCAL_JSON, &good);
    assert_eq!((status, done), (200, json!({"done": format!("transaction {id} is rolled back")})));
    let (status, said) = scene.http(resolve, LOCAL_JSON, &deed(&id, "commit"));
    assert_eq!(status, 409, "{said}");
    let lines = audit(directory.path());
    assert_eq!(
        lines.last().map(|(deed, _, outcome)| (deed.as_str(), outcome.starts_with("refused: "))),
        Some(("resolve commit", true))
    );
    assert!(scene.mq.stop().success());
}

/// By an address of this machine that others could reach: whoever comes that way may look and settle nothing.
#[test]
fn the_json_api_settles_nothing_for_other_addresses() {
    let Some(outside) = outside_address() else {
        eprintln!("SKIPPED: this machine has no address but those of loopback");
        return;
    };
    let directory = tempfile::tempdir().expect("a directory");
    let scene = Scene::with(directory.path(), LONG, "metricsPromExporterHost=0.0.0.0\n", &["--insecure"]);
    let half = scene.half("order-4", true);
    let scene = Scene { http: SocketAddr::new(outside, scene.http.port()), ..scene };
    let (status, page) = scene.http("GET /api/txn", LOCAL, "");
    assert_eq!((status, &page["rows"][0]["transactionId"]), (200, &json!(half.message_id.to_string())));
    let (number, id) = (half.half_offset.0, half.message_id.to_string());
    let deed = json!({"half": number, "confirm": id, "verdict": "rollback", "by": "mallory"}).to_string();
    for change in ["check", "resolve", "resume"] {
        let (status, said) = scene.http(&format!("POST /api/txn/{change}"), LOCAL_JSON, &deed);
        assert_eq!(status, 403, "{change}: {said}");
        assert!(said["error"].as_str().is_some_and(|why| why.contains("from the broker's own machine only")), "{said}");
    }
    assert_eq!(scene.rows("list")[0]["state"], "open");
    assert!(!directory.path().join("store/checkback/audit.jsonl").exists(), "nothing was tried");
    assert!(scene.mq.stop().success());
}

/// Of the interface that leads elsewhere; nothing is sent to find out.
fn outside_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().expect("connected").ip();
    (!address.is_loopback()).then_some(address)
}
