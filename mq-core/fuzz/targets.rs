//! What is fuzzed: everything that reads bytes of others. Each target takes any bytes, must not panic, and checks that
//! what it could read survives being written and read again.
//!
//! `fuzz_targets/` gives them to libFuzzer (`cargo +nightly fuzz run record`, in this directory); a test of mq-testkit
//! replays mutated real traffic through all of them with stable Rust.

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use mq_filter::Expression;
use mq_protocol::body;
use mq_protocol::command::Command;
use mq_protocol::ext::ExtFields;
use mq_protocol::frame::{self, Frame, HeaderFormat};
use mq_protocol::header::{self, Header};
use mq_protocol::properties::Properties;
use mq_protocol::record::{self, StoredMessage};
use mq_protocol::{batch, compression, java, message_id, sys_flag};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) type Target = fn(&[u8]);

pub(crate) const TARGETS: &[(&str, Target)] = &[
    ("frame", frame),
    ("json_header", json_header),
    ("binary_header", binary_header),
    ("typed_headers", typed_headers),
    ("record", record),
    ("properties", properties),
    ("batch", batch),
    ("bodies", bodies),
    ("sql92", sql92),
    ("inflate", inflate),
    ("texts", texts),
];

/// A decompressed body may take this much here.
const INFLATED_BYTES: usize = 1 << 20;

/// A stream of frames.
pub(crate) fn frame(data: &[u8]) {
    let mut input = BytesMut::from(data);
    while let Ok(Some(frame)) = frame::split(&mut input, frame::MAX_FRAME_BYTES) {
        drop(Command::decode(frame));
    }
}

pub(crate) fn json_header(data: &[u8]) {
    decode_header(HeaderFormat::Json, data);
}

pub(crate) fn binary_header(data: &[u8]) {
    decode_header(HeaderFormat::Binary, data);
}

fn decode_header(format: HeaderFormat, data: &[u8]) {
    let read = |header| Command::decode(Frame { format, header, body: Bytes::new() });
    let Ok(command) = read(Bytes::copy_from_slice(data)) else { return };
    let mut printed = BytesMut::new();
    command.encode(&mut printed);
    let again = frame::split(&mut printed, usize::MAX).expect("a frame of ours").expect("a whole one");
    let again = Command::decode(again).expect("a header of ours");
    assert_eq!((again.code, again.opaque, again.flag), (command.code, command.opaque, command.flag));
    assert!(again.ext.iter().eq(command.ext.iter()), "fields survive");
}

/// Ext fields, as properties are written, read as each header.
pub(crate) fn typed_headers(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut ext = ExtFields::default();
    for (name, value) in Properties::parse(&ByteString::from(text)).iter() {
        ext.push(name.clone(), value.clone());
    }
    fn recode<H: Header>(ext: &ExtFields) {
        if let Ok(header) = H::decode(ext) {
            let mut again = ExtFields::default();
            header.encode(&mut again);
            assert!(H::decode(&again).is_ok(), "what was read is written readable");
        }
    }
    recode::<header::SendMessage>(&ext);
    drop(header::SendMessage::decode_v2(&ext));
    recode::<header::PullMessage>(&ext);
    recode::<header::EndTransaction>(&ext);
    recode::<header::ConsumerSendMsgBack>(&ext);
    recode::<header::UpdateConsumerOffset>(&ext);
    recode::<header::QueryConsumerOffset>(&ext);
    recode::<header::SearchOffset>(&ext);
    recode::<header::CreateTopic>(&ext);
    recode::<header::ViewMessage>(&ext);
    recode::<header::RegisterBroker>(&ext);
    recode::<header::UnregisterClient>(&ext);
}

pub(crate) fn record(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    drop(record::decode_all(&bytes));
    let Ok(stored) = StoredMessage::decode(&bytes) else { return };
    let mut again = Vec::new();
    if stored.message.encode(&mut again).is_ok() {
        record::stamp(&mut again, stored.queue_offset, stored.log_offset, stored.store_timestamp);
        let again = StoredMessage::decode(&again.into()).expect("a record of ours");
        assert_eq!(again.message.body, stored.message.body);
        assert_eq!((again.queue_offset, again.log_offset), (stored.queue_offset, stored.log_offset));
    }
}

pub(crate) fn properties(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let read = Properties::parse(&ByteString::from(text));
    let again = Properties::parse(&read.encode());
    assert!(read.iter().eq(again.iter()), "properties survive");
}

/// A body of several messages.
pub(crate) fn batch(data: &[u8]) {
    let Ok(items) = batch::decode(&Bytes::copy_from_slice(data)) else { return };
    if let Ok(again) = batch::encode(&items) {
        assert_eq!(batch::decode(&again).expect("a batch of ours").len(), items.len());
    }
}

/// Bodies of heartbeats and of what tools and brokers send.
pub(crate) fn bodies(data: &[u8]) {
    fn read<T: DeserializeOwned + Serialize>(data: &[u8]) {
        if let Ok(value) = body::from_json::<T>("fuzzed body", data) {
            body::from_json::<T>("printed body", &body::to_json(&value)).expect("a body of ours");
        }
    }
    read::<body::HeartbeatData>(data);
    read::<body::Subscription>(data);
    read::<body::TopicStats>(data);
    read::<body::ConsumeStats>(data);
    read::<serde_json::Value>(data);
}

/// An expression, and properties behind a zero byte.
pub(crate) fn sql92(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (expression, properties) = text.split_once('\0').unwrap_or((text, ""));
    let Ok(parsed) = Expression::parse(expression) else { return };
    let properties = Properties::parse(&ByteString::from(properties));
    let _ = std::hint::black_box(parsed.evaluate(|name| properties.get(name).map(|value| &**value)));
}

/// The first byte chooses the compression.
pub(crate) fn inflate(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let flags = i32::from(*kind) << 8 | sys_flag::COMPRESSED;
    if let Ok(inflated) = compression::inflate(flags, &Bytes::copy_from_slice(rest), INFLATED_BYTES) {
        assert!(inflated.len() <= INFLATED_BYTES.max(rest.len()), "the limit holds");
    }
}

pub(crate) fn texts(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = std::hint::black_box(message_id::parse_offset_id(text));
    drop(java::quote_integer_keys(text));
    std::hint::black_box(java::string_hash(text));
    drop(mq_protocol::topic::check_topic(text));
}
