//! `mq admin message`.

use anyhow::{Result, ensure};
use clap::Subcommand;
use mq_client::{Admin, ReceivedMessage};
use serde_json::Value;

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
    /// The messages of a topic with a key, from the index.
    Query { topic: String, key: String },
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
        MessageVerb::Query { topic, key } => {
            let found = admin.messages_by_key(topic, key, false).await?;
            ensure!(!found.is_empty(), "no message of {topic} has the key {key}");
            Ok(list(&found))
        }
    }
}

fn list(messages: &[ReceivedMessage]) -> Sheet {
    let mut sheet = Sheet::new(&["unique key", "topic", "broker", "queue", "offset", "tags", "stored", "body"]);
    for message in messages {
        sheet.row([
            message.message_id.to_string().into(),
            message.topic.to_string().into(),
            message.queue.broker_name.as_str().into(),
            message.queue.queue_id.into(),
            message.queue_offset.0.into(),
            message.tags().into(),
            moment::show(message.store_timestamp),
            String::from_utf8_lossy(&message.body).chars().take(SHOWN_BODY_CHARS).collect::<String>().into(),
        ]);
    }
    sheet
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
