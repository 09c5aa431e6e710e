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

/// Every group and topic that is behind or has messages in its hands, the farthest behind first.
pub(super) async fn groups(admin: &Admin, all: bool) -> Result<Sheet> {
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
    let total: u64 = behind.values().map(|(lag, _)| lag).sum();
    let mut rows: Vec<_> = behind.into_iter().filter(|(_, figures)| all || *figures != (0, 0)).collect();
    rows.sort_by_key(|(_, (lag, _))| std::cmp::Reverse(*lag));
    let mut sheet = Sheet::new(&["group", "topic", "lag", "in flight"]);
    for ((group, topic), (lag, in_flight)) in rows {
        sheet.row([group.into(), topic.into(), lag.into(), in_flight.into()]);
    }
    Ok(sheet.remark(format!("lag {total}")))
}
