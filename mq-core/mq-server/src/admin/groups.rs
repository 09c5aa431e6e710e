//! `mq admin group`, `offset` and `producer`.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Subcommand;
use mq_client::{Admin, UnixMillis};
use mq_protocol::body::{Connection, SubscriptionGroup};
use serde_json::Value;

use super::moment::{self, Moment};
use super::{Confirmation, Sheet, health};

#[derive(Debug, Subcommand)]
pub(super) enum GroupVerb {
    /// Every group and what it is set to.
    List,
    /// Creates a group on every broker, or changes it there.
    Create {
        group: String,
        /// Deliveries that may fail before a message becomes a dead letter.
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
}

#[derive(Debug, Subcommand)]
pub(super) enum OffsetVerb {
    /// Sets a group back or forward. Shows what would happen; --apply does it.
    Reset {
        group: String,
        topic: String,
        /// start, end, 30m (ago), milliseconds, or 2026-11-21T12:00:00+08:00.
        #[arg(long)]
        to: Moment,
        #[arg(long)]
        apply: bool,
    },
    /// Leaves out what a group has not read yet: `reset --to end`.
    Skip {
        group: String,
        topic: String,
        #[arg(long)]
        apply: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ProducerVerb {
    /// The producers of a group that are connected now.
    Clients { group: String },
}

pub(super) async fn group(admin: &Admin, verb: &GroupVerb) -> Result<Sheet> {
    match verb {
        GroupVerb::List => list(admin).await,
        GroupVerb::Create { group, retry_max_times, orderly, from } => {
            let settings = SubscriptionGroup {
                group_name: group.clone(),
                retry_max_times: *retry_max_times,
                consume_message_orderly: *orderly,
                attributes: from.iter().map(|from| ("+consume.from".into(), from.attribute(now()))).collect(),
                ..SubscriptionGroup::default()
            };
            admin.put_group(&settings).await?;
            Ok(Sheet::done(format!("group {group} is set on every broker")))
        }
        GroupVerb::Delete { group, confirmation } => {
            confirmation.wait_for(&format!("group {group} and what it committed will be gone"), group)?;
            admin.delete_group(group).await?;
            Ok(Sheet::done(format!("group {group} is deleted")))
        }
        GroupVerb::Progress { group, topic } => progress(admin, group, topic.as_deref()).await,
        GroupVerb::Lag { all } => health::groups(admin, *all).await,
        GroupVerb::Clients { group } => clients(admin, group).await,
    }
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
            group.attributes.get("consume.from").map_or(Value::Null, |from| from.as_str().into()),
        ]);
    }
    Ok(sheet)
}

async fn progress(admin: &Admin, group: &str, topic: Option<&str>) -> Result<Sheet> {
    let progress = admin.progress(group, topic).await?;
    let lag: u64 = progress.queues.iter().map(mq_client::QueueProgress::lag).sum();
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
    Ok(sheet.remark(format!("lag {lag}, {:.1} messages a second", progress.rate)))
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

pub(super) async fn producer(admin: &Admin, ProducerVerb::Clients { group }: &ProducerVerb) -> Result<Sheet> {
    let mut sheet = Sheet::new(&["broker", "client", "address", "language", "version"]);
    for (broker, producers) in admin.producers(group).await? {
        for member in producers.connection_set {
            let [client, address, language, version] = cells(member);
            sheet.row([broker.as_str().into(), client, address, language, version]);
        }
    }
    Ok(sheet)
}

pub(super) async fn offset(admin: &Admin, verb: &OffsetVerb) -> Result<Sheet> {
    let (group, topic, to, apply) = match verb {
        OffsetVerb::Reset { group, topic, to, apply } => (group, topic, *to, *apply),
        OffsetVerb::Skip { group, topic, apply } => (group, topic, Moment::End, *apply),
    };
    let to = to.reset(now());
    let plan = admin.plan_reset(group, topic, to).await?;
    let mut sheet = Sheet::new(&["broker", "queue", "from", "to", "messages"]);
    for queue in plan {
        let moved = queue.from.map_or(Value::Null, |from| (queue.to.0 as i64 - from.0 as i64).into());
        sheet.row([
            queue.queue.broker_name.into(),
            queue.queue.queue_id.into(),
            queue.from.map_or(Value::Null, |from| from.0.into()),
            queue.to.0.into(),
            moved,
        ]);
    }
    if !apply {
        return Ok(sheet.remark("nothing was changed; --apply does it"));
    }
    admin.reset(group, topic, to).await?;
    Ok(sheet.remark(format!("group {group} goes on from there in {topic}")))
}

fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(since.as_millis() as i64)
}
