//! What the broker does with a send: answers, stored bytes, refusals.

use bytes::Bytes;
use mq_protocol::batch::{self, BatchItem};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_protocol::frame::HeaderFormat;
use mq_protocol::header::SendMessageResponse;
use mq_protocol::message_id::parse_offset_id;
use mq_protocol::properties::MAX_PROPERTIES_BYTES;
use mq_protocol::record;
use mq_protocol::sys_flag::{TRANSACTION_COMMIT, TRANSACTION_PREPARED, TRANSACTION_ROLLBACK};

use crate::harness::{Client, Pull, Send, World};

#[tokio::test]
async fn a_send_is_answered_with_its_place_and_stored_with_the_brokers_marks() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    for (format, code, offset) in [
        (HeaderFormat::Json, request::SEND_MESSAGE, 0),
        (HeaderFormat::Binary, request::SEND_MESSAGE_V2, 1),
        (HeaderFormat::Json, request::SEND_MESSAGE_V2, 2),
    ] {
        client.format = format;
        let sent = client.send(Send { code, ..Send::to("T").property("UNIQ_KEY", "K").property("TAGS", "a") }).await;
        assert_eq!((sent.queue_id.0, sent.queue_offset.0), (0, offset));
        assert_eq!((sent.transaction_id.as_deref(), sent.region.as_deref()), (Some("K"), Some("DefaultRegion")));
        assert_eq!(sent.trace_on, Some(true));
        let (host, _) = parse_offset_id(&sent.msg_id).unwrap();
        assert_eq!(host, broker.address);
    }
    let stored = client.pull(Pull::of("T", 0, 0)).await;
    assert_eq!(stored.len(), 3);
    let message = &stored[0].message;
    for (name, value) in [
        ("TAGS", "a"),
        ("UNIQ_KEY", "K"),
        ("MSG_REGION", "DefaultRegion"),
        ("TRACE_ON", "true"),
        ("CLUSTER", "DefaultCluster"),
    ] {
        assert_eq!(message.property(name), Some(value), "{name}");
    }
    assert_eq!((&message.body[..], message.store_host), (&b"hello"[..], broker.address));
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn a_message_without_a_key_gets_one_that_the_answer_names() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    let sent = client.send(Send::to("T")).await;
    let stored = client.pull(Pull::of("T", 0, 0)).await;
    assert_eq!(stored[0].message.property("UNIQ_KEY"), sent.transaction_id.as_deref());
    assert_eq!(sent.transaction_id.unwrap().len(), 32);
}

#[tokio::test]
async fn a_flag_that_would_hide_the_message_is_not_believed() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    for bits in [TRANSACTION_PREPARED, TRANSACTION_COMMIT, TRANSACTION_ROLLBACK] {
        let mut send = Send::to("T");
        send.header.sys_flag = bits;
        client.send(send).await;
    }
    assert_eq!(client.pull(Pull::of("T", 0, 0)).await.len(), 3);
}

#[tokio::test]
async fn a_batch_is_one_request_and_many_messages() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    let items: Vec<_> = (0..5u8)
        .map(|n| BatchItem { flag: i32::from(n), body: vec![n; 3].into(), properties: "TAGS\u{1}b\u{2}".into() })
        .collect();
    let send = Send { code: request::SEND_BATCH_MESSAGE, ..Send::to("T") }.body(batch::encode(&items).unwrap());
    let sent = client.send(send).await;
    assert_eq!((sent.queue_offset.0, sent.msg_id.split(',').count()), (0, 5));
    let stored = client.pull(Pull::of("T", 0, 0)).await;
    for (n, (stored, id)) in stored.iter().zip(sent.msg_id.split(',')).enumerate() {
        assert_eq!(stored.message.body, vec![n as u8; 3]);
        assert_eq!((stored.queue_offset.0, stored.message.flag), (n as u64, n as i32));
        assert_eq!(parse_offset_id(id).unwrap().1, stored.log_offset);
    }
}

#[tokio::test]
async fn what_breaks_a_rule_is_refused_with_its_code_and_the_limit_in_words() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    client.send(Send::to("known")).await;
    let long = "x".repeat(MAX_PROPERTIES_BYTES + 1);
    let queue = |queue| {
        let mut send = Send::to("known");
        send.header.queue_id = queue;
        send
    };
    let no_seed = {
        let mut send = Send::to("unknown");
        send.header.default_topic = Some("nosuch".into());
        send
    };
    let batch = |topic: &str, body: Bytes| Send { code: request::SEND_BATCH_MESSAGE, ..Send::to(topic) }.body(body);
    let delayed = BatchItem { flag: 0, body: Bytes::new(), properties: "DELAY\u{1}1\u{2}".into() };
    let cases: Vec<(&str, Send, i32, &str)> = vec![
        ("bad topic", Send::to("a b"), response::INVALID_PARAMETER, "letters, digits"),
        ("system topic", Send::to("SCHEDULE_TOPIC_XXXX"), response::NO_PERMISSION, "belongs to the system"),
        ("half topic", Send::to("RMQ_SYS_TRANS_HALF_TOPIC"), response::NO_PERMISSION, "belongs to the system"),
        (
            "pops' records",
            Send::to("rmq_sys_REVIVE_LOG_DefaultCluster"),
            response::NO_PERMISSION,
            "belongs to the system",
        ),
        ("no seed", no_seed, response::TOPIC_NOT_EXIST, "unknown"),
        ("queue", queue(4), response::INVALID_PARAMETER, "4 queues"),
        ("body", Send::to("known").body(vec![0; (4 << 20) + 1]), response::MESSAGE_ILLEGAL, "4194304"),
        ("properties", Send::to("known").property("p", long), response::MESSAGE_ILLEGAL, "32767"),
        ("timer", Send::to("known").property("TIMER_DELAY_MS", "x"), response::MESSAGE_ILLEGAL, "no number"),
        ("retry of nobody", Send::to("%RETRY%nobody"), response::SUBSCRIPTION_GROUP_NOT_EXIST, "nobody"),
        ("torn batch", batch("known", Bytes::from_static(b"torn")), response::MESSAGE_ILLEGAL, "cut short"),
        ("empty batch", batch("known", Bytes::new()), response::MESSAGE_ILLEGAL, "empty"),
        ("delayed batch", batch("known", batch::encode(&[delayed]).unwrap()), response::MESSAGE_ILLEGAL, "one by one"),
        ("half without key", Send::to("known").property("TRAN_MSG", "true"), response::MESSAGE_ILLEGAL, "PGROUP"),
        ("delayed half", Send::to("known").half("K").property("DELAY", "2"), response::MESSAGE_ILLEGAL, "DELAY"),
    ];
    for (name, send, code, words) in cases {
        let answer = client.call(send.command()).await;
        let remark = answer.remark.as_deref().unwrap_or_default();
        assert_eq!(answer.code, code, "{name}: {remark}");
        assert!(remark.contains(words), "{name}: {remark}");
        assert_eq!(answer.ext.get("MSG_REGION").map(|region| &**region), Some("DefaultRegion"), "{name}");
    }
    assert_eq!(client.max_offset("known", 0).await, 1, "nothing of it was stored");
}

#[tokio::test]
async fn pipelined_sends_are_each_answered_and_a_bad_one_does_not_take_the_others_along() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    let mut bytes = Vec::new();
    let mut opaques = Vec::new();
    for n in 0..200u32 {
        let topic = if n % 10 == 9 { "a b" } else { "T" };
        let (opaque, frame) = client.frame(Send::to(topic).body(n.to_string()).command());
        bytes.extend_from_slice(&frame);
        opaques.push((n, opaque));
    }
    client.write(&bytes).await;
    let mut offsets = Vec::new();
    for (n, opaque) in opaques {
        let answer = client.answer(opaque).await;
        if n % 10 == 9 {
            assert_eq!(answer.code, response::INVALID_PARAMETER);
        } else {
            offsets.push(answer.header::<SendMessageResponse>().unwrap().queue_offset.0);
        }
    }
    assert_eq!(offsets, (0..180).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_oneway_send_is_stored_and_never_answered() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    client.post(Send { oneway: true, ..Send::to("T") }.command()).await;
    client.post(Send { oneway: true, ..Send::to("a b") }.command()).await;
    let sent = client.send(Send::to("T")).await;
    assert_eq!(sent.queue_offset.0, 1);
    let first = client.call(Command::request(7777)).await;
    assert_eq!(first.code, response::REQUEST_CODE_NOT_SUPPORTED, "no answer came in between");
}

#[tokio::test]
async fn a_queue_below_zero_lets_the_broker_pick() {
    let broker = World::new().start().await;
    let mut client = broker.connect().await;
    let mut send = Send::to("T");
    send.header.queue_id = -1;
    for _ in 0..20 {
        assert!(client.send(send.clone()).await.queue_id.0 < 4);
    }
}

#[tokio::test]
async fn messages_survive_a_restart_and_their_ids_still_name_them() {
    let world = World::new();
    let broker = world.start().await;
    let sent = broker.connect().await.send(Send::to("T").body("kept")).await;
    broker.stop().await.unwrap();
    let broker = world.start().await;
    let mut client = broker.connect().await;
    let view = view(&mut client, &sent).await;
    assert_eq!((view.code, &record::decode_all(&view.body).unwrap()[0].message.body[..]), (0, &b"kept"[..]));
    assert_eq!(client.send(Send::to("T")).await.queue_offset.0, 1);
}

async fn view(client: &mut Client, sent: &SendMessageResponse) -> Command {
    let (_, offset) = parse_offset_id(&sent.msg_id).unwrap();
    let header = mq_protocol::header::ViewMessage { offset, topic: None };
    client.call(Command::request_with(request::VIEW_MESSAGE_BY_ID, &header)).await
}
