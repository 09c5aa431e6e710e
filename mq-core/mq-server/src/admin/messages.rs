//! `mq admin message`.

use anyhow::{Result, ensure};
use clap::Subcommand;
use mq_client::{Admin, ReceivedMessage, TRACE_TOPIC, TraceRecord, Verdict, property};
use serde_json::Value;

use super::dead_letters;
use super::reading::{self, ReadOptions};
use super::sending::{self, SendOptions};
use super::{Sheet, moment};

/// Characters of a body that a table shows.
const SHOWN_BODY_CHARS: usize = 60;

#[derive(Debug, Subcommand)]
pub(super) enum MessageVerb {
    /// One message by the offset id that a send answered with, or by its unique key and topic.
    Get {
        id: String,
        /// The id is a unique key of this topic.
        #[arg(long)]
        topic: Option<String>,
    },
    /// Sends one, or several, and shows where they went and how long that took.
    Send(SendOptions),
    /// The messages of a topic, or of one of its queues, as they were stored; commits nothing.
    Read(ReadOptions),
    /// The messages of a topic with a key, from the index.
    Query { topic: String, key: String },
    /// Has a group try dead letters again, and no other group.
    Resend {
        /// The group that gave them up.
        group: String,
        /// Of KEYS, or a unique key.
        #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
        key: String,
    },
    /// What became of a message: who sent it, who handled it, how its transaction ended. Clients that trace say so.
    Trace {
        /// Its unique key.
        #[arg(long)]
        id: String,
        /// Where the clients' traces go.
        #[arg(long, default_value = TRACE_TOPIC)]
        trace_topic: String,
    },
}

impl MessageVerb {
    pub(super) fn writes(&self) -> bool {
        matches!(self, Self::Send(_) | Self::Resend { .. })
    }
}

pub(super) async fn message(admin: &Admin, verb: &MessageVerb) -> Result<Sheet> {
    match verb {
        MessageVerb::Get { id, topic: None } => Ok(whole(&admin.message_by_offset_id(id).await?)),
        MessageVerb::Get { id, topic: Some(topic) } => {
            let mut found = admin.messages_by_key(topic, id, true).await?;
            ensure!(!found.is_empty(), "no message of {topic} has the unique key {id}");
            // A delivery that failed is stored again under the same key: the first is what was sent.
            Ok(whole(&found.swap_remove(0)))
        }
        MessageVerb::Send(options) => sending::send(admin, options).await,
        MessageVerb::Read(options) => Ok(list(&reading::read(admin, options).await?)),
        MessageVerb::Query { topic, key } => {
            let found = admin.messages_by_key(topic, key, false).await?;
            ensure!(!found.is_empty(), "no message of {topic} has the key {key}");
            Ok(list(&found))
        }
        MessageVerb::Resend { group, key } => dead_letters::resend(admin, group, key).await,
        MessageVerb::Trace { id, trace_topic } => {
            let found = admin.traces(trace_topic, id).await?;
            ensure!(!found.is_empty(), "{trace_topic} says nothing of {id}");
            Ok(traces(&found))
        }
    }
}

fn list(messages: &[ReceivedMessage]) -> Sheet {
    let mut sheet = Sheet::new(&[
        "unique key",
        "offset id",
        "topic",
        "broker",
        "queue",
        "offset",
        "tags",
        "keys",
        "stored",
        "body",
    ]);
    for message in messages {
        sheet.row([
            message.message_id.to_string().into(),
            message.offset_message_id.to_string().into(),
            message.topic.to_string().into(),
            message.queue.broker_name.as_str().into(),
            message.queue.queue_id.into(),
            message.queue_offset.0.into(),
            message.tags().into(),
            message.property(property::KEYS).into(),
            moment::show(message.store_timestamp),
            String::from_utf8_lossy(&message.body).chars().take(SHOWN_BODY_CHARS).collect::<String>().into(),
        ]);
    }
    sheet
}

fn traces(records: &[TraceRecord]) -> Sheet {
    let mut sheet = Sheet::new(&["event", "at", "group", "took ms", "outcome", "topic", "broker"]);
    for record in records {
        let [event, group, took, outcome, topic, broker] = trace(record);
        sheet.row([event, moment::show(record.at()), group, took, outcome, topic, broker]);
    }
    sheet
}

fn trace(record: &TraceRecord) -> [Value; 6] {
    let word = |text: &str| Value::from(text);
    let outcome = |success| word(if success { "success" } else { "failed" });
    match record {
        TraceRecord::Sent { group, message, cost_ms, success, .. } => [
            word("sent"),
            word(group),
            (*cost_ms).into(),
            outcome(*success),
            word(&message.topic),
            word(&message.broker),
        ],
        TraceRecord::Begun { group, failed_before, .. } => {
            let before =
                if *failed_before > 0 { format!("failed {failed_before} times before").into() } else { Value::Null };
            [word("begun"), word(group), Value::Null, before, Value::Null, Value::Null]
        }
        TraceRecord::Handled { group, cost_ms, success, .. } => {
            [word("handled"), word(group), (*cost_ms).into(), outcome(*success), Value::Null, Value::Null]
        }
        TraceRecord::Ended { group, message, verdict, by_check, .. } => {
            let verdict = match verdict {
                Verdict::Commit => "committed",
                Verdict::Rollback => "rolled back",
                Verdict::Unknown => "not known yet",
            };
            let event = if *by_check { "checked" } else { "ended" };
            [word(event), word(group), Value::Null, word(verdict), word(&message.topic), word(&message.broker)]
        }
    }
}

fn whole(message: &ReceivedMessage) -> Sheet {
    let mut sheet = Sheet::new(&["field", "value"]);
    let mut field = |name: &str, value: Value| sheet.row([name.into(), value]);
    field("unique key", message.message_id.to_string().into());
    field("offset id", message.offset_message_id.to_string().into());
    field("topic", message.topic.to_string().into());
    field("queue", message.queue.queue_id.into());
    field("queue offset", message.queue_offset.0.into());
    field("log offset", message.log_offset.0.into());
    field("born", moment::show(message.born_timestamp));
    field("stored", moment::show(message.store_timestamp));
    field("failed deliveries", message.reconsume_times.into());
    for (name, value) in message.properties.iter() {
        field(name, value.to_string().into());
    }
    field("body", String::from_utf8_lossy(&message.body).into());
    sheet
}
