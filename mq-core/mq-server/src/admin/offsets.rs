//! `mq admin offset`: where a group reads on.

use anyhow::Result;
use clap::Subcommand;
use mq_client::{Admin, QueueReset};
use mq_protocol::topic;
use serde_json::Value;

use super::Sheet;
use super::moment::{self, Moment};

const NOTHING: &str = "nothing was changed; --apply does it";

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
    /// Puts a group where another one is. Shows what would happen; --apply does it.
    Clone {
        from: String,
        to: String,
        /// One topic; all that the first group consumes when it is left out.
        #[arg(long)]
        topic: Option<String>,
        #[arg(long)]
        apply: bool,
    },
}

impl OffsetVerb {
    pub(super) fn writes(&self) -> bool {
        let (Self::Reset { apply, .. } | Self::Skip { apply, .. } | Self::Clone { apply, .. }) = self;
        *apply
    }
}

pub(super) async fn offset(admin: &Admin, verb: &OffsetVerb) -> Result<Sheet> {
    match verb {
        OffsetVerb::Reset { group, topic, to, apply } => reset(admin, group, topic, *to, *apply).await,
        OffsetVerb::Skip { group, topic, apply } => reset(admin, group, topic, Moment::End, *apply).await,
        OffsetVerb::Clone { from, to, topic, apply } => clone(admin, from, to, topic.as_deref(), *apply).await,
    }
}

async fn reset(admin: &Admin, group: &str, topic: &str, to: Moment, apply: bool) -> Result<Sheet> {
    let to = to.reset(moment::now());
    let sheet = plan(admin.plan_reset(group, topic, to).await?);
    if !apply {
        return Ok(sheet.remark(NOTHING));
    }
    admin.reset(group, topic, to).await?;
    Ok(sheet.remark(format!("group {group} goes on from there in {topic}")))
}

async fn clone(admin: &Admin, from: &str, to: &str, topic: Option<&str>, apply: bool) -> Result<Sheet> {
    let mut moves = Vec::new();
    for queue in admin.progress(from, topic).await?.queues {
        // Retries are a group's own.
        if topic::is_retry(&queue.queue.topic) {
            continue;
        }
        let place = admin.client().committed(to, &queue.queue).await?;
        moves.push(QueueReset { queue: queue.queue, from: place, to: queue.committed });
    }
    let sheet = plan(moves);
    if !apply {
        return Ok(sheet.remark(NOTHING));
    }
    admin.clone_offsets(from, to, topic).await?;
    Ok(sheet.remark(format!("group {to} goes on where {from} is")))
}

fn plan(moves: Vec<QueueReset>) -> Sheet {
    let mut sheet = Sheet::new(&["topic", "broker", "queue", "from", "to", "messages"]);
    for QueueReset { queue, from, to } in moves {
        let moved = from.map_or(Value::Null, |from| (to.0 as i64 - from.0 as i64).into());
        sheet.row([
            queue.topic.into(),
            queue.broker_name.into(),
            queue.queue_id.into(),
            from.map_or(Value::Null, |from| from.0.into()),
            to.0.into(),
            moved,
        ]);
    }
    sheet
}
