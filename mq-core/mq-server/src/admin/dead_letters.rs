//! `mq admin message resend`: dead letters that their group tries again. The copies go to the retry topic of the group, so
//! no other group sees them, and keep their unique keys, so that an inbox knows what it had.

use anyhow::{Context, Result, ensure};
use mq_client::{Admin, Message, Producer, ReceivedMessage, property};
use mq_protocol::topic;

use super::{Sheet, sending::GROUP};

/// What a copy must not bring along: counts of tries, and waits that are over.
const LEFT_OUT: [&str; 8] = [
    property::RECONSUME_TIME,
    property::MAX_RECONSUME_TIMES,
    property::DELAY,
    property::REAL_TOPIC,
    property::REAL_QUEUE_ID,
    property::DLQ_ORIGIN_TOPIC,
    property::DLQ_ORIGIN_MESSAGE_ID,
    property::TRANSACTION_PREPARED,
];

/// Those with this key, of KEYS or a unique one; each once, however often it was given up.
pub(super) async fn resend(admin: &Admin, group: &str, key: &str) -> Result<Sheet> {
    let dead = topic::dead_letter_topic(group);
    let mut found = admin.messages_by_key(&dead, key, false).await?;
    found.sort_by(|one, other| one.message_id.cmp(&other.message_id));
    found.dedup_by(|one, other| one.message_id == other.message_id);
    ensure!(!found.is_empty(), "group {group} has no dead letter with the key {key}");
    let producer = Producer::builder("").client(admin.client().clone()).group(GROUP).build().await?;
    let mut sheet = Sheet::new(&["unique key", "of topic", "keys", "offset id"]);
    for letter in found {
        let (of, copy) = copy(group, &letter)?;
        let receipt = producer.send(copy).await?;
        sheet.row([
            letter.message_id.to_string().into(),
            of.into(),
            letter.property(property::KEYS).into(),
            receipt.offset_message_id.to_string().into(),
        ]);
    }
    producer.close().await;
    Ok(sheet.remark(format!("group {group} gets them again; a dead letter itself stays where it is")))
}

fn copy(group: &str, letter: &ReceivedMessage) -> Result<(String, Message)> {
    let of = letter.property(property::RETRY_TOPIC).or_else(|| letter.property(property::DLQ_ORIGIN_TOPIC));
    let of = of.with_context(|| format!("{} does not say which topic it is of", letter.message_id))?.to_owned();
    let copy = Message::new(topic::retry_topic(group), letter.body.clone()).flag(letter.flag);
    let kept = letter.properties.iter().filter(|(name, _)| !LEFT_OUT.contains(&&***name));
    let copy = kept.fold(copy, |copy, (name, value)| copy.property(name.clone(), value.clone()));
    let copy = copy.property(property::RETRY_TOPIC, of.as_str());
    Ok((of, copy))
}
