//! `mq admin topic`.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, ensure};
use clap::Subcommand;
use mq_client::{Admin, Allocation, ClientError, MessageQueue, TopicSettings};
use mq_protocol::body::{TopicConfig, perm};
use mq_protocol::codes::response;
use mq_protocol::header::QueryConsumeQueue;
use mq_protocol::ids::{QueueId, UnixMillis};
use serde_json::Value;

use super::{Confirmation, Sheet, kv, moment, rates, read_json};

#[derive(Debug, Subcommand)]
pub(super) enum TopicVerb {
    /// Every topic that the name servers know.
    List {
        /// Also those of the system, of retries and of dead letters.
        #[arg(long)]
        all: bool,
    },
    /// Creates a topic on every broker, or changes it there: what is not given stays as it is.
    Create {
        topic: String,
        /// 8 for a new topic.
        #[arg(long)]
        queues: Option<u32>,
        /// Takes queues away: nobody reads what is left in them.
        #[arg(long)]
        shrink: bool,
        /// r, w or rw: what clients may do. rw for a new topic.
        #[arg(long, value_parser = permission)]
        perm: Option<u32>,
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
    /// Changes what clients may do with it, and nothing else.
    Perm {
        topic: String,
        /// r, w or rw.
        #[arg(value_parser = permission)]
        perm: u32,
    },
    /// Creates or changes the topics of a file on every broker: a JSON list, as `mqadmin updateTopicList` reads it.
    Import { file: PathBuf },
    /// The queues that clients keep to for the sake of an order, whatever brokers come and go.
    Order {
        topic: String,
        /// `broker-a:4;broker-b:4`. Name servers hand it out with orderMessageEnable=true.
        #[arg(long, value_name = "BROKER:QUEUES;…")]
        set: Option<String>,
        #[arg(long, conflicts_with = "set")]
        delete: bool,
    },
    /// Which queues each of these clients would read, if they were its group's members.
    Allocate {
        topic: String,
        #[arg(required = true)]
        clients: Vec<String>,
    },
    /// What stands in one queue: by offset, where in the log.
    Entries {
        topic: String,
        #[arg(long)]
        queue: u32,
        /// A broker's name or address; all of them when it is left out.
        #[arg(long)]
        broker: Option<String>,
        /// The first offset.
        #[arg(long, default_value_t = 0)]
        from: i64,
        #[arg(long, default_value_t = 10)]
        count: i32,
        /// Also whether this group's filter lets them pass.
        #[arg(long)]
        group: Option<String>,
    },
    /// What goes in and out, by topic and group: the last minute, and a day.
    Rates {
        /// One topic; all of the users' when it is left out.
        topic: Option<String>,
    },
}

/// Of a topic that is created without a number.
const NEW_QUEUES: u32 = 8;

/// How the topic is set where it has the most queues, if any broker has it.
async fn known(admin: &Admin, topic: &str) -> Result<Option<TopicSettings>> {
    let configs = match admin.topic_configs(topic).await {
        Ok(configs) => configs,
        Err(ClientError::Call(error)) if error.code() == Some(response::TOPIC_NOT_EXIST) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let most = configs.iter().map(|(_, config)| config).max_by_key(|config| config.read_queue_nums);
    Ok(most.map(TopicSettings::of))
}

/// Where name servers keep what [`TopicVerb::Order`] sets.
const ORDERS: &str = "ORDER_TOPIC_CONFIG";

fn permission(text: &str) -> Result<u32, String> {
    match text {
        "r" => Ok(perm::READ),
        "w" => Ok(perm::WRITE),
        "rw" => Ok(perm::READ_WRITE),
        _ => Err("r, w or rw is expected".into()),
    }
}

impl TopicVerb {
    pub(super) fn writes(&self) -> bool {
        match self {
            Self::Create { .. } | Self::Delete { .. } | Self::Perm { .. } | Self::Import { .. } => true,
            Self::Order { set, delete, .. } => set.is_some() || *delete,
            _ => false,
        }
    }
}

pub(super) async fn topic(admin: &Admin, verb: &TopicVerb) -> Result<Sheet> {
    match verb {
        TopicVerb::List { all } => list(admin, *all).await,
        TopicVerb::Create { topic, queues, shrink, perm, attributes } => {
            let known = known(admin, topic).await?;
            let before = known.as_ref().map_or(0, |known| known.read_queues);
            let mut settings = known.unwrap_or_else(|| TopicSettings::with_queues(NEW_QUEUES));
            if let Some(queues) = *queues {
                ensure!(
                    queues >= before || *shrink,
                    "topic {topic} has {before} queues, and nobody would read what is left in those from {queues} on; \
                     --shrink does it anyway"
                );
                (settings.read_queues, settings.write_queues) = (queues, queues);
            }
            settings.perm = perm.unwrap_or(settings.perm);
            settings.attributes.clone_from(attributes);
            let queues = settings.read_queues;
            admin.create_topic(topic, settings).await?;
            Ok(Sheet::done(format!("topic {topic} has {queues} queues on every broker")))
        }
        TopicVerb::Delete { topic, confirmation } => {
            confirmation.wait_for(&format!("topic {topic} and all its messages will be gone"), topic)?;
            let was_there = known(admin, topic).await?.is_some();
            // Name servers may know it all the same.
            admin.delete_topic(topic).await?;
            Ok(Sheet::deleted(format!("topic {topic}"), was_there))
        }
        TopicVerb::Status { topic } => status(admin, topic).await,
        TopicVerb::Route { topic } => route(admin, topic).await,
        TopicVerb::Perm { topic, perm } => {
            admin.set_topic_perm(topic, *perm).await?;
            Ok(Sheet::done(format!("topic {topic}: {}", letters(*perm))))
        }
        TopicVerb::Import { file } => {
            let topics: Vec<TopicConfig> = read_json(file)?;
            ensure!(!topics.is_empty(), "{} names no topic", file.display());
            let names: Vec<String> = topics.iter().map(|topic| topic.topic_name.clone()).collect();
            admin.put_topics(topics).await?;
            Ok(Sheet::done(format!("set on every broker: {}", names.join(", "))))
        }
        TopicVerb::Order { topic, set: Some(order), .. } => {
            admin.put_kv(ORDERS, topic, order).await?;
            Ok(Sheet::done(format!("topic {topic} is ordered: {order}")))
        }
        TopicVerb::Order { topic, delete: true, .. } => {
            let was_there = kv::has(admin, ORDERS, topic).await?;
            admin.delete_kv(ORDERS, topic).await?;
            Ok(Sheet::done(format!(
                "topic {topic} is not ordered{}",
                if was_there { "" } else { ", and was not before" }
            )))
        }
        TopicVerb::Order { topic, .. } => {
            let mut sheet = Sheet::new(&["topic", "order"]);
            for (name, order) in admin.kv(ORDERS).await?.into_iter().filter(|(name, _)| name == topic) {
                sheet.row([name.into(), order.into()]);
            }
            Ok(sheet)
        }
        TopicVerb::Allocate { topic, clients } => allocate(admin, topic, clients).await,
        TopicVerb::Entries { topic, queue, broker, from, count, group } => {
            let which = QueryConsumeQueue {
                topic: topic.as_str().into(),
                queue_id: QueueId(*queue),
                index: *from,
                count: *count,
                consumer_group: group.as_deref().map(Into::into),
            };
            entries(admin, broker.as_deref(), &which).await
        }
        TopicVerb::Rates { topic } => rates::sheet(admin, topic.as_deref()).await,
    }
}

async fn allocate(admin: &Admin, topic: &str, clients: &[String]) -> Result<Sheet> {
    let route = admin.route(topic).await?;
    let readable = route.queue_datas.iter().filter(|data| perm::readable(data.perm));
    let mut queues: Vec<Arc<MessageQueue>> = readable
        .flat_map(|data| (0..data.read_queue_nums).map(|queue_id| (data.broker_name.clone(), queue_id)))
        .map(|(broker_name, queue_id)| Arc::new(MessageQueue { topic: topic.to_owned(), broker_name, queue_id }))
        .collect();
    queues.sort();
    let mut clients = clients.to_vec();
    clients.sort();
    let mut sheet = Sheet::new(&["client", "broker", "queue"]);
    for client in &clients {
        for queue in Allocation::Average.allocate(client, &queues, &clients) {
            sheet.row([client.as_str().into(), queue.broker_name.as_str().into(), queue.queue_id.into()]);
        }
    }
    Ok(sheet)
}

async fn entries(admin: &Admin, broker: Option<&str>, which: &QueryConsumeQueue) -> Result<Sheet> {
    let mut sheet = Sheet::new(&["broker", "offset", "log offset", "bytes", "tags code", "passes"]);
    let mut remark = Vec::new();
    for master in admin.masters_named(broker).await? {
        let view = admin.queue_entries(&master, which).await?;
        let first = which.index.max(view.min_queue_index as i64);
        for (offset, entry) in (first..).zip(view.queue_data) {
            let passes = which.consumer_group.as_ref().map_or(Value::Null, |_| entry.eval.into());
            sheet.row([
                master.name.as_str().into(),
                offset.into(),
                entry.physic_offset.into(),
                entry.physic_size.into(),
                entry.tags_code.into(),
                passes,
            ]);
        }
        remark.push(format!("{}: offsets {} to {}", master.name, view.min_queue_index, view.max_queue_index));
    }
    Ok(sheet.remark(remark.join("\n")))
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
    let mut sheet = Sheet::new(&["cluster", "broker", "addresses", "read queues", "write queues", "perm"]);
    for queues in route.queue_datas {
        let broker = route.broker_datas.iter().find(|broker| broker.broker_name == queues.broker_name);
        let addresses: Vec<&str> =
            broker.iter().flat_map(|broker| broker.broker_addrs.values()).map(String::as_str).collect();
        sheet.row([
            broker.map_or(Value::Null, |broker| broker.cluster.as_str().into()),
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
