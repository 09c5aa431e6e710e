//! What an operator looks for first: `mq admin broker health` and `mq admin group lag`.

use std::collections::BTreeMap;

use anyhow::Result;
use mq_client::Admin;
use serde_json::Value;

use super::Sheet;

/// One row a broker. A figure that it does not tell (Apache's tells nothing of halves and pops) is left out.
pub(super) async fn brokers(admin: &Admin, broker: Option<&str>) -> Result<Sheet> {
    let mut sheet = Sheet::new(&[
        "broker",
        "lag",
        "in flight",
        "popped",
        "timers",
        "timers late s",
        "pending halves",
        "parked halves",
        "not on disk",
        "disk used %",
        "disk free",
    ]);
    for master in admin.masters_named(broker).await? {
        let figures = admin.runtime(&master).await?;
        let consumed = admin.consume_stats(&master).await?;
        let figure = |name: &str| figures.get(name).map(String::as_str);
        let number = |name| figure(name).and_then(|text| text.parse::<u64>().ok()).map_or(Value::Null, Value::from);
        let used = figure("commitLogDiskRatio").and_then(|text| text.parse::<f64>().ok()).filter(|used| *used >= 0.0);
        let free = figure("commitLogDirCapacity").and_then(|text| text.split("Free : ").nth(1));
        sheet.row([
            master.name.as_str().into(),
            consumed.total_diff.into(),
            consumed.total_inflight_diff.into(),
            number("popInFlightMessages"),
            number("timerCongestNum"),
            number("timerReadBehind"),
            number("pendingHalfMessages"),
            number("parkedHalfMessages"),
            figure("remainHowManyDataToFlush").map_or(Value::Null, Into::into),
            used.map_or(Value::Null, |used| ((used * 100.0).round() as i64).into()),
            free.map_or(Value::Null, |free| free.trim_end_matches('.').into()),
        ]);
    }
    Ok(sheet)
}

/// How far a group is behind in a topic, and what it has in its hands.
pub(crate) struct Lag {
    pub(crate) group: String,
    pub(crate) topic: String,
    pub(crate) messages: u64,
    in_flight: u64,
}

impl Lag {
    #[cfg(test)]
    pub(crate) fn new(group: &str, topic: &str, messages: u64) -> Self {
        Self { group: group.into(), topic: topic.into(), messages, in_flight: 0 }
    }
}

/// Of every group in every topic that it reads, the farthest behind first.
pub(crate) async fn lags(admin: &Admin) -> Result<Vec<Lag>> {
    let mut behind: BTreeMap<(String, String), (u64, u64)> = BTreeMap::new();
    for master in admin.masters().await? {
        let groups = admin.consume_stats(&master).await?.consume_stats_list.into_iter().flatten();
        for (group, topics) in groups {
            for (queue, offsets) in topics.into_iter().flat_map(|stats| stats.offset_table) {
                let (lag, in_flight) = behind.entry((group.clone(), queue.0.topic)).or_default();
                *lag += offsets.broker_offset.saturating_sub(offsets.consumer_offset);
                *in_flight += offsets.pull_offset.saturating_sub(offsets.consumer_offset);
            }
        }
    }
    let lag = |((group, topic), (messages, in_flight))| Lag { group, topic, messages, in_flight };
    let mut lags: Vec<Lag> = behind.into_iter().map(lag).collect();
    lags.sort_by_key(|lag| std::cmp::Reverse(lag.messages));
    Ok(lags)
}

/// Every group and topic that is behind or has messages in its hands, the farthest behind first.
pub(super) async fn groups(admin: &Admin, all: bool) -> Result<Sheet> {
    let lags = lags(admin).await?;
    let total: u64 = lags.iter().map(|lag| lag.messages).sum();
    let mut sheet = Sheet::new(&["group", "topic", "lag", "in flight"]);
    for lag in lags.into_iter().filter(|lag| all || (lag.messages, lag.in_flight) != (0, 0)) {
        sheet.row([lag.group.into(), lag.topic.into(), lag.messages.into(), lag.in_flight.into()]);
    }
    Ok(sheet.remark(format!("lag {total}")))
}
