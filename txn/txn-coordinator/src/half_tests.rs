//! The shapes of half, real message, parked copy and check, against what Apache stored and sent.

use mq_protocol::ids::{QueueOffset, UnixMillis};
use mq_protocol::properties::Properties;

use super::*;
use crate::history::Told;
use crate::parked::{parked_copy, resumed, told_in};

fn prepared(properties: &[(&str, &str)]) -> Message {
    Message {
        topic: "ORDER_PAID".into(),
        queue_id: QueueId(3),
        flag: 7,
        sys_flag: sys_flag::TRANSACTION_PREPARED | sys_flag::COMPRESSED,
        born_timestamp: UnixMillis(1_000),
        born_host: "10.0.0.9:5000".parse().unwrap(),
        store_host: "127.0.0.2:30911".parse().unwrap(),
        reconsume_times: 2,
        prepared_transaction_offset: LogOffset(99),
        properties: properties.iter().copied().collect::<Properties>().encode(),
        body: Bytes::from_static(b"paid"),
    }
}

const BASE: [(&str, &str); 4] = [("PGROUP", "g"), ("UNIQ_KEY", "K1"), ("TRAN_MSG", "true"), ("TAGS", "x")];

fn with(extra: &[(&'static str, &'static str)]) -> Message {
    prepared(&[&BASE, extra].concat())
}

fn stored(message: Message) -> StoredMessage {
    let mut bytes = Vec::new();
    message.encode(&mut bytes).unwrap();
    record::stamp(&mut bytes, QueueOffset(4), LogOffset(3_197_260), UnixMillis(5_000));
    StoredMessage::decode(&bytes.into()).unwrap()
}

fn text(properties: &Properties) -> String {
    properties.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_half_hides_the_message_and_keeps_everything_else() {
    let (half, new) = half_of(with(&[])).unwrap();
    assert_eq!((new.transaction, new.immunity), (TransactionKey::new("g", "K1"), Duration::ZERO));
    assert_eq!((&*half.topic, half.queue_id, half.sys_flag), (topic::HALF, QUEUE, sys_flag::COMPRESSED));
    assert_eq!((half.flag, half.reconsume_times, half.prepared_transaction_offset), (7, 2, LogOffset::ZERO));
    assert_eq!(
        text(&half.parsed_properties()),
        "PGROUP=g UNIQ_KEY=K1 TRAN_MSG=true TAGS=x __transactionId__=K1 REAL_TOPIC=ORDER_PAID REAL_QID=3"
    );
}

#[test]
fn what_cannot_be_a_half_is_named() {
    for (message, expected) in [
        (prepared(&[("UNIQ_KEY", "K1")]), Err(HalfError::Missing("PGROUP"))),
        (prepared(&[("PGROUP", "g")]), Err(HalfError::Missing("UNIQ_KEY"))),
        (prepared(&[("PGROUP", "g"), ("UNIQ_KEY", "K\u{1}1")]), Err(HalfError::Separator("UNIQ_KEY"))),
        (prepared(&[("PGROUP", "g\u{1}K"), ("UNIQ_KEY", "1")]), Err(HalfError::Separator("PGROUP"))),
        (with(&[("DELAY", "3")]), Err(HalfError::Delayed("DELAY"))),
        (with(&[("DELAY", "0")]), Ok(())),
        (with(&[("DELAY", "soon")]), Err(HalfError::Delayed("DELAY"))),
        (with(&[("TIMER_DELIVER_MS", "1700000000000")]), Err(HalfError::Delayed("TIMER_DELIVER_MS"))),
        (with(&[("TIMER_DELAY_SEC", "5")]), Err(HalfError::Delayed("TIMER_DELAY_SEC"))),
        (with(&[("TIMER_DELAY_MS", "5")]), Err(HalfError::Delayed("TIMER_DELAY_MS"))),
    ] {
        assert_eq!(half_of(message).map(drop), expected);
    }
    let long = "v".repeat(MAX_PROPERTIES_BYTES - 40);
    let full = prepared(&[("PGROUP", "g"), ("UNIQ_KEY", "K1"), ("long", &long)]);
    assert!(matches!(half_of(full), Err(HalfError::Properties(_))));
}

#[test]
fn a_client_cannot_forge_the_brokers_marks() {
    let forged = with(&[
        ("REAL_TOPIC", "other"),
        ("REAL_QID", "9"),
        ("__transactionId__", "K2"),
        ("TRANSACTION_CHECK_TIMES", "15"),
        ("TRAN_PREPARED_QUEUE_OFFSET", "1"),
    ]);
    assert_eq!(half_of(forged), half_of(with(&[])));
    let twice = Message {
        properties: "REAL_TOPIC\u{1}other\u{2}PGROUP\u{1}g\u{2}UNIQ_KEY\u{1}K1\u{2}REAL_TOPIC\u{1}other\u{2}".into(),
        ..with(&[])
    };
    assert_eq!(half_of(twice).unwrap().0.property("REAL_TOPIC"), Some("ORDER_PAID"));
}

#[test]
fn the_engine_learns_immunity_and_apaches_count() {
    let read = |extra: &[(&'static str, &'static str)]| {
        let mut half = half_of(with(&[])).unwrap().0;
        let properties = half.parsed_properties();
        let pairs = properties.iter().map(|(name, value)| (&**name, &**value)).chain(extra.iter().copied());
        half.properties = pairs.collect::<Properties>().encode();
        read_half(&stored(half)).ok().map(|half| (half.immunity.as_secs(), half.checks))
    };
    for (immunity, seconds) in [("60", 60), ("-1", 0), ("x", 0), ("99999999999", 259_200)] {
        assert_eq!(read(&[("CHECK_IMMUNITY_TIME_IN_SECONDS", immunity)]), Some((seconds, 0)), "{immunity}");
    }
    assert_eq!(read(&[("TRANSACTION_CHECK_TIMES", "7")]), Some((0, 7)));
    let plain = read_half(&stored(with(&[])));
    assert_eq!(plain, Err(NotAHalf::Missing("REAL_TOPIC")), "a plain message in the half topic is no half");
}

#[test]
fn the_real_message_is_what_the_client_sent_marked_as_committed() {
    let real = real_message(&stored(half_of(with(&[])).unwrap().0), 0).unwrap().message;
    let sent = with(&[]);
    assert_eq!((&real.topic, real.queue_id), (&sent.topic, sent.queue_id));
    assert_eq!(real.sys_flag, sys_flag::COMPRESSED | sys_flag::TRANSACTION_COMMIT);
    assert_eq!(real.prepared_transaction_offset, LogOffset(3_197_260));
    assert_eq!((real.flag, real.reconsume_times, real.born_timestamp), (7, 2, UnixMillis(1_000)));
    assert_eq!((real.born_host, real.store_host, &real.body), (sent.born_host, sent.store_host, &sent.body));
    assert_eq!(text(&real.parsed_properties()), "PGROUP=g UNIQ_KEY=K1 TRAN_MSG=true TAGS=x __transactionId__=K1");
}

#[test]
fn a_parked_copy_can_be_found_and_resumed() {
    let half = stored(half_of(with(&[])).unwrap().0);
    let copy = parked_copy(&half, 15, None, &[]);
    assert_eq!((&*copy.topic, copy.queue_id), (topic::CHECK_MAX_TIME, QUEUE));
    assert_eq!(copy.prepared_transaction_offset, half.log_offset);
    assert_eq!(copy.property("TRANSACTION_CHECK_TIMES"), Some("15"));
    assert_eq!(copy.property("REAL_TOPIC"), Some("ORDER_PAID"));
}

/// The header of a check that a 5.4.0 broker sent, with its offsets and ids.
#[test]
fn a_check_has_apaches_header_and_the_message_as_its_client_knew_it() {
    let request = check_request(&stored(half_of(with(&[])).unwrap().0), 1, &"broker-a".into()).unwrap();
    let mut fields: Vec<_> = request.ext.iter().map(|(name, value)| format!("{name}={value}")).collect();
    fields.sort();
    assert_eq!(
        fields,
        [
            "bname=broker-a",
            "commitLogOffset=3197260",
            "msgId=K1",
            "offsetMsgId=7F000002000078BF000000000030C94C",
            "topic=RMQ_SYS_TRANS_HALF_TOPIC",
            "tranStateTableOffset=4",
            "transactionId=K1",
        ]
    );
    assert!(request.code == 39 && request.is_oneway());
    let body = StoredMessage::decode(&request.body).unwrap();
    assert_eq!(body.size as usize, request.body.len());
    assert_eq!((&*body.message.topic, body.message.queue_id), ("ORDER_PAID", QueueId(3)));
    assert_eq!(
        (body.queue_offset, body.log_offset, body.store_timestamp),
        (QueueOffset(4), LogOffset(3_197_260), UnixMillis(5_000))
    );
    assert_eq!((body.message.sys_flag, body.message.flag), (sys_flag::COMPRESSED, 7));
    assert_eq!(body.message.property("PGROUP"), Some("g"));
    assert_eq!(body.message.property("TRANSACTION_CHECK_TIMES"), Some("1"));
}

#[test]
fn a_half_with_the_longest_properties_can_still_be_asked_about_and_parked() {
    let base = prepared(&[("PGROUP", "g"), ("UNIQ_KEY", "K1"), ("long", "v")]);
    let spare = MAX_PROPERTIES_BYTES - half_of(base).unwrap().0.properties.len();
    let full = half_of(prepared(&[("PGROUP", "g"), ("UNIQ_KEY", "K1"), ("long", &"v".repeat(1 + spare))])).unwrap().0;
    assert_eq!(full.properties.len(), MAX_PROPERTIES_BYTES);
    let half = stored(full);
    assert!(check_request(&half, 1, &"broker-a".into()).is_some());
    assert!(parked_copy(&half, 15, None, &[]).encode(&mut Vec::new()).is_ok());
}

#[test]
fn a_copy_tells_the_last_answers_in_short_words_or_none_where_they_do_not_fit() {
    let told = |n: i64, by: &str| Told {
        at: UnixMillis(n),
        half: HalfOffset(4),
        by: by.to_owned(),
        what: if n == 0 { "sent it".to_owned() } else { "said unknown".to_owned() },
    };
    let long = "ä|\u{1}\n".repeat(1_000);
    let all: Vec<_> = (0..100).map(|n| told(n, &long)).collect();
    let half = stored(half_of(with(&[])).unwrap().0);
    let copy = parked_copy(&half, 15, None, &all);
    let said = told_in(&copy);
    assert_eq!((said.len(), said[0].at, said[1].at, said[32].at), (33, UnixMillis(0), UnixMillis(68), UnixMillis(99)));
    assert!(said.iter().all(|told| told.by.len() <= 96 && told.by.starts_with("ä___ä") && told.half == HalfOffset(4)));
    assert!(copy.properties.len() < 6_000, "{}", copy.properties.len());
    let (again, _) = resumed(&stored(copy)).unwrap();
    assert!(told_in(&again).is_empty() && again.property("CHECKBACK_HALF").is_none());
    assert_eq!(again.prepared_transaction_offset, LogOffset(3_197_260), "it names the copy");

    let nearly_full = "v".repeat(MAX_PROPERTIES_BYTES - half.message.properties.len() - 100);
    let full = stored(half_of(with(&[("long", nearly_full.leak())])).unwrap().0);
    let copy = parked_copy(&full, 15, None, &all);
    assert_eq!((told_in(&copy).len(), copy.property("CHECKBACK_HALF")), (0, Some("4")));
}
