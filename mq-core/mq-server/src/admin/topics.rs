//! `mq admin topic`.

use anyhow::Result;
use clap::Subcommand;
use mq_client::{Admin, TopicSettings};
use mq_protocol::body::perm;
use mq_protocol::ids::UnixMillis;

use super::{Confirmation, Sheet, moment};

#[derive(Debug, Subcommand)]
pub(super) enum TopicVerb {
    /// Every topic that the name servers know.
    List {
        /// Also those of the system, of retries and of dead letters.
        #[arg(long)]
        all: bool,
    },
    /// Creates a topic on every broker, or changes it there.
    Create {
        topic: String,
        #[arg(long, default_value_t = 8)]
        queues: u32,
        /// r, w or rw: what clients may do.
        #[arg(long, default_value = "rw", value_parser = permission)]
        perm: u32,
        /// `+key=value` or `-key`, comma separated; for instance +message.type=TRANSACTION.
        #[arg(long, allow_hyphen_values = true)]
        attributes: Option<String>,
    },
    /// Deletes a topic with all its messages.
    Delete {
        topic: String,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// How far each queue reaches.
    Status { topic: String },
    /// Where its queues are.
    Route { topic: String },
}

fn permission(text: &str) -> Result<u32, String> {
    match text {
        "r" => Ok(perm::READ),
        "w" => Ok(perm::WRITE),
        "rw" => Ok(perm::READ_WRITE),
        _ => Err("r, w or rw is expected".into()),
    }
}

pub(super) async fn topic(admin: &Admin, verb: &TopicVerb) -> Result<Sheet> {
    match verb {
        TopicVerb::List { all } => list(admin, *all).await,
        TopicVerb::Create { topic, queues, perm, attributes } => {
            let settings =
                TopicSettings { perm: *perm, attributes: attributes.clone(), ..TopicSettings::with_queues(*queues) };
            admin.create_topic(topic, settings).await?;
            Ok(Sheet::done(format!("topic {topic} has {queues} queues on every broker")))
        }
        TopicVerb::Delete { topic, confirmation } => {
            confirmation.wait_for(&format!("topic {topic} and all its messages will be gone"), topic)?;
            admin.delete_topic(topic).await?;
            Ok(Sheet::done(format!("topic {topic} is deleted")))
        }
        TopicVerb::Status { topic } => status(admin, topic).await,
        TopicVerb::Route { topic } => route(admin, topic).await,
    }
}

async fn list(admin: &Admin, all: bool) -> Result<Sheet> {
    let mut sheet = Sheet::new(&["topic"]);
    let topics = if all { admin.topics().await? } else { admin.user_topics().await? };
    for name in topics {
        sheet.row([name.into()]);
    }
    Ok(sheet)
}

async fn status(admin: &Admin, topic: &str) -> Result<Sheet> {
    let mut sheet = Sheet::new(&["broker", "queue", "first", "next", "messages", "last stored"]);
    for (queue, reach) in admin.topic_stats(topic).await?.offset_table {
        sheet.row([
            queue.0.broker_name.into(),
            queue.0.queue_id.into(),
            reach.min_offset.into(),
            reach.max_offset.into(),
            reach.max_offset.saturating_sub(reach.min_offset).into(),
            moment::show(UnixMillis(reach.last_update_timestamp)),
        ]);
    }
    Ok(sheet)
}

async fn route(admin: &Admin, topic: &str) -> Result<Sheet> {
    let route = admin.route(topic).await?;
    let mut sheet = Sheet::new(&["broker", "addresses", "read queues", "write queues", "perm"]);
    for queues in route.queue_datas {
        let broker = route.broker_datas.iter().find(|broker| broker.broker_name == queues.broker_name);
        let addresses: Vec<&str> =
            broker.iter().flat_map(|broker| broker.broker_addrs.values()).map(String::as_str).collect();
        sheet.row([
            queues.broker_name.as_str().into(),
            addresses.join(" ").into(),
            queues.read_queue_nums.into(),
            queues.write_queue_nums.into(),
            letters(queues.perm).into(),
        ]);
    }
    Ok(sheet)
}

fn letters(bits: u32) -> &'static str {
    match (perm::readable(bits), perm::writable(bits)) {
        (true, true) => "rw",
        (true, false) => "r",
        (false, true) => "w",
        (false, false) => "none",
    }
}
