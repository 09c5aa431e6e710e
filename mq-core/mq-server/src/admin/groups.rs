//! `mq admin group` and `producer`.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Subcommand, ValueEnum};
use mq_client::{Admin, ClientError, UnixMillis};
use mq_protocol::body::{Connection, MessageRequestMode, RequestMode, SubscriptionGroup};
use mq_protocol::codes::response;
use serde_json::Value;

use super::moment::{self, Moment};
use super::{Confirmation, Sheet, health, read_json, status};

#[derive(Debug, Subcommand)]
pub(super) enum GroupVerb {
    /// Every group and what it is set to.
    List,
    /// Creates a group on every broker, or changes it there.
    Create {
        group: String,
        /// Deliveries after the first, before a message becomes a dead letter; for consumers that do not say a number
        /// themselves. The SDK's do not, unless they are built so; Apache's Java clients always do (16).
        #[arg(long, default_value_t = 16)]
        retry_max_times: i32,
        /// One message of a queue after the other, for consumers that pop.
        #[arg(long)]
        orderly: bool,
        /// Where it begins each queue that it has not read yet: start, end (what is sent from now on), 30m (ago),
        /// milliseconds, or 2026-11-21T12:00:00+08:00. Without it each consumer decides for itself. Stays once set.
        #[arg(long)]
        from: Option<Moment>,
    },
    /// Deletes a group with what it committed.
    Delete {
        group: String,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// How far it came in each queue.
    Progress {
        group: String,
        #[arg(long)]
        topic: Option<String>,
    },
    /// Every group that is behind or has messages in its hands, topic by topic; the farthest behind first.
    Lag {
        /// Also those that are not.
        #[arg(long)]
        all: bool,
    },
    /// Its consumers that are connected now, and what they subscribe to.
    Clients { group: String },
    /// What its connected consumers do, by their own account: queues, rates, times, failures.
    Status {
        group: String,
        /// Only this client.
        #[arg(long)]
        client: Option<String>,
    },
    /// What it is set to, broker by broker.
    Show { group: String },
    /// Creates or changes the groups of a file on every broker: a JSON list, as `mqadmin updateSubGroupList` reads it.
    Import { file: PathBuf },
    /// Whether it pulls or pops a topic, where its clients leave that to the broker.
    Mode {
        group: String,
        topic: String,
        mode: Mode,
        /// Popping: of how many following members the queues are shared as well; 0: of all.
        #[arg(long, default_value_t = 0)]
        share: i32,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Mode {
    Pull,
    Pop,
}

#[derive(Debug, Subcommand)]
pub(super) enum ProducerVerb {
    /// The producers of a group that are connected now.
    Clients { group: String },
    /// Every producer that is connected now.
    List,
}

impl GroupVerb {
    pub(super) fn writes(&self) -> bool {
        matches!(self, Self::Create { .. } | Self::Delete { .. } | Self::Import { .. } | Self::Mode { .. })
    }
}

pub(super) async fn group(admin: &Admin, verb: &GroupVerb) -> Result<Sheet> {
    match verb {
        GroupVerb::List => list(admin).await,
        GroupVerb::Create { group, retry_max_times, orderly, from } => {
            let settings = SubscriptionGroup {
                group_name: group.clone(),
                retry_max_times: *retry_max_times,
                consume_message_orderly: *orderly,
                attributes: from.iter().map(|from| ("+consume.from".into(), from.attribute(moment::now()))).collect(),
                ..SubscriptionGroup::default()
            };
            admin.put_group(&settings).await?;
            Ok(Sheet::done(format!("group {group} is set on every broker")))
        }
        GroupVerb::Delete { group, confirmation } => {
            confirmation.wait_for(&format!("group {group} and what it committed will be gone"), group)?;
            let was_there = admin.groups().await?.contains_key(group);
            // What it committed may be there all the same.
            admin.delete_group(group).await?;
            Ok(Sheet::deleted(format!("group {group}"), was_there))
        }
        GroupVerb::Progress { group, topic } => progress(admin, group, topic.as_deref()).await,
        GroupVerb::Lag { all } => health::groups(admin, *all).await,
        GroupVerb::Clients { group } => clients(admin, group).await,
        GroupVerb::Status { group, client } => status::sheet(admin, group, client.as_deref()).await,
        GroupVerb::Show { group } => show(admin, group).await,
        GroupVerb::Import { file } => {
            let groups: Vec<SubscriptionGroup> = read_json(file)?;
            ensure!(!groups.is_empty(), "{} names no group", file.display());
            let names: Vec<String> = groups.iter().map(|group| group.group_name.clone()).collect();
            admin.put_groups(groups).await?;
            Ok(Sheet::done(format!("set on every broker: {}", names.join(", "))))
        }
        GroupVerb::Mode { group, topic, mode, share } => {
            let mode = MessageRequestMode {
                consumer_group: group.clone(),
                topic: topic.clone(),
                mode: match mode {
                    Mode::Pull => RequestMode::Pull,
                    Mode::Pop => RequestMode::Pop,
                },
                pop_share_queue_num: *share,
            };
            admin.set_request_mode(&mode).await?;
            let does = if mode.mode == RequestMode::Pop { "pops" } else { "pulls" };
            Ok(Sheet::done(format!("group {group} {does} {topic}")))
        }
    }
}

async fn show(admin: &Admin, group: &str) -> Result<Sheet> {
    let mut sheet = Sheet::new(&["broker", "key", "value"]);
    for (master, settings) in admin.group(group).await? {
        let Value::Object(settings) = serde_json::to_value(settings)? else { continue };
        for (key, value) in settings {
            sheet.row([master.name.as_str().into(), key.into(), value]);
        }
    }
    Ok(sheet)
}

async fn list(admin: &Admin) -> Result<Sheet> {
    let mut sheet =
        Sheet::new(&["group", "may consume", "broadcast", "orderly", "retries", "retry queues", "starts from"]);
    for (name, group) in admin.groups().await? {
        sheet.row([
            name.into(),
            group.consume_enable.into(),
            group.consume_broadcast_enable.into(),
            group.consume_message_orderly.into(),
            group.retry_max_times.into(),
            group.retry_queue_nums.into(),
            group.attributes.get("consume.from").map_or(Value::Null, |from| moment::start(from)),
        ]);
    }
    Ok(sheet)
}

async fn progress(admin: &Admin, group: &str, topic: Option<&str>) -> Result<Sheet> {
    let progress = admin.progress(group, topic).await?;
    let lag: u64 = progress.queues.iter().map(mq_client::QueueProgress::lag).sum();
    let is_empty = progress.queues.is_empty();
    let mut sheet = Sheet::new(&["topic", "broker", "queue", "next", "committed", "lag", "in flight", "last consumed"]);
    for queue in progress.queues {
        let lag = queue.lag();
        sheet.row([
            queue.queue.topic.into(),
            queue.queue.broker_name.into(),
            queue.queue.queue_id.into(),
            queue.end.0.into(),
            queue.committed.0.into(),
            lag.into(),
            queue.in_flight.into(),
            queue.consumed_at.map_or(Value::Null, moment::show),
        ]);
    }
    if !is_empty {
        return Ok(sheet.remark(format!("lag {lag}, {:.1} messages a second", progress.rate)));
    }
    let online = match admin.consumers(group).await {
        Ok(members) => members.iter().map(|(_, members)| members.connection_set.len()).max().unwrap_or_default(),
        Err(ClientError::Call(error)) if error.code() == Some(response::CONSUMER_NOT_ONLINE) => 0,
        Err(error) => return Err(error.into()),
    };
    ensure!(
        online > 0 || admin.groups().await?.contains_key(group),
        "no broker knows group {group}, and no client of it is online"
    );
    let of_topic = topic.map(|topic| format!(" of {topic}")).unwrap_or_default();
    Ok(sheet.remark(format!(
        "group {group} has committed nothing{of_topic} yet; {online} of its clients online (a client commits some seconds \
         after it began to read)"
    )))
}

async fn clients(admin: &Admin, group: &str) -> Result<Sheet> {
    let mut sheet =
        Sheet::new(&["broker", "client", "address", "language", "version", "type", "model", "subscriptions"]);
    for (broker, consumers) in admin.consumers(group).await? {
        let subscriptions: Vec<String> =
            consumers.subscription_table.values().map(|one| format!("{}:{}", one.topic, one.sub_string)).collect();
        for member in consumers.connection_set {
            let [client, address, language, version] = cells(member);
            sheet.row([
                broker.as_str().into(),
                client,
                address,
                language,
                version,
                serde_json::to_value(consumers.consume_type)?,
                serde_json::to_value(consumers.message_model)?,
                subscriptions.join(" ").into(),
            ]);
        }
    }
    Ok(sheet)
}

fn cells(member: Connection) -> [Value; 4] {
    [member.client_id.into(), member.client_addr.into(), member.language.into(), member.version.into()]
}

pub(super) async fn producer(admin: &Admin, verb: &ProducerVerb) -> Result<Sheet> {
    match verb {
        ProducerVerb::Clients { group } => producers(admin, group).await,
        ProducerVerb::List => all_producers(admin).await,
    }
}

async fn producers(admin: &Admin, group: &str) -> Result<Sheet> {
    let mut sheet = Sheet::new(&["broker", "client", "address", "language", "version"]);
    for (broker, producers) in admin.producers(group).await? {
        for member in producers.connection_set {
            let [client, address, language, version] = cells(member);
            sheet.row([broker.as_str().into(), client, address, language, version]);
        }
    }
    Ok(sheet)
}

async fn all_producers(admin: &Admin) -> Result<Sheet> {
    let mut sheet = Sheet::new(&["broker", "group", "client", "address", "language", "version", "last heard"]);
    for master in admin.masters().await? {
        for (group, members) in admin.all_producers(&master).await?.data {
            for member in members {
                sheet.row([
                    master.name.as_str().into(),
                    group.as_str().into(),
                    member.client_id.into(),
                    member.remote_ip.into(),
                    member.language.into(),
                    member.version.into(),
                    moment::show(UnixMillis(member.last_update_timestamp)),
                ]);
            }
        }
    }
    Ok(sheet)
}
