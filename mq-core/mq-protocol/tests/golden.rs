//! Real frames between Apache RocketMQ 5.4.0 and its Java, Go and admin clients: what we read of them we can write back.
//!
//! `golden/frames.jsonl` holds one frame a line: `client`, the `request` code that it is or answers, `response`, `header`
//! (the bytes: JSON text, or hex of the binary format), `fields` (the binary header as its recorder read it) and `body`
//! (`text` or `hex`).

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use mq_protocol::body;
use mq_protocol::command::Command;
use mq_protocol::ext::ExtFields;
use mq_protocol::frame::{self, Frame, HeaderFormat};
use mq_protocol::header::{self, Header, HeaderError};
use mq_protocol::record::{self, StoredMessage};
use serde_json::Value;

struct Golden {
    line: usize,
    client: String,
    request: i32,
    response: bool,
    format: HeaderFormat,
    header: Bytes,
    fields: Value,
    body: Bytes,
}

impl Golden {
    fn read(line: usize, text: &str) -> Self {
        let json: Value = serde_json::from_str(text).expect("the golden file holds JSON lines");
        let text = |key: &str| json[key].as_str().map(str::to_owned);
        let (format, header, fields) = match text("header_hex") {
            Some(hex) => (HeaderFormat::Binary, hex::decode(hex).expect("hex"), json["fields"].clone()),
            None => {
                let header = text("header").expect("a JSON header");
                let fields = serde_json::from_str(&header).expect("a JSON header");
                (HeaderFormat::Json, header.into_bytes(), fields)
            }
        };
        let body = text("body_hex").map(|hex| hex::decode(hex).expect("hex")).or(text("body").map(String::into_bytes));
        Self {
            line: line + 1,
            client: text("client").expect("a client"),
            request: json["request"].as_i64().expect("a code") as i32,
            response: json["response"].as_bool().expect("a flag"),
            format,
            header: header.into(),
            fields,
            body: body.unwrap_or_default().into(),
        }
    }

    fn command(&self) -> Command {
        let frame = Frame { format: self.format, header: self.header.clone(), body: self.body.clone() };
        Command::decode(frame).unwrap_or_else(|error| panic!("{self}: {error}"))
    }
}

impl std::fmt::Display for Golden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.response { "response to" } else { "request" };
        write!(f, "frames.jsonl:{} ({}, {kind} {})", self.line, self.client, self.request)
    }
}

fn frames() -> Vec<Golden> {
    let lines = include_str!("golden/frames.jsonl").lines().enumerate();
    lines.map(|(line, text)| Golden::read(line, text)).collect()
}

/// A header as one sorted table of texts: what the two formats and different writers have in common.
fn flat(fields: &Value) -> BTreeMap<String, String> {
    let mut table = BTreeMap::new();
    for (key, value) in fields.as_object().expect("a header is an object") {
        match (key.as_str(), value) {
            ("serializeTypeCurrentRPC", _) | (_, Value::Null) => {}
            ("extFields", fields) => {
                table.extend(flat(fields).into_iter().map(|(key, value)| (format!("ext {key}"), value)))
            }
            // Go prints an empty remark, Java none; the binary format cannot tell them apart.
            ("remark", Value::String(text)) if text.is_empty() => {}
            (_, Value::String(text)) => drop(table.insert(key.clone(), text.clone())),
            (_, number) => drop(table.insert(key.clone(), number.to_string())),
        }
    }
    table
}

fn flat_command(command: &Command) -> BTreeMap<String, String> {
    let mut frame = BytesMut::new();
    let printed = Command { format: HeaderFormat::Json, ..command.clone() };
    printed.encode_without_body(0, &mut frame);
    flat(&serde_json::from_slice(&frame[8..]).expect("a command prints as JSON"))
}

#[test]
fn every_header_is_read_as_its_peer_meant_it_and_survives_printing_in_its_own_format() {
    let frames = frames();
    for golden in &frames {
        let command = golden.command();
        assert_eq!(flat_command(&command), flat(&golden.fields), "{golden}");

        let mut printed = BytesMut::new();
        command.encode(&mut printed);
        let frame = frame::split(&mut printed, frame::MAX_FRAME_BYTES).expect("a valid frame").expect("a whole frame");
        assert!(printed.is_empty());
        assert_eq!(frame.format, golden.format, "{golden}");
        if golden.format == HeaderFormat::Binary {
            assert_eq!(frame.header, golden.header, "{golden}: binary headers have one spelling");
        }
        assert_eq!(Command::decode(frame).expect("readable"), command, "{golden}");
    }
    let binary = frames.iter().filter(|golden| golden.format == HeaderFormat::Binary).count();
    assert!(frames.len() > 500 && binary > 50, "{} frames, {binary} binary", frames.len());
}

#[test]
fn a_header_cut_anywhere_is_an_error_and_never_a_panic() {
    for golden in frames() {
        for cut in 0..golden.header.len() {
            let header = golden.header.slice(..cut);
            let result = Command::decode(Frame { format: golden.format, header, body: Bytes::new() });
            assert!(result.is_err(), "{golden}: cut at {cut}");
        }
    }
}

/// Bodies that are stored messages, one after the other.
fn carries_messages(golden: &Golden) -> bool {
    let answers = [11, 12, 33, 361, 200_050];
    let code = golden.fields["code"].as_i64();
    let found = golden.response && code == Some(0) && answers.contains(&golden.request);
    (found || (!golden.response && golden.request == 39)) && !golden.body.is_empty()
}

#[test]
fn messages_in_pull_answers_and_checkbacks_are_written_back_byte_for_byte() {
    let mut messages = 0;
    for golden in frames().iter().filter(|golden| carries_messages(golden)) {
        let records = record::decode_all(&golden.body).unwrap_or_else(|error| panic!("{golden}: {error}"));
        let written: Vec<u8> = records.iter().flat_map(written).collect();
        assert_eq!(Bytes::from(written), golden.body, "{golden}");
        messages += records.len();
    }
    assert!(messages > 40, "{messages} messages");
}

fn written(record: &StoredMessage) -> Vec<u8> {
    let mut bytes = Vec::new();
    record.message.encode(&mut bytes).expect("it was within the limits");
    record::stamp(&mut bytes, record.queue_offset, record.log_offset, record.store_timestamp);
    bytes
}

/// Reads ext fields into a typed header and writes them again.
type Recode = fn(&ExtFields) -> Result<ExtFields, HeaderError>;

fn recode<H: Header>(ext: &ExtFields) -> Result<ExtFields, HeaderError> {
    let mut again = ExtFields::default();
    H::decode(ext)?.encode(&mut again);
    Ok(again)
}

fn recode_send_v2(ext: &ExtFields) -> Result<ExtFields, HeaderError> {
    let mut again = ExtFields::default();
    header::SendMessage::decode_v2(ext)?.encode_v2(&mut again);
    Ok(again)
}

const REQUESTS: &[(i32, Recode)] = &[
    (10, recode::<header::SendMessage>),
    (11, recode::<header::PullMessage>),
    (12, recode::<header::QueryMessage>),
    (14, recode::<header::QueryConsumerOffset>),
    (15, recode::<header::UpdateConsumerOffset>),
    (17, recode::<header::CreateTopic>),
    (29, recode::<header::SearchOffset>),
    (30, recode::<header::GetMaxOffset>),
    (31, recode::<header::GetMinOffset>),
    (32, recode::<header::GetEarliestStoreTime>),
    (33, recode::<header::ViewMessage>),
    (35, recode::<header::UnregisterClient>),
    (36, recode::<header::ConsumerSendMsgBack>),
    (37, recode::<header::EndTransaction>),
    (38, recode::<header::GetConsumerList>),
    (39, recode::<header::CheckTransactionState>),
    (40, recode::<header::NotifyConsumerIdsChanged>),
    (100, recode::<header::PutKvConfig>),
    (102, recode::<header::KvConfigKey>),
    (103, recode::<header::RegisterBroker>),
    (105, recode::<header::GetRouteInfo>),
    (201, recode::<header::GetAllSubscriptionGroup>),
    (202, recode::<header::TopicName>),
    (203, recode::<header::ConsumerConnectionList>),
    (205, recode::<header::WritePermOfBroker>),
    (207, recode::<header::DeleteSubscriptionGroup>),
    (208, recode::<header::ConsumeStats>),
    (215, recode::<header::TopicName>),
    (216, recode::<header::DeleteTopicInNamesrv>),
    (222, recode::<header::ResetOffset>),
    (300, recode::<header::TopicName>),
    (310, recode_send_v2),
    (370, recode::<header::RecallMessage>),
    (315, recode::<header::ViewBrokerStats>),
    (317, recode::<header::BrokerConsumeStats>),
    (320, recode_send_v2),
    (324, recode::<header::SendMessage>),
    (325, recode_send_v2),
    (326, recode::<header::PushReplyMessage>),
    (327, recode::<header::WritePermOfBroker>),
    (351, recode::<header::GetTopicConfig>),
    (352, recode::<header::GroupName>),
    (361, recode::<header::PullMessage>),
    (200_050, recode::<header::PopMessage>),
    (200_051, recode::<header::AckMessage>),
    (200_053, recode::<header::ChangeInvisibleTime>),
];

/// Answers whose code says that the header is there.
const ANSWERS: &[(i32, &[i32], Recode)] = &[
    (10, &[0], recode::<header::SendMessageResponse>),
    (11, &[0, 19, 20, 21], recode::<header::PullMessageResponse>),
    (12, &[0], recode::<header::QueryMessageResponse>),
    (14, &[0], recode::<header::OffsetResponse>),
    (26, &[0], recode::<header::BrokerConfigResponse>),
    (29, &[0], recode::<header::OffsetResponse>),
    (30, &[0], recode::<header::OffsetResponse>),
    (31, &[0], recode::<header::OffsetResponse>),
    (32, &[0], recode::<header::EarliestStoreTimeResponse>),
    (34, &[0], recode::<header::HeartbeatResponse>),
    (201, &[0], recode::<header::GetAllSubscriptionGroupResponse>),
    (205, &[0], recode::<header::WipeWritePermResponse>),
    (310, &[0], recode::<header::SendMessageResponse>),
    (370, &[0], recode::<header::RecallMessageResponse>),
    (320, &[0], recode::<header::SendMessageResponse>),
    (325, &[0], recode::<header::SendMessageResponse>),
    (327, &[0], recode::<header::AddWritePermResponse>),
    (361, &[0, 19, 20, 21], recode::<header::PullMessageResponse>),
    (200_050, &[0, 210], recode::<header::PopMessageResponse>),
    (200_053, &[0], recode::<header::ChangeInvisibleTimeResponse>),
];

/// Bodies of answers with queues as keys, and other statistics: read, and printed as Java does.
type Reprint = fn(&[u8]) -> Bytes;

fn reprint<T: serde::Serialize + serde::de::DeserializeOwned>(json: &[u8]) -> Bytes {
    body::to_json_with_object_keys(&body::from_json::<T>("golden body", json).expect("readable"))
}

const STATISTICS: &[(i32, Reprint)] = &[
    (202, reprint::<body::TopicStats>),
    (208, reprint::<body::ConsumeStats>),
    (315, reprint::<body::BrokerStatsData>),
    (317, reprint::<body::BrokerConsumeStats>),
    (328, reprint::<body::ProducerTable>),
];

#[test]
fn statistics_are_printed_with_every_key_and_character_that_apache_prints() {
    // Java's maps have no order; what is the same but for order has the same letters.
    let letters = |json: &[u8]| {
        let mut letters = json.to_vec();
        letters.sort_unstable();
        letters
    };
    let mut bodies = 0;
    for golden in frames().iter().filter(|golden| golden.response && !golden.body.is_empty()) {
        let Some((_, reprint)) = STATISTICS.iter().find(|(code, _)| *code == golden.request) else { continue };
        if golden.body.ends_with(b"}") {
            assert_eq!(letters(&reprint(&golden.body)), letters(&golden.body), "{golden}");
            bodies += 1;
        }
    }
    assert!(bodies >= STATISTICS.len(), "{bodies} bodies");
}

/// Apache's own bookkeeping of a request (`ReqT`: which kind of client asked), which every server may ignore.
fn known_fields(ext: &ExtFields) -> BTreeMap<&str, &str> {
    ext.iter().filter(|(key, _)| *key != "ReqT").map(|(key, value)| (&**key, &**value)).collect()
}

fn typed_header(golden: &Golden, command: &Command) -> Option<Recode> {
    if golden.response {
        let answer = ANSWERS.iter().find(|(code, ..)| *code == golden.request);
        answer.filter(|(_, statuses, _)| statuses.contains(&command.code)).map(|(.., recode)| *recode)
    } else {
        REQUESTS.iter().find(|(code, _)| *code == golden.request).map(|(_, recode)| *recode)
    }
}

#[test]
fn every_typed_header_reads_and_writes_the_fields_that_apache_sends() {
    let mut typed = 0;
    for golden in frames() {
        let command = golden.command();
        let fields = known_fields(&command.ext);
        let Some(recode) = typed_header(&golden, &command) else {
            let error_without_header = golden.response && command.code != 0;
            assert!(fields.is_empty() || error_without_header, "{golden}: no typed header for {fields:?}");
            continue;
        };
        let again = recode(&command.ext).unwrap_or_else(|error| panic!("{golden}: {error}"));
        assert_eq!(known_fields(&again), fields, "{golden}");
        typed += 1;
    }
    assert!(typed > 350, "{typed} frames");
}
