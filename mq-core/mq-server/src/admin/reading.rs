//! `mq admin message read`: what stands in a topic's queues, without being of a group and without committing.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use mq_client::{
    Admin, Filter, MessageQueue, PullConsumer, PullStatus, QueueOffset, ReceivedMessage, ResetTo, UnixMillis,
};
use mq_protocol::topic::TOOLS_GROUP;

use super::moment::{self, Moment};

/// Messages of one command: they are held in memory until all are there.
const MOST_MESSAGES: i64 = 10_000;
/// Messages of one pull.
const BATCH: u32 = 32;

#[derive(Debug, Args)]
pub(super) struct ReadOptions {
    topic: String,
    /// Only this broker, by its name.
    #[arg(long)]
    broker: Option<String>,
    /// Only this queue.
    #[arg(long)]
    queue: Option<u32>,
    /// From this offset of the queue on.
    #[arg(long, requires = "queue", conflicts_with = "from")]
    offset: Option<u64>,
    /// What was stored from then on: start, 30m (ago), milliseconds, or 2026-11-21T12:00:00+08:00.
    #[arg(long, default_value = "start")]
    from: Moment,
    /// What was stored until then.
    #[arg(long, default_value = "end")]
    until: Moment,
    /// Only these tags, joined by `||`.
    #[arg(long, default_value = "*")]
    tags: String,
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=MOST_MESSAGES))]
    count: u32,
}

/// The first so many messages, in the order in which they were stored.
pub(super) async fn read(admin: &Admin, options: &ReadOptions) -> Result<Vec<ReceivedMessage>> {
    let builder = PullConsumer::builder("").client(admin.client().clone()).group(TOOLS_GROUP);
    let consumer = builder.filter(Filter::tags(options.tags.as_str())).build().await?;
    let mut queues = consumer.queues(&options.topic).await?;
    queues.retain(|it| options.broker.as_ref().is_none_or(|name| it.broker_name == *name));
    queues.retain(|it| options.queue.is_none_or(|id| it.queue_id == id));
    ensure!(!queues.is_empty(), "{} has no such queue to read: see `mq admin topic route`", options.topic);
    let mut found = Vec::new();
    for queue in &queues {
        found.extend(one_queue(&consumer, queue, options).await?);
    }
    consumer.close().await;
    found.sort_by_key(|message| (message.store_timestamp, message.log_offset));
    found.truncate(options.count as usize);
    Ok(found)
}

async fn one_queue(
    consumer: &PullConsumer,
    queue: &MessageQueue,
    options: &ReadOptions,
) -> Result<Vec<ReceivedMessage>> {
    let now = moment::now();
    let until = match options.until.reset(now) {
        ResetTo::End => UnixMillis(i64::MAX),
        ResetTo::Time(time) => time,
    };
    let mut next = match (options.offset, options.from.reset(now)) {
        (Some(offset), _) => QueueOffset(offset),
        (None, ResetTo::End) => consumer.max_offset(queue).await?,
        (None, ResetTo::Time(time)) => consumer.offset_at(queue, time).await?,
    };
    let (wanted, mut found) = (options.count as usize, Vec::new());
    while found.len() < wanted {
        let most = BATCH.min((wanted - found.len()) as u32);
        let pulled = consumer.pull(queue, next, most, Duration::ZERO).await?;
        let late = pulled.messages.iter().any(|message| message.store_timestamp > until);
        found.extend(pulled.messages.into_iter().filter(|message| message.store_timestamp <= until));
        if late || pulled.status == PullStatus::NoNewMessage || pulled.next == next {
            break;
        }
        next = pulled.next;
    }
    Ok(found)
}
